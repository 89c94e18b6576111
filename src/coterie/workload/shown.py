"""A workload at a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coterie._show import brief, cut, names
from coterie.workload.lazy.inputs import LazyInputs

if TYPE_CHECKING:
    from coterie.workload.workload import Workload

_LINE = 100


def describe(workload: Workload) -> str:
    """Tasks, sizes, model and recipe, a line each.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> print(from_arrays(x, x[:, :2] > 0, tasks=["a", "b"], name="signs"))
        Workload 'signs'
          tasks   2 binary: a, b
          rows    36 train, 12 validation, 12 test
          labels  120
          inputs  (60, 5) float32
          model   Mlp, on cpu
          recipe  Recipe(optimizer='adamw', learning_rate=0.001, weight_decay=0.01, momentum=0.9, epochs=50, batch_…3)
    """
    kinds = [task.kind for task in workload.tasks]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    observed, size = int(workload.observed.sum()), workload.labels.numel()
    lazy = isinstance(workload.inputs, LazyInputs)
    sample = workload.inputs.example if isinstance(workload.inputs, LazyInputs) else workload.inputs
    inputs = sample if isinstance(sample, dict) else {"": sample}
    source = f", from {workload.reference}" if workload.reference else ""
    lines = {
        "tasks": f"{counts}: {names(workload.task_names)[1:-1]}",
        "rows": ", ".join(f"{len(workload.split.part(part)):,} {part}" for part in ("train", "validation", "test")),
        "labels": f"{observed:,}" + (f" ({1 - observed / size:.1%} missing)" if observed < size else ""),
        "inputs": "; ".join(f"{name} {brief(value)}".strip() for name, value in inputs.items())
        + (" a row, read when needed" if lazy else ""),
        "model": f"{_maker(workload.build_model)}, on {workload.device}{source}",
        "recipe": repr(workload.recipe),
    }
    return "\n".join(
        [f"Workload {workload.name!r}", *(f"  {name:7} {cut(text, _LINE)}" for name, text in lines.items())]
    )


def _maker(build: Any) -> str:
    """What makes the models: the class or function of the user, below what seeds and moves."""
    while hasattr(build, "build"):
        build = build.build
    found = getattr(build, "model", getattr(build, "template", build))
    name = getattr(found, "__name__", type(found).__name__)
    return name.removesuffix("Builder")
