"""Scripts that end: mistakes in one line, an error of one rank, ranks with other numbers of batches."""

import pytest
from drop_in_scripts import ends

pytestmark = pytest.mark.mpi

REFUSED = {
    "another model": ("m = nn.Linear(5, 3 + rank)\nopt(m)", "ranks differ: rank 0 has SGD of 18 parameters"),
    "another method": ("opt(nn.Linear(5, 3), A.DecentLaM(0.5 + rank / 4))", "DecentLaM(momentum=0.75)"),
    "half on one": ("m = nn.Linear(5, 3)\nm = m.half() if rank else m\nopt(m)", "keep them in torch.float32"),
    "no such graph": ("dc.join('rng')", "topology 'rng' is not known; did you mean 'ring'?"),
    "a graph of four": ("import topologies as t\ndc.join(t.ring(4))", "the graph has 4 workers but there are 2 ranks"),
    "different graphs": ("dc.join(['ring', 'one-peer-exponential-random'][rank])", "ranks ask for different mixing"),
    "no push": (
        "comm = dc.join(np.array([[0.75, 0.25], [0.5, 0.5]]))\nopt(nn.Linear(5, 3), A.PushSum())",
        "PushSum needs columns",
    ),
    "its own matrices": ("opt(nn.Linear(5, 3), A.MATCHA())", "decentral.join(..., method=method)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_and_exit_code_2_on_all_ranks(case):
    code, said = REFUSED[case]
    opt = "opt = lambda m, method=A.DSGD(): dc.Decentralized(torch.optim.SGD(m.parameters(), lr=0.1), method, comm)\n"
    done = ends(2, opt + code)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("decentral: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr


def test_an_error_of_one_rank_ends_the_job():
    done = ends(
        2, "if rank == 1:\n    raise RuntimeError('caught fire')\ncomm.mean(X[0, 0].reshape(1, -1))\n"
    )
    assert done.returncode == 1
    assert "decentral: rank 1: RuntimeError: caught fire" in done.stderr


@pytest.mark.parametrize("method", ["DSGD()", "DSGD('awc')", "PmSGD()"])
def test_ranks_with_different_numbers_of_batches_are_told_so(method):
    code = f"""
model = net()
optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), A.{method}, comm)
for t in range(4 + 2 * rank):
    backward(model, t)
    optimizer.step()
"""
    done = ends(2, code)
    assert done.returncode == 2, done.stderr
    assert "rank 0 has ended after 4 steps" in done.stderr
    assert "Traceback" not in done.stderr
