"""Runs derived from the order of entries, against a naive reading; no two workers have the same."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from coterie.study.runs import RunLog, Wish, entry, told_runs
from coterie.study.settings import StudySettings

SETTINGS = StudySettings(("a", "b", "c"))
NONE, COMPLETE = SimpleNamespace(name="RUNNING"), SimpleNamespace(name="COMPLETE")

fresh = st.builds(
    Wish,
    st.sets(st.integers(0, 2), min_size=1).map(lambda tasks: tuple(sorted(tasks))),
    st.integers(0, 2),
    st.sampled_from(["", "half"]),
)


def trial(number, wishes, *, added=False, state=NONE):
    return SimpleNamespace(number=number, state=state, user_attrs={}, system_attrs=entry(wishes, "t", added=added))


def derive_runs(trials, settings):
    """What one reading of all entries gives."""
    return RunLog(settings).read(trials)


def details(runs):
    """All of some runs, also what does not count when they are compared."""
    return [vars(run) for run in runs]


@given(st.lists(st.tuples(st.lists(fresh, min_size=1, max_size=4), st.integers(0, 3)), max_size=12), st.data())
def test_reading_again_and_again_gives_what_one_reading_gives(lists, data):
    """Entries come and end in any order between the readings."""
    log = RunLog(SETTINGS)
    trials = [trial(number, wishes) for number, (wishes, _) in enumerate(lists)]
    for now in range(4):
        for one, (_, end) in zip(trials, lists, strict=True):
            if end <= now and one.number < len(lists) - 3 + now:
                one.state, one.user_attrs = COMPLETE, {"result": {"losses": {"a": (float(one.number), 0.0)}}}
        cut = data.draw(st.integers(max(0, len(trials) - 3 + now), len(trials)))
        assert details(log.read(trials[:cut])) == details(derive_runs(trials[:cut], SETTINGS))


def test_a_trial_that_is_missing_makes_no_reading_wrong_for_good():
    trials = [trial(number, [Wish((0, 1), 0, ""), Wish((1, 2), 0, "")]) for number in range(2)]
    log = RunLog(SETTINGS)
    assert details(log.read(trials[1:])) == details(derive_runs(trials[1:], SETTINGS))
    assert details(log.read(trials)) == details(derive_runs(trials, SETTINGS))


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
