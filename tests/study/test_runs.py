"""Runs derived from the order of entries, against a naive reading; no two workers have the same."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from coterie.study.runs import Wish, derive_runs, entry, told_runs
from coterie.study.settings import StudySettings

SETTINGS = StudySettings(("a", "b", "c"))
NONE = SimpleNamespace(name="RUNNING")

fresh = st.builds(
    Wish,
    st.sets(st.integers(0, 2), min_size=1).map(lambda tasks: tuple(sorted(tasks))),
    st.integers(0, 2),
    st.sampled_from(["", "half"]),
)


def trial(number, wishes, *, added=False, state=NONE):
    return SimpleNamespace(number=number, state=state, user_attrs={}, system_attrs=entry(wishes, "t", added=added))


@given(st.lists(st.lists(fresh, min_size=1, max_size=4), max_size=12))
def test_each_entry_has_the_first_wish_that_is_free(lists):
    found = derive_runs([trial(number, wishes) for number, wishes in enumerate(lists)], SETTINGS)
    taken = []
    for run, wishes in zip(found, lists, strict=True):
        keys = [(tuple(SETTINGS.tasks[task] for task in w.tasks), w.seed, w.variant) for w in wishes]
        free = [key for key in keys if key not in taken]
        key = (run.tasks, run.seed, run.variant)
        if free:
            assert key == free[0]
        else:
            tasks, seed, variant = keys[-1]
            assert key[::2] == (tasks, variant)
            assert run.seed == next(s for s in range(seed, 99) if (tasks, s, variant) not in taken)
        assert key not in taken
        taken.append(key)


@given(st.lists(st.lists(fresh, min_size=1, max_size=4), max_size=8), st.data())
def test_what_came_later_changes_no_run(lists, data):
    trials = [trial(number, wishes) for number, wishes in enumerate(lists)]
    cut = data.draw(st.integers(0, len(trials)))
    assert derive_runs(trials[::-1], SETTINGS)[:cut] == derive_runs(trials[:cut], SETTINGS)


def test_a_run_is_asked_for_again_once():
    one, two = Wish((0,), 0), Wish((1,), 0)
    again = [Wish(again=0), two]
    runs = derive_runs([trial(0, [one]), trial(1, again), trial(2, again)], SETTINGS)
    assert [(run.tasks, run.again) for run in runs] == [(("a",), None), (("a",), 0), (("b",), None)]


def test_added_runs_stand_for_what_they_say():
    one = Wish((0,), 0)
    runs = derive_runs([trial(0, [one]), trial(1, [one], added=True), trial(2, [one])], SETTINGS)
    assert [run.seed for run in runs] == [0, 0, 1]


def test_of_a_run_that_was_told_twice_the_first_counts():
    done = SimpleNamespace(name="COMPLETE")
    first = trial(0, [Wish((0,), 0)], state=done)
    second = trial(1, [Wish(again=0)], state=done)
    assert [run.number for run in told_runs(derive_runs([first, second], SETTINGS))] == [0]
    first.state = NONE
    assert [run.number for run in told_runs(derive_runs([first, second], SETTINGS))] == [1]
