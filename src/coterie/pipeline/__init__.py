"""The main job, end to end: workload, affinity, groups, real trainings, report and predictor."""

from coterie.pipeline.arrival import AddedTask, add_task
from coterie.pipeline.planning import plan
from coterie.pipeline.run import RunResult, estimate_affinity, run

__all__ = ["AddedTask", "RunResult", "add_task", "estimate_affinity", "plan", "run"]
