"""500 tasks end to end: base model, features of all labels, 2,000 random subsets, groups; time and memory of each.

The tasks are real: noun synsets of WordNet 3.0 are the examples, and a task asks whether a synset lies below one of 500
others (is it a plant, a vehicle, a state of mind?). A synset's place in the hierarchy is known for every pair, so all
labels are complete. The input is the text of the synset, its words and its gloss, as hashed words reduced to 128
components. Rows are drawn such that small subtrees have positives, too; tasks are the largest subtrees that are not
more than half of the rows and differ on the rows that were drawn.

WordNet comes with Debian and Ubuntu: ``apt-get install wordnet-base``; elsewhere give ``--data`` its ``data.noun``.

Every run is a process of its own with one thread, so that its peak memory is its own. Prints Markdown and writes
benchmarks/results/many_tasks.json. Run: ``python benchmarks/many_tasks.py --real 20``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "many_tasks.json"
DATA = Path("/usr/share/wordnet/data.noun")
#: settings of every training
RECIPE = {"learning_rate": 3e-3, "weight_decay": 0.1, "epochs": 25, "batch_size": 100, "check_every": 40, "patience": 5}
#: words are hashed into so many columns, of which so many components are kept
HASHED, COMPONENTS = 2**14, 128
#: rows that are taken of each subtree, at the least
QUOTA = 24
#: positives that a task has in the training part, and in each of the others, at the least
LEAST = (8, 2)
#: subtrees from which the tasks are taken, for each task
POOL = 1.5
#: tasks in a random subset
SIZES = (5, 10, 25, 50)


@dataclass
class Nouns:
    """The noun synsets: texts, and for each the synsets above it (itself included)."""

    names: list[str]
    texts: list[str]
    above: list[list[int]]


def read_nouns(path: Path) -> Nouns:
    """Words, gloss and hypernyms of every noun synset, from the file format wndb(5WN)."""
    if not path.exists():
        sys.exit(
            f"{path} is not there. apt-get install wordnet-base, or give --data the file data.noun of WordNet 3.0."
        )
    offsets: dict[str, int] = {}
    names: list[str] = []
    texts: list[str] = []
    parents: list[list[str]] = []
    for line in path.read_text(encoding="utf8", errors="ignore").splitlines():
        if line.startswith("  "):
            continue
        fields, _, gloss = line.partition("|")
        part = fields.split()
        words = int(part[3], 16)
        pointers = part[5 + 2 * words :]
        kinds = [pointers[at : at + 4] for at in range(0, 4 * int(part[4 + 2 * words]), 4)]
        offsets[part[0]] = len(names)
        lemmas = [word.replace("_", " ") for word in part[4 : 4 + 2 * words : 2]]
        names.append(lemmas[0])
        texts.append(" ".join(lemmas) + " " + gloss.strip())
        parents.append([target for symbol, target, _, _ in kinds if symbol in ("@", "@i")])
    return Nouns(names, texts, _closure([[offsets[one] for one in some] for some in parents]))


def _closure(parents: list[list[int]]) -> list[list[int]]:
    known: dict[int, frozenset[int]] = {}

    def up(node: int) -> frozenset[int]:
        if node not in known:
            known[node] = frozenset({node}).union(*(up(parent) for parent in parents[node]))
        return known[node]

    return [sorted(up(node)) for node in range(len(parents))]


def many_tasks(path: Path, n_tasks: int, rows: int, seed: int = 0) -> Any:
    """The workload: (rows, COMPONENTS) inputs, (rows, n_tasks) complete binary labels, split 1/2, 1/4, 1/4."""
    from scipy import sparse

    import coterie

    nouns = read_nouns(path)
    lengths = [len(one) for one in nouns.above]
    index = (np.repeat(np.arange(len(lengths)), lengths), np.concatenate(nouns.above))
    member = sparse.csc_matrix((np.ones(len(index[0]), dtype=np.float32), index), shape=(len(lengths),) * 2)
    size = np.asarray(member.sum(0)).ravel()
    pool = np.argsort(-size, kind="stable")[: round(POOL * n_tasks)]
    chosen = enriched(member[:, pool], rows, seed)
    labels = np.asarray(member[chosen][:, pool].todense(), dtype=bool)
    cut = np.array([rows // 2, rows // 2 + rows // 4])
    parts = [part.sum(0) for part in np.split(labels, cut)]
    fits = (parts[0] >= LEAST[0]) & (np.minimum(parts[1], parts[2]) >= LEAST[1]) & (labels.mean(0) <= 0.5)
    _, first = np.unique(labels, axis=1, return_index=True)
    keep = [one for one in sorted(first.tolist()) if fits[one]]
    if len(keep) < n_tasks:
        sys.exit(f"{rows} rows hold {len(keep)} tasks with enough positives, fewer than {n_tasks}. Give more --rows.")
    keep = sorted(keep, key=lambda one: -labels[:, one].sum())[:n_tasks]
    tasks = [f"{nouns.names[pool[one]]} {number}" for number, one in enumerate(keep)]
    x = inputs([nouns.texts[row] for row in chosen], rows // 2, seed)
    return coterie.from_arrays(
        x,
        labels[:, keep].astype(np.float32),
        tasks=[coterie.Task(name, "binary") for name in tasks],
        recipe=coterie.Recipe(**RECIPE),
        split=dict(zip(("train", "validation", "test"), np.split(np.arange(rows), cut), strict=True)),
        hidden=(64, 32),
        name=f"wordnet {n_tasks}",
    )


def enriched(member: Any, rows: int, seed: int) -> NDArray[np.int64]:
    """Random rows in random order: as many of each subtree as possible, small subtrees first, then any."""
    generator = np.random.default_rng(seed)
    sizes = np.asarray(member.sum(0)).ravel()
    taken = np.zeros(member.shape[0], dtype=bool)
    for column in np.argsort(sizes, kind="stable"):
        inside = member.indices[member.indptr[column] : member.indptr[column + 1]]
        free = generator.permutation(inside[~taken[inside]])
        room = min(QUOTA - int(taken[inside].sum()), rows - int(taken.sum()))
        taken[free[: max(0, room)]] = True
    rest = generator.permutation(np.flatnonzero(~taken))
    taken[rest[: rows - int(taken.sum())]] = True
    return generator.permutation(np.flatnonzero(taken))


def inputs(texts: list[str], fitted: int, seed: int) -> NDArray[np.float32]:
    """(rows, COMPONENTS): hashed words, weighted by rarity, reduced by an SVD that is fitted on the first rows."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    counts = HashingVectorizer(n_features=HASHED, alternate_sign=False, norm=None).transform(texts)
    weights = TfidfTransformer(sublinear_tf=True).fit(counts[:fitted]).transform(counts)
    svd = TruncatedSVD(COMPONENTS, n_iter=3, random_state=seed).fit(weights[:fitted])
    values = svd.transform(weights)
    return (values / values[:fitted].std(0)).astype(np.float32)


@dataclass
class Clock:
    """Wall and processor seconds of stages, and the peak memory of the process after each."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add a row for what runs inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.rows.append(
            {
                "stage": name,
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
        )
        print(self.rows[-1], file=sys.stderr, flush=True)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One run, stage by stage; checks come after the last stage that is timed."""
    clock = Clock()
    with clock.stage("read the data, make the workload"):
        workload = many_tasks(given.data, given.tasks, given.rows)
    return go_through(workload, given, clock)


def go_through(workload: Any, given: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """Estimate, subsets and groups of a workload, stage by stage, then checks."""
    import coterie
    from coterie import Context
    from coterie.affinity import get_estimator

    estimator = get_estimator(given.method, **json.loads(given.options))
    with clock.stage("estimate: base models, features, statistics"):
        estimate = estimator.estimate(workload, subset_size=25, context=Context(memory=int(given.memory * 2**30)))
    with clock.stage(f"regression: {given.subsets} random subsets, and {given.tasks} single tasks"):
        affinity = estimate.model.higher_order(given.subsets, [size for size in SIZES if size < given.tasks])
    found: dict[str, Any] = {}
    for name, matrix, k in (
        ("SDP, number of groups chosen", affinity, None),
        ("SDP, 20 groups", affinity, 20),
        ("SDP, 20 groups, rows standardised", standardised(affinity), 20),
    ):
        with clock.stage(f"groups: {name}"):
            found[name] = coterie.group(matrix, k, method="sdp")
    positives = workload.targets[workload.split.train].sum(0)
    result: dict[str, Any] = {
        "tasks": given.tasks,
        "method": given.method,
        "options": json.loads(given.options),
        "rows": [len(workload.split.train), len(workload.split.validation), len(workload.split.test)],
        "positives of a task in the training part": [int(v) for v in np.percentile(positives, (0, 50, 100))],
        "subsets": given.subsets,
        "memory_setting_gb": given.memory,
        "load": os.getloadavg()[0],
        "stages": clock.rows,
        "inside the estimate": {stage: seconds for stage, (_, seconds) in estimate.costs.entries.items()},
        "notes": list(estimate.notes),
        "facts": dict(estimate.facts),
        "subsets with a pair": [
            int(v) for v in np.percentile(affinity.counts[~np.eye(given.tasks, dtype=bool)], (0, 50, 100))
        ],
        "negative entries": float((affinity.values[~np.eye(given.tasks, dtype=bool)] < 0).mean()),
        "groups": {name: describe(one) for name, one in found.items()},
    }
    if given.checks:
        result["checks"] = check(estimate.model, given.checks)
    if given.real:
        result["worth"] = worth(workload, estimate.model, found["SDP, 20 groups, rows standardised"], given.real)
    return result


def standardised(affinity: Any) -> NDArray[np.float64]:
    """The matrix with the gains of each task in its own standard deviations: a few tasks with huge gains do not rule.

    The diagonal is 0.
    """
    values = np.where(np.eye(len(affinity), dtype=bool), np.nan, affinity.values)
    values -= np.nanmean(values, axis=1, keepdims=True)
    return np.nan_to_num(values / np.nanstd(values, axis=1, keepdims=True))


def describe(grouping: Any) -> dict[str, Any]:
    sizes = sorted((len(group) for group in grouping.groups), reverse=True)
    details = {name: value for name, value in grouping.details.items() if name.startswith("sdp_")}
    return {"k": len(sizes), "sizes": sizes, "objective": grouping.objective, "bound": grouping.bound, **details}


def check(model: Any, count: int) -> dict[str, float]:
    """Some subsets again, one by one: optimum by scipy in float64, margins by numpy; largest differences."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reference import offset_regression

    base = model.bases[0]
    penalty = base.statistics.penalty()
    sizes = [size for size in SIZES if size < len(model.tasks)]
    subsets = np.random.default_rng(1).random((count, len(model.tasks))).argsort(1) < np.resize(sizes, count)[:, None]
    ours = base.values(subsets, model.ridge, converged=model.converged)
    solution = base.solve(subsets, model.ridge, converged=model.converged)
    worst, gap = 0.0, 0.0
    for number, subset in enumerate(subsets):
        members = np.flatnonzero(subset).tolist()
        fitted = offset_regression.fit(base.train, members, model.ridge, penalty=(penalty.trunk, penalty.heads))
        gap = max(gap, abs(float(solution.objective[number]) - fitted.objective) / fitted.objective)
        for task in members:
            block = base.validation[task]
            margin = block.offset.double() + block.g.double() @ torch.from_numpy(fitted.u)
            margin += block.head.double() @ torch.from_numpy(fitted.w[task])
            plain = float(block.loss.value(margin, block.targets.double()).mean())
            worst = max(worst, abs(plain - ours[number, task]) / plain)
    return {"subsets": count, "largest relative difference of a loss": worst, "of an objective": gap}


def worth(workload: Any, model: Any, grouping: Any, count: int) -> dict[str, Any]:
    """Real trainings: of random subsets against what is predicted for them, and of the groups against random groups.

    Subsets of 25 are drawn from 60 tasks, so that each task is in several.
    """
    from scipy.stats import spearmanr

    from coterie.training import fit
    from coterie.training.job import Job

    start, generator = time.process_time(), np.random.default_rng(2)
    pool = generator.permutation(workload.n_tasks)[:60]
    subsets = np.zeros((count, workload.n_tasks), dtype=bool)
    for subset in subsets:
        subset[generator.permutation(pool)[: min(25, len(pool) // 2)]] = True
    chosen = [tuple(np.flatnonzero(one).tolist()) for one in subsets]
    labels = np.asarray(grouping.labels)
    splits = {"groups": labels, "random groups of the same sizes": generator.permutation(labels)}
    parts = {
        name: [tuple(np.flatnonzero(split == group).tolist()) for group in np.unique(split)]
        for name, split in splits.items()
    }
    everything = tuple(range(workload.n_tasks))
    wanted = dict.fromkeys([*chosen, everything, *(group for groups in parts.values() for group in groups)])
    jobs = [Job(subset, 0, order_seed=0) for subset in wanted]
    done = dict(zip(wanted, fit(workload, jobs, keep_states=False), strict=True))
    predicted = model.predict_values(subsets)
    real = np.stack([done[one].validation for one in chosen])
    ranks = [
        float(spearmanr(predicted[inside, task], real[inside, task]).statistic)
        for task in pool
        if (inside := subsets[:, task]).sum() >= 5
    ]
    tests = {name: np.nansum([done[group].test for group in groups], axis=0) for name, groups in parts.items()}
    tests["all-in-one"] = done[everything].test
    return {
        "real trainings": len(jobs),
        "cpu_seconds": time.process_time() - start,
        "subsets": count,
        "tasks ranked": len(ranks),
        "rank correlation, mean over tasks": float(np.mean(ranks)),
        "its standard error over tasks": float(np.std(ranks) / len(ranks) ** 0.5),
        "mean test loss": {name: float(values.mean()) for name, values in tests.items()},
        "tasks better in the groups than in random ones": float(
            (tests["groups"] < tests["random groups of the same sizes"]).mean()
        ),
    }


def options(text: str | None, *, rows: int) -> argparse.ArgumentParser:
    """Options of a run over many tasks."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--subsets", type=int, default=2000)
    parser.add_argument("--method", default="grad-tag")
    parser.add_argument("--options", default='{"count": 150}', help="settings of the method, as JSON")
    parser.add_argument("--memory", type=float, default=3.0, help="working memory in GiB, as given to the estimate")
    parser.add_argument("--checks", type=int, default=4, help="subsets that are solved again one by one")
    parser.add_argument("--real", type=int, default=0, help="subsets that are really trained")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = options(__doc__, rows=8000)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(given)))
        return
    run = in_own_process(__file__, sys.argv[1:])
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"runs": []}
    same = lambda one: (one["tasks"], one["method"], one["options"]) == (run["tasks"], run["method"], run["options"])  # noqa: E731
    runs = [one for one in stored["runs"] if not same(one)] + [run]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"runs": runs}, indent=1))
    print(markdown(run))


def in_own_process(script: str, arguments: list[str]) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, script, "--one", *arguments]
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def markdown(run: dict[str, Any]) -> str:
    """The run as tables."""
    lines = [
        f"{run['tasks']} tasks, {' / '.join(map(str, run['rows']))} rows, method {run['method']} {run['options']}",
        "",
        "| stage | seconds | CPU seconds | peak memory so far |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one['stage']} | {one['seconds']:.1f} | {one['cpu_seconds']:.1f} | {one['peak_gb']:.2f} GB |"
        for one in run["stages"]
    ]
    total = [sum(one[name] for one in run["stages"]) for name in ("seconds", "cpu_seconds")]
    lines += [f"| together | {total[0]:.1f} | {total[1]:.1f} | {run['stages'][-1]['peak_gb']:.2f} GB |", ""]
    lines += [
        "| groups | number | largest | single | sum of densities | proven bound |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in run["groups"].items():
        alone = sum(size == 1 for size in one["sizes"])
        lines.append(
            f"| {name} | {one['k']} | {one['sizes'][0]} | {alone} | {one['objective']:.4f} | {one['bound']:.4f} |"
        )
    for name in ("checks", "worth"):
        if name in run:
            lines += ["", f"| {name} | |", "|---|---:|"]
            lines += [f"| {key} | {value} |" for key, value in run[name].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
