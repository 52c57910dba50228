from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from decentral.errors import UserError
from decentral.problems.data import load
from decentral.problems.data.dataset import Dataset
from decentral.problems.models.convolutional import cnn, resnet20
from decentral.problems.models.dense import logistic, mlp
from decentral.problems.models.factory import from_factory
from decentral.problems.models.initialise import initialise

MODELS = {"logistic": logistic, "mlp": mlp, "cnn": cnn, "resnet20": resnet20}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
CASES = list(itertools.product(sorted(MODELS), SHAPES))


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_batch_of_examples_gives_a_batch_of_logits(name: str, shape: tuple[int, ...]) -> None:
    out = MODELS[name](shape, 7)(torch.rand(3, *shape))
    assert out.shape == (3, 7)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_vectors_are_taken_as_they_are(name: str) -> None:
    assert MODELS[name]((123,), 2)(torch.rand(4, 123)).shape == (4, 2)
    assert num_parameters(MODELS[name](123, 2)) == num_parameters(MODELS[name]((123,), 2))


def test_the_number_of_parameters_is_the_published_one() -> None:
    assert num_parameters(resnet20((3, 32, 32), 10)) == 269_722
    assert num_parameters(logistic(123, 2)) == 124 * 2
    assert num_parameters(mlp(784, 10)) == 785 * 256 + 257 * 10
    assert num_parameters(mlp(784, 10, hidden=(32, 16))) == 785 * 32 + 33 * 16 + 17 * 10


def test_resnet20_has_twenty_layers_with_weights() -> None:
    layers = [m for m in resnet20((3, 32, 32), 10).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20


def test_a_residual_block_with_silent_branch_is_its_shortcut() -> None:
    from decentral.problems.models.convolutional import ResidualBlock

    block = ResidualBlock(2, 5)
    nn.init.zeros_(block.residual[4].weight)
    x = torch.rand(3, 2, 6, 6)
    out = block(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert torch.equal(out[:, 2:], torch.zeros(3, 3, 3, 3))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_stacked_models_under_vmap_agree_with_one_after_the_other(name: str) -> None:
    shape, workers = (1, 8, 8), 3
    # float64: a gradient is a few hundred sums of order-one terms, so 1e-10 leaves 1e4 roundings
    models = [initialise(lambda: MODELS[name](shape, 5), seed).double() for seed in range(workers)]
    x, y = torch.rand(workers, 4, *shape, dtype=torch.float64), torch.randint(5, (workers, 4))
    template = MODELS[name](shape, 5).double()
    parameters, buffers = stack_module_state(models)

    def loss(p, b, x, y):  # type: ignore[no-untyped-def]
        return nn.functional.cross_entropy(functional_call(template, (p, b), (x,)), y)

    stacked = vmap(grad(loss))(parameters, buffers, x, y)
    for worker, model in enumerate(models):
        nn.functional.cross_entropy(model(x[worker]), y[worker]).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(stacked[key][worker], parameter.grad, rtol=1e-10, atol=1e-10)
        for key, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[key][worker], buffer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["cnn", "resnet20"])
def test_convolutions_refuse_vectors(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} needs images .* \(123,\); use mlp"):
        MODELS[name]((123,), 2)


def test_widths_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        mlp(10, 2, hidden=(0,))
    with pytest.raises(UserError, match="width = 0"):
        cnn((1, 8, 8), 2, width=0)


def test_initial_parameters_are_a_function_of_the_seed_alone() -> None:
    def flat(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(initialise(lambda: cnn((1, 8, 8), 10), seed).parameters())

    first = flat(3)
    torch.rand(17)
    assert torch.equal(flat(3), first)
    assert not torch.equal(flat(4), first)


def test_initialise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    initialise(lambda: mlp(8, 2), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


USERS = """
import torch
from torch import nn

seen = []
number = 3

def linear(shape, classes):
    seen.append((shape, classes))
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, classes))

def text(shape, classes):
    return "a model"

def short(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes - 1))

def pair(shape, classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()

def narrow(shape, classes):
    return nn.Linear(64, classes)

def broken(shape, classes):
    raise RuntimeError("no such luck")

def few(shape):
    return nn.Linear(1, 1)
"""


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    (tmp_path / "users_models.py").write_text(USERS)
    (tmp_path / "users_typo.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("users_models", "users_typo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return load("digits")


def test_a_factory_of_the_user_is_found_in_the_current_folder(digits: Dataset) -> None:
    model = from_factory("users_models:linear", digits)
    assert model(digits.train_x[:5]).shape == (5, 10)
    assert sys.modules["users_models"].seen == [((1, 8, 8), 10)]
    assert model.training
    fresh = from_factory("users_models:linear", digits)
    assert torch.equal(fresh.get_buffer("1.running_mean"), torch.zeros(64))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("users_models", "must be written 'module:factory'"),
        ("users_models:", "must be written 'module:factory'"),
        (":linear", "must be written 'module:factory'"),
        ("nowhere_at_all:linear", "importing nowhere_at_all .* No module named 'nowhere_at_all'"),
        ("users_typo:linear", "importing users_typo .* No module named 'no_such_package_at_all'"),
        ("users_models:linaer", "users_models.py has no 'linaer'; did you mean 'linear'"),
        ("users_models:number", "number is a int, not a function"),
        ("users_models:text", "returned str; it must return a torch.nn.Module"),
        ("users_models:broken", "raised RuntimeError: no such luck"),
        ("users_models:few", r"factory\(\(1, 8, 8\), 10\) raised TypeError"),
        ("users_models:short", r"batch of shape \(3, 1, 8, 8\) gave \(3, 9\); it must give \(3, 10\)"),
        ("users_models:pair", r"gave tuple; it must give \(3, 10\)"),
        ("users_models:narrow", r"batch of shape \(3, 1, 8, 8\) raised RuntimeError"),
    ],
)
def test_what_is_wrong_with_a_users_model_is_said_in_one_line(
    path: str, message: str, digits: Dataset
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_factory(path, digits)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


def test_trying_a_users_model_draws_nothing_from_the_global_generator(digits: Dataset) -> None:
    before = torch.get_rng_state()
    initialise(lambda: from_factory("users_models:linear", digits), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
