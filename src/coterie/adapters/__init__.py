"""Adapters in frozen vision transformers: task-adapted attention, task-scaled norms, bottlenecks, task affinities.

Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.adapters.adapted import AdaptedModel
    from coterie.adapters.attaching import attach
    from coterie.adapters.attention import TaskAdaptedAttention
    from coterie.adapters.counts import summary
    from coterie.adapters.dense import dense_task
    from coterie.adapters.figure import draw_predictions
    from coterie.adapters.growing import grow
    from coterie.adapters.heads import Dense, Image
    from coterie.adapters.predict import evaluate_dense, predict_dense
    from coterie.adapters.recipe import DenseRecipe
    from coterie.adapters.saved import load, save
    from coterie.adapters.scenes.compose import compose_scenes
    from coterie.adapters.train import train_dense
    from coterie.adapters.troa import Troa

__all__ = [
    "AdaptedModel",
    "Dense",
    "DenseRecipe",
    "Image",
    "TaskAdaptedAttention",
    "Troa",
    "attach",
    "compose_scenes",
    "dense_task",
    "draw_predictions",
    "evaluate_dense",
    "grow",
    "load",
    "predict_dense",
    "save",
    "summary",
    "train_dense",
]

#: which module brings a name
_LAZY = {
    "AdaptedModel": "adapted",
    "Dense": "heads",
    "DenseRecipe": "recipe",
    "Image": "heads",
    "TaskAdaptedAttention": "attention",
    "Troa": "troa",
    "attach": "attaching",
    "compose_scenes": "scenes.compose",
    "dense_task": "dense",
    "draw_predictions": "figure",
    "evaluate_dense": "predict",
    "grow": "growing",
    "load": "saved",
    "predict_dense": "predict",
    "save": "saved",
    "summary": "counts",
    "train_dense": "train",
}

__getattr__ = load_on_first_use(__name__, _LAZY, earlier(__name__))
