"""Strength of the ridge, matched to how far real training moves; no trained subset is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.linear import LinearBase
from coterie.workload import Workload

#: strengths that are tried, and the smallest one that is ever chosen
GRID = np.logspace(1, -5, 13)
FLOOR = 1e-4


def matched_ridge(
    workload: Workload,
    base: LinearBase,
    travelled: float,
    forked: Mapping[int, Mapping[str, Tensor]],
    start: Mapping[str, Tensor],
) -> tuple[float, str]:
    """The geometric mean of two calibrated strengths (the reasons are in docs/decisions.md).

    F: linear single-task fits move the margins of their own task as far (root mean square over its training rows, mean
    of the log over tasks) as real single-task forks do. N: linear single-task fits move the trunk as far (norm) as the
    base itself still travels from its checkpoint to its early stop.

    Args:
        workload: tasks and data.
        base: the linearised base with its training blocks.
        travelled: norm of the trunk displacement from the checkpoint to the early stop of the same training.
        forked: task -> state after a long single-task fork.
        start: state of the base at its checkpoint.

    Returns:
        The strength, and a sentence on how it came about.
    """
    tasks = sorted(forked)
    margin_moves, trunk_moves = base.single_moves(GRID)
    real = [_margin_move(workload, task, start, forked[task]) for task in tasks]
    moved = [position for position, move in enumerate(real) if move > 0]
    by_margin = _match(margin_moves[:, [tasks[p] for p in moved]], [real[p] for p in moved]) if moved else FLOOR
    if travelled <= 0:
        note = f"ridge {by_margin:.2g}: margins move as far as in {len(moved)} real single-task forks; the base was at "
        return by_margin, note + "its early stop already (more validation checks, `check_every`, give earlier bases)"
    by_norm = _match(trunk_moves, [travelled])
    ridge = float(np.sqrt(by_margin * by_norm))
    note = (
        f"ridge {ridge:.2g}: the geometric mean of {by_margin:.2g} (margins move as far as in {len(tasks)} real "
        f"single-task forks) and {by_norm:.2g} (the trunk moves as far as the base still travels to its early stop)"
    )
    return ridge, note


def _match(moves: NDArray[np.float64], targets: Sequence[float]) -> float:
    """The strength at which the mean log move equals the mean log target; the floor where that is out of reach."""
    curve = np.log(np.maximum(moves, 1e-300)).mean(1)  # rises as the strength falls along the grid
    goal = float(np.log(np.maximum(targets, 1e-300)).mean())
    curve = np.maximum.accumulate(curve)
    if goal >= curve[-1]:
        return FLOOR
    return max(FLOOR, float(np.exp(np.interp(goal, curve, np.log(GRID)))))


def _margin_move(workload: Workload, task: int, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> float:
    """Root mean square change of a task's margins over its labelled training rows."""
    rows = workload.rows_of((task,), "train")
    change = _margins(workload, end, rows)[:, task] - _margins(workload, start, rows)[:, task]
    return float(change.double().square().mean().sqrt())


@torch.no_grad()
def _margins(workload: Workload, state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    model = workload.build_model(0).to(workload.labels.device).eval()
    model.load_state_dict(dict(state), strict=False)
    parts = [
        workload.margins(workload.outputs(model, workload.batch(chunk)), workload.targets[chunk])
        for chunk in rows.split(4096)
    ]
    return torch.cat(parts)
