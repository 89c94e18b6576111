"""Estimates around models that were trained elsewhere: nothing is trained here."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._context import Context
from coterie._progress import Progress, silent
from coterie._surface import known_arguments, said_once
from coterie._units import NoStore
from coterie.affinity import Affinity, GainModel, GradTAE
from coterie.affinity.costs import prepare
from coterie.affinity.estimator import estimator_of
from coterie.affinity.grad_tae import GRAD_TAG_BLOCKS, SECANTS
from coterie.affinity.linearize import Bases
from coterie.errors import SettingError
from coterie.pipeline.candidates import estimated_affinity, typical_size
from coterie.pipeline.check import as_workload
from coterie.training.evaluate import load_state
from coterie.training.job import Fit, Job, State
from coterie.workload import Workload, validate

#: the usual method without branches: Grad-TAG with exact heads, with a ridge that needs no training
_ALONE = replace(GRAD_TAG_BLOCKS, ridge="stopped", fit="one-step", evaluation="linear")


@known_arguments
@said_once
def estimate_from_checkpoints(
    workload: Workload | str,
    checkpoints: Sequence[Any],
    branches: Sequence[Mapping[str, Any]] | None = None,
    *,
    method: str | GradTAE | None = None,
    order: str = "higher",
    size: int | None = None,
    seed: int = 0,
    memory: int = 2**30,
    progress: Progress | None = None,
) -> tuple[Affinity, GainModel]:
    """Estimate how much each task helps each other around models that you trained, without any training.

    Args:
        workload: tasks, data and model, as for :func:`coterie.estimate_affinity`; its recipe is not used.
        checkpoints: models that were trained on all tasks: modules like ``workload.build_model(0)``, their state
            dicts, or paths of files that ``torch.save`` wrote of these. Their estimates are averaged.
        branches: for each of them, task -> a module, state dict or path: what became of it when it was trained a little
            on this task alone. With branches the estimate goes along these secants, without gradients; without, along
            random directions.
        method: settings, or the name of a method with base models; None for ``"secants"`` with branches, and for
            Grad-TAG with exact heads in 200 random directions and a ridge that each subset's validation loss chooses
            without.
        order: as for :func:`coterie.estimate_affinity`.
        size: of the subsets of ``order="higher"``; chosen when left out.
        seed: of random directions and subsets.
        memory: working memory in bytes.
        progress: called as ``progress(stage, done, total)``.

    Returns:
        The affinity matrix (rows are targets, larger is better) and a model that predicts the gain of any subset.

    Raises:
        SettingError: when there is no checkpoint, one does not fit the model of the workload, a branch is missing or of
            an unknown task, or the method would have to train.

    Cost: the features of a base model for each checkpoint: with branches, a forward pass a branch and one more;
        without, Jacobian-vector products in 200 directions.

    Source: as :class:`coterie.GradTAE`.

    Example:
        >>> import torch
        >>> from coterie import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(90, 5))
        >>> work = from_arrays(x, x[:, :3] > 0, hidden=(8,))
        >>> model = work.build_model(0)  # train it as you like
        >>> affinity, gains = estimate_from_checkpoints(work, [model], order="pairwise")
        >>> affinity.values.shape
        (3, 3)
    """
    work = as_workload(workload)
    if order not in ("pairwise", "higher"):
        raise SettingError(f"Parameter `order` should be 'pairwise' or 'higher'. Found {order!r}.")
    validate(work)
    chosen = whole_number(2 if order == "pairwise" else size or typical_size(work.n_tasks), "size", low=2)
    context = Context(whole_number(seed, "seed", low=0), memory, NoStore(), progress or silent)
    model = work.build_model(0)  # what checkpoints have to fit
    bases = _bases(work, model, checkpoints, context.seed)
    ends = None if branches is None else _ends(work, model, branches, len(bases.fits))
    settings = _settings(method, secants=ends is not None)
    prepared = prepare(work, context)
    estimate = settings.around(prepared, bases, iter(ends or ()), chosen)
    return estimated_affinity(estimate, order, None, chosen, context.seed), estimate.model


def _settings(method: str | GradTAE | None, *, secants: bool) -> GradTAE:
    """Settings that train nothing."""
    given = (SECANTS if secants else _ALONE) if method is None else estimator_of(estimate_from_checkpoints, method, {})
    if not isinstance(given, GradTAE):
        raise SettingError(
            "Parameter `method` should be a method with base models, such as 'grad-tag' or 'secants'. "
            f"Found {method!r}."
        )
    along = given.directions in ("secants", "task-vectors")
    if along != secants:
        raise SettingError(
            f"Parameter `method`: {given.name!r} goes along {given.directions}. "
            + ("Give `branches`, task -> model, for each checkpoint." if along else "Leave `branches` out.")
        )
    if given.ridge == "matched":
        raise SettingError(
            "Parameter `method`: ridge='matched' trains branches of its own to choose the ridge. Use ridge='stopped'."
        )
    return given


def _bases(work: Workload, model: nn.Module, checkpoints: Any, seed: int) -> Bases:
    """The checkpoints as base models that took no step."""
    if isinstance(checkpoints, str | Path | nn.Module | Mapping) or not isinstance(checkpoints, Sequence):
        raise SettingError(
            f"Parameter `checkpoints` should be a list of models. Found {type(checkpoints).__name__}. A single one is "
            "given as [model]."
        )
    if not len(checkpoints):
        raise SettingError("Parameter `checkpoints` is empty. Give at least one trained model.")
    everything = tuple(range(work.n_tasks))
    unknown = np.full(work.n_tasks, np.nan)
    fits = tuple(
        Fit(
            Job(everything, seed + number),
            _state(work, model, one, f"checkpoints[{number}]"),
            0,
            0,
            (),
            unknown,
            unknown,
        )
        for number, one in enumerate(cast("Sequence[Any]", checkpoints))
    )
    return Bases(fits, fits[0], 0.0)


def _ends(work: Workload, model: nn.Module, branches: Any, count: int) -> list[list[State]]:
    """For each checkpoint the branch of each task, in the order of the tasks."""
    if not isinstance(branches, Sequence) or len(branches) != count:
        found = len(branches) if isinstance(branches, Sequence) else type(branches).__name__
        raise SettingError(
            f"Parameter `branches` should be a list with a mapping, task -> model, for each of {count} checkpoints. "
            f"Found {found}."
        )
    ends: list[list[State]] = []
    for number, of_one in enumerate(branches):
        names: set[Any] = set(of_one) if isinstance(of_one, Mapping) else set()
        odd = sorted(map(repr, names ^ set(work.task_names)))
        if odd:
            raise SettingError(
                f"Parameter `branches`[{number}] should map each task to a model. Missing or unknown: "
                f"{', '.join(odd[:5])}."
            )
        where = f"branches[{number}]"
        ends.append([_state(work, model, of_one[name], f"{where}[{name!r}]") for name in work.task_names])
    return ends


def _state(work: Workload, model: nn.Module, given: Any, where: str) -> State:
    """Parameters and buffers of a checkpoint, on the workload's device.

    Raises:
        SettingError: when it does not fit the model of the workload.
    """
    if isinstance(given, str | Path):
        try:
            given = torch.load(given, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise SettingError(
                f"Parameter `{where}`: {str(given)!r} cannot be read as a file of parameters: {error!s:.120}. Write "
                "one with torch.save(model.state_dict(), path)."
            ) from error
    given = given.state_dict() if isinstance(given, nn.Module) else given
    if not isinstance(given, Mapping):
        raise SettingError(
            f"Parameter `{where}` should be a module, a state dict or the path of one. Found {type(given).__name__}."
        )
    named = cast("Mapping[str, Any]", given)
    state = {name: value.detach().to(work.device) for name, value in named.items() if isinstance(value, Tensor)}
    try:
        load_state(model, state)
    except SettingError as error:
        raise SettingError(
            f"Parameter `{where}` does not fit workload.build_model(0): {error} Another architecture, or names with a "
            "prefix such as 'module.', are the likely cause."
        ) from error
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise SettingError(f"Parameter `{where}`: {broken[0]!r} is not finite. The training diverged.")
    return state
