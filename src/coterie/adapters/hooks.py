"""The hooks through which adapters work in a backbone that is not edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from coterie.adapters.block_adapter import BlockAdapter
from coterie.adapters.logits import BiasedLogits
from coterie.adapters.merging import merge_skip
from coterie.adapters.norm import TaskScaledNorm
from coterie.adapters.sites import Site, stages_of
from coterie.errors import ModelError

if TYPE_CHECKING:
    from coterie.adapters.adapted import AdaptedModel


@dataclass
class Call:
    """What one pass through the backbone carries along.

    Attributes:
        z: (tasks, embedding) what represents the active tasks.
        projected: (tasks, embedding) z' of the bottlenecks.
        stacked: whether the batch has its rows once a task already.
        skip: what the last adapter hands to the next.
        modes: attention in progress.
        maps: tokens and their height and width before every patch merging.
    """

    z: Tensor
    projected: Tensor
    stacked: bool = False
    skip: Tensor | None = None
    modes: list[BiasedLogits] = field(default_factory=list[BiasedLogits])
    maps: list[tuple[Tensor, tuple[int, int]]] = field(default_factory=list[tuple[Tensor, tuple[int, int]]])


def install(owner: AdaptedModel, base: nn.Module, sites: Sequence[Site]) -> list[RemovableHandle]:
    """Hook the adapters of `owner` in; without an active task the hooks do nothing.

    Hooks on outputs go first, so that hidden states that transformers records are those of the adapted model.
    """
    handles: list[RemovableHandle] = [sites[0].block.register_forward_pre_hook(_stacking(owner))]
    for site, adapter in zip(sites, owner.adapters, strict=True):
        handles += _install_block(owner, site, cast("BlockAdapter", adapter))
    for stage in stages_of(base):
        if stage.downsample is not None:
            handles.append(stage.downsample.register_forward_pre_hook(_merging(owner, stage.downsample)))
    return handles


def _install_block(owner: AdaptedModel, site: Site, adapter: BlockAdapter) -> list[RemovableHandle]:
    def enter(module: nn.Module, args: Any) -> None:
        if (call := owner.call) is not None:
            mode = BiasedLogits(adapter.attention(call.z), site.prefix)
            mode.__enter__()
            call.modes.append(mode)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if (call := owner.call) is not None and call.modes:
            mode = call.modes.pop()
            mode.__exit__(None, None, None)
            if output is not None and mode.seen != 1:
                raise ModelError(
                    f"The attention of block {site.index} showed its logits {mode.seen} times, which should be once. "
                    "The likely cause is an attention implementation that has no place for a bias. Load the backbone "
                    'with attn_implementation="eager" or "sdpa".'
                )

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if (call := owner.call) is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        call.skip = adapter.bottleneck(states, call.skip, call.projected)
        states = states + call.skip
        return (states, *output[1:]) if isinstance(output, tuple) else states

    norms = [
        frozen.register_forward_hook(_scaling(owner, cast("TaskScaledNorm", norm)), prepend=True)
        for frozen, norm in zip(site.norms, adapter.norms, strict=True)
    ]
    return [
        site.attention.register_forward_pre_hook(enter),
        site.attention.register_forward_hook(leave, prepend=True, always_call=True),
        *norms,
        site.block.register_forward_hook(after, prepend=True),
    ]


def _stacking(owner: AdaptedModel) -> Any:
    def stack(module: nn.Module, args: Any) -> Any:
        call = owner.call
        if call is None or call.stacked or len(call.z) == 1:
            return None
        # up to here all tasks share the frozen blocks
        call.stacked = True
        return (args[0].repeat(len(call.z), 1, 1), *args[1:])

    return stack


def _scaling(owner: AdaptedModel, norm: TaskScaledNorm) -> Any:
    def scale(module: nn.LayerNorm, args: Any, output: Tensor) -> Tensor | None:
        return None if owner.call is None else norm(args[0], module, owner.call.z)

    return scale


def _merging(owner: AdaptedModel, downsample: Any) -> Any:
    def merge(module: nn.Module, args: Any) -> None:
        if (call := owner.call) is not None:
            states, size = args[0], (int(args[1][0]), int(args[1][1]))
            call.maps.append((states, size))
            if call.skip is not None:
                call.skip = merge_skip(call.skip, size, downsample.reduction)

    return merge
