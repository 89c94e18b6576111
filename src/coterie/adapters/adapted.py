"""A frozen vision transformer with adapters and heads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter

from coterie.adapters.block_adapter import BlockAdapter
from coterie.adapters.decoder import Decoder
from coterie.adapters.heads import Dense, Head, make_head
from coterie.adapters.hooks import Call, install
from coterie.adapters.maps import feature_maps, map_widths
from coterie.adapters.sites import Site, base_of, place_of
from coterie.adapters.task_embedding import TaskEmbeddings
from coterie.affinity import Affinity
from coterie.errors import ModelError, SettingError

Tasks = str | Sequence[str]


class AdaptedModel(nn.Module):
    """What :func:`coterie.adapters.attach` returns: the frozen backbone, adapters, embeddings of the tasks, heads.

    ``adapted(pixels, task="depth")`` is the prediction of a task, or the backbone's output where the task has no head.
    ``adapted(pixels, task=["depth", "edges"])`` predicts several tasks in one pass and returns a mapping; the blocks
    before the first adapter run once, from there on the batch has its rows once a task. ``with adapted.task("depth"):``
    sets the task for the calls inside, also for calls of the backbone itself. Without a task the backbone does what it
    did before. The backbone stays in evaluation mode: dropout and stochastic depth of frozen blocks are off. A model
    takes one call at a time: the hooks keep what a pass carries along, so several threads need a model each.

    Attributes:
        backbone: the model that was given, all of it frozen, also what it has around its base model.
        adapters: one :class:`BlockAdapter` a layer.
        embeddings: of the tasks, with their affinities Omega.
        projection: z to z', shared by the bottlenecks.
        decoder: shared by the dense tasks; None without one.
        heads: in the order of the tasks.
        specs: the heads as they were asked for.
        layers: indices of the adapted blocks.
    """

    def __init__(
        self,
        model: Any,
        sites: Sequence[Site],
        blocks: Sequence[int],
        specs: Mapping[str, Head | None],
        embedding: int,
        decoder: int,
    ) -> None:
        super().__init__()
        self.backbone: Any = model
        self.layers, self.blocks = tuple(site.index for site in sites), tuple(blocks)
        self.embeddings = TaskEmbeddings(list(specs), embedding)
        self.projection = nn.Linear(embedding, embedding)
        self.adapters = nn.ModuleList(
            [BlockAdapter(s.tokens, b, s.width, embedding) for s, b in zip(sites, blocks, strict=True)]
        )
        self.decoder_width, self.decoder, self.heads = decoder, cast("Decoder | None", None), nn.ModuleList()
        self.specs: dict[str, Head | None] = {}
        for task, spec in specs.items():
            self.add_head(task, spec)
        base = base_of(model)
        self.call: Call | None = None
        self._active: tuple[str, ...] = ()
        self._maps: list[Tensor] | None = None
        # of the whole model: a classifier around the base is frozen too
        self._before = (
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            {name: module.training for name, module in model.named_modules()},
        )
        model.requires_grad_(False).eval()
        self._handles = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            base.register_forward_hook(self._end, prepend=True, always_call=True, with_kwargs=True),
            *install(self, base, sites),
        ]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.embeddings.tasks

    @property
    def affinity(self) -> Affinity:
        """Omega as an affinity: rows are targets, so it is the transpose of ``omega[source, target]``."""
        return Affinity(self.embeddings.omega.T, self.tasks, kind="raw", method="TROA")

    def use_affinity(self, affinity: Affinity) -> None:
        """Mix the embeddings of the tasks by an affinity; what is negative or unknown counts as 0.

        Raises:
            SettingError: when its tasks are others, or in another order.
        """
        if tuple(affinity.tasks) != self.tasks:
            raise SettingError(
                f"Parameter `affinity` should be of the tasks {list(self.tasks)}, in this order. "
                f"Found {list(affinity.tasks)}."
            )
        values: NDArray[np.float64] = np.nan_to_num(affinity.values, nan=0.0)
        self.embeddings.set_omega(np.clip(values, 0.0, None).T)

    def add_head(self, task: str, spec: Head | None) -> None:
        """Append the head of a task, and the decoder when it is the first dense one."""
        base = base_of(self.backbone)
        if isinstance(spec, Dense) and self.decoder is None:
            self.decoder = Decoder(map_widths(base), self.decoder_width)
        self.heads.append(make_head(spec, self.decoder_width, map_widths(base)[-1]))
        self.specs[task] = spec

    def shared_parameters(self) -> list[Parameter]:
        """The adapters' parameters: what all tasks share, without embeddings, decoder and heads."""
        return [*self.adapters.parameters(), *self.projection.parameters()]

    def trainable(self) -> list[Parameter]:
        """What an optimiser should get."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters but those of the backbone."""
        return ((name, p) for name, p in self.named_parameters() if not name.startswith("backbone."))

    def train(self, mode: bool = True) -> AdaptedModel:
        """As usual, but the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @contextmanager
    def task(self, task: Tasks) -> Generator[AdaptedModel]:
        """Set the active task, or tasks, for the calls inside.

        With several tasks the backbone's output has the rows of the batch once a task, those of the first task first.

        Raises:
            SettingError: for an unknown task.
        """
        chosen = (task,) if isinstance(task, str) else tuple(task)
        if not chosen or any(name not in self.tasks for name in chosen):
            raise SettingError(f"Parameter `task` should be of {list(self.tasks)}. Found {task!r}.")
        before, self._active = self._active, chosen
        try:
            yield self
        finally:
            self._active = before

    def features(self, pixel_values: Tensor, task: Tasks) -> tuple[list[Tensor], Any]:
        """Maps (tasks * rows, features, h, w) of all stages, finest first, and the backbone's output."""
        self.need_attached()
        self._maps = []
        try:
            with self.task(task):
                output = base_of(self.backbone)(pixel_values)
            return self._maps, output
        finally:
            self._maps = None

    def forward(self, pixel_values: Tensor, task: Tasks | None = None) -> Any:
        """Predict one task (its prediction) or several (a mapping); None is the task of the surrounding `with`."""
        chosen = (self._active[0] if len(self._active) == 1 else self._active) if task is None else task
        if not chosen:
            raise SettingError(f"Say for which task: `task=` one or several of {list(self.tasks)}, or `with .task():`.")
        maps, output = self.features(pixel_values, chosen)
        if isinstance(chosen, str):
            return self._predict(chosen, maps, pixel_values, output)
        if any(self.specs[name] is None for name in chosen):
            raise SettingError("Several tasks at once need a head each. Ask for tasks without a head one by one.")
        split = [found.unflatten(0, (len(chosen), -1)) for found in maps]
        return {
            name: self._predict(name, [found[index] for found in split], pixel_values, output)
            for index, name in enumerate(chosen)
        }

    def need_attached(self) -> None:
        """Refuse a model whose adapters were taken out.

        Raises:
            ModelError: after :meth:`detach`.
        """
        if not self._handles:
            raise ModelError("The adapters were detached. Attach new ones, or use the backbone itself.")

    def place_own(self) -> AdaptedModel:
        """Move all but the backbone to its device and precision; the backbone is not touched."""
        device, dtype = place_of(base_of(self.backbone))
        for name, child in self.named_children():
            if name != "backbone":
                child.to(device, dtype)
        return self

    def detach(self) -> Any:
        """Take the adapters out and return the backbone as it was: no hooks, the gradients and modes of every part."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            flags, modes = self._before
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_(flags.get(name, parameter.requires_grad))
            for name, module in self.backbone.named_modules():
                module.training = modes.get(name, module.training)
        self._handles = []
        return self.backbone

    def __deepcopy__(self, memo: Any) -> AdaptedModel:
        raise ModelError("An adapted model cannot be copied: its hooks belong to one backbone. Use save and load.")

    def _predict(self, task: str, maps: Sequence[Tensor], pixels: Tensor, output: Any) -> Any:
        spec, head = self.specs[task], self.heads[self.tasks.index(task)]
        if spec is None:
            return output
        if isinstance(spec, Dense):
            decoder = cast("Decoder", self.decoder)
            return head(decoder(maps), tuple(pixels.shape[-2:]))
        return head(maps)

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        if not self._active:
            return
        # the name changed between versions of transformers
        names = ("is_activation_checkpointing", "is_gradient_checkpointing")
        recomputed = next((bool(getattr(module, name)) for name in names if hasattr(type(module), name)), False)
        if module.training and recomputed:
            raise ModelError(
                "The backbone recomputes its blocks in the backward pass (gradient checkpointing), when the active "
                "task may be another one. Switch that off in it."
            )
        z = self.embeddings(self._active)
        self.call = Call(z, self.projection(z))

    def _end(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        call, self.call = self.call, None
        if call is not None and output is not None and self._maps is not None:
            pixels = args[0] if args else kwargs["pixel_values"]
            self._maps += feature_maps(module, call.maps, output[0], (int(pixels.shape[-2]), int(pixels.shape[-1])))
