"""How a workload gets to a worker: by its reference where that means the same there, else pickled."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from coterie._executor import Parcel, Way
from coterie._random import random_numbers, seed_numbers
from coterie._worker import open_parcel
from coterie.errors import WorkloadError
from coterie.workload.fingerprint import fingerprint
from coterie.workload.lazy.inputs import LazyInputs, each_part
from coterie.workload.losses import MarginLoss, get_loss, register_loss
from coterie.workload.sparse import SparseLabels
from coterie.workload.workload import Split, Workload

#: what travels beside a reference: small, and often changed (a part of the rows, another recipe)
_BESIDE = (
    "name", "tasks", "split", "recipe", "model_spec", "input_center", "input_scale", "known_groups", "input_names",
)  # fmt: skip
_ADVICE = (
    "Put the workload in a file and give 'file.py:name' (workers need that file under the same path, or the packages "
    "of a built-in one); or build models with functions and classes of a module that workers can import, not with a "
    "lambda; or install cloudpickle, which carries a lambda and a script's own classes along. Workers that were "
    "started before code was changed have to be started anew"
)
_parcels: WeakKeyDictionary[Workload, Parcel] = WeakKeyDictionary()
_loaded: dict[str, tuple[str, Workload]] = {}
#: rows on which a model here is held against the one that was meant
_ROWS = 4


def parcel(workload: Workload) -> Parcel:
    """The workload, packed once, to be sent with jobs.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> work = from_arrays(x, x[:, :2])
        >>> opened = pickle.loads(parcel(work).data).open()
        >>> fingerprint(opened) == fingerprint(work)
        True
    """
    if workload not in _parcels:
        # the parcel must not keep its own key alive, or nothing would ever leave the dictionary
        here = replace(workload)
        ways: list[Way] = [("pickled", lambda: pack(_Pickled.of(here)))]
        if workload.reference is not None:
            ways.insert(0, (f"by its reference {workload.reference!r}", lambda: pack(_Referred.of(here))))
        _parcels[workload] = Parcel(here, ways, _ADVICE)
    return _parcels[workload]


def pack(value: Any) -> bytes:
    """Pickled, with cloudpickle where that is installed and the plain module would not do.

    Classes and functions of a script itself (``__main__``) cannot be imported on a cluster; cloudpickle sends them
    along.
    """
    try:
        plain = pickle.dumps(value)
        if b"__main__" not in plain and b"__mp_main__" not in plain:
            return plain
    except Exception:
        if find_spec("cloudpickle") is None:
            raise
        plain = b""
    if find_spec("cloudpickle") is None:
        return plain
    import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

    return cloudpickle.dumps(value)


@dataclass(frozen=True, eq=False)
class _Pickled:
    """A workload on the CPU, where it belongs, and losses that were registered by hand."""

    workload: Workload
    device: str
    losses: Mapping[str, MarginLoss]
    mark: Mark

    @staticmethod
    def of(workload: Workload) -> _Pickled:
        bare = _bare(workload)
        return _Pickled(bare, str(workload.device), _losses(workload), Mark.of(bare))

    def open(self) -> Workload:
        """The workload on its device.

        Raises:
            WorkloadError: when the code that it needs is another one here.
        """
        _register(self.losses)
        if not self.mark.fits(self.workload):
            raise WorkloadError("the code of its model, or of a loss, is another one here")
        return self.workload if self.device == "cpu" else self.workload.to(self.device)


@dataclass(frozen=True, eq=False)
class _Referred:
    """The name of a workload, what was changed about it, and what it has to be in the end."""

    reference: str
    device: str
    beside: Mapping[str, Any]
    code: str
    mark: Mark

    @staticmethod
    def of(workload: Workload) -> _Referred:
        bare = _bare(workload)
        return _Referred(
            str(workload.reference),
            str(workload.device),
            {name: getattr(bare, name) for name in _BESIDE},
            _code(str(workload.reference)),
            Mark.of(bare),
        )

    def open(self) -> Workload:
        """The workload, loaded anew.

        Raises:
            WorkloadError: when it is another one here.
        """
        work = replace(_load(self.reference), **self.beside)
        if _code(self.reference) != self.code or not self.mark.fits(work):
            raise WorkloadError(f"{self.reference!r} is another workload here")
        return work if self.device == "cpu" else work.to(self.device)


def _load(reference: str) -> Workload:
    """The workload of a reference on the CPU; a user's file is run once a process, and again when it has changed."""
    from coterie.workload.load import load_workload

    code = _code(reference)
    if reference not in _loaded or _loaded[reference][0] != code:
        loaded = load_workload(reference)
        _loaded[reference] = code, loaded if loaded.device.type == "cpu" else loaded.to("cpu")
    return _loaded[reference][1]


def _code(reference: str) -> str:
    """Digest of the file that a reference names; empty for a built-in workload."""
    file = Path(reference.rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _bare(workload: Workload) -> Workload:
    """Without what was derived, on the CPU, and without the rest of larger tensors that its tensors are views of."""
    work = replace(workload) if workload.device.type == "cpu" else workload.to("cpu")
    inputs = work.inputs
    return replace(
        work,
        inputs=inputs if isinstance(inputs, LazyInputs) else each_part(inputs, own),
        labels=work.labels if isinstance(work.labels, SparseLabels) else own(work.labels),
        weights=None if work.weights is None else own(work.weights),
        split=Split(own(work.split.train), own(work.split.validation), own(work.split.test)),
    )


def own(value: Tensor) -> Tensor:
    """The tensor on the CPU, copied when it is part of a larger one, all of which would be pickled."""
    value = value.detach().cpu()
    return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value


def _losses(workload: Workload) -> dict[str, MarginLoss]:
    return {kind: get_loss(kind) for kind in sorted({task.kind for task in workload.tasks})}


def _register(losses: Mapping[str, MarginLoss]) -> None:
    for kind, loss in losses.items():
        try:
            get_loss(kind)
        except Exception:
            register_loss(kind, loss)


@dataclass(frozen=True, eq=False)
class Mark:
    """By what a workload in another process, whose code may be another, is known.

    Attributes:
        fingerprint: of data, tasks, recipe, initial parameters and code.
        answers: what the initial model and the losses return.
    """

    fingerprint: str
    answers: Tensor

    @staticmethod
    def of(workload: Workload) -> Mark:
        """That of a workload on the CPU."""
        return Mark(fingerprint(workload), _answers(workload))

    def fits(self, workload: Workload) -> bool:
        """Whether a workload on the CPU is the same up to rounding of another processor."""
        own = Mark.of(workload)
        alike = (own.fingerprint, own.answers.shape) == (self.fingerprint, self.answers.shape)
        return alike and torch.allclose(own.answers, self.answers, rtol=1e-3, atol=1e-5, equal_nan=True)


def _answers(workload: Workload) -> Tensor:
    """Outputs of the initial model for a few rows, and values of the losses; empty where one of them fails."""
    points = torch.linspace(-2, 2, 9)
    try:
        with random_numbers(torch.device("cpu")), torch.no_grad():
            model = workload.build_model(0).eval()
            seed_numbers(0)
            found = [workload.outputs(model, workload.batch(workload.split.train[:_ROWS]))]
            for loss in _losses(workload).values():
                found += [loss.value(points, torch.full_like(points, label)) for label in (0.0, 1.0)]
    except Exception:  # the training will say why
        return torch.empty(0)
    return torch.cat([value.detach().float().flatten() for value in found])


def bound(workload: Workload, extra: Any) -> Parcel:
    """A workload together with something else that jobs need; in a worker they arrive as ``(workload, extra)``."""
    inner = parcel(workload)

    def again() -> bytes:
        inner.refused(inner.data, "not opened by a worker")
        return pack(_Bound(inner.data, extra))

    ways: list[Way] = [("at once", lambda: pack(_Bound(inner.data, extra))), ("in the other way", again)]
    return Parcel((inner.value, extra), ways, _ADVICE)


@dataclass(frozen=True, eq=False)
class _Bound:
    workload: bytes
    extra: Any

    def open(self) -> tuple[Workload, Any]:
        """Both; a workload that is here already is not opened again."""
        return open_parcel(self.workload), self.extra
