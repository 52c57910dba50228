"""What is minimised: problems by name. Settings here import no torch; ``build`` does."""

from decentral.problems.capabilities import Problem
from decentral.problems.classification import CNN, MLP, VGG, LogisticRegression, Module, ResNet, ResNet20
from decentral.problems.instances import BasicDeduction, ListReduction, SentimentTrees
from decentral.problems.language_settings import LSTM, Transformer
from decentral.problems.quadratic import Quadratic
from decentral.problems.regression import LinearRegression

PROBLEMS: dict[str, type[Problem]] = {
    "quadratic": Quadratic,
    "linear-regression": LinearRegression,
    "logistic-regression": LogisticRegression,
    "mlp": MLP,
    "cnn": CNN,
    "resnet20": ResNet20,
    "resnet": ResNet,
    "vgg": VGG,
    "transformer": Transformer,
    "lstm": LSTM,
    "list-reduction": ListReduction,
    "sentiment-trees": SentimentTrees,
    "basic-deduction": BasicDeduction,
    "module": Module,
}

__all__ = [
    "CNN",
    "LSTM",
    "MLP",
    "PROBLEMS",
    "VGG",
    "BasicDeduction",
    "LinearRegression",
    "ListReduction",
    "LogisticRegression",
    "Module",
    "Quadratic",
    "ResNet",
    "ResNet20",
    "SentimentTrees",
    "Transformer",
]
