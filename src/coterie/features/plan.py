"""Which mode takes the gradients, in chunks of which size, and why; decided before the work starts."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from coterie._check import choice
from coterie._process_lock import process_lock
from coterie._show import short_repr
from coterie._surface import known_arguments, warn
from coterie.errors import ModelError, ModelModeWarning, ResourceError, SettingError
from coterie.features.layers import held
from coterie.features.storage import Pairs, labelled_pairs
from coterie.workload.graph import whole_pass
from coterie.workload.structure import Structure, find_structure
from coterie.workload.workload import Workload

#: rows of the trial pass
_MEASURED_ROWS = 8


class TensorSizes(TorchDispatchMode):
    """Sees every tensor that an operation makes, below vmap and differentiation.

    Attributes:
        largest: bytes of the largest.
        sizes: the different sizes.
        total: bytes of all together.
        peak: most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.sizes: set[int] = set()
        self.total = 0
        self.peak = 0
        self._alive: dict[int, int] = {}
        self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            # views (transposed weights, slices of the inputs) are no new memory
            if isinstance(value, Tensor) and not func.is_view:
                self._see(value)
        return result

    def _see(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self.largest = max(self.largest, size)
        self.sizes.add(size)
        self.total += size
        self._alive[key] = size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


@dataclass(frozen=True)
class PassCost:
    """Cost of one forward pass for one row.

    Attributes:
        flops: multiplications and additions.
        largest: bytes of the largest tensor that an operation makes.
        total: bytes of all tensors that operations make.
    """

    flops: float
    largest: int
    total: int


def measure_pass(workload: Workload, model: nn.Module, rows: Tensor) -> PassCost:
    """Run a few rows and count; all rows where a pass costs the same for any."""
    chosen = rows if whole_pass(model) else rows[:_MEASURED_ROWS]
    batch = workload.batch(chosen)
    counter, sizes = FlopCounterMode(display=False), TensorSizes()
    with torch.no_grad(), counter, sizes:
        workload.outputs(model, batch)
    n = len(chosen)
    return PassCost(counter.get_total_flops() / n, -(-sizes.largest // n), -(-sizes.total // n))


#: warnings of torch about its own inside, of no use to the caller
_NOISE = (
    "There is a performance drop because",
    "TF32 acceleration on top of oneDNN",
    "`torch.jit.script` is deprecated",
)


@contextmanager
def differentiable(model: nn.Module, *, warn: bool = True) -> Generator[None]:
    """Evaluation mode, and the kernels that can be differentiated forwards; everything is restored on leaving.

    * attention runs on the math backend (the fused kernels have no forward mode);
    * the fast path of ``nn.TransformerEncoderLayer`` is off;
    * for recurrent modules, mkldnn is off (LSTM) and so is cuDNN (no forward mode, no backward in evaluation mode);
    * every module is in evaluation mode, so that rows do not influence one another and nothing is random.

    Args:
        model: the module.
        warn: say so when BatchNorm or active dropout was in training mode.

    Raises:
        ModelError: BatchNorm without running statistics, whose rows cannot be told apart.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> with differentiable(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    _refuse_batch_statistics(model)
    if warn:
        _say_modes(model)
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with process_lock, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if recurrent:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def _norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore[reportPrivateUsage]
    return [(name or "the model", module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _refuse_batch_statistics(model: nn.Module) -> None:
    for name, module in _norms(model):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:  # pyright: ignore[reportPrivateUsage]
            raise ModelError(
                f"Module `{name}` ({type(module).__name__}) keeps no running statistics (track_running_stats=False), "
                "so the output of one row depends on the other rows and has no gradient of its own. "
                "Use track_running_stats=True, LayerNorm or GroupNorm."
            )


def _say_modes(model: nn.Module) -> None:
    batchnorm = [name for name, module in _norms(model) if module.training and _is_batchnorm(module)]
    dropout = [name or "the model" for name, module in model.named_modules() if module.training and _drops(module)]
    parts = [
        f"{kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("BatchNorm", batchnorm), ("dropout", dropout))
        if names
    ]
    if parts:
        warn(
            f"{' and '.join(parts)} put in evaluation mode while gradients are taken: BatchNorm uses its running "
            "statistics and nothing is dropped. The mode is restored afterwards.",
            ModelModeWarning,
        )


def _is_batchnorm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return False


MODES = ("auto", "forward", "reverse")

#: beyond these sizes, chunks are no faster and only fall out of the cache
_DIRECTIONS, _ROWS, _GRADIENTS, _HOOKED = 50, 256, 64, 256


@short_repr
@dataclass(frozen=True)
class FeaturePlan:
    """How the features of one part will be computed.

    Attributes:
        mode: ``"forward"`` or ``"reverse"``.
        reason: why, in words.
        rows_per_chunk: rows (forward) or labelled (row, task) pairs (reverse) that are worked on together.
        directions_per_chunk: directions that are worked on together.
        bytes: working memory at the most, without the features.
        feature_bytes: size of the features.
        spill: the features go to a mapped file, since they do not fit the memory.
        forward_cost: forward passes a row in forward mode.
        reverse_cost: forward passes a row in reverse mode, projection included.
        way: ``"stacked"`` (the directions or pairs of a chunk go through the model together, under vmap), ``"hooks"``
            (one ordinary backward pass for the pairs of a chunk, see :mod:`coterie.features.hooked`) or
            ``"one by one"``.
    """

    mode: str
    reason: str
    rows_per_chunk: int
    directions_per_chunk: int
    bytes: int
    feature_bytes: int
    spill: bool
    forward_cost: float
    reverse_cost: float
    way: str = "stacked"

    @property
    def batched(self) -> bool:
        """Whether directions (or pairs) of a chunk go through the model together."""
        return self.way != "one by one"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return asdict(self)


@dataclass(frozen=True)
class Demand:
    """What the planner needs to know.

    Attributes:
        rows: labelled rows.
        pairs: labelled (row, task) pairs.
        tasks: number of tasks.
        parameters: numbers that the directions move.
        directions: number of directions d.
        item: bytes of a number.
        one: cost of a forward pass for one row.
        whole: a pass costs the same for any rows; `one` is its share of all rows.
        largest: numbers of the largest parameter that the directions move; 0 where that is not known.
        stored: bytes of the features of a pair; 0 for d full numbers.
    """

    rows: int
    pairs: int
    tasks: int
    parameters: int
    directions: int
    item: int
    one: PassCost
    whole: bool = False
    largest: int = 0
    stored: int = 0


@known_arguments
def plan_features(
    workload: Workload,
    structure: Structure | None,
    d: int,
    memory: int = 2**30,
    *,
    model: nn.Module | None = None,
    part: str = "train",
    mode: str = "auto",
    spill: bool = False,
) -> FeaturePlan:
    """Plan the features of a part: mode, reason, chunk sizes, memory; nothing is computed but one pass over 8 rows.

    Args:
        workload: tasks and data.
        structure: trunk and heads; None finds them.
        d: number of directions.
        memory: bytes that features and working memory may take together.
        model: the module; by default a fresh one.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        mode: ``"auto"`` chooses the cheaper.
        spill: a mapped file may take the features when the memory cannot.

    Raises:
        ResourceError: it cannot fit.
    """
    model = workload.build_model(0).to(workload.labels.device) if model is None else model
    structure = find_structure(workload, model) if structure is None else structure
    known = dict(model.named_parameters())
    size = sum(known[name].numel() for name in structure.trunk)
    pairs = labelled_pairs(workload, part)
    with differentiable(model, warn=False):
        return make_plan(demand(workload, model, pairs, size, d), mode=mode, memory=memory, spill=spill)


def demand(
    workload: Workload,
    model: nn.Module,
    pairs: Pairs,
    parameters: int,
    directions: int,
    item: int = 4,
    largest: int = 0,
    stored: int = 0,
) -> Demand:
    """Measure what a plan depends on."""
    one = measure_pass(workload, model, pairs.rows)
    whole = whole_pass(model)
    n, tasks = len(pairs.rows), workload.n_tasks
    return Demand(n, pairs.count, tasks, parameters, directions, item, one, whole, largest, stored)


def make_plan(
    need: Demand, *, mode: str, memory: int, spill: bool, because: str = "", way: str = "stacked"
) -> FeaturePlan:
    """The plan for a demand; `because` is put before the reason, and `way` is that of the model.

    Raises:
        SettingError: unknown mode, or a memory that is no positive number.
        ResourceError: it cannot fit.
    """
    choice(mode, "mode", MODES)
    if memory < 1:
        raise SettingError(f"Parameter `memory` should be a positive number of bytes. Found {memory}.")
    labels = need.pairs / need.rows
    flops = max(need.one.flops, 2.0 * need.parameters)
    forward = 2.0 * need.directions
    reverse = labels * (3.0 + 2.0 * need.parameters * need.directions / flops)
    if need.whole:
        because += "A pass runs over the whole graph for any rows. "
        reverse = labels * 3.0 * need.rows
    chosen = mode if mode != "auto" else ("forward" if forward <= reverse else "reverse")
    reason = (
        f"{chosen} mode: {need.directions} directions cost about {forward:.0f} forward passes a row in forward mode; "
        f"{labels:.1f} labels a row cost about {reverse:.0f} in reverse mode, projection included"
        + ("." if mode == "auto" else f" ({mode} mode was asked for).")
    )
    size = need.pairs * (need.stored or need.directions * need.item)
    plan = FeaturePlan(chosen, f"{because}{reason}", 0, 0, 0, size, False, forward, reverse, way)
    return _fit(plan, need, memory, spill)


def working_bytes(need: Demand, mode: str, rows: int, directions: int, way: str = "stacked") -> int:
    """Working memory of a chunk: directions, tangents or gradients, and the block of features."""
    item = need.item
    # a pass that costs the same for any rows is made for one direction at a time
    seen, together = (need.rows, 1) if need.whole else (rows, directions)
    if mode == "forward":
        # twice the directions: layers may fold a copy; a normalisation has about five tangents of its output alive
        block = 5 * seen * together * need.one.largest + 3 * rows * directions * need.tasks * item
        return 2 * directions * need.parameters * item + block + seen * need.one.total
    if way == "hooks":
        # one parameter at a time: its gradients and directions; what the pass keeps, and the gradients that pass by
        own = held(need.largest or need.parameters, rows) + directions
        features = 2 * rows * need.directions * item
        return 2 * own * (need.largest or need.parameters) * item + features + 2 * seen * need.one.total
    # gradients, their parts under way, and the passes that lead to them
    return 2 * rows * need.parameters * item + 2 * directions * need.parameters * item + 3 * seen * need.one.total


def _fit(plan: FeaturePlan, need: Demand, memory: int, spill: bool) -> FeaturePlan:
    """Largest chunks that fit; features to a file when they leave too little room."""
    least = working_bytes(need, plan.mode, 1, 1, plan.way)
    to_file = spill and plan.feature_bytes + max(least, memory // 8) > memory
    room = memory if to_file else memory - plan.feature_bytes
    if room < least:
        ways = "raise `memory`, use fewer directions or fewer tasks"
        if not spill:
            ways += ", or give `spill` a file that the features may go to"
        raise ResourceError(
            f"Parameter `memory` allows {_size(memory)}, but {_size(least)} of working memory (one row, one direction) "
            f"are needed{'' if to_file else f' beside {_size(plan.feature_bytes)} of features'} "
            f"({need.pairs} labels x {need.directions} directions; {need.parameters} parameters). Ways out: {ways}."
        )
    directions = min(_DIRECTIONS, need.directions)
    # equal chunks: no small rest at the end
    directions = -(-need.directions // -(-need.directions // directions))
    most = need.rows if need.whole else _ROWS
    if plan.mode == "forward":
        rows = min(most, need.rows)
    else:
        rows = min(_HOOKED if plan.way == "hooks" else _GRADIENTS, need.pairs)
    while (used := working_bytes(need, plan.mode, rows, directions, plan.way)) > room:
        if plan.way == "hooks":
            # directions are drawn once for all pairs of a chunk: few at a time cost little, few pairs cost much
            wide = 2 * directions * (need.largest or need.parameters) * need.item > room // 8
            fewer_rows = rows > 1 and not (wide and directions > 1)
        else:
            fewer_rows = rows > 1 and (rows * 4 >= directions or directions == 1)
        if fewer_rows:
            rows = (rows + 1) // 2
        else:
            directions = (directions + 1) // 2
    return replace(plan, rows_per_chunk=rows, directions_per_chunk=directions, bytes=used, spill=to_file)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
