"""Grad-TAE: the result of training on any subset of tasks, from base models that are trained once.

Around a base model theta* the margin of an example is linearised, ``h(x, t) = h*(x, t) + grad h*(x, t) . v``. Training
on a subset S then is a ridge regression with offset h* on projected gradients, and the validation loss of the fitted
margins is the estimate of f(S, t). See :mod:`coterie.affinity.newton` for the regression and ``docs/fidelity.md`` for
what is as published and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from coterie._check import whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments
from coterie.affinity.costs import Prepared, prepare
from coterie.affinity.estimator import (
    Estimate,
    EstimatePlan,
    Estimator,
    FeatureStage,
    KnownTrainings,
    TrainingCall,
    TrainingStage,
)
from coterie.affinity.grad_tae_model import GradTAEModel, NetworkValues
from coterie.affinity.linear import PATH, SAMPLE, LinearBase, matched_ridge, stopped_ridge
from coterie.affinity.linearize import (
    Bases,
    by_secants,
    checkpoint,
    displacements,
    fork_jobs,
    linearize,
    orthonormal,
    secant_flops,
    stack,
    task_gradients,
    train,
    train_all,
    train_bases,
)
from coterie.errors import ResourceError, SettingError
from coterie.features.directions import Directions, RandomDirections
from coterie.features.plan import plan_features
from coterie.features.program import refuse_complex
from coterie.features.storage import STORED
from coterie.training.job import Fit, State
from coterie.workload import Workload

DIRECTIONS = ("secants", "task-vectors", "task-gradients", "random")
HEADS = ("exact", "projected")
EVALUATIONS = ("linear", "network", "network-trunk")
FITS = ("one-step", "converged")
RIDGES = ("stopped", "matched", "by-loss", "published")
#: tasks whose forks are prolonged to choose the strength of the ridge
LONG_FORKS = 5


@known_arguments
@dataclass(frozen=True)
class GradTAE(Estimator):
    """Settings of the estimator; the defaults are a recipe that was measured, see docs/decisions.md.

    Args:
        directions: in which directions the trunk moves: ``"secants"`` (towards the ends of short single-task trainings
            from the base; the margins there take the place of gradients), ``"task-vectors"`` (the same directions,
            with gradients at the base), ``"task-gradients"``, or ``"random"`` (Rademacher, as published).
        count: number of random directions; the other kinds have one a task.
        share: share of the drop of the validation loss that is left when a base is linearised; 0 for early-stopped
            bases, as published.
        bases: number of base models; their estimates are averaged, and their spread gives standard errors.
        heads: ``"exact"`` (each linear head keeps its own gradient) or ``"projected"`` (together with the trunk, as
            published).
        ridge: ``"stopped"`` (each subset's own validation loss chooses, as early stopping does; the value is the mean
            of that fit and the one at the typical strength), ``"matched"`` to how far real training moves,
            ``"by-loss"`` (a fixed value per kind of loss), ``"published"`` (``1 / (c N)`` on raw features for a subset
            of N labels: what `C` of scikit-learn means), or a number.
        fit: ``"one-step"`` (one Newton step: exact for squared losses) or ``"converged"``.
        evaluation: ``"linear"`` margins, the real ``"network"`` at the fitted parameters (as published), or
            ``"network-trunk"``, where the heads stay at the base though they were fitted (as in the released code).
        fork: length of the short single-task trainings, as a share of the steps of the training on all tasks.
        dtype: how features are stored: ``"float32"``, ``"float16"`` (half the bytes, each number to 0.05 %) or
            ``"bfloat16"`` (half, to 0.4 %).
        offset: False leaves the base margins out of the regression, as the published code does; for comparison only.
        c: for ridge="published": 0.01 in the released scripts for graphs, 0.0001 in those for images.
        intercept: for ridge="published": True fits a constant that all tasks of a subset share and no ridge holds back;
            the network's evaluations forget it, as in the released code.

    Raises:
        SettingError: when a value is unknown or out of range.

    Source: Grad-TAG, arXiv 2409.06091 (KDD 2024); secants, task vectors, exact heads, early bases and the rules for the
    ridge are Coterie's own.

    Example:
        >>> GradTAE(directions="random", count=100).bases
        4
    """

    directions: str = "secants"
    count: int = 200
    share: float = 0.1
    bases: int = 4
    heads: str = "exact"
    ridge: str | float = "stopped"
    fit: str = "one-step"
    evaluation: str = "linear"
    fork: float = 0.1
    offset: bool = True
    dtype: str = "float32"
    c: float = 0.01
    intercept: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("directions", DIRECTIONS),
            ("heads", HEADS),
            ("fit", FITS),
            ("evaluation", EVALUATIONS),
            ("dtype", tuple(STORED)),
        ):
            if getattr(self, name) not in allowed:
                raise SettingError(f"Parameter `{name}` should be one of {allowed}. Found {getattr(self, name)!r}.")
        if self.heads == "projected" and self.directions != "random":
            raise SettingError(
                f"Parameter `heads`='projected' needs directions='random'. Found directions={self.directions!r}: "
                "they span the trunk only. Use heads='exact'."
            )
        if self.directions == "secants" and (self.ridge == "matched" or self.evaluation != "linear"):
            raise SettingError(
                "Parameter `directions`='secants' has no gradients at the base, which ridge='matched' and "
                f"the network's evaluations need. Found ridge={self.ridge!r}, evaluation={self.evaluation!r}. Use "
                "ridge='stopped' and evaluation='linear', or directions='task-vectors'."
            )
        if isinstance(self.ridge, str) and self.ridge not in RIDGES:
            raise SettingError(f"Parameter `ridge` should be one of {RIDGES} or a number. Found {self.ridge!r}.")
        if not isinstance(self.ridge, str) and not (math.isfinite(self.ridge) and self.ridge > 0):
            raise SettingError(f"Parameter `ridge` should be positive. Found {self.ridge!r}.")
        if not (math.isfinite(self.c) and self.c > 0):
            raise SettingError(f"Parameter `c` should be positive. Found {self.c!r}.")
        whole_number(self.bases, "bases", low=1)
        whole_number(self.count, "count", low=1)
        for name in ("offset", "intercept"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"Parameter `{name}` should be True or False. Found {getattr(self, name)!r}.")
        if self.intercept and self.ridge != "published":
            raise SettingError(
                "Parameter `intercept` needs ridge='published', which leaves features as they are. "
                f"Found ridge={self.ridge!r}."
            )
        if not (0 <= self.share < 1 and 0 < self.fork <= 1):
            raise SettingError(
                "Parameters `share` and `fork` should be shares: 0 <= share < 1, 0 < fork <= 1. "
                f"Found share={self.share}, fork={self.fork}."
            )

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Train the bases and linearise them; base b has the context's seed + b.

        Returns:
            A model that predicts any subset, what it cost, and notes on what was chosen.

        Cost: `bases` x (part of a training + forks + d Jacobian-vector products); nothing per subset but a small linear
            solve.
        """
        prepared = prepare(workload, context)
        if self.directions != "secants":
            owned = {*prepared.structure.trunk, *prepared.structure.head_names}
            model = workload.build_model(context.seed)
            refuse_complex({name: value for name, value in model.named_parameters() if name in owned})
        self._check_network(prepared)
        self._check_memory(prepared)
        bases = train_bases(prepared, self.bases, self.share)
        return self.around(prepared, bases, self._forks(prepared, bases), subset_size)

    def around(self, prepared: Prepared, bases: Bases, forks: Iterator[list[State]], subset_size: int) -> Estimate:
        """The estimate around base models that are there.

        Args:
            prepared: the workload with its structure, context and ledger.
            bases: the base models.
            forks: for each of them the ends of single-task trainings; not asked for by random directions and gradients.
            subset_size: of the subsets that are asked about most.
        """
        workload, context = prepared.workload, prepared.context
        notes: list[str] = []
        linear: list[LinearBase] = []
        kept: list[Directions] = []
        for number, base in enumerate(bases.fits):  # one after the other: forks and directions of a base may be large
            if self.directions == "secants":
                linear.append(by_secants(prepared, number, base, next(forks), self, notes))
                continue
            along = self._directions(prepared, base, forks)
            linear.append(linearize(prepared, number, base.state, along, self, notes))
            kept += [along] if self.evaluation != "linear" else []
        ridge, path = self._ridge(prepared, bases, linear, subset_size, notes)
        if self.ridge == "published":
            linear = [replace(base, raw=True) for base in linear]
        network = None
        if kept:
            states = tuple(base.state for base in bases.fits)
            network = NetworkValues(prepared, states, tuple(kept), heads=self.evaluation == "network")
        kinds = tuple(task.kind for task in workload.tasks)
        names, converged = workload.task_names, self.fit == "converged"
        model = GradTAEModel(names, linear, ridge, converged, network, self.name, kinds, path)
        model.memory = context.memory
        facts = {"steps of the training on all tasks": float(bases.full.steps)} if bases.full.steps else {}
        return Estimate(model, prepared.costs, None, tuple(notes), facts)

    def plan_trainings(self, prepared: Prepared, subset_size: int, known: KnownTrainings) -> EstimatePlan:
        """Base models, forks and features, as the early stop of a training on all tasks says."""
        self._check_memory(prepared)
        n, features, full = prepared.workload.n_tasks, self._planned_features(prepared), known.full
        # two bases, since the first keeps more than others, in store and for the choice of the ridge
        few = replace(self, bases=2, share=0.0, ridge=0.1 if self.ridge == "matched" else self.ridge)
        plan = EstimatePlan(
            self.bases, features=features, remembers=self.evaluation == "network", rehearsed=few,
            asked=(SAMPLE,) if self.ridge == "stopped" else (),
        )  # fmt: skip
        if full is None:
            return plan
        early, steps, fork = self.share > 0, checkpoint(full, self.share), max(1, round(self.fork * full.steps))
        short = TrainingCall((n,) * self.bases, max(1, steps) if early else None)
        models = (TrainingCall((n,)), short) if early else (short,)
        stages = [TrainingStage("base models", f"{self.bases + early} trainings on all tasks", models)]
        # the ends of forks are held, and where they have gone from the base in double precision
        forks = [("task vectors", n, self.bases, fork)] if self.directions in ("secants", "task-vectors") else []
        forks += [("choice of the ridge", min(LONG_FORKS, n), 1, 3 * fork)] if self.ridge == "matched" and early else []
        for stage, tasks, calls, length in forks:
            what = f"{calls * tasks} short trainings of {length} steps"
            stages.append(TrainingStage(stage, what, (TrainingCall((1,) * tasks, length, calls),), 3 * tasks))
        return replace(plan, stages=tuple(stages))

    def _planned_features(self, prepared: Prepared) -> FeatureStage:
        """The features of one base.

        Raises:
            ResourceError: they do not fit the memory.
        """
        workload, unit, n = prepared.workload, prepared.costs.unit, prepared.workload.n_tasks
        if self.directions == "secants":
            what, flops = f"margins at {n} ends, d = {n}", secant_flops(workload, n, unit)
            return FeatureStage("secant features", what, "forward passes only", flops, 0.0, n)
        count = self.count if self.directions == "random" else n
        found = plan_features(workload, prepared.structure, count, prepared.context.memory)
        rows = len(workload.split.train) + len(workload.split.validation)
        flops = rows * (unit.forward + count * (unit.jvp - unit.forward))
        what = f"{found.mode} mode, d = {count}"
        return FeatureStage("gradient features", what, found.reason, flops, found.bytes, count)

    def _check_network(self, prepared: Prepared) -> None:
        other = [h for h, head in enumerate(prepared.structure.heads) if not head.linear]
        if self.evaluation == "network" and self.heads == "exact" and other:
            name = prepared.workload.task_names[other[0]]
            raise SettingError(
                "Parameter `evaluation`='network' with heads='exact' needs heads that are one linear layer. "
                f"Found another head for task {name!r}. Use evaluation='linear' or heads='projected'."
            )

    def _check_memory(self, prepared: Prepared) -> None:
        """Refuse what cannot fit: per-task sums over all bases, and the directions of a base while they are made."""
        workload, trunk = prepared.workload, set(prepared.structure.trunk)
        n, d = workload.n_tasks, self.count if self.directions == "random" else workload.n_tasks
        named = workload.build_model(prepared.context.seed).named_parameters()
        size = sum(p.numel() for name, p in named if name in trunk)
        need = 8 * n * d * d * self.bases + (0 if self.directions == "random" else 20 * n * size)
        memory = prepared.context.memory
        if need > memory:
            raise ResourceError(
                f"The estimate needs about {need / 2**30:.1f} GiB, more than `memory` allows "
                f"({memory / 2**30:.1f} GiB): {n} tasks, {d} directions, {size} shared numbers, {self.bases} "
                "bases. Give more `memory`, fewer `bases`, or directions='random' with a smaller `count`."
            )

    def _directions(self, prepared: Prepared, base: Fit, forks: Iterator[list[State]]) -> Directions:
        workload, trunk = prepared.workload, prepared.structure.trunk
        if self.directions == "random":
            model = workload.build_model(prepared.context.seed)
            owned = set(trunk) if self.heads == "exact" else {*trunk, *prepared.structure.head_names}
            shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in owned}
            return RandomDirections(shapes, self.count, base.job.seed)
        if self.directions == "task-gradients":
            rows = task_gradients(workload, base.state, trunk)
            unit, n_rows = prepared.costs.unit, len(workload.split.train)
            prepared.costs.add("task gradients", n_rows * workload.n_tasks * (unit.training - unit.forward))
        else:
            rows = displacements(base.state, next(forks), trunk)
        return stack(orthonormal(rows), base.state, trunk)

    def _forks(self, prepared: Prepared, bases: Bases) -> Iterator[list[State]]:
        """Where short single-task trainings from each base end; trained when they are asked for.

        An executor gets those of several bases at once, as many as fit the memory.
        """
        jobs = [fork_jobs(base, round(self.fork * bases.full.steps), prepared.everything) for base in bases.fits]
        size = sum(value.numel() * value.element_size() for value in bases.full.state.values())
        both, memory = 2 * prepared.workload.n_tasks * size, prepared.context.memory
        together = 1 if prepared.context.executor is None else max(1, memory // both)
        for start in range(0, len(jobs), together):
            for ends in train_all(prepared, jobs[start : start + together], stage="task vectors", name="forks"):
                yield [end.state for end in ends]

    def _ridge(
        self, prepared: Prepared, bases: Bases, linear: list[LinearBase], size: int, notes: list[str]
    ) -> tuple[float, tuple[float, ...]]:
        """Strength of the ridge (times N where it is the published one), and those among which each subset chooses."""
        if not isinstance(self.ridge, str):
            notes.append(f"ridge {self.ridge:.2g}: as given")
            return self.ridge, ()
        if self.ridge == "published":
            notes.append(f"ridge 1 / ({self.c:g} N) on raw features, for a subset of N labels: as published")
            return 1 / self.c, ()
        if self.ridge == "stopped":
            context = prepared.context
            value, note = stopped_ridge(prepared.workload.n_tasks, linear, size, context.seed, context.memory)
            notes.append(note)
            return value, PATH
        if self.ridge == "by-loss" or self.share == 0:
            logs = [math.log(task.loss.default_ridge) for task in prepared.workload.tasks]
            value = math.exp(sum(logs) / len(logs))
            notes.append(f"ridge {value:.2g}: the default of the tasks' losses")
            return value, ()
        return self._matched(prepared, bases, linear[0], notes), ()

    def _matched(self, prepared: Prepared, bases: Bases, linear: LinearBase, notes: list[str]) -> float:
        workload, base = prepared.workload, bases.fits[0]
        tasks = torch.linspace(0, workload.n_tasks - 1, min(LONG_FORKS, workload.n_tasks)).long().tolist()
        jobs = fork_jobs(base, round(3 * self.fork * bases.full.steps), tasks)
        ends = train(prepared, jobs, stage="choice of the ridge", name="long-forks")
        (moved,) = displacements(base.state, [bases.full.state], prepared.structure.trunk)
        value, note = matched_ridge(
            workload,
            linear,
            float(moved.norm()),
            {t: end.state for t, end in zip(tasks, ends, strict=True)},
            base.state,
        )
        notes.append(note)
        return value

    @property
    def name(self) -> str:
        """Name of the method with these settings."""
        return next((name for name, settings in _NAMES.items() if settings == self), f"grad-tae with {self.directions}")


#: as published, but with the offset that the published code leaves out
GRAD_TAG = GradTAE(
    directions="random",
    count=200,
    share=0.0,
    bases=1,
    heads="projected",
    ridge="by-loss",
    fit="converged",
    evaluation="network",
)
#: the same with exact heads, which leave the directions to the trunk
GRAD_TAG_BLOCKS = replace(GRAD_TAG, heads="exact")
#: what the released scripts compute, where that differs from the formulas; for comparison only
GRAD_TAG_RELEASED = replace(GRAD_TAG, ridge="published", evaluation="network-trunk", offset=False, intercept=True)
TASK_VECTORS = GradTAE(directions="task-vectors", ridge="matched")
SECANTS = GradTAE()
_NAMES = {
    "grad-tag": GRAD_TAG,
    "grad-tag-blocks": GRAD_TAG_BLOCKS,
    "grad-tag-released": GRAD_TAG_RELEASED,
    "task-vectors": TASK_VECTORS,
    "secants": SECANTS,
}
