"""The main job, end to end: workload, affinity, groups, real trainings, report and predictor."""

from coterie.pipeline.planning import plan
from coterie.pipeline.run import RunResult, estimate_affinity, run

__all__ = ["RunResult", "estimate_affinity", "plan", "run"]
