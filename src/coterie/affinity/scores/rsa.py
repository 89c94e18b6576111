"""Representation similarity: do two single-task models find the same examples alike?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.affinity.costs import Prepared
from coterie.affinity.scores.single_tasks import SingleTaskScore, representations
from coterie.errors import ResourceError
from coterie.training.job import Fit
from coterie.workload import Workload

#: dissimilarities that agree to so many digits are ties; equal examples differ by rounding only
DIGITS = 9


def dissimilarities(features: Tensor) -> NDArray[np.float64]:
    """1 - Pearson correlation of the features of every two of K rows: (K (K - 1) / 2,), from 0 to 2.

    Args:
        features: (K, width). A row whose features are all equal correlates with nothing: 1.
    """
    features = features.double()
    centred = features - features.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    dead = norms <= 1e-12 * features.norm(dim=1, keepdim=True)
    unit = torch.where(dead, 0.0, centred / torch.where(dead, 1.0, norms))
    upper = torch.triu_indices(len(features), len(features), 1, device=features.device)
    return np.asarray((1 - (unit @ unit.T)[upper[0], upper[1]]).cpu().numpy(), dtype=np.float64).round(DIGITS)


def rank_correlations(rows: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(T, T) Spearman correlations of T vectors; 0 where a vector is constant.

    Example:
        >>> rank_correlations([np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])])[0].round(6).tolist()
        [1.0, 1.0]
    """
    ranks: list[NDArray[np.float32]] = []
    for row in rows:
        centred = rankdata(row) - (len(row) + 1) / 2
        norm = float(np.linalg.norm(centred))
        ranks.append((centred / norm if norm > 0 else centred).astype(np.float32))
    stacked = np.stack(ranks)
    values = np.zeros((len(stacked), len(stacked)))
    for start in range(0, stacked.shape[1], 2**16):  # few numbers at a time in double precision
        block = stacked[:, start : start + 2**16].astype(np.float64)
        values += block @ block.T
    return values


@known_arguments
@dataclass(frozen=True)
class Rsa(SingleTaskScore):
    """Representational similarity of single-task models; symmetric, from -1 to 1, larger is more alike.

    For K examples the representation that each task's head reads gives a matrix of dissimilarities between examples
    (1 - Pearson); the score of two tasks is the Spearman correlation of the upper triangles of their matrices. A
    representation that tells no two examples apart scores 0. The diagonal of the affinity is 0.

    Args:
        rows: number K of validation rows, the same for all tasks. Where every task has rows of its own they are drawn
            from those of all tasks.

    Raises:
        SettingError: when `rows` is below 3.
        ResourceError: when it estimates and the dissimilarities do not fit the memory.
        ModelError: when it estimates and a head is no module, so that what it reads cannot be found.

    Cost: one training a task, and K forward passes a task; T K^2 / 2 numbers in memory.

    Limits: a symmetric score cannot say who gains from whom.

    Source: "It's a MATCH!", arXiv 2301.02873 (the name of the score); K. Dwivedi, G. Roig, Representation similarity
    analysis for efficient task taxonomy & transfer learning, CVPR 2019 (the definition).

    Example:
        >>> Rsa(rows=200).name
        'rsa'
    """

    measured: ClassVar[str] = "rsa"
    stage: ClassVar[str] = "similarity of representations"
    least: ClassVar[int] = 3

    def _check(self, workload: Workload, rows: int, memory: int) -> None:
        need = 4 * workload.n_tasks * rows**2 // 2
        if need > memory:
            raise ResourceError(
                f"The dissimilarities of {workload.n_tasks} tasks over {rows} rows take {need / 2**30:.1f} GiB, "
                f"more than `memory` allows ({memory / 2**30:.1f} GiB). Give fewer `rows`, or more `memory`."
            )

    def _compare(self, prepared: Prepared, fits: list[Fit], rows: Tensor) -> Payload:
        widths: list[int] = []

        def triangles() -> Iterable[NDArray[np.float64]]:
            for done, features in enumerate(representations(prepared, fits, rows)):
                widths.append(features.shape[1])
                yield dissimilarities(features)
                prepared.context.progress(self.stage, done + 1, len(fits))

        values = rank_correlations(triangles())
        return Payload({"values": values}, {"width": float(np.mean(widths))})

    def _flops(self, prepared: Prepared, rows: int, payload: Payload) -> float:
        n, width = prepared.workload.n_tasks, float(payload.meta["width"])
        return n * rows * prepared.costs.unit.forward + n * rows * rows * 2 * width + n * n * rows * rows
