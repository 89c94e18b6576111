"""What a grouping is worth: real trainings, intervals over seeds, a recommendation."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.evaluation.compare import TrainedComparison, compare
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.metrics import Metric
from coterie.evaluation.recommend import Mixture, Recommendation, mix, recommend

__all__ = [
    "BASELINE",
    "JOINT",
    "Comparison",
    "Metric",
    "Mixture",
    "Recommendation",
    "TrainedComparison",
    "compare",
    "mix",
    "recommend",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
