"""What a study recommends, as configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coterie import create_study, load_study
from coterie.cli.app import app
from coterie.study.configs import _WRITERS
from coterie.study.export_command import FORMATS

yaml = pytest.importorskip("yaml")


def export(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["study", "export", *map(str, arguments)])


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    place = tmp_path / "s.log"
    study = create_study("x", tasks=["a", "b", "c"], models=2, storage=str(place))
    for losses in ({"a": 0.3, "b": 0.4, "c": 0.5}, {"a": 0.2, "b": 0.3}, {"c": 0.3}, {"a": 0.5}, {"b": 0.5}):
        study.add(list(losses), losses)
    return place


def test_groups_have_equal_shares_of_their_tasks(groups: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"a": {"path": "a.jsonl", "rows": 100}, "b": {"rows": 50}, "c": {"rows": 7}}))
    found = export("x", "--to", "axolotl", "-s", groups, "--data", data, "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    rows = {"a": 100, "b": 50, "c": 7}
    for number, group in enumerate(load_study("x", storage=str(groups)).recommend().groups, start=1):
        entries = yaml.safe_load((tmp_path / "out" / f"group-{number}.yaml").read_text())["datasets"]
        assert [entry["path"] for entry in entries] == ["a.jsonl" if task == "a" else task for task in group]
        # equal shares, and no source has to repeat
        assert {entry["split"] for entry in entries} == {f"train[:{min(rows[task] for task in group)}]"}


def test_what_is_shown_can_be_piped(groups: Path) -> None:
    found = export("x", "--to", "mergekit", "-s", groups, "--base-model", "m", "--adapters", "p,q")
    merged = yaml.safe_load(found.stdout)
    assert [one["model"] for one in merged["models"]] == ["m+p", "m+q"]
    sizes = [len(group) for group in load_study("x", storage=str(groups)).recommend().groups]
    expected = [size / sum(sizes) for size in sizes]
    assert [one["parameters"]["weight"] for one in merged["models"]] == pytest.approx(expected, abs=1e-6)


def test_the_recommended_mixture_is_written(tmp_path: Path) -> None:
    place = tmp_path / "m.log"
    study = create_study("m", kind="mixture", sources=["web", "code"], targets=["loss"], storage=str(place))
    for seed, share in enumerate(np.linspace(0.05, 0.95, 10)):
        study.add({"web": share, "code": 1 - share}, {"loss": 2 + (share - 0.7) ** 2}, seed=seed)
    out = tmp_path / "mixture.yaml"
    found = export("m", "--to", "trl", "-s", place, "-o", out, "--json")
    told = json.loads(found.stdout)
    recommended = study.recommend()
    chosen = next(one for one in recommended.candidates if one.name == recommended.recommended)
    assert told["shares"] == {"mixture": pytest.approx(chosen.mixture)}
    entries = {entry["path"]: entry["fraction"] for entry in yaml.safe_load(out.read_text())["datasets"]}
    assert entries == pytest.approx({name: share for name, share in chosen.mixture.items() if share}, abs=1e-6)


def test_every_format_that_is_offered_is_written(groups: Path) -> None:
    assert {*FORMATS[:-1]} == {*_WRITERS}
    for to in set(FORMATS[:-1]) - {"axolotl"}:
        assert export("x", "--to", to, "-s", groups).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "megatron"), "--to"),
        (("--to", "axolotl"), "no number for"),
        (("--to", "mergekit", "--base-model", "m", "--adapters", "p"), "each of the 2 groups"),
    ],
)
def test_mistakes_are_named(groups: Path, arguments: tuple[str, ...], says: str) -> None:
    found = export("x", "-s", groups, *arguments)
    assert found.exit_code == 1
    assert says in found.stderr
