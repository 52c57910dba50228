"""What is minimised: problems by name. Settings here import no torch; ``build`` does."""

from typing import Any

from decentral.problems.classification import CNN, MLP, LogisticRegression, Module, ResNet20
from decentral.problems.quadratic import Quadratic
from decentral.problems.regression import LinearRegression

PROBLEMS: dict[str, type[Any]] = {
    "quadratic": Quadratic,
    "linear-regression": LinearRegression,
    "logistic-regression": LogisticRegression,
    "mlp": MLP,
    "cnn": CNN,
    "resnet20": ResNet20,
    "module": Module,
}

__all__ = [
    "CNN",
    "MLP",
    "PROBLEMS",
    "LinearRegression",
    "LogisticRegression",
    "Module",
    "Quadratic",
    "ResNet20",
]
