"""A study: asking, telling, adding, and what is refused."""

import math

import numpy as np
import optuna
import pytest

import coterie
from coterie import Study, create_study, load_study
from coterie.errors import SettingError, StoreError
from coterie.study.runs import Wish, entry

optuna.logging.set_verbosity(optuna.logging.WARNING)
TASKS = ("a", "b", "c", "d")


def losses_of(run):
    return {task: 0.1 * (1 + run.number) + 0.01 * index for index, task in enumerate(run.tasks)}


def derive_runs_of(study, wish):
    """The run that an entry with one wish stands for."""
    number = study._append(entry([wish], "token"), "token")
    return next(run for run in study.runs if run.number == number)


@pytest.fixture
def study(tmp_path):
    return create_study("s", tasks=TASKS, models=2, storage=tmp_path / "s.journal")


@pytest.mark.parametrize("end", ["s.journal", "s.jsonl", "s.log", "s.db", "deep/er/s.sqlite"])
def test_what_is_told_is_there_when_it_is_opened_again(tmp_path, end):
    made = create_study("s", tasks=list(TASKS), storage=str(tmp_path / end), cost_unit="dollars")
    first, second = made.ask(), made.ask()
    made.tell(first, losses_of(first), cost=2.5, test=losses_of(second) if second.tasks == first.tasks else None)
    made.tell(second.number, failed="out of memory")
    opened = load_study("s", storage=tmp_path / end)
    assert opened.settings == made.settings
    assert opened.runs == made.runs
    one, other = opened.runs
    assert one.tasks == first.tasks
    assert {task: value for task, (value, _) in one.losses.items()} == losses_of(first)
    assert (one.state, one.cost, other.state, other.reason) == ("told", 2.5, "failed", "out of memory")


def test_results_are_the_runs_that_were_told(study):
    runs = study.ask(6)
    for run in runs[:4]:
        study.tell(run, losses_of(run), cost=1.0 + run.number)
    study.tell(runs[4], failed="diverged")
    found = study.results()
    assert found.sources == found.targets == TASKS
    assert found.trained.tolist() == [[task in run.tasks for task in TASKS] for run in runs[:4]]
    np.testing.assert_allclose(found.losses, [[losses_of(run).get(task, np.nan) for task in TASKS] for run in runs[:4]])
    assert found.costs.tolist() == [1, 2, 3, 4]
    study.tell(runs[5], losses_of(runs[5]))
    assert study.results().costs.tolist() == [1, 2, 3, 4, 2.5]
    assert found.seeds.tolist() == [run.seed for run in runs[:4]]
    assert found.errors is None


def test_no_two_asks_give_the_same_run(tmp_path):
    small = create_study("s", tasks=["a", "b"], storage=tmp_path / "s.journal")
    runs = small.ask(12)  # four times as many as there are subsets
    assert len({(run.tasks, run.seed) for run in runs}) == 12
    assert {run.tasks for run in runs} == {("a",), ("b",), ("a", "b")}


def test_forms_of_losses(study):
    tasks = ["a", "b", "c"]
    want = {"a": (2.0, 0.0), "b": (3.0, 0.0), "c": (0.5, 0.25)}
    for given in (
        {"a": 2, "b": [1.0, math.nan, 5.0], "c": (0.5, 0.25)},
        {"a": np.float32(2), "b": np.array([3.0]), "c": (np.float64(0.5), 0.25)},
        [2, np.array([2.0, 4.0]), (0.5, 0.25)],
    ):
        assert study.add(tasks, given).losses == want
    rows = study.add(tasks, np.array([[1.0, 3.0], [np.nan, 3.0], [0.5, 0.5]])).losses
    assert rows == {"a": (2.0, 0.0), "b": (3.0, 0.0), "c": (0.5, 0.0)}
    outcome = study.add(["a"], coterie.Outcome({"a": [1.0, 2.0]}, test={"a": 3.0}, cost=7.0))
    assert (outcome.losses, outcome.test, outcome.cost) == ({"a": (1.5, 0.0)}, {"a": (3.0, 0.0)}, 7.0)
    written = study.add(["a"], {"validation": {"a": 1.0}, "test": {"a": 2.0}, "cost": 3})
    assert (written.losses, written.test, written.cost) == ({"a": (1.0, 0.0)}, {"a": (2.0, 0.0)}, 3.0)
    both = study.add(["a", "b"], coterie.Outcome({"a": 1.0, "b": 2.0}, cost=7.0), test=np.array([3.0, 4.0]), cost=2.0)
    assert (both.test, both.cost) == ({"a": (3.0, 0.0), "b": (4.0, 0.0)}, 2.0)
    with pytest.raises(SettingError, match="`cost`"):
        study.add(["a"], coterie.Outcome({"a": 1.0}, cost=7.0), cost=0)
    part = study.add(["a", "b"], {"a": 1.0, "b": None})
    assert part.losses == {"a": (1.0, 0.0)}
    assert study.results().errors[0].tolist() == [0, 0, 0.25, 0]
    assert study.results("test").losses[:, 0].tolist() == [3.0, 2.0, 3.0]


def test_losses_may_be_series_and_tensors(study):
    pandas, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    assert study.add(["a", "b"], pandas.Series({"a": 1.0, "b": 2.0})).losses == {"a": (1.0, 0.0), "b": (2.0, 0.0)}
    assert study.add(["a"], {"a": torch.tensor([1.0, 2.0], requires_grad=True)}).losses == {"a": (1.5, 0.0)}


@pytest.mark.parametrize("direction", ["maximize", {"a": "maximize", "b": "minimize"}])
def test_directions(tmp_path, direction):
    study = create_study("s", tasks=["a", "b"], direction=direction, storage=tmp_path / "s.db")
    study.add(["a", "b"], {"a": 0.9, "b": 0.4})
    signs = [-1, -1] if direction == "maximize" else [-1, 1]
    assert study.results().losses.tolist() == [[signs[0] * 0.9, signs[1] * 0.4]]
    trial = study.optuna_study.trials[0]
    assert trial.value == pytest.approx(0.65 if direction == "maximize" else -0.25)
    assert study.optuna_study.direction.name == ("MAXIMIZE" if direction == "maximize" else "MINIMIZE")
    assert load_study("s", storage=tmp_path / "s.db").settings.direction == direction


def test_one_of_several_metrics_decides(tmp_path):
    study = create_study("s", tasks=["a", "b"], metric="auc", direction="maximize", storage=tmp_path / "s.journal")
    run = study.add(["a", "b"], {"a": {"auc": 0.9, "loss": 3.0}, "b": {"auc": [0.5, 0.7], "loss": 2.0}})
    assert run.losses == {"a": (0.9, 0.0), "b": (0.6, 0.0)}
    assert run.metrics == {"a": {"auc": 0.9, "loss": 3.0}, "b": {"auc": 0.6, "loss": 2.0}}
    assert study.add(["a"], {"a": 0.8}).losses == {"a": (0.8, 0.0)}
    with pytest.raises(SettingError, match="has the metrics \\['loss'\\], but metric='auc' decides"):
        study.add(["a"], {"a": {"loss": 1.0}})


def test_targets_of_their_own_and_zero_shot(tmp_path):
    study = create_study("s", tasks=["wiki", "code"], targets=["math", "code"], storage=tmp_path / "s.journal")
    assert study.add(["wiki"], {"math": 0.4}).losses == {"math": (0.4, 0.0)}
    with pytest.raises(SettingError, match="'code', which was not in the run"):
        study.add(["wiki"], {"math": 0.4, "code": 0.3})
    with pytest.raises(SettingError, match="'wiki' is trained on and not measured"):
        study.add(["wiki"], {"wiki": 0.4})
    zero = create_study("z", tasks=["a", "b"], zero_shot=True, storage=tmp_path / "s.journal")
    zero.add(["a"], {"a": 0.3, "b": 0.9})
    assert zero.results().losses.tolist() == [[0.3, 0.9]]
    assert zero.results().trained.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"z": 1.0}, r"no task 'z'.* tasks are 'a', 'b', 'c', 'd'\.$"),
        ({"a": math.nan}, "loss of task 'a' should be a finite number.*Found nan.*diverged"),
        ({"a": math.inf}, "Found inf"),
        ({"a": [math.nan, math.nan]}, "Found \\[nan, nan\\]"),
        ({"a": "0.3"}, "Found '0.3'"),
        ({"a": True}, "Found True"),
        ({"a": (0.3, -1.0)}, "with the error -1.0"),
        ({"d": 1.0}, "'d', which was not in the run"),
        ({}, "loss of at least one task"),
        ({"a": None}, "loss of at least one task"),
        ({"a": {"auc": 1.0}}, "no metric was named to decide"),
        (0.3, "should map names of tasks"),
        ([1.0], "one row for each of the 2 tasks"),
        (None, "`losses` is missing"),
    ],
)
def test_losses_that_are_refused_leave_the_run_untold(study, losses, message):
    run = derive_runs_of(study, Wish((0, 1), 7))
    with pytest.raises(SettingError, match=message):
        study.tell(run, losses)
    assert study.tell(run, dict.fromkeys(run.tasks, 1.0)).state == "told"


def test_told_twice(study):
    run = study.ask()
    study.tell(run, losses_of(run))
    with pytest.raises(SettingError, match=r"run 0 .* is told already with a 0.1"):
        study.tell(run, dict.fromkeys(run.tasks, 9.0))
    with pytest.raises(SettingError, match="is told already"):
        study.tell(run, failed="late")
    assert [value for value, _ in study.runs[0].losses.values()] == list(losses_of(run).values())
    with pytest.raises(SettingError, match=r"no run 5\. It has 1 runs, up to 0"):
        study.tell(5, {"a": 1.0})
    with pytest.raises(SettingError, match="Found both"):
        study.tell(study.ask(), {"a": 1.0}, failed="why")


def test_a_run_that_is_there_is_not_added_again(study):
    run = study.ask()
    with pytest.raises(SettingError, match=f"run {run.number}, which is asked. Tell it"):
        study.add(run.tasks, losses_of(run), seed=run.seed)
    study.add(["a"], {"a": 1.0}, seed=5)
    with pytest.raises(SettingError, match="run 1, which is told"):
        study.add(["a"], {"a": 1.0}, seed=5)
    study.add(["a"], {"a": 1.0}, seed=5, variant="half")
    study.add(["a"], {"a": 1.0})
    study.add(["a"], {"a": 1.0})
    assert len(study.results().losses) == 4
    assert ("a",) in {run.tasks for run in study.ask(5)}


def test_a_lost_run_is_asked_again_and_counts_once(tmp_path):
    study = create_study("s", tasks=TASKS, storage=tmp_path / "s.db", reask_after=1e-6)
    lost = study.ask()
    again = study.ask()
    assert (again.tasks, again.seed, again.again) == (lost.tasks, lost.seed, lost.number)
    assert again.number != lost.number
    study.tell(again, losses_of(again))
    with pytest.warns(coterie.StoreWarning, match="told as run 1"):
        assert study.tell(lost, losses_of(lost)).state == "dropped"
    other = study.ask()
    assert (other.tasks, other.seed) != (lost.tasks, lost.seed)
    assert len(study.results().losses) == 1


def test_a_late_first_worker_counts_when_it_is_the_first_to_tell(tmp_path):
    study = create_study("s", tasks=TASKS, storage=tmp_path / "s.journal", reask_after=1e-6)
    lost, again = study.ask(), study.ask()
    assert study.tell(lost, losses_of(lost)).state == "told"
    with pytest.warns(coterie.StoreWarning, match="told as run 0"):
        study.tell(again, losses_of(again))
    assert study.results().losses[0, 0] == losses_of(lost)["a"]


def test_a_run_whose_worker_died_while_telling_is_ended(tmp_path, monkeypatch):
    study = create_study("s", tasks=TASKS, storage=tmp_path / "s.journal", reask_after=1e-6)
    run = study.ask()
    monkeypatch.setattr(Study, "_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study.tell(run, losses_of(run))
    monkeypatch.undo()
    assert study.runs[0].state == "asked"
    assert study.ask().again is None
    assert study.runs[0].state == "told"


def test_signs_of_life_and_runs_that_are_given_back(tmp_path):
    study = create_study("s", tasks=TASKS, storage=tmp_path / "s.journal", reask_after=1000)
    first, second = study.ask(2)
    study.keep_alive(first)
    study.give_back(second)
    assert study.ask().again == second.number


def test_a_limit_holds_for_all_workers(study):
    assert [study.ask_within(2) is None for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["a"]}, "at least 2 different names"),
        ({"tasks": ["a", "a"]}, "at least 2 different names"),
        ({"tasks": "ab"}, "at least 2 different names"),
        ({"tasks": ["a", " b"]}, "white space"),
        ({"direction": "down"}, "`direction` should be one of"),
        ({"direction": {"a": "minimize"}}, "one side only"),
        ({"models": 0}, "`models`"),
        ({"reask_after": 0}, "`reask_after`"),
        ({"storage": "study.txt"}, "should be a path that ends with .journal"),
        ({"storage": 3}, "should be a path that ends with .journal"),
        ({"storage": "://"}, "cannot be read"),
        ({"load": True}, "`load` of create_study does not exist"),
    ],
)
def test_settings_that_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=message):
        create_study("s", **{"tasks": TASKS, **arguments})


def test_a_study_that_is_there(tmp_path):
    place = tmp_path / "s.journal"
    create_study("s", tasks=TASKS, storage=place).add(["a"], {"a": 1.0})
    with pytest.raises(SettingError, match=r"There is a study 's' in .* already"):
        create_study("s", tasks=TASKS, storage=place)
    assert len(create_study("s", tasks=TASKS, storage=place, load_if_exists=True).runs) == 1
    with pytest.raises(StoreError, match=r"is another one: `tasks` is \['a', 'b', 'c', 'd'\], not \['a', 'x'\]"):
        create_study("s", tasks=["a", "x"], storage=place, load_if_exists=True)
    with pytest.raises(StoreError, match=r"no study 't' in .*. There are \['s'\]"):
        load_study("t", storage=place)


def test_storages_that_cannot_be_used(tmp_path):
    with pytest.raises(StoreError, match="there is no such file"):
        load_study("s", storage=tmp_path / "s.journal")
    assert not list(tmp_path.iterdir())
    for name in ("s.journal", "s.db"):
        (tmp_path / name).write_text("not a storage\n" * 3)
        with pytest.raises(StoreError, match="cannot be used"):
            load_study("s", storage=tmp_path / name)
    with pytest.raises((StoreError, coterie.MissingDependencyError), match=r"host\.invalid") as raised:
        load_study("s", storage="postgresql://me:secret@host.invalid/x")
    assert "secret" not in str(raised.value)
    optuna.create_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/o.db").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(StoreError, match="one of Optuna and not of Coterie"):
        load_study("theirs", storage=tmp_path / "o.db")


def test_without_a_storage_it_is_a_journal_in_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_study("my study", tasks=TASKS).ask()
    assert (tmp_path / "runs" / "my-study" / "study.journal").is_file()
    assert load_study("my study").runs[0].state == "asked"


def test_optuna_opens_it_and_trials_of_others_are_left_alone(study):
    run = study.ask()
    study.tell(run, losses_of(run))
    study.optuna_study.add_trial(optuna.trial.create_trial(value=1.0))
    assert study.optuna_study.best_trial.user_attrs["run"] == {"tasks": list(TASKS), "seed": 0}
    assert [one.number for one in study.runs] == [0]
    assert study.ask().number == 2


def test_frame_and_repr(study):
    pytest.importorskip("pandas")
    run = study.ask()
    study.tell(run, {"a": 0.5})
    study.ask()
    frame = study.to_frame()
    assert frame.loc[0, "a"] == 0.5
    assert np.isnan(frame.loc[0, "b"])
    assert frame["state"].tolist() == ["told", "asked"]
    assert "4 tasks, 1 runs told, 1 under way" in repr(study)
