"""Short single-task trainings from a base, and the directions in which they move its trunk (task vectors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coterie.features.directions import StackedDirections
from coterie.training.job import Fit, Job

#: directions that add less than this share of the longest to the span are dropped
DEPENDENT = 1e-4


def fork_jobs(base: Fit, steps: int, tasks: Sequence[int]) -> list[Job]:
    """One training a task from the base's parameters, of so many steps, the last state kept."""
    return [
        Job(
            subset=(task,),
            seed=base.job.seed,
            start=base.state,
            max_steps=max(1, steps),
            early_stopping=False,
            checks=False,
        )
        for task in tasks
    ]


def displacements(start: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]], trunk: Sequence[str]) -> Tensor:
    """(ends, trunk parameters) displacements of the trunk, float64."""
    return torch.stack([torch.cat([(end[n] - start[n]).reshape(-1).double() for n in trunk]) for end in ends])


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span the given rows (n, p); rows that depend on the others are dropped.

    Each row counts with unit length. Works on the n x n Gram matrix, so that p may be large.
    """
    lengths = rows.norm(dim=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return rows
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    keep = values > DEPENDENT**2 * values.max()
    return (vectors[:, keep] / values[keep].sqrt()).T @ rows


def stack(rows: Tensor, like: Mapping[str, Tensor], trunk: Sequence[str]) -> StackedDirections:
    """Directions from (d, trunk parameters) rows."""
    sizes = [like[name].numel() for name in trunk]
    parts = rows.split(sizes, dim=1)
    return StackedDirections(
        {
            name: part.reshape(len(rows), *like[name].shape).to(like[name].dtype)
            for name, part in zip(trunk, parts, strict=True)
        }
    )
