"""The main job, end to end: workload -> affinity -> groups -> models trained and compared -> report and predictor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from coterie._bars import following
from coterie._check import whole_number
from coterie._context import Context
from coterie._progress import Progress, silent
from coterie._show import brief
from coterie._surface import known_arguments, once, said_once
from coterie._units import NoStore, UnitStore
from coterie.affinity import Affinity, Estimate, Estimator, GainModel
from coterie.affinity.affinity import table_bytes
from coterie.affinity.costs import Costs, training_flops
from coterie.affinity.gain_model import random_subsets
from coterie.balancing import Balancing
from coterie.balancing.methods import as_balancing, balancing_key
from coterie.errors import CoterieWarning, SettingError
from coterie.evaluation import Comparison, Recommendation, TrainedComparison, compare
from coterie.evaluation.compare import affordable, metric_settings
from coterie.evaluation.recommend import conclude
from coterie.evaluation.verdict import WORTHWHILE, check_worthwhile
from coterie.grouping import Grouping
from coterie.pipeline.accounts import COMPARISON, ESTIMATE, READING, REPORT, Accounts, RecordingStore
from coterie.pipeline.candidates import (
    SEARCH,
    candidate_groupings,
    estimated_affinity,
    kept_affinity,
    short_formula,
    typical_size,
)
from coterie.pipeline.check import as_source, check_out, check_settings, chosen_method
from coterie.pipeline.planning import check_runs
from coterie.pipeline.results import Findings, describe, priced
from coterie.report.notebook import as_html
from coterie.store import RunDirectory
from coterie.training.trainer import Trainer, names_of
from coterie.workload import Workload, validate
from coterie.workload.fingerprint import fingerprint

#: a note of a run with balancing
BALANCED = (
    "Groups were proposed by an estimate for the loss pooled over labels; all candidates were trained and compared "
    "with balancing: {}."
)
#: settings that say how much is compared, and nothing about the estimate: a run directory may go on with larger ones
GROWS = ("budget", "compare_runs", "seeds", "worthwhile")


@known_arguments
@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run found.

    Attributes:
        path: the run directory; None when nothing was written.
        affinity: estimated affinity; rows are targets, larger is better.
        grouping: the grouping found from the estimate.
        served: the grouping that is recommended, and served.
        comparison: the candidates, trained for real.
        recommendation: what to do, in one line.
        result: everything, JSON-ready, as in ``result.json``.
        workload: what was run, for :func:`coterie.load` of a run without a directory; None with one.
        files: the served models of such a run, as they would have been written.
    """

    path: Path | None
    affinity: Affinity
    grouping: Grouping
    served: Grouping
    comparison: Comparison
    recommendation: Recommendation
    result: Mapping[str, Any] = field(repr=False)
    workload: Workload | None = field(default=None, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    @property
    def report(self) -> Path | None:
        """The page for people; None when nothing was written."""
        return None if self.path is None else self.path / "report.html"

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return dict(self.result)

    def __str__(self) -> str:
        return self.recommendation.text

    def __repr__(self) -> str:
        where = "" if self.path is None else f"; {self.path}"
        return f"RunResult({self.recommendation.text!r}; served={brief(self.served.names)}{where})"

    def _repr_html_(self) -> str:
        """The recommendation and the tables of the page, for notebooks."""
        return as_html(self.result, self.report)


@known_arguments
def run(
    workload: Workload | Trainer | str,
    *,
    method: str | Estimator | None = None,
    groups: int | None = None,
    budget: int | None = None,
    seeds: int = 5,
    compare_runs: int | None = None,
    worthwhile: float = WORTHWHILE,
    balancing: Balancing | str | None = None,
    metrics: Any = None,
    decide_by: Any = None,
    search_limit: float | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    memory: int = 2**30,
    seed: int = 0,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> RunResult:
    """Find groups of tasks that are worth training together, train them, and compare.

    Args:
        workload: a workload, a built-in name (``"yeast"``) or ``"file.py:name"``; or a trainer, such as
            :class:`coterie.FunctionTrainer`, whose models are not saved.
        method: affinity estimator, ``"fused"`` (default), ``"secants"``, ``"grad-tag"`` (as published), any other
            name of :data:`coterie.affinity.METHODS`, or its settings. For trainers that are no workload,
            ``"kernel-surrogate"`` (default) or ``"linear-surrogate"``.
        groups: number of groups; None tries several.
        budget: largest number of models that may be served; None for no limit.
        seeds: trainings of every candidate model.
        compare_runs: largest number of real trainings that the comparison may take; with less than it needs for all
            candidates, they are eliminated by successive halving. None for no limit.
        worthwhile: the smallest gain over one model for all tasks that is worth more models, as a share. The verdict
            is "no" only where such a gain is excluded, and "undecided" where neither can be told from noise.
        balancing: how tasks are balanced in the models that are compared and served: a name of
            :data:`coterie.balancing.METHODS`, or a :class:`coterie.balancing.Balancing` with options. None for the
            recipe's loss, pooled over labels. The estimate keeps that loss: its short trainings and gradients are
            about a fixed objective, and what it proposes is decided by the comparison, with balancing.
        metrics: what predictions are judged by beside the loss, in tables and on the page, with intervals; see
            :func:`coterie.compare`.
        decide_by: a metric, such as ``"auroc"``, by which the comparison decides in place of the loss. What it compares
            was still found from losses.
        search_limit: seconds that the search for groups may take; the best groups so far then count, and depend on the
            machine. None searches to the end.
        out: run directory, which can be resumed after a kill, and goes on when it is asked for more `seeds`, a larger
            `budget` or more `compare_runs`: what was trained is used again. None writes nothing.
        overwrite: start anew in a run directory that holds another run.
        memory: working memory in bytes.
        seed: of everything random.
        progress: called as ``progress(stage, done, total)``. True shows bars on a terminal, with the time that is left
            at the rate so far, one line in a notebook, and nothing elsewhere.
        executor: where trainings and features are computed; None is this process. The result is the same with any
            executor; see docs/cluster.md.
        options: settings of the estimator, e.g. ``bases=2``.

    Raises:
        SettingError, WorkloadError, ModelError, ResourceError, StoreError: see :mod:`coterie.errors`.

    Cost: the estimate (a few trainings) and ``seeds`` trainings of every candidate group.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from coterie import Recipe, from_arrays
        >>> x, y = load_digits(return_X_y=True)
        >>> recipe = Recipe(epochs=2, batch_size=50, check_every=4)
        >>> work = from_arrays(x[:300], (y[:300, None] == range(3)).astype(float), recipe=recipe, hidden=(8,))
        >>> result = run(work, groups=2, seeds=2, bases=1)
        >>> len(result.grouping.groups), result.comparison.candidates
        (2, ('all-in-one', 'grouped (2)', 'single-task'))
    """
    accounts = Accounts(executor=executor is not None)
    balancing = as_balancing(balancing)
    workload = as_source(workload)
    name, estimator = chosen_method(run, workload, method, options)
    groups, budget, seeds, seed, memory = check_settings(workload, groups, budget, seeds, seed, memory, search_limit)
    check_runs(len(names_of(workload)), groups, budget, seeds, compare_runs)
    check_out(out)
    check_worthwhile(worthwhile)
    settings = {
        "method": name, "estimator": estimator.to_dict(),
        "groups": groups, "budget": budget, "seeds": seeds, "seed": seed,
        **({} if compare_runs is None else {"compare_runs": compare_runs}),
        **({} if worthwhile == WORTHWHILE else {"worthwhile": worthwhile}),
        **({} if search_limit is None else {"search_limit": float(search_limit)}),
        **balancing_key(balancing), **metric_settings(workload, metrics, decide_by),
    }  # fmt: skip
    with once(workload) as caught, following(progress) as tell:
        if isinstance(workload, Workload):
            validate(workload)
        with _open(workload, settings, out, overwrite=overwrite) as directory:
            store = RecordingStore(directory)
            context = Context(seed, memory, store, tell, executor)
            accounts.close(READING, None)
            size = typical_size(len(names_of(workload)), groups)
            estimate = estimator.estimate(cast("Workload", workload), context, size)
            accounts.close(ESTIMATE, estimate.costs, store)
            affinity = kept_affinity(estimate, size, seed, store)
            grouping, named = candidate_groupings(estimate, affinity, groups, budget, context, search_limit)
            accounts.close(SEARCH, estimate.costs, store)
            trained = compare(
                workload, affordable(named, seeds, compare_runs, budget), seeds=range(seed, seed + seeds),
                runs=compare_runs, budget=budget, balancing=balancing, metrics=metrics, decide_by=decide_by,
                memory=memory, store=store, progress=tell, executor=executor,
            )  # fmt: skip
            comparison, recommendation = conclude(trained.comparison, budget, worthwhile)
            trained = replace(trained, comparison=comparison)
            served = comparison.groupings[comparison.index(recommendation.candidate)]
            _book(trained, estimate)
            accounts.close(COMPARISON, estimate.costs, store)
            result = describe(
                Findings(workload, estimate, affinity, grouping, served, trained.comparison, recommendation),
                settings, [str(w.message) for w in caught if issubclass(w.category, CoterieWarning)],
            )  # fmt: skip
            result |= short_formula(estimate, size, seed)
            result["notes"] += [] if balancing is None else [BALANCED.format(balancing)]
            files = _files(trained, affinity, served, context, workload)
            path = _write(directory, files, result, accounts, estimate.costs)
    found = RunResult(path, affinity, grouping, served, trained.comparison, recommendation, result)
    return found if path or not isinstance(workload, Workload) else replace(found, workload=workload, files=files)


@known_arguments
@said_once
def estimate_affinity(
    workload: Workload | Trainer | str,
    *,
    method: str | Estimator | None = None,
    order: str = "higher",
    subsets: int | None = None,
    size: int | None = None,
    seed: int = 0,
    memory: int = 2**30,
    progress: Progress | None = None,
    store: UnitStore | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> tuple[Affinity, GainModel]:
    """Estimate how much each task helps each other.

    Args:
        workload: a workload, a built-in name or ``"file.py:name"``; or a trainer.
        method: a name of :data:`coterie.affinity.METHODS`, or the estimator's settings; None for ``"fused"``, and for
            ``"kernel-surrogate"`` with a trainer that is no workload.
        order: ``"pairwise"`` (gain of every pair) or ``"higher"`` (mean gain over random subsets with both tasks).
        subsets: number of random subsets for ``order="higher"``.
        size: their size.
        seed: of everything random.
        memory: working memory in bytes.
        progress: called as ``progress(stage, done, total)``.
        store: where finished units go.
        executor: where trainings and features are computed; None is this process.
        options: settings of the estimator.

    Returns:
        The affinity matrix (rows are targets, larger is better) and a model that predicts the gain of any subset.
    """
    if order not in ("pairwise", "higher"):
        raise SettingError(f"Parameter `order` should be 'pairwise' or 'higher'. Found {order!r}.")
    workload = as_source(workload)
    _, estimator = chosen_method(estimate_affinity, workload, method, options)
    *_, seed, memory = check_settings(workload, None, None, 1, seed, memory)
    if isinstance(workload, Workload):
        validate(workload)
    n = len(names_of(workload))
    chosen = whole_number(2 if order == "pairwise" else size or typical_size(n), "size", low=2, high=n)
    subsets = None if subsets is None else whole_number(subsets, "subsets", low=1)
    if order == "higher" and subsets is not None:
        random_subsets(n, subsets, chosen, seed=seed)  # too few to hold every pair: say so now
    context = Context(seed, memory, store or NoStore(), progress or silent, executor)
    estimate = estimator.estimate(cast("Workload", workload), context, chosen)
    return estimated_affinity(estimate, order, subsets, chosen, seed), estimate.model


def _book(trained: TrainedComparison, estimate: Estimate) -> None:
    """Add the comparison to the costs. Its groups also tell what one ordinary training costs, if nothing else did."""
    costs, workload = estimate.costs, trained.workload
    if not isinstance(workload, Workload):
        costs.add("comparison: real trainings", sum(run.cost or 1.0 for run in trained.runs.values()), trained.seconds)
        return
    fits = {**trained.fits, **trained.raced}
    flops = {job: training_flops(workload, fit, costs.unit) for job, fit in fits.items()}
    if costs.reference is None:
        groups = [cost for (subset, _), cost in flops.items() if 1 < len(subset) < workload.n_tasks]
        costs.refer(sum(groups) / len(groups) if groups else None)
    costs.add("comparison: real trainings", sum(flops.values()), trained.seconds)


def _files(
    trained: TrainedComparison, affinity: Affinity, served: Grouping, context: Context, workload: Workload | Trainer
) -> dict[str, bytes]:
    """What a run leaves behind beside its page and its result."""
    from coterie.serving.saved import served_files
    from coterie.store.files import json_bytes

    models: dict[str, bytes] = {}
    if isinstance(workload, Workload):
        states = [dict(trained.best_state(group, context.memory, context.store)) for group in served.groups]
        models = dict(served_files(workload, served, states))
    return {
        **models,
        "comparison.safetensors": trained.comparison.to_bytes(),
        "affinity.csv": table_bytes(affinity.values, affinity.tasks),
        "groups.json": json_bytes(served.to_dict()),
    }


def _write(
    run: UnitStore, files: Mapping[str, bytes], result: dict[str, Any], accounts: Accounts, costs: Costs
) -> Path | None:
    """All files, and last the result, which knows what the page took: a run with a result has all of its files.

    Where there is no directory, only the books are closed.
    """
    from coterie.report.html import page_bytes, render
    from coterie.store.files import json_bytes

    if not isinstance(run, RunDirectory):
        accounts.close(REPORT, costs)
        result.update(priced(costs))
        return None
    for name, data in files.items():
        run.write(name, data)
    accounts.close(REPORT, costs)
    result.update(priced(costs))
    run.write(run.report_path.name, page_bytes(render(result)))
    accounts.close(REPORT, costs)
    result.update(priced(costs))
    run.write(run.result_path.name, json_bytes(result))
    return run.path  # absolute: the working directory may have changed


def _open(
    workload: Workload | Trainer, settings: Mapping[str, Any], out: str | Path | None, *, overwrite: bool
) -> AbstractContextManager[UnitStore]:
    from coterie.store import open_run

    known = workload if isinstance(workload, Workload) else None
    identity = fingerprint(workload) if isinstance(workload, Workload) else workload.fingerprint
    return open_run(out, fingerprint=identity, settings=settings, overwrite=overwrite, workload=known, grows=GROWS)
