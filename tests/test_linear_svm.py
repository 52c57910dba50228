"""The linear SVM as a problem: its loss against scikit-learn and torch, by both oracles."""

import numpy as np
import pytest
import torch
from sklearn.metrics import hinge_loss
from torch.nn import functional

from decentral.problems import PROBLEMS
from decentral.problems.losses import hinge
from decentral.problems.models.dense import separating
from decentral.problems.objective import Place

RNG = np.random.default_rng(2)


def test_the_hinge_loss_is_scikit_learns_and_of_two_classes_twice_torchs():
    z, y = RNG.standard_normal((50, 4)), RNG.integers(4, size=50)
    logits, labels = torch.from_numpy(z), torch.from_numpy(y)
    assert float(hinge(logits, labels)) == pytest.approx(hinge_loss(y, z, labels=range(4)), rel=1e-14)
    two = functional.multi_margin_loss(logits[:, :2], labels % 2, reduction="none") * 2
    torch.testing.assert_close(hinge(logits[:, :2], labels % 2, reduction="none"), two)


def test_two_classes_have_one_vector_and_the_hinge_loss_of_its_margin():
    model = separating((2, 3), 2).double()
    x, y = torch.from_numpy(RNG.standard_normal((30, 2, 3))), torch.from_numpy(RNG.integers(2, size=30))
    (w,) = model.parameters()
    assert w.shape == (1, 6)
    assert not w.any()
    torch.nn.init.normal_(w)
    loss = hinge(model(x), y)
    loss.backward()
    s, features = 2 * y.numpy() - 1, x.flatten(1).numpy()
    violated = s * (features @ w.detach().numpy()[0]) < 1
    expected = -(features * (s * violated)[:, None]).mean(0)
    np.testing.assert_allclose(w.grad[0], expected, rtol=1e-12, atol=1e-15)
    assert loss.item() == pytest.approx(np.maximum(0, 1 - s * (features @ w.detach().numpy()[0])).mean())


def place(oracle):
    return Place(4, range(4), 3, torch.float64, torch.device("cpu"), 8, 0.0, oracle, 200)


def test_both_oracles_take_the_problems_loss():
    x = 0.3 * torch.from_numpy(RNG.standard_normal((4, 640)))
    found = {}
    for oracle in ("batched", "loop"):
        objective = PROBLEMS["linear-svm"](data="digits").build(place(oracle))
        assert objective.oracle == oracle
        g = torch.cat([g for _, g in objective.gradient(x, 2)], dim=1)
        found[oracle] = objective.losses.clone(), g.clone()
    torch.testing.assert_close(found["batched"], found["loop"], rtol=1e-12, atol=1e-14)
    weight = x[0].view(10, 64).clone().requires_grad_()
    rows = objective.shards[0][objective.batches.at(2)[0]]
    loss = hinge(objective.train_x[rows].flatten(1) @ weight.T, objective.train_y[rows])
    loss.backward()
    torch.testing.assert_close(found["loop"][0][0], loss.detach())
    torch.testing.assert_close(found["loop"][1][0], weight.grad.flatten())
