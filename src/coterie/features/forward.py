"""Forward mode: one directional derivative gives a feature of every task of every row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import jvp, vmap

from coterie._progress import Progress
from coterie.features.directions import Directions
from coterie.features.plan import FeaturePlan
from coterie.features.program import MarginProgram
from coterie.features.storage import FeatureWriter, Pairs
from coterie.workload.workload import Batch


def directional(
    program: MarginProgram, tangents: Mapping[str, Tensor], batch: Batch, targets: Tensor, *, batched: bool
) -> Tensor:
    """Derivatives (directions, rows, tasks) of the margins along directions (directions, *shape) of the parameters.

    The margins themselves are evaluated once; with `batched` all directions travel through the model together, else one
    after the other (for modules that vmap does not support).
    """

    def margins(parameters: dict[str, Tensor]) -> Tensor:
        return program.margins(parameters, batch, targets)

    def along(direction: dict[str, Tensor]) -> Tensor:
        return jvp(margins, (program.parameters,), (direction,))[1]

    if batched:
        return vmap(along)(dict(tangents))
    count = len(next(iter(tangents.values())))
    return torch.stack([along({name: value[j] for name, value in tangents.items()}) for j in range(count)])


def compute(
    program: MarginProgram,
    directions: Directions,
    pairs: Pairs,
    writer: FeatureWriter,
    plan: FeaturePlan,
    progress: Progress,
) -> None:
    """Write the features of all pairs to the writer, chunk by chunk.

    Directions are the outer loop, so that each is generated once.
    """
    width, height, rows = plan.directions_per_chunk, plan.rows_per_chunk, len(pairs.rows)
    with torch.no_grad():
        for start in range(0, directions.count, width):
            stop = min(start + width, directions.count)
            tangents = program.tangents(directions.chunk(start, stop))
            for row in range(0, rows, height):
                batch, targets = program.data(pairs.rows[row : row + height])
                block = directional(program, tangents, batch, targets, batched=plan.batched)
                writer.write(block, row, start)
                del block
                progress("features", start * rows + (stop - start) * min(row + height, rows), directions.count * rows)
            del tangents  # before the next are drawn: two chunks at a time would double the memory
