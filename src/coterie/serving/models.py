"""Modules for saved states: built-in models by their description, others by the user's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coterie import datasets
from coterie.datasets import texts
from coterie.errors import CoterieError, ModelError, SettingError
from coterie.workload import Workload
from coterie.workload.builders import seeded
from coterie.workload.graph import GraphModel
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.text.encoder import builder_of
from coterie.workload.workload import BuildModel, Forward

if TYPE_CHECKING:
    from coterie.workload import Workload


@dataclass(frozen=True)
class ModelSource:
    """How an empty model is made, and how it is called."""

    build: BuildModel
    forward: Forward | None


def find_source(
    description: Mapping[str, Any],
    build_model: Callable[..., nn.Module] | None,
    workload: Workload | str | None,
    forward: Forward | None,
    model: Any = None,
    tokenizer: Any = None,
) -> ModelSource:
    """The source of models for a saved description: what the caller gave, else the built-in model.

    A description is a file that may come from anybody: what it says never decides that code is run. Only `workload`,
    which the caller gave, is loaded.

    Raises:
        ModelError: when there is none, or the workload has other tasks.
    """
    needs_forward = description["forward"] and forward is None
    spec, reference = description.get("text_model"), description["reference"]
    if spec is None and (model is not None or tokenizer is not None):
        raise SettingError(
            "Parameters `model` and `tokenizer` are for runs of from_text and from_causal; this run has other models, "
            "or none that can be described. Pass `workload=` or `build_model=`."
        )
    if spec is not None and model is not None:
        return ModelSource(seeded(builder_of(spec, model, tokenizer)), forward)
    if workload is not None:
        found = _as_workload(description, workload)
        build = found.build_model if build_model is None else seeded(build_model)
        return ModelSource(build, forward or found.forward)
    if build_model is not None and not needs_forward:
        return ModelSource(seeded(build_model), forward)
    if description["model_spec"] is not None and not needs_forward:
        from coterie.workload.mlp import build_from_spec

        return ModelSource(build_from_spec(description["model_spec"]), forward)
    if spec is not None and reference == "texts" and build_model is None:  # its encoder, without its texts
        return ModelSource(seeded(builder_of(spec, *texts.base())), forward)
    if reference in datasets.names() and build_model is None:  # code of this package, not of the directory
        return find_source(description, None, datasets.load(reference), forward)
    what = "a forward function" if needs_forward else "a module"
    where = "the Workload object or its reference such as 'file.py:workload'"
    if reference is not None:
        where = f"workload={reference!r} where you trust that file (the run says that they come from it)"
    if spec is not None:
        raise ModelError(
            "The models of this run share a frozen transformer, which is not stored with them. Pass `model=`, the "
            "transformer or its folder (and `tokenizer=` where that folder has none); texts are not needed. Or pass "
            f"`workload=`, {where}."
        )
    raise ModelError(
        f"The models of this run use {what} of your own, which is code: it is not stored, and loading a run runs none "
        f"unless you say so. Pass `build_model=` (and `forward=` where the workload had one), or `workload=`, {where}."
    )


def _as_workload(description: Mapping[str, Any], workload: Workload | str) -> Workload:
    reference: Any = workload
    if isinstance(reference, str):
        from coterie.workload import load_workload

        try:
            reference = load_workload(reference)
        except CoterieError as error:
            raise ModelError(
                f"Parameter `workload`: {workload!r} cannot be loaded: {error} "
                "Pass `build_model=` or `workload=` to say where the code is now."
            ) from error
    tasks = [task["name"] for task in description["tasks"]]
    if list(reference.task_names) != tasks:
        raise ModelError(
            f"Parameter `workload`: its tasks should be those of the run, {tasks[:5]}. "
            f"Found {list(reference.task_names)[:5]}. The likely cause is another or a changed workload."
        )
    return reference


def build_with(build: BuildModel, state: Mapping[str, Tensor], group: int) -> nn.Module:
    """A model in evaluation mode with the parameters and buffers of a state.

    Raises:
        ModelError: when names or shapes do not match.
    """
    model = build(0)
    own = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    wrong = [f"{name} (not in the model)" for name in state if name not in own]
    wrong += [
        f"{name} ({tuple(value.shape)} saved, {tuple(own[name].shape)} in the model)"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    # a tied parameter has several names; it is enough that one of them was saved
    filled = {id(own[name]) for name in state if name in own}
    persistent = {name for name in model.state_dict() if name in own}
    wrong += [f"{name} (not saved)" for name in persistent if id(own[name]) not in filled]
    if wrong:
        raise ModelError(
            f"The model that `build_model` makes is not the one that group {group} was trained with: "
            f"{', '.join(sorted(wrong)[:5])}{', ...' if len(wrong) > 5 else ''}. Pass the code of that time."
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return model.eval()


#: rows that are made up; no row of the data is kept
_ROWS = 4
#: rows of lazy inputs whose range they are in
_SEEN = 256
_INPUTS, _OUTPUTS = "probe/inputs", "probe/group"


def make_probe(workload: Workload, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Made-up inputs and the outputs of each model for them, by the names under which they are stored.

    Nothing for built-in models, whose code is the library's own, for models on a graph, which may be served on another
    one, nor where a model takes no made-up inputs.

    Cost: building each model once, and a pass over four rows.
    """
    if workload.model_spec is not None and workload.forward is None:
        return {}
    inputs, rows = workload.inputs, workload.split.train
    if isinstance(inputs, LazyInputs):
        inputs, rows = inputs.take(rows[:_SEEN]), slice(None)
    parts = inputs if isinstance(inputs, dict) else {"": inputs}
    made = {name: _made_up(part[rows]) for name, part in parts.items()}
    kept = {f"{_INPUTS}/{name}": part for name, part in made.items()}
    for group, state in enumerate(states):
        try:
            model = build_with(workload.build_model, state, group)
            if isinstance(model, GraphModel):  # served on another graph, it rightly gives other outputs
                return {}
            found = _outputs(workload, model, made)
        except Exception:  # a model may refuse inputs that mean nothing
            return {}
        if not bool(torch.isfinite(found).all()):
            return {}
        kept[f"{_OUTPUTS}{group}"] = found
    return kept


def check_probe(workload: Workload, models: Sequence[nn.Module], kept: Mapping[str, Tensor]) -> None:
    """Raise ModelError when models do not give the outputs that were kept with them.

    Args:
        workload: how a model is called.
        models: one a group, on the CPU.
        kept: from :func:`make_probe`.

    Cost: a pass over four rows for each model.
    """
    made = {name.removeprefix(f"{_INPUTS}/"): part for name, part in kept.items() if name.startswith(f"{_INPUTS}/")}
    for group, model in enumerate(models):
        wanted = kept.get(f"{_OUTPUTS}{group}")
        if wanted is None:
            continue
        why = ""
        try:
            found = _outputs(workload, model, made)
            size = 1e-2 * float(wanted.abs().max()) + 1e-6
            fits = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-2, atol=size)
        except Exception as error:  # whatever the code of a model raises
            fits, why = False, f" ({type(error).__name__}: {error})"
        if not fits:
            raise ModelError(
                f"The model that `build_model` makes has the parameters of group {group} and gives other outputs than "
                f"after its training{why}. Likely causes are another activation or another setting of a layer, another "
                "`forward`, or numbers that the model keeps outside its state_dict. Pass the code of that time."
            )


def _made_up(part: Tensor) -> Tensor:
    """Rows in the range of a part of the inputs, drawn number by number."""
    generator = torch.Generator().manual_seed(0)
    shape = (_ROWS, *part.shape[1:])
    if part.is_floating_point():
        drawn = torch.randn(shape, generator=generator) * float(part.float().std(correction=0)) + float(
            part.float().mean()
        )
        return drawn.to(part.dtype)
    low, high = int(part.min()), int(part.max())
    return torch.randint(low, high + 1, shape, generator=generator).to(part.dtype)


def _outputs(workload: Workload, model: nn.Module, made: Mapping[str, Tensor]) -> Tensor:
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    batch: Any = {name: part.to(device) for name, part in made.items()}
    with torch.no_grad():
        return workload.outputs(model, batch.get("", batch)).float().cpu()
