"""Compiled loops: the bits of what they stand for, used only where they repay their start, and never needed."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from decentral import kernels
from decentral.comm.compression import COMPRESSORS, Layout, Span
from decentral.kernels import fma, kernel, repaid
from topologies.streams import stream

LAYOUT = Layout(
    (
        Span("0", 0, 30_003, (73, 411), "dense"),
        Span("1", 30_003, 30_010, (7,), "other"),
        Span("2", 30_010, 40_011, (73, 137), "convolution"),
    )
)


@pytest.fixture
def compiled(monkeypatch):
    """All is done by kernels."""
    pytest.importorskip("numba")
    monkeypatch.setattr(kernels, "_REPAID", 0)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing was done so far, and numba not asked for."""
    found = kernels._numba
    monkeypatch.setattr(kernels, "_done", 0)
    found.cache_clear()
    yield
    found.cache_clear()


def encoded(compressor, dtype):
    """All that four rounds give: usual numbers, a quarter of them 0 with either sign, huge ones, none but 0."""
    g = torch.Generator().manual_seed(1)
    state, found = compressor.init(torch.zeros(LAYOUT.d, dtype=dtype), LAYOUT), []
    for t, size in enumerate((1.0, 1e-3, 1e30, 0.0)):
        x = torch.randn(LAYOUT.d, generator=g, dtype=dtype) * size
        x[t::4] *= 0
        packet, sent, state = compressor.encode(x, state, LAYOUT, stream(0, "kernels", t))
        again = compressor.decode(packet, LAYOUT, dtype, stream(0, "kernels", t))
        assert again.numpy().tobytes() == sent.numpy().tobytes()
        found += [packet, sent, *(s.clone() for s in (state if isinstance(state, tuple) else [state]))]
    return [one.numpy().tobytes() for one in found]


OTHERS = {
    "top-k": [{"fraction": 0.3}],
    "qsgd": [{"levels": 1, "bucket": 3}, {"levels": 60, "bucket": 5000}, {"levels": 300, "bucket": 100}],
    "adacomp": [{"convolution_bin": 1, "dense_bin": 63}, {"dense_bin": 16383}],
    "low-rank": [{"rank": 1}, {"rank": 5}],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_packets_rows_and_residues_have_the_bits_that_they_have_without_kernels(name, dtype, monkeypatch):
    settings = [{}, *OTHERS.get(name, [])]
    monkeypatch.setattr(kernels, "_REPAID", 1 << 60)
    plain = [encoded(COMPRESSORS[name](**some), dtype) for some in settings]
    pytest.importorskip("numba")
    monkeypatch.setattr(kernels, "_REPAID", 0)
    assert [encoded(COMPRESSORS[name](**some), dtype) for some in settings] == plain


def test_a_vector_that_is_not_finite_is_refused_by_kernels_too(compiled):
    for name in COMPRESSORS:
        compressor, x = COMPRESSORS[name](), torch.ones(LAYOUT.d)
        x[35_000] = torch.nan
        with pytest.raises(
            ValueError, match=f"{name}: 1 of {'40011' if name != 'low-rank' else '10001'} num"
        ):
            compressor.encode(x, compressor.init(x, LAYOUT), LAYOUT, stream(0, "kernels"))


def test_numba_is_not_asked_for_before_it_is_repaid(fresh, monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "_numba", lambda: asked.append(True))
    assert not repaid(kernels._REPAID - 1)
    assert not repaid(1)
    assert not asked
    assert not repaid(1)  # there is none
    assert asked


def test_a_numba_that_cannot_be_imported_is_none(fresh, monkeypatch):
    def absent(name):
        raise SystemError(f"{name} needs another numpy")

    monkeypatch.setattr(kernels, "import_module", absent)
    assert not repaid(kernels._REPAID)
    assert not repaid(1)


def test_a_kernel_that_has_no_place_to_be_kept_is_compiled_all_the_same(compiled):
    told = {}
    exec("def twice(x):\n    for i in range(len(x)):\n        x[i] *= 2\n", told)  # in no file
    x = np.arange(3.0)
    kernel(told["twice"])(x)
    assert x.tolist() == [0, 2, 4]


@kernel
def _fma(a, b, c, out):
    for i in range(len(a)):
        out[i] = fma(a[i], b[i], c[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(compiled, dtype):
    a, b, c = np.random.default_rng(0).standard_normal((3, 500)).astype(dtype)
    out = np.empty_like(a)
    _fma(a, b, c, out)
    for x, y, z, found in zip(a.tolist(), b.tolist(), c.tolist(), out, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        below, above = np.nextafter(found, dtype(-9)), np.nextafter(found, dtype(9))
        error = abs(Fraction(float(found)) - exact)
        assert error <= min(abs(Fraction(float(one)) - exact) for one in (below, above))
