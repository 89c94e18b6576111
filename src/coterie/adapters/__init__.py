"""Adapters in frozen vision transformers: task-adapted attention, task-scaled norms, bottlenecks, task affinities.

Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.adapters.adapted import AdaptedModel
    from coterie.adapters.attaching import attach
    from coterie.adapters.attention import TaskAdaptedAttention
    from coterie.adapters.bottleneck import Bottleneck
    from coterie.adapters.counts import Summary, summary
    from coterie.adapters.dense import dense_task
    from coterie.adapters.figure import draw_predictions
    from coterie.adapters.growing import grow
    from coterie.adapters.heads import Dense, Image
    from coterie.adapters.norm import TaskScaledNorm
    from coterie.adapters.plain import PlainModel
    from coterie.adapters.predict import evaluate_dense, predict_dense
    from coterie.adapters.recipe import DenseRecipe
    from coterie.adapters.saved import load, save
    from coterie.adapters.scenes import compose_scenes
    from coterie.adapters.task_embedding import TaskEmbeddings
    from coterie.adapters.train import train_dense
    from coterie.adapters.troa import Troa, flat_gradients

__all__ = [
    "AdaptedModel",
    "Bottleneck",
    "Dense",
    "DenseRecipe",
    "Image",
    "PlainModel",
    "Summary",
    "TaskAdaptedAttention",
    "TaskEmbeddings",
    "TaskScaledNorm",
    "Troa",
    "attach",
    "compose_scenes",
    "dense_task",
    "draw_predictions",
    "evaluate_dense",
    "flat_gradients",
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
    "Bottleneck": "bottleneck",
    "Dense": "heads",
    "DenseRecipe": "recipe",
    "Image": "heads",
    "PlainModel": "plain",
    "Summary": "counts",
    "TaskAdaptedAttention": "attention",
    "TaskEmbeddings": "task_embedding",
    "TaskScaledNorm": "norm",
    "Troa": "troa",
    "attach": "attaching",
    "compose_scenes": "scenes",
    "dense_task": "dense",
    "draw_predictions": "figure",
    "evaluate_dense": "predict",
    "flat_gradients": "troa",
    "grow": "growing",
    "load": "saved",
    "predict_dense": "predict",
    "save": "saved",
    "summary": "counts",
    "train_dense": "train",
}

__getattr__ = load_on_first_use(__name__, _LAZY)
