"""Features of a large part in shards of rows, computed by several processes and written into one folder.

A shard is a file of its own under a key of everything that determines it. It is written whole or not at all, by the
process that computed it where that process sees the folder, else by the caller. Shards depend on the rows alone, never
on the number of processes, so the features are the same bit for bit wherever they are computed.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie._context import Context
from coterie._executor import Done, reissue_warnings, run_jobs
from coterie._files import make_directory, read_bytes, write_whole, writing
from coterie._sealed import pack, unpack
from coterie.errors import StoreError, StoreWarning
from coterie.features.directions import Directions, RandomDirections
from coterie.features.features import WAYS, FeatureOptions, compute_features, own_directions
from coterie.features.heads import HeadFeatures
from coterie.features.part import PartFeatures
from coterie.features.plan import FeaturePlan, demand, differentiable, make_plan, whole_pass
from coterie.features.program import MarginProgram
from coterie.features.storage import FeatureWriter, Pairs, labelled_pairs, stored_type
from coterie.workload.fingerprint import fingerprint
from coterie.workload.structure import Structure
from coterie.workload.travel import bound, own
from coterie.workload.workload import Workload

#: labelled rows of a shard; parts with no more than this are computed in one piece
SHARD_ROWS = 4096
_STAGE = "features"
_FORMAT = "shards 3"


@dataclass(frozen=True, eq=False)
class Setting:
    """What all shards of a part have in common, beside the workload.

    Attributes:
        state: parameters and buffers of the model.
        directions: the columns of P.
        structure: trunk and heads.
        part: of the data.
        options: how the features are computed.
        memory: bytes for the features of a shard and the work on it.
        key: digest of all that, and of the workload.
    """

    state: Mapping[str, Tensor]
    directions: Directions
    structure: Structure | None
    part: str
    options: FeatureOptions
    memory: int
    key: str = ""


@dataclass(frozen=True, eq=False)
class Shard:
    """Some rows, and where their features go.

    Attributes:
        rows: row numbers of the workload.
        name: of the file.
        folder: where it goes, if that can be seen; a file called `token` is there.
        token: see `folder`.
    """

    rows: Tensor
    name: str
    folder: str | None
    token: str


def compute_shards(
    workload: Workload,
    state: Mapping[str, Tensor],
    directions: Directions,
    options: FeatureOptions,
    context: Context,
    *,
    structure: Structure,
    part: str = "train",
    folder: Path | None = None,
) -> PartFeatures:
    """What :func:`coterie.features.compute_features` computes, in shards where there are many rows.

    Args:
        workload: tasks, data and the model's architecture.
        state: the model's parameters and buffers.
        directions: the columns of P.
        options: as in :func:`compute_features`, without `spill`. The mode is chosen once for all shards.
        context: memory, which features and working memory share (a worker needs about as much as this process),
            progress and executor.
        structure: trunk and heads.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        folder: shards are kept here, and found again after a kill; workers that see it write there. None keeps them
            in memory. They can be deleted (:func:`coterie._units.drop_shards`) once what is made of the features is
            kept.

    Returns:
        The features, the same for every executor bit for bit, and those of :func:`compute_features` up to rounding.
        Up to :data:`SHARD_ROWS` labelled rows nothing is cut, which saves an assembly.

    Raises:
        SettingError, WorkloadError, ModelError, ResourceError: see :func:`compute_features`.
        WorkerError: workers were lost too often or cannot take the jobs.

    Cost: that of :func:`compute_features`, shared by the workers.
    """
    pairs = labelled_pairs(workload, part)
    model = _model(workload, state)
    if len(pairs.rows) <= SHARD_ROWS or whole_pass(model):
        return compute_features(workload, model, directions, options, context, structure=structure, part=part)
    every = [directions, *filter(None, [own_directions(model, directions, structure, options)])]
    program = MarginProgram(workload, model, [name for each in every for name in each.names])
    plan = _plan(program, pairs, every, options, context.memory)
    pieces = pairs.rows.cpu().split(SHARD_ROWS)
    # a shard may have more labels than another; its features have full precision
    labels = max(int(workload.observed[rows.to(workload.device)].sum()) for rows in pieces)
    full = replace(options, mode=plan.mode, dtype="float32")
    memory = context.memory - plan.feature_bytes + labels * _pair_bytes(program, every, full)
    setting = Setting({k: own(v) for k, v in state.items()}, directions, structure, part, full, memory)
    setting = replace(setting, key=_key(workload, setting))
    with token(folder) as seen:
        shards = [
            Shard(own(rows), f"{setting.key}-{number:05d}.safetensors", None if folder is None else str(folder), seen)
            for number, rows in enumerate(pieces)
        ]
        table = _Table(pairs, options.dtype)
        _collect(workload, setting, shards, folder, context, table.add)
    return _assemble(workload, setting, pairs, plan, table)


def compute_shard(value: tuple[Workload, Setting], shard: Shard) -> bytes | None:
    """What a worker does: the features of some rows as safetensors, written to the folder where that is to be seen.

    Returns:
        The bytes, or None when they were written.
    """
    workload, setting = value
    split = replace(workload.split, **{setting.part: shard.rows.to(workload.device)})
    small = replace(workload, split=split)
    features = compute_features(
        small, _model(workload, setting.state), setting.directions, setting.options, Context(memory=setting.memory),
        structure=setting.structure, part=setting.part,
    )  # fmt: skip
    heads = features.head_features
    arrays = {"g": features.matrix.read(), "offset": features.offset, "starts": features.starts, "slopes": heads.slopes}
    arrays |= {f"representation/{number}": value for number, value in enumerate(heads.representations)}
    arrays |= {} if heads.projected is None else {"projected": heads.projected}
    plan = features.plan
    facts = {"mode": plan.mode, "way": plan.way, "reason": plan.reason, "source": heads.source, "bias": heads.bias}
    data = encode(shard.name, {name: own(value) for name, value in arrays.items()}, facts)
    if shard.folder is None or not (Path(shard.folder) / shard.token).exists():
        return data
    write(Path(shard.folder) / shard.name, data)
    return None


def _model(workload: Workload, state: Mapping[str, Tensor]) -> torch.nn.Module:
    model = workload.build_model(0).to(workload.device)
    model.load_state_dict(dict(state))
    return model


def _key(workload: Workload, setting: Setting) -> str:
    """SHA-256 of everything that determines the shards of a part, beside their numbers."""
    found = hashlib.sha256(f"{_FORMAT} {fingerprint(workload)}".encode())
    along = setting.directions
    facts = (setting.part, setting.options, setting.memory, SHARD_ROWS, along.count, along.shapes)
    found.update(repr(facts).encode())
    _update(found, "state", setting.state)
    if isinstance(along, RandomDirections):
        found.update(f"{along.seed}".encode())
    else:
        for number in range(along.count):  # one at a time, as others may draw theirs
            _update(found, f"direction {number}", along.chunk(number, number + 1))
    return found.hexdigest()


def _update(found: hashlib._Hash, kind: str, tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{kind} {name} {tuple(value.shape)} {value.dtype}".encode())
        if value.numel():
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)


def _collect(
    workload: Workload,
    setting: Setting,
    shards: Sequence[Shard],
    folder: Path | None,
    context: Context,
    take: Callable[[dict[str, Tensor], dict[str, Any]], None],
) -> None:
    """Hand over tensors and facts of every shard, in order, as soon as those before are there.

    Shards are computed where the folder does not have them yet.
    """
    kept: dict[str, bytes] = {}
    missing = [shard for shard in shards if folder is None or not whole(folder / shard.name)]
    waiting, absent = deque(shards), {shard.name for shard in missing}
    before = len(shards) - len(missing)

    def hand_over() -> None:
        while waiting and waiting[0].name not in absent:
            name = waiting.popleft().name
            take(*read(kept.pop(name, None), folder, name))

    def done(number: int, outcome: Done) -> None:
        name = missing[number].name
        if outcome.result is not None and folder is None:
            kept[name] = outcome.result
        elif outcome.result is not None and folder is not None:
            write(folder / name, outcome.result)
        absent.discard(name)
        hand_over()

    def tell(stage: str, finished: int, total: int) -> None:
        context.progress(stage, before + finished, before + total)

    hand_over()
    parcel = bound(workload, setting)
    ended = run_jobs(context.executor, compute_shard, missing, parcel, stage=_STAGE, progress=tell, done=done)
    reissue_warnings(tuple(said for outcome in ended for said in outcome.warned))


def _plan(
    program: MarginProgram, pairs: Pairs, every: Sequence[Directions], options: FeatureOptions, memory: int
) -> FeaturePlan:
    """The plan of the whole part, which chooses the mode of all shards; its features are those of the whole table."""
    size, count = sum(one.size for one in every), sum(one.count for one in every)
    largest, item = max(value.numel() for value in program.parameters.values()), program.dtype.itemsize
    each = _pair_bytes(program, every, options)
    with differentiable(program.model, warn=False):
        need = demand(program.workload, program.model, pairs, size, count, item, largest, each)
    # as each shard decides, see there
    return make_plan(need, mode=options.mode, memory=memory, spill=False, way="hooks")


def _pair_bytes(program: MarginProgram, every: Sequence[Directions], options: FeatureOptions) -> int:
    """Bytes of the features of a pair; those of heads that are not linear are never in fewer bits."""
    first, *rest = every
    stored = stored_type(options.dtype, program.dtype)
    return first.count * stored.itemsize + sum(one.count for one in rest) * program.dtype.itemsize


class _Table:
    """One table, sorted by task, from tables that are; shards have full precision, the table is stored as `dtype`."""

    def __init__(self, pairs: Pairs, dtype: str) -> None:
        self._pairs, self._dtype = pairs, dtype
        self._filled = pairs.starts.cpu()[:-1].clone()
        self.offset = torch.empty(0)
        self.writers: dict[str, FeatureWriter] = {}
        self.by_row: dict[str, list[Tensor]] = {}
        self.facts: dict[str, Any] = {}

    def add(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Put the next shard where it belongs."""
        self.facts = facts
        at = tensors.pop("starts")
        counts = at.diff()
        # where the pairs of this shard, sorted by task, belong
        index = torch.repeat_interleave(self._filled - at[:-1], counts) + torch.arange(int(at[-1]))
        value = tensors.pop("offset")
        self.offset = self.offset if len(self.offset) else value.new_empty(self._pairs.count)
        self.offset[index] = value
        for name in ("g", "projected"):
            if name in tensors:
                value = tensors.pop(name)
                if name not in self.writers:
                    kind = stored_type(self._dtype, value.dtype) if name == "g" else value.dtype
                    self.writers[name] = FeatureWriter(self._pairs, value.shape[1], value.dtype, None, kind)
                self.writers[name].put(index, value, 0)
        self._filled += counts
        for name, value in tensors.items():
            self.by_row.setdefault(name, []).append(value)


def _assemble(workload: Workload, setting: Setting, pairs: Pairs, plan: FeaturePlan, table: _Table) -> PartFeatures:
    """The features of the part, once all shards are in the table."""
    device, facts, by_row, writers = workload.device, table.facts, table.by_row, table.writers
    stored = sorted((name for name in by_row if name.startswith("representation/")), key=lambda n: int(n[15:]))
    head = HeadFeatures(
        tuple(torch.cat(by_row[name]).to(device) for name in stored),
        tuple(facts["source"]),
        torch.cat(by_row["slopes"]).to(device),
        tuple(facts["bias"]),
        workload.columns,
        writers["projected"].finish().read() if "projected" in writers else None,
        own_directions(workload.build_model(0), setting.directions, setting.structure, setting.options),
    )
    same = plan.mode == facts["mode"]
    reason = f"{plan.reason} {WAYS[facts['mode'], facts['way']]}" if same else facts["reason"]
    offset = table.offset
    return PartFeatures(
        part=setting.part,
        tasks=workload.task_names,
        starts=pairs.starts,
        rows=pairs.rows[pairs.local],
        local=pairs.local,
        offset=offset.to(device),
        targets=workload.targets[pairs.rows][pairs.local, pairs.task].to(offset.dtype),
        matrix=writers["g"].finish(),
        heads=setting.options.heads,
        head_features=head,
        structure=None if setting.options.heads == "projected" else setting.structure,
        plan=replace(plan, mode=facts["mode"], way=facts["way"], reason=reason),
    )


_KIND = "coterie features 3"


@contextmanager
def token(folder: Path | None) -> Generator[str]:
    """A file by which a worker knows that it sees the same folder."""
    name = f".coterie-{uuid.uuid4().hex}.tmp"
    if folder is None:
        yield name
        return
    make_directory(folder)
    with writing(folder / name):
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)


def encode(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a shard, which say what they are and prove that they are whole."""
    return pack(_KIND, {"name": name, "facts": facts}, tensors)


def write(path: Path, data: bytes) -> None:
    """The whole file or none.

    Raises:
        StoreError: when it cannot be written.
    """
    write_whole(path, data)


def whole(path: Path) -> bool:
    """Whether the file is there and is the whole shard that its name says; one that is not is warned about."""
    if not path.exists():
        return False
    try:
        read(None, path.parent, path.name)
    except StoreError as error:
        warnings.warn(
            f"Stored features in {str(path.parent)!r} are damaged and are computed again ({error})",
            StoreWarning,
            stacklevel=2,
        )
        return False
    return True


def read(data: bytes | None, folder: Path | None, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a shard, from its bytes or from its file.

    Raises:
        StoreError: when it is damaged, or another shard than its name says.
    """
    path = name if folder is None else folder / name
    found, tensors = unpack(_KIND, read_bytes(path) if data is None else data, path)
    if found.get("name") != name:
        raise StoreError(f"The file {str(path)!r} holds the features of other rows, or of another model.")
    return tensors, found["facts"]
