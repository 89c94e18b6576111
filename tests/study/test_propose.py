"""What was chosen serves many workers, and one of them chooses."""

import time
from dataclasses import replace

import pytest

from coterie import create_study
from coterie.study import propose
from coterie.study.runs import Wish

TASKS = ("a", "b", "c", "d")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study in which nothing is left of what was chosen, and another worker chooses."""
    made = create_study("s", tasks=TASKS, storage=tmp_path / "s.journal")
    keep(made, [])
    made.optuna_study.set_user_attr(propose.CHOOSING, time.time())
    monkeypatch.setattr(propose, "_LOOK", 0.01)
    return made


def keep(study, wishes):
    kept = {"told": 0, "wishes": [wish.pack() for wish in wishes], "enough": False, "why": "another chose"}
    study.optuna_study.set_user_attr(propose.ADVICE, kept)


def test_a_worker_waits_for_the_one_that_chooses(study, monkeypatch):
    wanted = Wish((0, 2), 5, "")
    monkeypatch.setattr(time, "sleep", lambda _: keep(study, [wanted]))
    monkeypatch.setattr(type(study), "choose", lambda *_: pytest.fail("two chose"))
    run = study.ask()
    assert (run.tasks, run.seed, run.why) == (("a", "c"), 5, "another chose")


def test_a_worker_that_was_killed_while_it_chose_is_not_waited_for_long(study, monkeypatch):
    monkeypatch.setattr(propose, "_PATIENCE", 0.05)
    begin = time.monotonic()
    assert study.ask().why != "another chose"
    assert 0.05 <= time.monotonic() - begin < 5
    assert study.optuna_study.user_attrs[propose.CHOOSING] == 0.0


@pytest.mark.parametrize(("told", "chosen"), [(0, 8), (60, 8), (200, 20)])
def test_as_many_are_chosen_as_the_choice_serves(study, monkeypatch, told, chosen):
    from coterie.study import design

    counts = []
    first = study.add(TASKS, [1.0, 1.0, 1.0, 1.0], seed=0)
    nothing = design.Proposal((), False, "", None, 0.0)
    monkeypatch.setattr(design, "next_runs", lambda results, count, **_: counts.append(count) or nothing)
    propose.choose_subsets(study, [replace(first, number=number) for number in range(told)], None)
    assert counts == [chosen]
