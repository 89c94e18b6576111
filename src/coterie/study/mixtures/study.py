"""A study of mixtures: runs on proportions of data sets, what they brought, and which proportions follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from coterie._check import whole_number
from coterie._show import html_table
from coterie._surface import known_arguments, warn
from coterie.errors import CoterieError, DataWarning, SettingError
from coterie.study.losses import full_report
from coterie.study.mixtures.imports import losses_by_target, number_in, read_mixture_tables
from coterie.study.mixtures.objective import MixtureAim
from coterie.study.mixtures.predictors import find_mixture_predictor
from coterie.study.mixtures.propose import choose_mixtures, spare_mixtures, wish_for
from coterie.study.mixtures.results import MixtureResults, check_told
from coterie.study.mixtures.settings import MixtureSettings
from coterie.study.propose import CONFIRMATION
from coterie.study.results import Floats
from coterie.study.runs import ASKED, TOLD, StudyRun, Wish, told_runs
from coterie.study.storage import reaching
from coterie.study.study import Study

if TYPE_CHECKING:
    import pandas

    from coterie.affinity import Affinity
    from coterie.grouping import Grouping
    from coterie.study.mixtures.recommend import MixtureRecommendation

#: runs that a notebook shows
_SHOWN = 20


class MixtureStudy(Study):
    """A study of kind "mixture". See :func:`coterie.create_study`.

    A run has `shares`: source -> its share of the data. `tell` takes one number a target, by name or in their order, or
    the path of a file of results of lm-evaluation-harness.
    """

    choose = cast("Any", choose_mixtures)
    spare = cast("Any", spare_mixtures)

    @property
    def about(self) -> MixtureSettings:
        """The settings."""
        return cast("MixtureSettings", self.settings)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return self.settings.tasks

    def _read(self, losses: Any) -> Any:
        return losses_by_target(losses, self.about)

    @known_arguments
    def add(  # pyright: ignore[reportIncompatibleMethodOverride] - shares in place of tasks
        self,
        mixture: Any,
        losses: Any,
        *,
        test: Any = None,
        seed: int | None = None,
        cost: float | None = None,
        variant: str = "",
    ) -> StudyRun:
        """Add a run that was made before, or without being asked for.

        Args:
            mixture: source -> share, or one share a source; they add up to 1.
            losses: see :meth:`tell`.
            test: see :meth:`tell`.
            seed: of its training; None where it is not known.
            cost: see :meth:`tell`.
            variant: what differs from the run that the study asks about, such as ``"size 1M"`` or ``"300 steps"``; ""
                is that run. Runs of a variant are evidence with a slope of its own for each target.

        Raises:
            SettingError: for what :meth:`tell` refuses, and for a run with these shares, seed and variant
                that is there.
            StoreError: when the storage cannot be used.
        """
        shares = self.about.shares(mixture, "mixture")
        wish = self._addable(shares, seed, variant)
        report = self._report(shares, self._read(losses), self._read(test), cost)
        number = self.append_told(wish, report)
        return next(run for run in self.runs if run.number == number)

    @known_arguments
    def add_table(  # pyright: ignore[reportIncompatibleMethodOverride] - two tables
        self, ratios: Any, metrics: Any = None, *, variant: str = ""
    ) -> list[StudyRun]:
        """Add the runs of two tables: one column a source in one, one column a target in the other, one row a run.

        Args:
            ratios: a data frame or the path of a CSV file; columns `seed`, `cost` and `variant` may be there. Columns
                `run`, `name` and `index` name runs.
            metrics: the same, with a column a target, empty where it was not measured.
            variant: of the runs that name none, see :meth:`add`.

        Returns:
            The runs that were added. Rows that are there already, number by number, are left out.

        Raises:
            SettingError: for a column that is nothing, or a row that :meth:`add` would refuse; nothing is added then.
            StoreError: when a file or the storage cannot be read.
        """
        if metrics is None:
            raise SettingError(
                "Parameter `metrics` is missing: a study of mixtures takes two tables, `ratios` with a column a source "
                "and `metrics` with a column a target, a row a run in both."
            )
        there = {self._mark(Wish.of(run, self.settings), run.losses or {}) for run in self.runs if run.state == TOLD}
        ready: list[tuple[Wish, dict[str, Any]]] = []
        rows = read_mixture_tables(ratios, metrics, self.about)
        for number, (shares, losses, more) in enumerate(rows, start=1):
            try:
                given = number_in(more, "seed")
                seed = (
                    None if given is None else whole_number(int(given) if given == int(given) else given, "seed", low=0)
                )
                wish = self._addable(shares, seed, more["variant"] or variant, check=False)
                report = self._report(shares, losses, None, number_in(more, "cost"))
            except (SettingError, ValueError) as error:
                raise SettingError(f"Row {number} of the tables: {error} Nothing was added.") from error
            if self._mark(wish, losses) not in there:
                ready.append((wish, report))
        numbers = {self.append_told(wish, report) for wish, report in ready}
        if len(numbers) < len(rows):
            left = len(rows) - len(numbers)
            warn(f"{left} of {len(rows)} rows are in the study already and were left out.", DataWarning)
        return [run for run in self.runs if run.number in numbers]

    def results(self, part: str = "validation") -> MixtureResults:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The runs that were told, as arrays; lower is better.

        Args:
            part: ``"validation"``, or ``"test"`` for the numbers on test data, where there are such.

        Raises:
            SettingError: for another part.
        """
        if part not in ("validation", "test"):
            raise SettingError(f"Parameter `part` should be 'validation' or 'test'. Found {part!r}.")
        told = [(run, run.losses if part == "validation" else run.test) for run in told_runs(self.runs)]
        rows = [(run, losses) for run, losses in told if losses and run.shares]
        costs = [run.cost for run, _ in rows if run.cost is not None]
        usual = float(np.mean(costs)) if costs else 1.0
        nothing = (np.nan, 0.0)
        losses = np.array([[values.get(name, nothing)[0] for name in self.targets] for _, values in rows])
        shares = [[(run.shares or {}).get(name, 0.0) for name in self.sources] for run, _ in rows]
        return MixtureResults(
            self.sources,
            self.targets,
            np.array(shares, dtype=np.float64).reshape(len(rows), len(self.sources)),
            losses.reshape(len(rows), len(self.targets)) * self.settings.signs,
            np.array([-1 if run.seed is None else run.seed for run, _ in rows], dtype=np.int64),
            tuple(run.variant for run, _ in rows),
            np.array([usual if run.cost is None else run.cost for run, _ in rows]),
        )

    @known_arguments
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] - mixtures in place of subsets
        self, mixtures: Any, *, predictor: Any = None
    ) -> tuple[Floats, Floats]:
        """Numbers of mixtures that need not have been trained, and their standard errors.

        Args:
            mixtures: a list of mappings source -> share, or (mixtures, sources) shares.
            predictor: name of a predictor, or one of your own; None is the usual one.

        Returns:
            Two arrays (mixtures, targets) in the direction of the study.

        Raises:
            SettingError: for an unknown source or predictor.
            WorkloadError: without any run that was told, or with a target that no run measured.
        """
        rows = [self.about.shares(mixture, "mixtures") for mixture in mixtures]
        results = self.results()
        check_told(results)
        if not rows:
            return np.zeros((0, len(self.targets))), np.zeros((0, len(self.targets)))
        shares = np.stack(rows)
        values, errors = find_mixture_predictor(predictor).fit(results).predict(shares)
        return values * self.settings.signs, errors

    @known_arguments
    def recommend(  # pyright: ignore[reportIncompatibleMethodOverride] - another answer
        self, *, models: int | None = None, predictor: Any = None
    ) -> MixtureRecommendation:
        """Which mixture to train on, and whether that is known to be better than the natural proportions.

        Args:
            models: so many mixtures may be served, each for some targets; None: as many as the study says.
            predictor: see :meth:`predict`.

        Raises:
            WorkloadError: without any run that was told, or with a target that no run measured.
        """
        from coterie.study.mixtures.confirmation import MixtureConfirmation
        from coterie.study.mixtures.recommend import recommend_mixture

        stored = self.optuna_study.user_attrs.get(CONFIRMATION)
        found = recommend_mixture(
            self.results(),
            self.aim(models),
            predictor=None if predictor is None else find_mixture_predictor(predictor),
            confirmation=None if stored is None else MixtureConfirmation.from_dict(stored),
            signs=self.settings.signs,
        )
        new = found.confirmation
        if new is not None and predictor is None and new.to_dict() != stored:
            with reaching(self.place):
                self.optuna_study.set_user_attr(CONFIRMATION, new.to_dict())
        return found

    def aim(  # pyright: ignore[reportIncompatibleMethodOverride] - another aim
        self, models: int | None = None
    ) -> MixtureAim:
        """What is to be decided."""
        low, high = self.about.bounds
        count = self.settings.models if models is None else whole_number(models, "models", low=1)
        return MixtureAim(
            self.about.shares_of_targets, low, high, self.about.natural_shares, count, self.settings.matters,
            str(self.about.units),
        )  # fmt: skip

    def affinity(self, *, predictor: Any = None) -> Affinity:
        """There is none: sources are others than targets.

        Raises:
            SettingError: always.
        """
        del predictor
        raise SettingError("A study of mixtures has no affinity of tasks. `recommend` and `predict` take it.")

    def grouping(self) -> Grouping:
        """There is none: see `groups` of :meth:`recommend`.

        Raises:
            SettingError: always.
        """
        raise SettingError("A study of mixtures has no grouping of tasks. See `recommend(models=2).groups`.")

    def report(self, path: str | Path) -> Path:
        """Write the page of the study: what to train on, and a slider a source to look at other mixtures.

        Args:
            path: of the page; with the ending .json, what :meth:`recommend` says is written in its place.

        Raises:
            WorkloadError: without any run that was told, or with a target that no run measured.
            StoreError: when it cannot be written.
        """
        from coterie._files import make_directory, user_path
        from coterie._json import write_json
        from coterie.study.mixtures.page import write_mixture_page

        place = user_path(path)
        if place.suffix != ".json":
            return write_mixture_page(self, place)
        make_directory(place.parent)
        write_json(place, self.recommend().to_dict())
        return place

    def _repr_html_(self) -> str:
        """What to train on and the last runs, for notebooks."""
        runs = self.runs
        rows = [
            (run.number, run.state, "" if run.seed is None else run.seed, shown_shares(run), run.reason or "")
            for run in runs[-_SHOWN:]
        ]
        table = html_table(("run", "state", "seed", "mixture", ""), rows, f"{self.name}: {len(runs)} runs")
        try:
            return f"{self.recommend()._repr_html_()}{table}"
        except CoterieError:
            return table

    def to_frame(self) -> pandas.DataFrame:
        """One row a run: `seed`, `variant`, `state`, `cost`, the share of each source and the number of each target."""
        from coterie.study.table import runs_frame

        frame = runs_frame(self.runs, self.targets)
        for place, source in enumerate(self.sources):
            column = [(run.shares or {}).get(source, 0.0) for run in self.runs]
            frame.insert(5 + place, f"share of {source}", column)
        return frame

    def _addable(self, shares: Floats, seed: int | None, variant: str, *, check: bool = True) -> Wish:
        """A run that is not there yet."""
        wish = wish_for(self.about, shares, None if seed is None else whole_number(seed, "seed", low=0), str(variant))
        for run in self.runs if check and seed is not None else ():
            if run.state in (ASKED, TOLD) and Wish.of(run, self.settings).key == wish.key:
                way = f"Tell it: {run.number}." if run.state == ASKED else "Another training has another seed, or None."
                raise SettingError(
                    f"The study has a run on this mixture with seed {seed} already: run {run.number}, which is "
                    f"{run.state}. {way}"
                )
        return wish

    def _report(self, shares: Floats, losses: Any, test: Any, cost: float | None) -> dict[str, Any]:
        names = [name for name, share in zip(self.sources, shares, strict=True) if share > 0]
        return full_report(self.settings, (losses, test, cost), names)

    @staticmethod
    def _mark(wish: Wish, losses: Any) -> tuple[Any, ...]:
        """Equal for the same run with the same numbers."""
        return (*wish.key, tuple(sorted((name, float(value)) for name, (value, _) in losses.items())))


def shown_shares(run: StudyRun, most: int = 6) -> str:
    """The largest shares of a run, for tables.

    Example:
        >>> shown_shares(StudyRun(("a", "b"), 0, 1, shares={"a": 0.25, "b": 0.75}))
        'b 75 %, a 25 %'
    """
    largest = sorted((run.shares or {}).items(), key=lambda pair: -pair[1])
    text = ", ".join(f"{name} {100 * share:.3g} %" for name, share in largest[:most])
    return text + (f" and {len(largest) - most} more" if len(largest) > most else "")
