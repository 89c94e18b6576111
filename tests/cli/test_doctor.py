"""What `coterie doctor` finds."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from coterie.cli import doctor
from coterie.cli.app import app

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_FOR_USERS = {"all", "docs", "test", "dev"}


def said(*arguments):
    done = CliRunner().invoke(app, ["doctor", *arguments])
    return done.exit_code, done.stdout


def test_every_optional_part_is_explained():
    assert set(doctor.BRINGS) == set(PROJECT["optional-dependencies"]) - NOT_FOR_USERS


def test_every_requirement_of_the_project_is_understood():
    """A requirement of another form would be left out without a word."""
    found = doctor.diagnosis()
    assert {package["package"] for package in found["needed"]} == {
        text.split(">=")[0] for text in PROJECT["dependencies"]
    }
    for name, part in found["parts"].items():
        wanted = {text.split(">=")[0].split("[")[0] for text in PROJECT["optional-dependencies"][name]}
        assert {package["package"] for package in part["packages"]} == wanted


def test_json_has_versions_devices_and_parts():
    code, out = said("--json")
    found = json.loads(out)
    assert code == 0
    assert found["devices"]["cpu"] == "ready"
    assert set(found["devices"]) >= {f"cuda:{number}" for number in range(torch.cuda.device_count())}
    versions = {package["package"]: package["found"] for package in found["needed"]}
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert found["processors"] >= 1


def test_missing_and_old_packages_are_named_with_the_way_out(monkeypatch):
    versions = {"torch": "2.4.9", "matplotlib": "3.10.1"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    wanted = ["torch>=2.5", "optuna>=4.5; extra == 'study'", "matplotlib>=3.9; extra == 'plot'", "odd<3"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = doctor.diagnosis()
    assert [package["state"] for package in found["needed"]] == ["too old"]
    assert found["parts"]["study"]["state"] == "optuna missing"
    assert found["parts"]["study"]["way"] == "pip install 'coterie[study]'"
    assert (found["parts"]["plot"]["state"], found["parts"]["plot"]["way"]) == ("ready", "")
    code, out = said()
    assert code == 1
    assert "too old" in out


@pytest.mark.parametrize(
    ("version", "least", "enough"),
    [("2.10", "2.9", True), ("2.5.0+cpu", "2.5", True), ("2.5rc1", "2.5", True), ("1.99", "2", False)],
)
def test_versions_are_compared_by_numbers(version, least, enough):
    assert (doctor._numbers(version) >= doctor._numbers(least)) == enough


def test_a_device_that_cannot_compute_is_said_to_fail(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr(torch, "ones", broken)
    assert doctor.diagnosis()["devices"]["cpu"] == "fails: out of order"
