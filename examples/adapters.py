"""Adapters in a frozen Swin: three dense tasks with TROA, a fourth added later, predictions drawn.

The scenes are zeros and ones at several distances. A real project would load a pretrained backbone with
`from_pretrained`; this one is a tiny Swin that learns at first which digit a scene shows.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from transformers import SwinConfig, SwinModel

from coterie.adapters import Image, Troa, attach, compose_scenes, grow, save, summary
from coterie.adapters.dense import DenseTask, dense_task
from coterie.adapters.dense_metrics import average_precision
from coterie.adapters.figure import draw_predictions
from coterie.adapters.plain import PlainModel
from coterie.adapters.predict import evaluate_dense, predict_dense
from coterie.adapters.recipe import DenseRecipe
from coterie.adapters.train import train_dense

OUT = Path("runs/adapters-example")
TASKS = {name: dense_task(name, classes=3) for name in ("segmentation", "depth", "normals")}
LATER = {"edges": dense_task("edges")}

pixels, labels = load_digits(n_class=2, return_X_y=True)  # zeros and ones
digits, labels = torch.from_numpy(pixels).float().reshape(-1, 8, 8) / 16, torch.from_numpy(labels)
sizes = {"side": 28, "largest": 16, "smallest": 10, "classes": 2}
train = compose_scenes(digits[:260], labels[:260], 300, seed=0, **sizes)
test = compose_scenes(digits[260:], labels[260:], 50, seed=1, **sizes)


def backbone() -> SwinModel:
    """A Swin that has seen scenes of one digit each, with the label of the whole image."""
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=28,
        patch_size=2,
        num_channels=1,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=7,
        drop_path_rate=0.0,
        initializer_range=0.1,  # the default is made for wider models
    )
    swin = SwinModel(config, add_pooling_layer=False)
    swin.embeddings.patch_embeddings.projection.reset_parameters()
    shown = compose_scenes(digits[:260], labels[:260], 300, seed=2, objects=(1, 1), **sizes)
    task = DenseTask("presence", Image(2), cross_entropy, average_precision, "", True)
    model = PlainModel(swin, {"digit": task.head}, frozen=False)
    train_dense(
        model,
        shown.images,
        {"digit": shown.present},
        {"digit": task},
        DenseRecipe(steps=60, batch_size=16, learning_rate=3e-3),
    )
    return swin


if __name__ == "__main__":
    heads = {name: task.head for name, task in TASKS.items()}
    adapted = attach(backbone(), heads, layers=[0, 1], embedding=49, decoder=16)
    print(summary(adapted))
    troa, recipe = Troa(list(TASKS)), DenseRecipe(steps=60, batch_size=8, learning_rate=3e-3)
    done = train_dense(adapted, train.images, train.targets, TASKS, recipe, troa=troa)
    print(f"{done.seconds:.3f} s a step. Task affinities, rows are targets:")
    print(adapted.affinity.values.round(2))
    for name, value in evaluate_dense(adapted, test.images, test.targets, TASKS).items():
        print(f"{name}: {TASKS[name].measures} {value:.3f}")

    # a fourth task: new embedding, column and head; what the others do stays the same bit by bit
    grow(adapted, "edges", LATER["edges"].head, similarities={"segmentation": 1.0, "normals": 1.0})
    train_dense(adapted, train.images, train.targets, LATER, recipe)
    print("edges, added later:", evaluate_dense(adapted, test.images, test.targets, LATER))

    save(adapted, OUT)
    tasks, some = {**TASKS, **LATER}, test.rows(torch.arange(3))
    figure = draw_predictions(
        some.images, some.targets, {"predicted": predict_dense(adapted, some.images, tasks)}, tasks
    )
    figure.savefig(OUT / "predictions.png", dpi=120)
    print(f"drawn: {OUT / 'predictions.png'}")
