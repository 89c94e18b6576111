"""A small study: complete, the same after an interruption, and honest about what one seed says."""

import copy
import json

import numpy as np
import pytest
import torch

from coterie._units import Payload
from coterie.datasets.images import load_images
from coterie.diffusion import NoiseSchedule, StepAffinity
from coterie.diffusion.config import DiffusionConfig
from coterie.diffusion.quality import QualityEvaluator
from coterie.diffusion.study import StepStudy, _Bench, make_schedule, run_study
from coterie.diffusion.summary import against_gap, method_rows
from coterie.diffusion.train import Trained
from coterie.diffusion.unet import make_unet
from coterie.errors import SettingError, StoreError
from coterie.grouping import Intervals

pytestmark = pytest.mark.usefixtures("one_extractor")
TINY = {
    "model": {"channels": [8, 8]},
    "schedule": {"steps": 40},
    "training": {"steps": 4, "batch": 6, "seeds": 2},
    "affinity": {"stride": 13, "examples": 4, "checkpoints": 2},
    "intervals": {"k": 2, "criterion": "gradient"},
    "balancing": {"methods": ["equal", "uncertainty"]},
    "evaluation": {"images": 6, "draws": 1},
    "samples": {"count": 40, "steps": 2},
}


def tiny(**parts):
    return DiffusionConfig.from_dict(
        {name: {**TINY.get(name, {}), **parts.get(name, {})} for name in {**TINY, **parts}}
    )


def timeless(facts):
    """Everything but how long it took."""
    facts = copy.deepcopy(facts)
    for row in facts["methods"]:
        del row["seconds_per_step"]
    return facts


class Stops:
    """Progress that interrupts at a stage, and remembers all."""

    def __init__(self, at=None):
        self.at, self.seen = at, []

    def __call__(self, stage, done, total):
        self.seen.append(stage)
        if stage == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "run"
    return run_study(tiny(), path), path


def test_a_study_is_complete(finished):
    study, path = finished
    names = {entry.name for entry in path.iterdir()}
    assert {"result.json", "report.html", "samples.safetensors", "affinity.png", "samples.png"} <= names
    assert json.loads((path / "result.json").read_text()) == study.facts
    rows = study.facts["methods"]
    assert [row["name"] for row in rows] == ["vanilla", "equal", "uncertainty"]
    assert list(study.samples) == ["data", "vanilla", "equal", "uncertainty"]
    assert all(images.shape[1:] == (8, 8) for images in study.samples.values())
    for row in rows:
        assert len(row["loss"]) == study.intervals.k == 2
        for found in (*row["loss"], row["overall"], row["frechet"]):
            assert found["low"] <= found["mean"] <= found["high"]
        assert row["seconds_per_step"] > 0
    assert study.affinity.steps.tolist() == [0, 13, 26, 39]
    assert study.intervals.n == 40


def test_a_study_is_read_again(finished):
    study, path = finished
    read = StepStudy.load(path)
    assert read.facts == study.facts
    for name, images in study.samples.items():
        np.testing.assert_array_equal(read.samples[name], images)
    np.testing.assert_array_equal(read.affinity.values, study.affinity.values)
    assert read.intervals == study.intervals


def test_finished_work_is_not_done_again(finished):
    study, path = finished
    progress = Stops()
    assert run_study(tiny(), path, progress=progress).facts == study.facts
    assert not [stage for stage in progress.seen if stage.startswith(("training", "affinity"))]


@pytest.mark.parametrize(
    "stage",
    [pytest.param("affinity, seed 1, after 2 steps", marks=pytest.mark.slow), "training, uncertainty, seed 0"],
)
def test_an_interrupted_study_ends_with_the_same_numbers(finished, tmp_path, stage):
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(), tmp_path, progress=Stops(stage))
    assert not (tmp_path / "result.json").exists()
    progress = Stops()
    again = run_study(tiny(), tmp_path, progress=progress)
    assert timeless(again.facts) == timeless(finished[0].facts)
    for name, images in finished[0].samples.items():
        np.testing.assert_array_equal(again.samples[name], images)
    assert "training, vanilla, seed 0" not in progress.seen
    assert stage in progress.seen


def test_a_method_can_be_added(finished, tmp_path):
    config = {"training": {"seeds": 1}, "balancing": {"methods": ["uncertainty"]}}
    first = run_study(tiny(**config), tmp_path)
    progress = Stops()
    both = run_study(
        tiny(**{**config, "balancing": {"methods": ["equal", "uncertainty"]}}), tmp_path, progress=progress
    )
    trained = {stage for stage in progress.seen if stage.startswith("training")}
    assert trained == {"training, equal, seed 0"}
    old, new = ({row["name"]: row for row in study.facts["methods"]} for study in (first, both))
    assert all(new[name] == row for name, row in old.items())
    # one seed: numbers, and no intervals
    assert {found["low"] for row in new.values() for found in (*row["loss"], row["overall"], row["frechet"])} == {None}
    assert {found["high"] for row in new.values() for found in row["change"] or ()} == {None}
    assert "With one seed there are no intervals" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_other_settings_need_another_directory(finished):
    with pytest.raises(StoreError, match=r"training\.steps"):
        run_study(tiny(training={"steps": 5}), finished[1])


def test_no_study_there(tmp_path):
    with pytest.raises(StoreError, match="no file"):
        StepStudy.load(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(StoreError, match="no result of `coterie diffusion`"):
        StepStudy.load(tmp_path)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"data": {"name": "fashion-mnist", "folder": "nowhere"}}, "nowhere"),
        ({"data": {"size": 9}}, "size"),
        ({"model": {"channels": [8, 8, 8, 8, 8]}}, "size"),
        ({"training": {"device": "gpu"}}, "device"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, parts, words):
    progress = Stops()
    with pytest.raises(SettingError, match=words):
        run_study(tiny(**parts), tmp_path / "run", progress=progress)
    assert not progress.seen
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverged_is_told():
    study = tiny()
    judge = QualityEvaluator.of(study, load_images("digits"), make_schedule(study), Intervals((0, 20), 40, 0.0), None)
    model = make_unet((8, 8), 1, 8)
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    with pytest.raises(SettingError, match=r"training\.learning_rate"):
        judge(model, 0)


def test_lookahead_in_memory():
    study = run_study(tiny(affinity={"kind": "lookahead", "checkpoints": 1}, training={"seeds": 1}))
    assert study.affinity.kind == "lookahead"
    assert (np.diag(study.affinity.values) > 0).all()


def test_rows_are_what_a_loop_finds():
    rng = np.random.default_rng(0)
    intervals, seeds, images = Intervals((0, 3), 10, 0.0), 3, 5
    losses = {name: rng.uniform(0.5, 1, (seeds, images, 2)) for name in ("vanilla", "famo")}
    frechet = {name: rng.uniform(1, 2, seeds) for name in losses}
    trained = {
        name: [Trained({}, {}, {}, np.zeros((1, 1)), 6.0 * (seed + 1), 3, seed, None) for seed in range(seeds)]
        for name in losses
    }
    found = {
        name: [Payload({"losses": losses[name][s]}, {"frechet": frechet[name][s]}) for s in range(seeds)]
        for name in losses
    }
    plain, other = method_rows(intervals, trained, found)
    assert plain["change"] is plain["overall_change"] is plain["frechet_change"] is None
    assert other["loss"][1]["mean"] == pytest.approx(losses["famo"][:, :, 1].mean())
    assert other["seconds_per_step"] == pytest.approx(4.0)
    for i in range(2):
        ratios = [losses["famo"][s, :, i].mean() / losses["vanilla"][s, :, i].mean() - 1 for s in range(seeds)]
        assert other["change"][i]["mean"] == pytest.approx(np.mean(ratios))
        assert other["change"][i]["low"] < np.mean(ratios) < other["change"][i]["high"]
    # 3 of 10 steps are in the first interval
    overall = {name: [0.3 * one[:, 0].mean() + 0.7 * one[:, 1].mean() for one in own] for name, own in losses.items()}
    assert other["overall"]["mean"] == pytest.approx(np.mean(overall["famo"]))
    ratios = [a / b - 1 for a, b in zip(overall["famo"], overall["vanilla"], strict=True)]
    assert other["overall_change"]["mean"] == pytest.approx(np.mean(ratios))
    ratios = [a / b - 1 for a, b in zip(frechet["famo"], frechet["vanilla"], strict=True)]
    assert other["frechet_change"]["mean"] == pytest.approx(np.mean(ratios))


def test_the_change_of_the_frechet_distance_is_paired_by_seed():
    """A method that is a tenth worse with every seed is so without doubt, however much seeds differ."""
    found = {
        name: [Payload({"losses": np.ones((2, 1))}, {"frechet": factor * far}) for far in (1.0, 5.0, 30.0)]
        for name, factor in (("vanilla", 1.0), ("famo", 1.1))
    }
    trained = {name: [Trained({}, {}, {}, np.zeros((1, 1)), 1.0, 1, 0, None)] * 3 for name in found}
    change = method_rows(Intervals((0,), 10, 0.0), trained, found)[1]["frechet_change"]
    assert (change["low"], change["mean"], change["high"]) == pytest.approx((0.1, 0.1, 0.1))


def test_models_are_made_without_seeding_other_generators(monkeypatch):
    def refuse(*_):
        raise AssertionError("seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    images = load_images("digits")
    bench = _Bench(tiny(), images, make_schedule(tiny()), torch.device("cpu"), None, None)
    before = torch.get_rng_state()
    one, other = bench.model(3), bench.model(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_curve_against_gaps():
    steps = np.array([0, 10, 20, 25])
    values = np.arange(16.0).reshape(4, 4)
    gaps, curve = against_gap(StepAffinity(steps, values, 26), 10)
    sums = {}
    for i, a in enumerate(steps):
        for j, b in enumerate(steps):
            gap = abs(a - b)
            group = 0 if gap == 0 else max(1, round(gap / 10))
            sums.setdefault(group, []).append((gap, values[i, j]))
    expected = [np.mean(sums[group], axis=0) for group in sorted(sums)]
    np.testing.assert_allclose(np.stack([gaps, curve], 1), expected)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_schedules(kind):
    made = make_schedule(tiny(schedule={"kind": kind, "prediction": "v"}))
    expected = getattr(NoiseSchedule, kind)(40, prediction="v")
    assert torch.equal(made.signal, expected.signal)
    assert made.prediction == "v"


@pytest.mark.gpu
def test_on_a_device(finished):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there = run_study(tiny(training={"device": "cuda"})).facts
    for a, b in zip(there["methods"], finished[0].facts["methods"], strict=True):
        assert a["overall"]["mean"] == pytest.approx(b["overall"]["mean"], rel=0.02)
