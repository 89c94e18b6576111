"""A path that begins with ~ is in the home directory, wherever a user gives one."""

import numpy as np
import pytest
from typer.testing import CliRunner

import coterie
from coterie._files import user_path
from coterie.affinity import Affinity
from coterie.cli.app import app
from coterie.grouping import Grouping
from coterie.report import write_report


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def test_a_run_and_its_predictor(home):
    x = np.random.default_rng(0).normal(size=(60, 3))
    work = coterie.from_arrays(x, x[:, :2] > 0, recipe=coterie.Recipe(epochs=1))
    result = coterie.run(work, seeds=1, method="label-correlation", groups=1, out="~/runs/x")
    assert result.path == home / "runs" / "x"
    assert len(coterie.load("~/runs/x").predict(x)) == 2
    assert coterie.run(work, seeds=1, method="label-correlation", groups=1, out="~/runs/x").path == result.path


def test_single_files(home):
    affinity = Affinity(np.array([[0, 0.5], [0.5, 0]]), ("a", "b"))
    affinity.save("~/a.json")
    affinity.to_csv("~/a.csv")
    assert Affinity.load("~/a.json").tasks == Affinity.from_csv("~/a.csv").tasks == ("a", "b")
    Grouping.from_labels(["a", "b"], [0, 1]).save("~/g.json")
    assert Grouping.load("~/g.json").n_groups == 2
    write_report({"recommendation": {"text": "Do not bother."}}, "~/page.html")
    assert {file.name for file in home.iterdir()} == {"a.json", "a.csv", "g.json", "page.html"}


def test_the_command_line(home):
    Affinity(np.eye(3), ("a", "b", "c")).to_csv("~/a.csv")
    done = CliRunner().invoke(app, ["group", "--affinity", "~/a.csv", "--groups", "2", "--out", "~/g.json"])
    assert done.exit_code == 0, done.output
    assert (home / "g.json").exists()


def test_nobody_of_that_name():
    assert str(user_path("~no-such-user/x")) == "~no-such-user/x"
    assert str(user_path("a/~b")) == "a/~b"
