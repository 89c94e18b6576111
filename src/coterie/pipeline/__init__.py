"""The main job, end to end: workload, affinity, groups, real trainings, report and predictor.

What stands beside the main job is loaded when it is used.
"""

from typing import TYPE_CHECKING

from coterie._lazy import load_on_first_use
from coterie.pipeline.planning import plan
from coterie.pipeline.run import RunResult, estimate_affinity, run

if TYPE_CHECKING:
    from coterie.pipeline.arrival import AddedTask, add_task
    from coterie.pipeline.checkpoints import estimate_from_checkpoints

__all__ = ["AddedTask", "RunResult", "add_task", "estimate_affinity", "estimate_from_checkpoints", "plan", "run"]

__getattr__ = load_on_first_use(
    __name__, {"AddedTask": "arrival", "add_task": "arrival", "estimate_from_checkpoints": "checkpoints"}
)
