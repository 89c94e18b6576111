"""Many models on one frozen transformer, in one pass: adapters batched over rows, what lies below them kept.

For the workloads of :func:`coterie.workload.from_text` and :func:`coterie.workload.causal.from_causal` this takes the
place of stacked tensors under vmap in :mod:`coterie.training.population`. The rows of all members are sorted by length
and go through the transformer in pieces; each piece is followed by its backward pass, so that memory is bounded by a
piece whatever the number of members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from coterie.errors import ResourceError
from coterie.training.evaluate import Footprint, saved_bytes
from coterie.training.job import Job, State
from coterie.training.kept_states import KeptStates, free_bytes
from coterie.training.stack import Architecture, Values, label_weights, masked
from coterie.workload.text.frozen import AdaptedModule, held_tensors
from coterie.workload.text.many import ManyAdapters
from coterie.workload.workload import Workload

#: tokens of a piece; on a CPU 512 to 2048 were as fast, 8192 slower by two fifths; on a GPU, so many that it is busy
_TOKENS = {"cpu": 2**11, "other": 2**15}
#: tokens that go through the layers below the lowest adapter at once
_TOKENS_BELOW = 2**11
#: kept states, a piece and the members may each take one part in so many of `memory`
_KEPT_SHARE, _PIECE_SHARE, _MEMBER_SHARE = 4, 4, 2
#: rows by which the memory of a piece is measured
_ROWS = 8
#: gradients of what autograd keeps pass by as well
_PASSING = 2
#: token numbers of the inputs -> {(digest of the base, lowest layer, where): what is kept of their rows}
_KEPT: Any = WeakTensorKeyDictionary()


def rows_are_texts(workload: Workload) -> bool:
    """Whether the models of a workload are adapters on a frozen transformer that read token numbers."""
    texts = isinstance(workload.inputs, dict) and {"input_ids", "attention_mask"} <= workload.inputs.keys()
    return texts and workload.forward is None and isinstance(workload.build_model(0), AdaptedModule)


class SharedBase(Architecture):
    """Runs all members on one frozen transformer.

    Args:
        workload: of texts.
        cut: whether what lies below the lowest adapter is taken once and kept.
        memory: bytes that kept states and a piece are chosen by.
    """

    def __init__(self, workload: Workload, *, cut: bool, memory: int = 2**30) -> None:
        super().__init__(workload)
        device = workload.device
        self.many = ManyAdapters(lambda: cast("AdaptedModule", workload.build_model(0).to(device)), cut=cut)
        mask = cast("dict[str, Tensor]", workload.inputs)["attention_mask"]
        self._lengths = (torch.arange(1, mask.shape[1] + 1, device=device) * (mask != 0)).amax(1).clamp(min=1)
        self.memory = memory

    @cached_property
    def tokens(self) -> int:
        """Tokens of a piece."""
        most = _TOKENS["cpu" if self.workload.device.type == "cpu" else "other"]
        return max(1, min(most, self.memory // _PIECE_SHARE // self.token_bytes))

    @cached_property
    def token_bytes(self) -> int:
        """Bytes that a forward and a backward pass take for one token of a piece, outputs of its row included."""
        train = self.workload.split.train
        order = train[self._lengths[train].argsort()]
        values = self.stack([Job((0,), 0)])
        own = [*self.model.parameters(), *self.model.buffers(), *values.trained.values()]
        found: list[int] = []
        for rows in (order[:_ROWS], order[-_ROWS:]):  # short rows have more outputs for their tokens
            wanted = torch.ones(1, len(rows), 1, dtype=torch.bool, device=rows.device)
            pairs = self._pairs(values, rows, wanted)
            whole = slice(0, len(rows))
            saved = saved_bytes(own, lambda pairs=pairs, whole=whole: self._of_piece(values, pairs, whole).sum())
            found.append(saved // (len(rows) * pairs.lengths[-1]))
        return max(1, _PASSING * max(found))

    @cached_property
    def kept(self) -> KeptStates | None:
        """Hidden states, shared by all workloads of the same rows and base; None where all layers are passed."""
        if not self.many.cut:
            return None
        model: Any = self.model
        inputs = cast("dict[str, Tensor]", self.workload.inputs)
        shared: dict[Any, KeptStates] = _KEPT.setdefault(inputs["input_ids"], {})
        key = (model.digest_name, self.many.lowest, self.on_disk)
        if key not in shared:
            width, dtype = self._state
            shared[key] = KeptStates(self._lengths, width, dtype, on_disk=self.on_disk)
        return shared[key]

    @cached_property
    def _state(self) -> tuple[int, torch.dtype]:
        """Width and type of hidden states."""
        hidden = self.many.below(self.workload.batch(self.workload.split.train[:1]))
        return hidden.shape[-1], hidden.dtype

    @cached_property
    def kept_bytes(self) -> int:
        """Bytes of the hidden states of all rows; 0 where none are kept."""
        return int(self._lengths.sum()) * self._state[0] * self._state[1].itemsize if self.many.cut else 0

    @property
    def on_disk(self) -> bool:
        """Whether hidden states go to disk, as they would take too much of the memory."""
        return self.kept_bytes > self.memory // _KEPT_SHARE

    def tensors(self, model: nn.Module) -> State:
        """Those of a member: what is frozen is in the transformer already."""
        held = {name for name, _, _ in held_tensors(model)}
        return {name: value for name, value in super().tensors(model).items() if name not in held}

    def of_rows(self, values: Values, rows: Tensor, mask: Tensor) -> Tensor:
        """(members, rows, width) outputs; 0 for rows of which a member needs no loss."""
        pairs = self._pairs(values, rows, mask)
        found = torch.cat([self._of_piece(values, pairs, piece) for piece in self._pieces(pairs)])
        made = found.new_zeros(pairs.members * pairs.width, found.shape[1]).index_put((pairs.place,), found)
        return made.view(pairs.members, pairs.width, -1)

    def descend(self, values: Values, rows: Tensor, *, padded: bool, subsets: Tensor) -> Tensor:
        """Gradients of the members' mean losses, a piece at a time; (members,) these losses."""
        workload = self.workload
        rows, mask = masked(workload, rows, padded=padded, subsets=subsets)
        weights = label_weights(workload, rows)
        share = torch.where(mask, 1.0 if weights is None else weights, 0.0)
        total = share.sum((1, 2))
        total = torch.where(total > 0, total, 1.0)
        pairs = self._pairs(values, rows, mask)
        own, sums = share.flatten(0, 1)[pairs.place], torch.zeros(pairs.members, device=rows.device)
        for piece in self._pieces(pairs):
            targets, member = workload.targets[pairs.rows[piece]], pairs.member[piece]
            outputs = self._of_piece(values, pairs, piece)
            losses = workload.losses(workload.margins(outputs, targets), targets)
            losses = (torch.where(own[piece] > 0, losses, 0.0) * own[piece]).sum(1)
            (losses / total[member]).sum().backward()
            sums = sums.to(losses.dtype).index_put((member,), losses.detach(), accumulate=True)
        return sums / total

    def _pairs(self, values: Values, rows: Tensor, mask: Tensor) -> _Pairs:
        members = len(next(iter(values.trained.values())))
        width = rows.shape[-1]
        place = mask.any(-1).expand(members, width).flatten().nonzero()[:, 0]
        chosen = rows.expand(members, width).flatten()[place]
        lengths, order = self._lengths[chosen].sort(stable=True)
        self._keep(chosen)
        return _Pairs(members, width, (place // width)[order], chosen[order], place[order], lengths.tolist())

    def _pieces(self, pairs: _Pairs) -> Iterator[slice]:
        """Rows of similar lengths that go through the transformer together."""
        return slices(pairs.lengths, self.tokens)

    def _of_piece(self, values: Values, pairs: _Pairs, piece: slice) -> Tensor:
        rows = pairs.rows[piece]
        hidden = None if self.kept is None else self.kept.take(rows, pairs.lengths[piece][-1])
        return self.many.outputs(values.trained, pairs.member[piece], self.workload.batch(rows), hidden)

    def _keep(self, rows: Tensor) -> None:
        """Take the hidden states of rows that have none yet."""
        if self.kept is None:
            return
        missing = self.kept.missing(rows)
        lengths, order = self._lengths[missing].sort(stable=True)
        for piece in slices(lengths.tolist(), _TOKENS_BELOW):
            some = missing[order[piece]]
            self.kept.put(some, self.many.below(self.workload.batch(some)))

    def footprint(self) -> Footprint:
        """What a member takes beside the pieces, which are no larger for more members.

        Raises:
            ResourceError: when the hidden states fit neither the memory nor the disk.
        """
        if self.on_disk and self.kept_bytes > free_bytes():
            free, quarter = free_bytes() / 2**30, self.memory / _KEPT_SHARE / 2**30
            raise ResourceError(
                f"The hidden states below the lowest adapter take {self.kept_bytes / 2**30:.1f} GiB: more than "
                f"a quarter of `memory` ({quarter:.1f} GiB), and more than is free on disk for "
                f"temporary files ({free:.1f} GiB). Raise `memory`, let TMPDIR name a larger disk, or train with "
                "backend='loop'."
            )
        own = sum(value.numel() * value.element_size() for value in self.tensors(self.model).values())
        return Footprint(max(1, own), row=1, batch=0, cpu=self.workload.device.type == "cpu", share=_MEMBER_SHARE)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Members and the rows that they need, sorted by length.

    Attributes:
        members, width: numbers of members, and of rows that a member may need.
        member, rows: of each pair.
        place: of each pair among all (members x width).
        lengths: tokens of each row.
    """

    members: int
    width: int
    member: Tensor
    rows: Tensor
    place: Tensor
    lengths: list[int]


def slices(lengths: Sequence[int], tokens: int) -> Iterator[slice]:
    """Cut rows that are sorted by length into pieces of so many tokens, padding included; at least one row each.

    Example:
        >>> [(piece.start, piece.stop) for piece in slices([1, 2, 2, 9], 6)]
        [(0, 3), (3, 4)]
    """
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop + 1 - start) * lengths[stop] > tokens:
            yield slice(start, stop)
            start = stop
