"""Scenes: labels agree with each other, with the image, and with the recipe."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.adapters import compose_scenes
from coterie.adapters.scenes.compose import BACKGROUND
from coterie.adapters.scenes.labels import contours, relief_normals
from coterie.adapters.scenes.scenes import Scenes
from coterie.errors import SettingError
from reference import dense as reference


def garments():
    """A white square of the whole image, a ring with a hole, and a small blob."""
    square = torch.ones(28, 28)
    ring = torch.ones(28, 28)
    ring[8:20, 8:20] = 0
    blob = torch.zeros(28, 28)
    blob[10:18, 10:18] = 0.6
    return torch.stack([square, ring, blob]), torch.tensor([0, 1, 2])


def scenes(count=6, seed=0, **more):
    return compose_scenes(*garments(), count, seed=seed, **more)


def test_shapes_and_types():
    found = scenes()
    assert len(found) == 6
    assert found.images.shape == found.depth.shape == found.edges.shape == (6, 1, 56, 56)
    assert found.segmentation.shape == (6, 56, 56)
    assert found.segmentation.dtype == torch.int64
    assert found.normals.shape == (6, 3, 56, 56)
    assert found.present.shape == (6, 3)
    assert set(found.targets) == {"segmentation", "depth", "edges", "normals"}


def test_the_same_seed_gives_the_same_scenes():
    a, b, c = scenes(), scenes(), scenes(seed=1)
    for name, values in vars(a).items():
        assert torch.equal(values.nan_to_num(), vars(b)[name].nan_to_num())
    assert not torch.equal(a.images, c.images)


def test_more_scenes_leave_the_first_as_they_were():
    assert torch.equal(scenes(3).images, scenes(5).images[:3])


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_labels_agree(seed):
    found = scenes(2, seed=seed)
    background = found.segmentation == 0
    assert torch.equal(background, found.depth[:, 0] == BACKGROUND)
    assert torch.equal(background, found.normals.isnan().all(1))
    assert torch.equal(~background, found.normals.isfinite().all(1))
    known = found.normals.movedim(1, -1)[~background]
    torch.testing.assert_close(known.norm(dim=1), torch.ones(len(known)))
    assert (known[:, 2] > 0).all()
    assert found.depth.min() >= 1
    assert (found.depth[~background[:, None]] <= 28 / 16).all()
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert not found.edges[background[:, None]].any()


def test_edges_are_contours_pixel_by_pixel():
    found = scenes(1, side=30)
    assert found.edges[0, 0].int().tolist() == reference.contours(found.depth[0, 0].tolist())


def test_an_occluded_object_has_no_contour_where_it_is_hidden():
    depth = torch.tensor([[[[2.0, 1.5, 1.5, 1.0, 1.0, 1.0, 2.0]]]])
    assert contours(depth).flatten().tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert contours(torch.tensor([[[[1.5, 1.5, 1.0, 1.0]]]])).flatten().tolist() == [0, 0, 1, 0]


def test_normals_of_a_relief():
    height = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    found = relief_normals(height)
    for i in range(6):
        for j in range(7):
            assert found[:, i, j].tolist() == pytest.approx(reference.relief_normal(height.tolist(), i, j), abs=1e-6)
    ramp = relief_normals(torch.arange(5.0).repeat(5, 1))[:, 2, 2]
    torch.testing.assert_close(ramp, torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5)


def test_near_means_large_bright_and_in_front():
    """With one kind of garment, a full white square, size and brightness give the distance."""
    square = torch.ones(1, 28, 28)
    found = compose_scenes(square, torch.tensor([0]), 20, seed=3)
    for scene in range(20):
        nearest = found.depth[scene].min()
        mask = found.depth[scene] == nearest
        assert int(mask.sum()) == round(28 / float(nearest)) ** 2  # nothing hides it
        assert float(found.images[scene][mask].mean()) == pytest.approx(1 / float(nearest), abs=0.02)


def test_holes_belong_to_the_garment():
    images, labels = garments()
    found = compose_scenes(images[1:2], labels[:1], 10, seed=0)
    full = compose_scenes(images[0:1], labels[:1], 10, seed=0)
    assert torch.equal(found.segmentation, full.segmentation)


def test_present_counts_visible_pixels():
    found = scenes(40)
    counts = torch.stack([(found.segmentation == k + 1).sum((1, 2)) for k in range(3)], 1)
    assert torch.equal(found.present, (counts >= 20).float())
    assert 0 < found.present.mean() < 1


def test_number_of_garments():
    """Distances are drawn from a continuum: each garment has its own."""
    seen = [len(depth.unique()) - 1 for depth in scenes(40).depth]
    assert max(seen) == 5
    assert min(seen) >= 1  # one may hide others
    assert all(len(depth.unique()) == 2 for depth in scenes(10, objects=(1, 1)).depth)


def test_rows_and_device():
    found = scenes().rows(torch.tensor([4, 1]))
    assert isinstance(found, Scenes)
    assert torch.equal(found.images, scenes().images[[4, 1]])
    assert found.to("cpu").depth.device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"garments": torch.ones(3, 1, 28, 28)}, "Drop a dimension"),
        ({"labels": torch.tensor([0])}, "their"),
        ({"garments": torch.full((3, 28, 28), 255.0)}, "255"),
        ({"side": 20}, "side=20"),
        ({"smallest": 12}, "smallest=12"),
        ({"classes": 2}, "classes"),
        ({"objects": (0, 2)}, "objects"),
        ({"labels": torch.tensor([0, -1, 1])}, "classes from 0 on. Found -1"),
        ({"count": 0}, "count"),
        ({"count": 2.5}, "count"),
        ({"garments": torch.ones(0, 28, 28), "labels": torch.zeros(0)}, "at least one image"),
    ],
)
def test_bad_input(change, told):
    images, labels = garments()
    settings = {"garments": images, "labels": labels, "count": 1, "seed": 0, **change}
    with pytest.raises(SettingError, match=told):
        compose_scenes(**settings)


def test_sizes_that_do_not_exist_are_named():
    with pytest.raises(SettingError, match=r"Parameter `bigest` of compose_scenes does not exist.*`largest`"):
        scenes(bigest=20)
