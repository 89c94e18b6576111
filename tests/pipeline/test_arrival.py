"""A task that arrives after a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import coterie
from coterie import FunctionTrainer, Grouping, Recipe
from coterie.cli.app import app
from coterie.errors import SettingError, StoreError
from coterie.pipeline.arrival import ALONE, Purse

NAMES = ("a1", "a2", "a3", "b1", "b2", "b3")


class Family:
    """Tasks of a family help each other, others do harm; every run is counted."""

    def __init__(self):
        self.runs = []

    def __call__(self, tasks, seed):
        self.runs.append((tasks, seed))
        noise = np.random.default_rng([seed, *map(len, tasks)]).normal(size=len(tasks)) * 0.002

        def loss(task):
            kin = sum(other[0] == task[0] for other in tasks) - 1
            return 1.0 - 0.1 * kin + 0.05 * (len(tasks) - 1 - kin)

        return {task: loss(task) + luck for task, luck in zip(tasks, noise, strict=True)}


@pytest.fixture(scope="module")
def done():
    """A run on tasks of two families."""
    return coterie.run(FunctionTrainer(Family(), NAMES, version="1"), groups=2, seeds=2)


def test_the_group_of_its_family_is_found_and_the_run_is_not_done_again(done):
    function = Family()
    names = ("b4", *NAMES)  # in another order than in the run
    added = coterie.add_task(done, FunctionTrainer(function, names, version="1"))
    assert set(added.group) == {"b1", "b2", "b3"}
    assert added.grouping.tasks == names
    served = {name: set(added.grouping.names[g]) for name, g in zip(names, added.grouping.serves, strict=True)}
    assert served["b4"] == served["b1"] == {"b1", "b2", "b3", "b4"}
    assert served["a1"] == {"a1", "a2", "a3"}
    assert all("b4" in tasks for tasks, _ in function.runs if tasks != ("b1", "b2", "b3"))
    assert len(function.runs) == added.trainings
    assert set(added.losses) == {0, 1, ALONE}
    own = added.grouping.serves[names.index("b4")]
    assert np.mean(added.losses[own]) == pytest.approx(0.7, abs=0.01)
    assert added.losses[ALONE][0] == pytest.approx(1.0, abs=0.01)
    for name in ("b1", "b2", "b3"):  # 0.8 without it, 0.7 with it
        assert added.members[name] == pytest.approx(1 - 0.7 / 0.8, abs=0.01)
    assert "Train 'b4' together with" in added.text
    assert added.share is None


def test_a_task_that_every_group_harms_stays_alone_and_harm_to_members_is_said(done):
    names = (*NAMES, "c1")
    added = coterie.add_task(done, FunctionTrainer(Family(), names, version="1"))
    assert added.group == ()
    assert added.grouping.names[added.grouping.serves[-1]] == ("c1",)
    assert added.grouping.names[:2] == done.served.names
    assert added.members == {}
    assert "a model of its own" in added.text

    def harmful(tasks, seed):
        found = Family()(tasks, seed)
        return {task: loss + 0.5 * ("a4" in tasks and task != "a4") for task, loss in found.items()}

    added = coterie.add_task(done, FunctionTrainer(harmful, (*NAMES, "a4"), version="1"))
    assert set(added.group) == {"a1", "a2", "a3"}
    assert max(added.members.values()) < -0.3
    assert "lose by it" in added.text


def test_a_grouping_and_a_directory_may_be_given(done, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({**done.result}))
    trainer = FunctionTrainer(Family(), (*NAMES, "a4"), version="1")
    three = Grouping(NAMES, ((0, 1), (2, 3), (4, 5)), (0, 0, 1, 1, 2, 2))
    added = coterie.add_task(tmp_path, trainer, grouping=three, seeds=1)
    assert added.group == ("a1", "a2")
    assert added.grouping.n_groups == 3
    assert all(len(values) == 1 for values in added.losses.values())
    again = coterie.add_task(done, trainer, grouping=three, seeds=1)
    assert again.losses == added.losses
    assert json.loads(json.dumps(again.to_dict()))["losses"]["alone"] == list(again.losses[ALONE])
    assert "candidate" in again._repr_html_()


@pytest.mark.parametrize(
    ("names", "more", "error", "match"),
    [
        (NAMES, {}, SettingError, "one task that the run does not know. Found none"),
        ((*NAMES, "x", "y"), {}, SettingError, r"\['x', 'y'\]. Name one with `task`"),
        (("a1", "x", "y"), {}, SettingError, "Missing: 'a2', 'a3'"),
        ((*NAMES, "x"), {"task": "a1"}, SettingError, "the run has already"),
        ((*NAMES, "x"), {"task": "z"}, SettingError, "`workload` does not have"),
        ((*NAMES, "x"), {"share": 0}, SettingError, "share"),
        ((*NAMES, "x"), {"seeds": 0}, SettingError, "seeds"),
    ],
)
def test_what_cannot_be_meant_is_refused(done, names, more, error, match):
    with pytest.raises(error, match=match):
        coterie.add_task(done, FunctionTrainer(Family(), names, version="1"), **more)


def test_what_is_no_run_is_refused(done, tmp_path):
    trainer = FunctionTrainer(Family(), (*NAMES, "x"), version="1")
    with pytest.raises(StoreError, match=r"result\.json"):
        coterie.add_task(tmp_path, trainer)
    with pytest.raises(SettingError, match="`result` should be what"):
        coterie.add_task(done.served, trainer)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on four of five tasks of made-up data; the fifth is like the last two of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    first, second = x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]
    y = np.stack([first, first + 0.1 * x[:, 4], second, second + 0.1 * x[:, 5], second], 1)
    y += 0.3 * rng.normal(size=y.shape)
    y[rng.random(400) < 0.8, 4] = np.nan  # few labels: alone it learns little
    recipe = Recipe(epochs=6, batch_size=50, learning_rate=0.01, check_every=4)
    old, new = (coterie.from_arrays(x, y[:, :n], tasks=list("abcde")[:n], recipe=recipe, hidden=(6,)) for n in (4, 5))
    out = tmp_path_factory.mktemp("arrival") / "run"
    return coterie.run(old, groups=2, seeds=2, bases=1, out=out), new


def test_a_workload_of_tensors_costs_a_share_of_its_run(made):
    run, new = made
    grouping = Grouping(tuple("abcd"), ((0, 1), (2, 3)), (0, 0, 1, 1))
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
    added = coterie.add_task(run.path, new, grouping=grouping, share=0.3)
    assert added.group == ("c", "d")
    assert 0 < added.share <= 0.3
    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before
    assert coterie.add_task(run, new, grouping=grouping, share=0.3).losses == added.losses
    few = coterie.add_task(run, new, grouping=grouping, share=1e-6)
    assert set(few.losses) == {1, ALONE}  # the group whose labels go along with those of the task, and none
    assert few.left == (0,)
    assert "Not tried, for their cost: 1 of the groups" in few.text


def test_what_is_affordable_follows_from_the_costs(made):
    result = {**made[0].result}
    whole = sum(row["flops"] for row in result["costs"])
    most = int(0.5 * whole / result["training_flops"])
    purse = Purse.of(result, 0.5)
    assert purse.affords(0.0, most)
    assert not purse.affords(0.0, most + 1)
    assert not purse.affords(0.5 * whole, 1)
    assert purse.affords(0.25 * whole, 2, whole / 8)
    assert not purse.affords(0.25 * whole, 3, whole / 8)
    assert Purse.of({**result, "training_flops": None}, 0.5).affords(whole, 1000)


def test_the_command_prints_the_group(made, tmp_path, monkeypatch):
    run, new = made
    monkeypatch.setattr("coterie.pipeline.check.load_workload", lambda name: replace(new, reference=name))
    done = CliRunner().invoke(app, ["add-task", str(run.path), "data.py:new", "--json", "--seeds", "1"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["task"] == "e"
    assert found["trainings"] >= 2
    shown = CliRunner().invoke(app, ["add-task", str(run.path), "data.py:new", "--seeds", "1"])
    assert "validation loss" in shown.stdout
