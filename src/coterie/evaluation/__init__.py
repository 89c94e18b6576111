"""What a grouping is worth: real trainings, intervals over seeds, a recommendation."""

from coterie.evaluation.compare import TrainedComparison, affordable, all_in_one, compare, single_task
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.conclude import conclude
from coterie.evaluation.intervals import Interval, t_interval
from coterie.evaluation.labels import LabelLosses
from coterie.evaluation.mix import Mixture, mix
from coterie.evaluation.recommend import Recommendation, advise, helped_and_harmed, recommend, veto
from coterie.evaluation.rungs import Halving, Rung, Standing

__all__ = [
    "BASELINE",
    "JOINT",
    "Comparison",
    "Halving",
    "Interval",
    "LabelLosses",
    "Mixture",
    "Recommendation",
    "Rung",
    "Standing",
    "TrainedComparison",
    "advise",
    "affordable",
    "all_in_one",
    "compare",
    "conclude",
    "helped_and_harmed",
    "mix",
    "recommend",
    "single_task",
    "t_interval",
    "veto",
]
