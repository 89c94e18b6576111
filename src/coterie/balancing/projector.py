"""Projection onto the dual cone of the gradients without a solver under the GPL."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.errors import require

_REGULARISATION = 1e-4


def make_projector() -> Any:
    """A ``torchjd.linalg.DualConeProjector`` that UPGrad and DualProj can use in place of their default.

    TorchJD's own calls quadprog, whose licence is the GPL. The problem, ``min v' G v`` with ``v >= u``, is one of
    non-negative least squares: with ``G = R' R`` and ``v = u + z`` it is ``min || R z + R u ||`` with ``z >= 0``, which
    SciPy solves exactly by active sets. As in TorchJD, G is first divided by its trace and 0.0001 is added to the
    diagonal.

    Raises:
        MissingDependencyError: when TorchJD is not installed.
    """
    linalg = require("torchjd.linalg", extra="balancing", purpose="Projecting onto the dual cone")

    class NonNegativeProjector(linalg.DualConeProjector):
        """Projects by non-negative least squares."""

        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            return project(U, G)

        def __repr__(self) -> str:
            return "NonNegativeProjector()"

    return NonNegativeProjector()


def project(U: Tensor, G: Tensor) -> Tensor:
    """(..., tasks) weights v of the projections of the gradients' combinations with weights U; see above."""
    from scipy.optimize import nnls

    gram = G.detach().cpu().double().numpy()
    trace = float(np.trace(gram))
    gram = gram / trace if trace >= _REGULARISATION else np.zeros_like(gram)
    root = np.linalg.cholesky(gram + _REGULARISATION * np.eye(len(gram))).T
    weights = U.detach().cpu().double().numpy()
    rows = weights.reshape(-1, weights.shape[-1])
    found = np.stack([row + nnls(root, -root @ row)[0] for row in rows])
    return torch.from_numpy(found.reshape(weights.shape)).to(device=G.device, dtype=G.dtype)
