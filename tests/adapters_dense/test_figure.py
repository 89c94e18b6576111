"""Predictions drawn beside the truth."""

import numpy as np
import pytest
import torch

from coterie.adapters.dense import dense_task
from coterie.adapters.figure import draw_predictions, picture
from coterie.errors import SettingError

pytest.importorskip("matplotlib")

TASKS = {kind: dense_task(kind, 4 if kind == "segmentation" else None) for kind in ("segmentation", "depth", "edges")}
TASKS["normals"] = dense_task("normals")


def labels():
    normals = torch.zeros(2, 3, 4, 4)
    normals[:, 2] = 1
    normals[:, :, 0] = torch.nan
    return {
        "segmentation": torch.arange(16).reshape(1, 4, 4).repeat(2, 1, 1) % 4,
        "depth": torch.linspace(1, 2, 32).reshape(2, 1, 4, 4),
        "edges": torch.eye(4).repeat(2, 1, 1, 1),
        "normals": normals,
    }


def predictions():
    """What the labels say, as a model would."""
    truth = labels()
    return {
        "segmentation": torch.nn.functional.one_hot(truth["segmentation"], 4).movedim(-1, 1).float(),
        "depth": truth["depth"],
        "edges": 100 * (truth["edges"] - 0.5),
        "normals": 7 * truth["normals"].nan_to_num(1.0),
    }


@pytest.mark.parametrize("name", TASKS)
def test_the_right_prediction_looks_like_the_truth(name):
    truth, found = labels()[name][1], predictions()[name][1]
    wanted = picture(truth, truth, TASKS[name], predicted=False)
    assert wanted.shape == (4, 4, 3)
    assert ((wanted >= 0) & (wanted <= 1)).all()
    np.testing.assert_allclose(picture(found, truth, TASKS[name], predicted=True), wanted, atol=1e-6)


def test_another_prediction_looks_different():
    truth, found = labels(), predictions()
    for name, task in TASKS.items():
        wrong = picture(found[name][1].flip(-1).roll(1, 0), truth[name][1], task, predicted=True)
        assert not np.allclose(wrong, picture(truth[name][1], truth[name][1], task, predicted=False))


def test_a_figure(tmp_path):
    figure = draw_predictions(torch.rand(2, 3, 4, 4), labels(), {"a": predictions(), "b": predictions()}, TASKS)
    assert len(figure.axes) == 2 * 3 * 5
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_nothing_to_draw():
    with pytest.raises(SettingError, match="images"):
        draw_predictions(torch.rand(0, 1, 4, 4), labels(), {}, TASKS)
