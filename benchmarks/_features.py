"""Features beside a plain loop over single examples, for the benchmarks of whole kinds of workloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from coterie.features import RandomDirections, compute_features
from coterie.workload import Workload
from coterie.workload.structure import find_structure

#: a pair's position in the features, its row and its task
Pair = tuple[int, int, int]


def against_plain_loop(workload: Workload, directions: int, pairs: Callable[[Any], Iterable[Pair]]) -> dict[str, Any]:
    """Time of all features, and of a plain loop over a few pairs; largest difference relative to the largest feature.

    Args:
        workload: whose model is drawn with seed 0.
        directions: number of random directions.
        pairs: which pairs the loop differentiates, given the features.
    """
    model = workload.build_model(0)
    structure = find_structure(workload, model)
    drawn = RandomDirections.of(model, directions, seed=0, names=structure.trunk)
    start = time.process_time()
    fast = compute_features(workload, model, drawn, structure=structure)
    seconds = time.process_time() - start
    chunk = drawn.chunk(0, directions)
    matrix = torch.cat([chunk[name].reshape(directions, -1) for name in drawn.names], 1).T
    chosen = [dict(model.named_parameters())[name] for name in drawn.names]
    model.eval()
    worst, looked = 0.0, list(pairs(fast))
    start = time.process_time()
    for position, row, task in looked:
        rows = torch.tensor([row])
        margins = workload.margins(workload.outputs(model, workload.batch(rows)), workload.targets[rows])
        gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(margins[0, task], chosen)])
        worst = max(worst, float((gradient @ matrix - fast.g[position]).abs().max()))
    pair = (time.process_time() - start) / len(looked)
    return {
        "mode": fast.plan.mode,
        "rows at once": fast.plan.rows_per_chunk,
        "pairs": len(fast.rows),
        "directions": directions,
        "processor seconds": seconds,
        "plain loop, seconds a pair": pair,
        "plain loop, all pairs (extrapolated)": pair * len(fast.rows),
        "largest difference": worst / float(fast.g.abs().max()),
    }
