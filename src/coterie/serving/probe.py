"""Outputs for made-up inputs, kept with the served models: whoever builds them again has to get the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coterie.errors import ModelError
from coterie.serving.models import build_with
from coterie.workload.graph_net import GraphModel

if TYPE_CHECKING:
    from coterie.workload import Workload

#: rows that are made up; no row of the data is kept
_ROWS = 4
_INPUTS, _OUTPUTS = "probe/inputs", "probe/group"


def make_probe(workload: Workload, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Made-up inputs and the outputs of each model for them, by the names under which they are stored.

    Nothing for built-in models, whose code is the library's own, for models on a graph, which may be served on another
    one, nor where a model takes no made-up inputs.

    Cost: building each model once, and a pass over four rows.
    """
    if workload.model_spec is not None and workload.forward is None:
        return {}
    inputs = workload.inputs
    parts = inputs if isinstance(inputs, dict) else {"": inputs}
    made = {name: _made_up(part[workload.split.train]) for name, part in parts.items()}
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
