"""A study: which runs to do, what they brought, and which groups follow from it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._check import whole_number
from coterie._surface import known_arguments, warn
from coterie.errors import SettingError, StoreWarning
from coterie.study.losses import full_report
from coterie.study.propose import CONFIRMATION, advise, choose_subsets, spare_subsets
from coterie.study.results import Floats, Results
from coterie.study.runs import (
    ALIVE,
    ASKED,
    DROPPED,
    FAILED,
    GIVEN_BACK,
    RESULT,
    TOLD,
    RunLog,
    StudyRun,
    Wish,
    count_of,
    entry,
    lost_runs,
    root_of,
    seen_by_optuna,
    shown_losses,
    token_of,
    told_runs,
)
from coterie.study.settings import StudySettings
from coterie.study.storage import reaching

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    import optuna
    import pandas

    from coterie.affinity import Affinity
    from coterie.grouping import Grouping
    from coterie.study.recommend import StudyRecommendation
    from coterie.study.study_view import Aim


class Study:
    """Runs that are asked for and told by any number of workers. See :func:`coterie.create_study`.

    Attributes:
        name: of the study.
        settings: tasks, targets, direction and the like.
        optuna_study: the Optuna study underneath, for Optuna's own tools.
        place: where it is kept, in words.
    """

    def __init__(self, optuna_study: optuna.Study, settings: StudySettings, place: str) -> None:
        self.optuna_study, self.settings, self.place = optuna_study, settings, place
        self.name: str = optuna_study.study_name
        self._log = RunLog(settings)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that can be trained on."""
        return self.settings.tasks

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the tasks that are measured."""
        return self.settings.measured

    @property
    def runs(self) -> tuple[StudyRun, ...]:
        """All runs, in the order in which they were asked for or added."""
        return tuple(self._log.read(self._trials()))

    def __repr__(self) -> str:
        runs = self.runs
        waiting = sum(run.state == ASKED for run in runs)
        return (
            f"Study({self.name!r}, {len(self.tasks)} tasks, {len(told_runs(runs))} runs told, {waiting} under way, "
            f"{self.place})"
        )

    @known_arguments
    def ask(self, count: int | None = None) -> Any:
        """Ask for the next run, which no other worker gets.

        Args:
            count: ask for so many at once.

        Returns:
            A :class:`StudyRun` with `tasks`, `seed` and `number`, or a list of them where `count` is given.

        Raises:
            StoreError: when the storage cannot be used.
        """
        wanted = 1 if count is None else whole_number(count, "count", low=1)
        found = [self.ask_within(None) for _ in range(wanted)]
        return found if count is not None else found[0]

    def ask_within(self, limit: int | None, *, stop: bool = False) -> StudyRun | None:
        """The next run, or None where there are enough.

        Args:
            limit: so many runs the study may have, asked or told, of all workers together; None for any number.
            stop: whether more runs that are not expected to be worth it are too many.
        """
        with reaching(self.place):
            while True:
                runs = self.runs
                stale = self._stale(runs)
                full = limit is not None and count_of(runs) >= limit
                if full and not stale:
                    return None
                advice = advise(self, runs)
                if stop and advice.enough and not stale:
                    return None
                wishes = [*(Wish(again=run.number) for run in stale), *advice.wishes]
                token = uuid.uuid4().hex
                number = self._append(entry(wishes, token, why=advice.why, enough=advice.enough), token)
                numbered = {one.number: one for one in self.runs}
                run = numbered[number]
                before = [one for one in numbered.values() if one.number < number]
                told = {root_of(one, numbered) for one in numbered.values() if one.state == TOLD}
                if run.again is not None and root_of(run, numbered) in told:
                    self._drop(run, "its first worker told it meanwhile")
                elif run.again is None and limit is not None and count_of(before) >= limit:
                    self._drop(run, "the study has as many runs as were wanted")
                else:
                    self._show(run)
                    return run

    #: what chooses the next runs, and random ones for workers that ask at the same moment
    choose, spare = choose_subsets, spare_subsets

    def _append(self, attributes: dict[str, Any], token: str, **more: Any) -> int:
        """Write a new entry; returns its number."""
        import optuna

        more.setdefault("state", optuna.trial.TrialState.RUNNING)
        self.optuna_study.add_trial(optuna.trial.create_trial(system_attrs=attributes, **more))
        return next(trial.number for trial in reversed(self._trials()) if token_of(trial) == token)

    def _trials(self) -> list[Any]:
        with reaching(self.place):
            return self.optuna_study.get_trials(deepcopy=False)

    def _stale(self, runs: Sequence[StudyRun]) -> list[StudyRun]:
        """Runs that nobody has told for too long; one whose losses are there, but not its end, is ended."""
        found = lost_runs(runs, time.time() - self.settings.reask_after)
        for run in found:
            if run.losses is not None:
                self._end(run.number, self._value(run.losses))
        return [run for run in found if run.losses is None]

    def _show(self, run: StudyRun) -> None:
        """Say on the trial what run it stands for; nothing depends on it."""
        self._note(run.number, "run", seen_by_optuna(run.tasks, run.seed, run.variant, [*(run.shares or {}).values()]))

    def _note(self, number: int, key: str, value: Any) -> None:
        storage = self.optuna_study._storage
        found = storage.get_trial_id_from_study_id_trial_number(self.optuna_study._study_id, number)
        storage.set_trial_user_attr(found, key, value)

    def _drop(self, run: StudyRun, why: str) -> None:
        self._note(run.number, FAILED, f"{DROPPED}: {why}")
        self._end(run.number, None)

    def _end(self, number: int, value: float | None) -> None:
        """Give a trial its last state."""
        from optuna.trial import TrialState

        if value is None:
            self.optuna_study.tell(number, state=TrialState.FAIL)
        else:
            self.optuna_study.tell(number, value)

    def _value(self, losses: Mapping[str, tuple[float, float]]) -> float:
        """The number that Optuna's tools show: the mean loss, of which less is better where directions differ."""
        signs = dict(zip(self.targets, self.settings.signs, strict=True))
        turn = -1.0 if self.settings.optuna_direction == "maximize" else 1.0
        return float(np.mean([turn * signs[task] * value for task, (value, _) in losses.items()]))

    @known_arguments
    def tell(
        self,
        run: StudyRun | int,
        losses: Any = None,
        *,
        test: Any = None,
        cost: float | None = None,
        failed: str | None = None,
    ) -> StudyRun:
        """Tell what came of a run.

        Args:
            run: what :meth:`ask` returned, or its number.
            losses: task -> loss on validation data; or one row a task of the run, in their order. A loss is a number,
                one number an example (their mean counts), a tuple (mean, standard error), or a mapping of metrics to
                these. A task of the run that is left out was trained and not measured. A :class:`coterie.Outcome` will
                do, too.
            test: the same on test data, which choose nothing.
            cost: what the run took, in the unit of the study.
            failed: why it brought no losses.

        Returns:
            The run as it is kept now.

        Raises:
            SettingError: for a run that is not in the study or was told before, a task that is not in it or was not in
                the run, a loss that is not finite. Nothing is kept then, and the run can be told again.
            StoreError: when the storage cannot be used.
        """
        number = run.number if isinstance(run, StudyRun) else whole_number(run, "run", low=0)
        with reaching(self.place):
            runs = {one.number: one for one in self.runs}
            found = self._untold(number, runs)
            if failed is not None:
                if losses is not None or test is not None:
                    raise SettingError("Parameter `failed` says why there are no losses. Found both. Give one of them.")
                if not str(failed).strip():
                    raise SettingError(f"Parameter `failed` should say why, in words. Found {failed!r}.")
                self._note(number, FAILED, str(failed))
                return self._finish(found, None)
            report = full_report(self.settings, (self._read(losses), self._read(test), cost), found.tasks)
            self._note(number, RESULT, report)
            root = root_of(found, runs)
            other = [one for one in runs.values() if one.state == TOLD and root_of(one, runs) == root]
            if other:
                warn(
                    f"Run {number} took longer than `reask_after`={self.settings.reask_after:g} s, was asked for again "
                    f"and told as run {other[0].number}. This result is kept with it and counts no second time.",
                    StoreWarning,
                )
                self._note(number, FAILED, f"{DROPPED}: told before as run {other[0].number}")
                return self._finish(found, None)
            return self._finish(found, self._value({t: (v, e) for t, (v, e) in report["losses"].items()}))

    def _read(self, losses: Any) -> Any:
        """What was told, in a form that every study takes."""
        return losses

    def _untold(self, number: int, runs: Mapping[int, StudyRun]) -> StudyRun:
        """A run that waits for its losses."""
        if number not in runs:
            raise SettingError(
                f"Parameter `run`: the study {self.name!r} has no run {number}. It has {len(runs)} runs"
                + (f", up to {max(runs)}." if runs else "; ask for one first.")
            )
        found = runs[number]
        if found.state != ASKED:
            raise SettingError(
                f"Parameter `run`: run {number} on {list(found.tasks)!r:.80} is {found.state} already"
                + (f" ({found.reason})" if found.reason else f" with {shown_losses(found)}")
                + ". What was told first stays. A repetition is another run: ask for one, or add(tasks, losses)."
            )
        return found

    def _finish(self, run: StudyRun, value: float | None) -> StudyRun:
        """The last state of a run, which another process may have given it at the same moment."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._end(run.number, value)
        except (UpdateFinishedTrialError, ValueError) as error:
            raise SettingError(
                f"Parameter `run`: run {run.number} was told by another process at the same moment ({error})."
            ) from error
        return next(one for one in self.runs if one.number == run.number)

    @known_arguments
    def add(
        self,
        tasks: Sequence[str],
        losses: Any,
        *,
        test: Any = None,
        seed: int | None = None,
        cost: float | None = None,
        variant: str = "",
    ) -> StudyRun:
        """Add a run that was made before, or without being asked for.

        Args:
            tasks: names of the tasks that it trained on.
            losses: see :meth:`tell`.
            test: see :meth:`tell`.
            seed: of its training; None where it is not known.
            cost: see :meth:`tell`.
            variant: the way in which it was trained, in your own words; "" is the usual one.

        Raises:
            SettingError: for what :meth:`tell` refuses, and for a run with these tasks, seed and variant that is there.
            StoreError: when the storage cannot be used.
        """
        from coterie.study.table import addable

        wish = addable(self, tasks, seed, variant)
        number = self.append_told(
            wish, full_report(self.settings, (losses, test, cost), [self.tasks[task] for task in wish.tasks])
        )
        return next(run for run in self.runs if run.number == number)

    @known_arguments
    def add_table(self, table: Any) -> list[StudyRun]:
        """Add the runs of a table: one row a run, one column a task with its loss.

        Args:
            table: a data frame, or the path of a CSV file with a header. A cell is a loss where the task was trained
                and measured, ``trained`` where it was trained and not measured, empty where it was not in the run, and
                ``0.3 zero-shot`` where it was measured and not trained. ``0.31+-0.02`` gives a standard error. Columns
                `seed`, `cost` and `variant` may be there.

        Returns:
            The runs that were added. Rows that are there already, number by number, are left out.

        Raises:
            SettingError: for a column that is no task, or a row that :meth:`add` would refuse; nothing is added then.
            StoreError: when the file or the storage cannot be read.
        """
        from coterie.study.table import add_rows, read_rows

        return add_rows(self, read_rows(table, self.settings))

    def append_told(self, wish: Wish, report: dict[str, Any]) -> int:
        """Add a finished run that was checked before, in one step; returns its number."""
        from optuna.trial import TrialState

        shown = seen_by_optuna([self.tasks[task] for task in wish.tasks], wish.seed, wish.variant, wish.shares)
        losses = {task: (value, error) for task, (value, error) in report["losses"].items()}
        told = {"state": TrialState.COMPLETE, "value": self._value(losses)}
        token = uuid.uuid4().hex
        with reaching(self.place):
            attributes = entry([wish], token, added=True)
            return self._append(attributes, token, user_attrs={"run": shown, RESULT: report}, **told)

    def keep_alive(self, run: StudyRun) -> None:
        """Say that the worker of a run is alive, so that it is not asked for again."""
        with reaching(self.place):
            self._note(run.number, ALIVE, time.time())

    def give_back(self, run: StudyRun) -> None:
        """Let a run be asked for again at once, by whoever asks next."""
        with reaching(self.place):
            self._note(run.number, ALIVE, GIVEN_BACK)

    @known_arguments
    def optimize(self, function: Any, *, runs: int | None = None, executor: Executor | None = None) -> list[StudyRun]:
        """Ask for runs, have them done and tell them, until the study has so many.

        Args:
            function: called as ``function(tasks, seed)``; returns what :meth:`tell` takes as losses. A trainer will do,
                too, such as :class:`coterie.training.CommandTrainer`.
            runs: so many runs the study shall have, with those of before and of other workers; None: until more are not
                expected to be worth it.
            executor: where the function works; None is this process.

        Returns:
            The runs that were done here. One that fails is told as failed, with its error.

        Raises:
            ModelError: when three runs in a row failed; what was told is kept.
            StoreError: when the storage cannot be used.
            WorkerError: when the executor takes no work.
        """
        from coterie.study.optimize import optimize

        return optimize(self, function, None if runs is None else whole_number(runs, "runs", low=1), executor)

    def results(self, part: str = "validation") -> Results:
        """The runs that were told, as arrays.

        Args:
            part: ``"validation"``, or ``"test"`` for the losses on test data, where there are such.

        Raises:
            SettingError: for another part.
        """
        from coterie.study.answers import results_of

        return results_of(self, part)

    @known_arguments
    def predict(self, subsets: Any, *, variant: str = "", predictor: Any = None) -> tuple[Floats, Floats]:
        """Losses of subsets that need not have been trained, and their standard errors.

        Args:
            subsets: lists of names of tasks, or (subsets, tasks) truth values.
            variant: the way in which they would be trained.
            predictor: name of a predictor, or one of your own; None is the best that is known.

        Returns:
            Two arrays (subsets, targets) in the direction of the study, NaN for a task outside of the subset.

        Raises:
            SettingError: for an unknown task or predictor, or without any run that was told.
        """
        from coterie.study.answers import as_masks, predict

        masks = as_masks(self, subsets)
        return predict(self, masks, [variant] * len(masks), predictor)

    @known_arguments
    def recommend(
        self,
        *,
        models: int | None = None,
        costs: float | None = None,
        values: str = "posterior",
        predictor: Any = None,
    ) -> StudyRecommendation:
        """Which groups to train and serve, and whether that is known to be better than one model.

        Args:
            models: the most models that may be served; None: as many as the study says, or any number with `costs`.
            costs: the most that they may cost together, in the unit of the study.
            values: ``"posterior"``: what the predictor knows; ``"observed"``: as measured, mean over seeds.
            predictor: see :meth:`predict`.

        Raises:
            SettingError: for another kind of values, or limits that no models keep.
            WorkloadError: without any run that was told, or with a target that no run measured.
        """
        from coterie.study.answers import recommend

        written = self.optuna_study.user_attrs.get(CONFIRMATION)
        found = recommend(self, models, costs, values, predictor, written)
        new = found.confirmation
        if new is not None and (models, costs, values) == (None, None, "posterior") and new.to_dict() != written:
            with reaching(self.place):
                self.optuna_study.set_user_attr(CONFIRMATION, new.to_dict())
        return found

    def aim(self, models: int | None = None, costs: float | None = None) -> Aim:
        """What is to be decided: how many models, at what cost, of which subsets."""
        from coterie.study.study_view import Aim

        own = self.settings
        return Aim(own.models if models is None and costs is None else models, costs, own.matters, own.subset_rules)

    @known_arguments
    def affinity(self, *, predictor: Any = None) -> Affinity:
        """Who helps whom, as far as the runs tell: rows are targets, larger is better.

        An entry is the expected relative reduction of the target's loss when the source is trained along: the mean of
        training beside nothing else and beside all other tasks.

        Args:
            predictor: see :meth:`predict`.

        Raises:
            SettingError: where targets are others than tasks, or no run was told.
        """
        from coterie.study.page import affinity_of

        return affinity_of(self, predictor)

    def grouping(self) -> Grouping:
        """The groups of :meth:`recommend`, as every other way to find groups gives them.

        Raises:
            SettingError: where targets are others than tasks.
            WorkloadError: without any run that was told.
        """
        from coterie.study.page import grouping_of

        return grouping_of(self)

    def report(self, path: str | Path) -> Path:
        """Write a page about the study: what to serve and why, who helps whom, all runs. One file that loads nothing.

        Args:
            path: of the HTML file.

        Raises:
            StoreError: when it cannot be written.
        """
        from coterie.study.page import write_page

        return write_page(self, path)

    def _repr_html_(self) -> str:
        """What to serve and the last runs, for notebooks."""
        from coterie.study.page import as_html

        return as_html(self)

    def to_frame(self) -> pandas.DataFrame:
        """One row a run: `tasks`, `seed`, `variant`, `state`, `cost`, `reason`, and the loss of each target."""
        from coterie.study.table import runs_frame

        return runs_frame(self.runs, self.targets)
