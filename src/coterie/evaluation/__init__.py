"""What a grouping is worth: real trainings, intervals over seeds, a recommendation."""

from coterie.evaluation.compare import TrainedComparison, compare
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.recommend import Mixture, Recommendation, mix, recommend

__all__ = [
    "BASELINE",
    "JOINT",
    "Comparison",
    "Mixture",
    "Recommendation",
    "TrainedComparison",
    "compare",
    "mix",
    "recommend",
]
