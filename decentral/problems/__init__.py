"""What is minimised: problems by name. Settings here import no torch; ``build`` does."""

from typing import TYPE_CHECKING, Any

from decentral.problems.capabilities import Problem
from topologies.places import all_loaded

PROBLEMS: dict[str, type[Problem]] = all_loaded(
    {
        "quadratic": "decentral.problems.quadratic:Quadratic",
        "linear-regression": "decentral.problems.regression:LinearRegression",
        "logistic-regression": "decentral.problems.classification:LogisticRegression",
        "linear-svm": "decentral.problems.linear_svm:LinearSVM",
        "mlp": "decentral.problems.classification:MLP",
        "cnn": "decentral.problems.classification:CNN",
        "quantised-cnn": "decentral.problems.quantised:QuantisedCNN",
        "resnet20": "decentral.problems.classification:ResNet20",
        "resnet": "decentral.problems.classification:ResNet",
        "vgg": "decentral.problems.classification:VGG",
        "transformer": "decentral.problems.language_settings:Transformer",
        "lstm": "decentral.problems.language_settings:LSTM",
        "lstmp": "decentral.problems.projected_settings:LSTMP",
        "f-lstm": "decentral.problems.projected_settings:FLSTM",
        "g-lstm": "decentral.problems.projected_settings:GLSTM",
        "recommender": "decentral.problems.recommender:Recommender",
        "keyword": "decentral.problems.keyword:Keyword",
        "list-reduction": "decentral.problems.instances:ListReduction",
        "sentiment-trees": "decentral.problems.instances:SentimentTrees",
        "basic-deduction": "decentral.problems.instances:BasicDeduction",
        "rl": "decentral.problems.reinforcement.problem:ReinforcementLearning",
        "module": "decentral.problems.classification:Module",
    }
)
"""By name, as ``[problem] name = ...`` has it."""
globals().update({problem.__name__: problem for problem in PROBLEMS.values()})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The class of a problem's settings can be imported from here."""


__all__ = ["PROBLEMS", "Problem"]
