"""Finished trainings as arrays and facts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie._units import Payload
from coterie.training.job import Fit, Job


def pack_fits(fits: Sequence[Fit], *, states: bool = True) -> Payload:
    """One payload for many trainings; `states` says whether the parameters are kept."""
    arrays: dict[str, Any] = {
        "validation": np.stack([fit.validation for fit in fits]),
        "test": np.stack([fit.test for fit in fits]),
    }
    meta: dict[str, Any] = {
        "steps": [fit.steps for fit in fits],
        "best_step": [fit.best_step for fit in fits],
        "history": [[[step, loss] for step, loss in fit.history] for fit in fits],
    }
    if states and fits:
        for name in fits[0].state:
            arrays[f"state/{name}"] = torch.stack([fit.state[name].detach().cpu() for fit in fits])
    return Payload(arrays, meta)


def unpack_fits(jobs: Sequence[Job], payload: Payload) -> list[Fit]:
    """The inverse of :func:`pack_fits`, for the same jobs in the same order."""
    states = {name[6:]: torch.as_tensor(a) for name, a in payload.arrays.items() if name.startswith("state/")}
    validation, test = np.asarray(payload.arrays["validation"]), np.asarray(payload.arrays["test"])
    return [
        Fit(
            job=job,
            state=_member(states, i),
            steps=int(payload.meta["steps"][i]),
            best_step=int(payload.meta["best_step"][i]),
            history=tuple(
                (int(step), float("nan") if loss is None else float(loss)) for step, loss in payload.meta["history"][i]
            ),
            validation=validation[i],
            test=test[i],
        )
        for i, job in enumerate(jobs)
    ]


def _member(states: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: stack[index].clone() for name, stack in states.items()}
