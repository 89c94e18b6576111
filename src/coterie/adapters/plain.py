"""What adapters are compared with: the same backbone, decoder and heads, without adapters."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from coterie._random import random_numbers
from coterie.adapters.decoder import Decoder
from coterie.adapters.heads import Dense, Image, make_head
from coterie.adapters.maps import feature_maps, map_widths
from coterie.adapters.sites import base_of, place_of, stages_of
from coterie.errors import SettingError


class PlainModel(nn.Module):
    """A backbone, frozen or trained, one decoder for the dense tasks, one head a task.

    It is called like an :class:`~coterie.adapters.AdaptedModel`, but no task changes what the backbone does: one pass
    serves all tasks. With `frozen=False` and one task it is a model of that task alone. Between calls it leaves no hook
    in the backbone. It takes one call at a time; several threads need a model each.

    Args:
        model: the backbone; it stays in evaluation mode, as under adapters.
        tasks: heads by task.
        frozen: whether the backbone keeps its weights; False trains them.
        decoder: features of the decoder.
        seed: of the random numbers that decoder and heads start from.

    Raises:
        SettingError: for another kind of backbone, one with weights on several devices or in several precisions, or
            tasks without a head.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> plain = PlainModel(transformers.ViTModel(config), {"depth": Dense(1), "kind": Image(5)})
        >>> {task: tuple(found.shape) for task, found in plain(torch.zeros(2, 3, 16, 16)).items()}
        {'depth': (2, 1, 16, 16), 'kind': (2, 5)}
    """

    def __init__(
        self, model: Any, tasks: Mapping[str, Dense | Image], *, frozen: bool = True, decoder: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        base = base_of(model)
        device, dtype = place_of(base)
        _check(tasks)
        self.backbone: Any = base
        self.specs = dict(tasks)
        self.frozen = frozen
        widths = map_widths(base)
        base.requires_grad_(not frozen).eval()
        with random_numbers(torch.device("cpu"), seed):
            dense = any(isinstance(spec, Dense) for spec in tasks.values())
            self.decoder = Decoder(widths, decoder) if dense else None
            self.heads = nn.ModuleList([make_head(spec, decoder, widths[-1]) for spec in tasks.values()])
        for part in (self.decoder, self.heads):
            if part is not None:
                part.to(device, dtype)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.specs)

    def trainable(self) -> list[Parameter]:
        """What an optimiser should get."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> PlainModel:
        """As usual, but the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, pixel_values: Tensor, task: str | Sequence[str] | None = None) -> Any:
        """Predict one task (its prediction), several, or all (None): a mapping.

        Raises:
            SettingError: for an unknown task.
        """
        names = self.tasks if task is None else (task,) if isinstance(task, str) else tuple(task)
        if not names or any(name not in self.specs for name in names):
            raise SettingError(f"Parameter `task` should be of {list(self.tasks)}. Found {task!r}.")
        size = (int(pixel_values.shape[-2]), int(pixel_values.shape[-1]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen), _recording(self.backbone) as before:
            last = self.backbone(pixel_values)[0]
            maps = feature_maps(self.backbone, before, last, size)
        shared = cast("Decoder", self.decoder)(maps) if any(isinstance(self.specs[n], Dense) for n in names) else None
        found = {}
        for name in names:
            head = self.heads[self.tasks.index(name)]
            found[name] = head(shared, size) if isinstance(self.specs[name], Dense) else head(maps)
        return found[task] if isinstance(task, str) else found


@contextmanager
def _recording(base: Any) -> Generator[list[tuple[Tensor, tuple[int, int]]]]:
    """The tokens before every patch merging, with their height and width, of the calls inside."""
    found: list[tuple[Tensor, tuple[int, int]]] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append((args[0], (int(args[1][0]), int(args[1][1]))))

    mergings = [stage.downsample for stage in stages_of(base) if stage.downsample is not None]
    handles = [merging.register_forward_pre_hook(record) for merging in mergings]
    try:
        yield found
    finally:
        # a hook that stayed would keep the activations of every later call
        for handle in handles:
            handle.remove()


def _check(tasks: Mapping[str, Any]) -> None:
    if not tasks or not all(isinstance(spec, Dense | Image) for spec in tasks.values()):
        raise SettingError(
            f"Parameter `tasks` should map names to heads, Dense or Image, at least one. Found {tasks!r}."
        )
