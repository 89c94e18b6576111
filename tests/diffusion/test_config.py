"""The configuration file of a study: defaults, round trip, and messages that say what to do."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from coterie.diffusion import affinity, intervals
from coterie.diffusion.config import AffinityPart, DiffusionConfig, IntervalsPart, SchedulePart
from coterie.diffusion.schedule import PREDICTIONS
from coterie.errors import SettingError

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_means_defaults(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    assert DiffusionConfig.read(tmp_path / "empty.toml") == DiffusionConfig()


def test_example_is_the_defaults_and_the_file_in_examples():
    example = DiffusionConfig.example()
    assert DiffusionConfig.from_dict(tomllib.loads(example)) == DiffusionConfig()
    assert (ROOT / "examples" / "diffusion.toml").read_text(encoding="utf-8") == example


def test_every_key_is_in_the_documentation_with_its_default():
    page = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")
    for part, keys in DiffusionConfig().to_dict().items():
        for key, value in keys.items():
            shown = "" if value is None else str(value).replace("'", '"')
            shown = f'"{shown}"' if isinstance(value, str) else shown
            assert f"| `{part}.{key}` | {f'`{shown}`' if shown else ''}" in page, f"{part}.{key} = {shown}"


def test_what_is_written_comes_back():
    content = {"data": {"name": "digits", "size": 8}, "model": {"channels": [8, 16]}, "training": {"ema": 0}}
    config = DiffusionConfig.from_dict(content)
    assert config.model.channels == (8, 16)
    assert DiffusionConfig.from_dict(config.to_dict()) == config


def test_choices_are_those_of_the_functions_behind():
    known = {one.name: one.metadata["among"] for part in (AffinityPart, IntervalsPart, SchedulePart)
             for one in fields(part)}  # fmt: skip
    assert set(known["criterion"]) == set(intervals.CRITERIA)
    assert set(known["prediction"]) == set(PREDICTIONS) - {"flow"}  # which has a schedule of its own
    assert {one.metadata["among"] for one in fields(AffinityPart) if one.name == "kind"} == {affinity.KINDS}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[intervals]\nkk = 3", ["`intervals.kk`", "unknown", "Did you mean `k`"]),
        ("[trainig]\nsteps = 3", ["`trainig`", "Did you mean [training]"]),
        ("steps = 3", ["`steps`", "[schedule]"]),
        ("[data]\nstride = 3", ["`data.stride`", "belongs into [affinity]"]),
        ("data = 3", ["Section `data`", "Found 3", "[data]"]),
        ("[training]\nsteps = 0", ["`training.steps`", "at least 1", "Found 0"]),
        ("[training]\nsteps = 2.5", ["whole number", "Found 2.5"]),
        ("[training]\nseeds = true", ["whole number", "Found True"]),
        ("[training]\nlearning_rate = 0.0", ["above 0", "Found 0.0"]),
        ("[training]\nlearning_rate = nan", ["a number", "Found nan"]),
        ("[training]\nema = 1.0", ["below 1", "Found 1.0"]),
        ('[data]\nname = "digit"', ["`data.name`", "Did you mean 'digits'"]),
        ("[data]\nname = 3", ["text in quotes", "Found 3"]),
        ("[model]\nchannels = 16", ["a list", "Found 16"]),
        ("[model]\nchannels = [16, 2]", ["`model.channels`", "at least 8", "Found 2"]),
        ('[balancing]\nmethods = ["uncertaint"]', ["Did you mean 'uncertainty'"]),
        ("[balancing]\nmethods = []", ["`balancing.methods`", "at least one"]),
        ('[balancing]\nmethods = ["equal", "equal"]', ["each once"]),
        ("[intervals]\nk = 50", ["`intervals.k`", "at most 40", "`training.batch`"]),
        ("[schedule]\nsteps = 20", ["at most 19", "`schedule.steps`"]),
        ("[training]\nsteps = 1", ["`affinity.checkpoints`", "at most 1"]),
        ("[samples]\nsteps = 2000", ["`samples.steps`", "at most 1000"]),
        ("[data\nname = 3", ["TOML", "--example"]),
    ],
)
def test_mistakes_are_named(tmp_path, content, words):
    path = tmp_path / "study.toml"
    path.write_text(content)
    with pytest.raises(SettingError) as caught:
        DiffusionConfig.read(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_files_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"study\.toml"):
        DiffusionConfig.read(path)
