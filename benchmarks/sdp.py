"""The clustering SDP: seconds, steps, certified gap and memory by family and number of tasks; against SCS up to 400.

Families: planted groups of equal sizes (`planted-S`, S the standard deviation of the noise) and of sizes 40, 25, 20, 10
and 5 percent (`unbalanced-S`), pure noise, a correlation matrix of ten factors, an exponential kernel of points in
three dimensions, an asymmetric estimate whose rows have noise of different sizes, and matrices that were really
estimated: label correlations of the workloads `chemicals` and `mhc` (their own number of tasks).

Every solve runs in a process of its own with one thread. Eigendecompositions are counted, those of certificates
included, and the processor time within them stands beside that of the solver: less is not to be had with these steps.

SCS runs at matched error. The optimum is known from our solver at a tenth of its gap, between its value and its bound;
of a ladder of tolerances, SCS takes the loosest at which its value is no further from the optimum than ours, and, where
that is another, the loosest at which it is within the gap that we certify. That favours SCS: its matrix is only nearly
feasible, it gives no bound, and nobody could have known which tolerance to take.

Writes benchmarks/results/sdp.json; runs of the same family, size and seed replace earlier ones. With the package of an
earlier commit on PYTHONPATH and ``--package NAME``, the runs are kept apart, under ``earlier``. Run: ``python
benchmarks/sdp.py --sizes 100 400 --scs``.
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
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "sdp.json"
PLANTED = ("planted-1", "planted-3", "planted-6", "unbalanced-1", "unbalanced-3")
SMOOTH = ("factor", "kernel", "asymmetric")
FAMILIES = (*PLANTED, "noise", *SMOOTH)
ESTIMATED = ("chemicals", "mhc")
SIZES = (100, 400, 2_000, 5_000)
GROUPS = 5
UNBALANCED = (0.4, 0.25, 0.2, 0.1, 0.05)
#: tolerances of SCS, from loose to tight, and the error below which nothing is matched
LADDER = tuple(float(f"{10 ** (-k / 2):.0e}") for k in range(4, 15))
LEAST_ERROR = 1e-6
#: what is asked of the solver: largest certified gap and seconds
LIMITS = {400: (1e-3, None), 2_000: (1.2e-2, 45.0), 5_000: (2e-2, 240.0)}


def symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def planted(generator: np.random.Generator, n: int, noise: float, shares: tuple[float, ...]) -> np.ndarray:
    edges = np.round(np.cumsum(shares) * n).astype(int)
    truth = generator.permutation(np.searchsorted(edges, np.arange(n), side="right"))
    return (truth[:, None] == truth).astype(float) + noise * symmetric(generator.standard_normal((n, n)))


def make(family: str, n: int, seed: int) -> np.ndarray:
    if family in ESTIMATED:
        return estimated(family)
    generator = np.random.default_rng(seed)
    if family.startswith(("planted", "unbalanced")):
        kind, noise = family.split("-")
        shares = UNBALANCED if kind == "unbalanced" else (1 / GROUPS,) * GROUPS
        return planted(generator, n, float(noise), shares)
    if family == "noise":
        return symmetric(generator.standard_normal((n, n)))
    if family == "factor":
        loads = generator.standard_normal((n, 10))
        covariance = loads @ loads.T + 5 * np.eye(n)
        scale = np.sqrt(np.diag(covariance))
        return symmetric(covariance / scale / scale[:, None])
    if family == "kernel":
        from scipy.spatial.distance import pdist, squareform

        return np.exp(-squareform(pdist(generator.standard_normal((n, 3)))))
    targets, sources = generator.standard_normal((2, n, 8))
    noise = np.exp(0.5 * generator.standard_normal(n))[:, None]
    return symmetric((targets @ (targets + 0.7 * sources).T + np.sqrt(8) * generator.standard_normal((n, n))) * noise)


def estimated(name: str) -> np.ndarray:
    import coterie

    affinity, _ = coterie.estimate_affinity(coterie.load_workload(name), method="label-correlation")
    values = affinity.symmetric()
    np.fill_diagonal(values, 0.0)
    return values


def counted() -> list[float]:
    """A list that gets the seconds of each eigendecomposition of the solver from now on, whole or of a block."""
    from coterie.grouping.sdp import eigen, solve
    from coterie.grouping.sdp import scaling as lift

    calls: list[float] = []

    def counting(function):
        def call(*given):
            began = time.process_time()
            try:
                return function(*given)
            finally:
                calls.append(time.process_time() - began)

        return call

    for holder, name in (
        (eigen.DenseEigenStep, "__call__"),
        (eigen.BlockEigenStep, "__call__"),
        (solve, "bound_of_state"),
        (lift, "lacking"),
    ):
        if hasattr(holder, name):  # an earlier version may have less
            setattr(holder, name, counting(getattr(holder, name)))
    return calls


def solve_ours(family: str, n: int, seed: int, eps: float | None) -> dict[str, object]:
    from coterie.grouping import solve_sdp

    matrix = make(family, n, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solve_sdp(matrix[:30, :30], 3)  # imports and first calls are not the solver's
        calls = counted()
        began, cpu = time.perf_counter(), time.process_time()
        solution = solve_sdp(matrix, GROUPS, eps=eps)
    return {
        "tasks": len(matrix),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "iterations": solution.iterations,
        "eigendecompositions": len(calls),
        "eigen_cpu_seconds": sum(calls),
        "gap": solution.gap,
        "status": solution.status,
        "value": solution.value,
        "bound": solution.bound,
        "range": solution.range,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def solve_scs(family: str, n: int, seed: int, limit: float, optimum: float, error: float) -> dict[str, object]:
    """SCS at the loosest tolerance at which its value is as near to the optimum; `limit` is for each solve."""
    ladder = []
    for eps in LADDER:
        found = scs_at(family, n, seed, limit, eps)
        found |= {"tolerance": eps, "away": abs(found["value"] - optimum)}
        ladder.append(found)
        if found["away"] <= error or "time_limit" in str(found["status"]):
            break
    return ladder[-1] | {"reached": ladder[-1]["away"] <= error, "ladder": ladder}


def scs_at(family: str, n: int, seed: int, limit: float, eps: float) -> dict[str, object]:
    """SCS without a modelling layer, on the lower triangle of X; the matrix is centred and scaled."""
    import scs
    from scipy import sparse

    matrix = make(family, n, seed)
    n = len(matrix)
    shift = float(matrix[~np.eye(n, dtype=bool)].mean())
    unit = matrix - shift
    scale = float(np.sqrt((unit**2).mean()))
    columns, rows = np.triu_indices(n)  # the lower triangle, column by column
    size = len(rows)
    off = rows != columns
    weight = np.where(off, 2.0, 1.0)
    index = np.arange(size)
    sums = sparse.csc_matrix(
        (np.ones(size + off.sum()), (np.r_[rows, columns[off]], np.r_[index, index[off]])), shape=(n, size)
    )
    trace = sparse.csc_matrix((np.ones(n), (np.zeros(n, int), index[~off])), shape=(1, size))
    positive = -sparse.eye(size, format="csc")[off]
    cone = -sparse.diags(np.where(off, np.sqrt(2.0), 1.0))
    data = {
        "A": sparse.vstack([sums, trace, positive, cone], format="csc"),
        "b": np.r_[np.ones(n), GROUPS, np.zeros(off.sum() + size)],
        "c": -(weight * unit[rows, columns] / scale),
    }
    began, cpu = time.perf_counter(), time.process_time()
    solver = scs.SCS(
        data,
        {"z": n + 1, "l": int(off.sum()), "s": [n]},
        eps_abs=eps,
        eps_rel=eps,
        max_iters=200_000,
        time_limit_secs=limit,
        verbose=False,
    )
    found = solver.solve()
    x = np.asarray(found["x"])
    full = np.zeros((n, n))
    full[rows, columns] = full[columns, rows] = x
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "status": found["info"]["status"],
        "iterations": int(found["info"]["iter"]),
        "value": float((unit * full).sum() + shift * n),
        "lowest_eigenvalue": float(np.linalg.eigvalsh(full)[0]),
        "lowest_entry": float(full.min()),
    }


def in_own_process(*arguments: object) -> dict[str, object]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--one", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def row(run: dict) -> str:
    text = (
        f"{run['family']:14s} {run['tasks']:5d} {run['seconds']:8.2f} {run['cpu_seconds']:8.2f} {run['iterations']:6d} "
        f"{run['eigendecompositions']:6d} {run['cpu_seconds'] / run['eigen_cpu_seconds']:6.2f} {run['gap']:9.1e} "
        f"{run['peak_gb']:6.2f}"
    )
    other = run.get("scs")
    if other:
        ratio = other["cpu_seconds"] / run["cpu_seconds"]
        over = " " if other["reached"] else ">"
        text += (
            f" {run['error']:9.1e} {other['cpu_seconds']:8.2f} {over}{ratio:6.1f}x {other['away'] / run['range']:9.1e}"
        )
        text += f" {other['tolerance']:8.0e}  {other['status']}"
        within = next((one for one in other["ladder"] if one["away"] <= run["gap"] * run["range"]), other)
        if within["tolerance"] != other["tolerance"]:
            ratio = within["cpu_seconds"] / run["cpu_seconds"]
            text += f"; {ratio:.1f}x within the gap, at {within['tolerance']:.0e}"
    return text


HEAD = (
    f"{'family':14s} {'tasks':>5s} {'seconds':>8s} {'cpu s':>8s} {'steps':>6s} {'eigs':>6s} {'/eigs':>6s} {'gap':>9s} "
    f"{'GB':>6s} {'error':>9s} {'SCS cpu':>8s} {'ratio':>8s} {'error':>9s} {'at':>8s}  SCS status"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--families", nargs="*", default=None, help=f"of {', '.join((*FAMILIES, *ESTIMATED))}")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--eps", default="default", help="gap that is asked for; default: the solver's own")
    parser.add_argument("--scs", action="store_true", help="also SCS, up to 400 tasks")
    parser.add_argument("--scs-limit", type=float, default=300.0, help="seconds for each solve by SCS")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="runs of the same family, size and seed are replaced there"
    )
    parser.add_argument("--package", help="name of the earlier package that is on PYTHONPATH")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        which, family, n, seed, last, *matched = given.one
        if which == "scs":
            result = solve_scs(family, int(n), int(seed), float(last), *map(float, matched))
        else:
            result = solve_ours(family, int(n), int(seed), None if last == "default" else float(last))
        print(json.dumps(result))
        return
    print(HEAD)
    for n in given.sizes:
        for family in given.families or FAMILIES:
            measure(family, n, given)
    if given.families is None:
        for family in ESTIMATED:
            measure(family, 0, given)


def key(run: dict) -> tuple[str, int, int]:
    return run["family"], run["tasks"], run["seed"]


def measure(family: str, n: int, given: argparse.Namespace) -> None:
    found = in_own_process("ours", family, n, given.seed, given.eps)
    run = {"family": family, "seed": given.seed, "load": os.getloadavg()[0], **found}
    if given.scs and run["tasks"] <= 400:
        near = in_own_process("ours", family, n, given.seed, max(run["gap"] / 10, 1e-8))
        optimum = (near["value"] + near["bound"]) / 2
        run["optimum_known_to"] = near["gap"] / 2
        run["error"] = max((optimum - run["value"]) / run["range"], LEAST_ERROR)
        run["scs"] = in_own_process("scs", family, n, given.seed, given.scs_limit, optimum, run["error"] * run["range"])
    place = "runs" if given.package is None else "earlier"
    everything = json.loads(given.out.read_text()) if given.out.exists() else {}  # another may have written meanwhile
    runs = {key(one): one for one in everything.get(place, [])}
    if given.package is not None:
        run["package"] = given.package
    runs[key(run)] = run
    limit, seconds = LIMITS.get(run["tasks"], (np.inf, None))
    late = seconds is not None and run["cpu_seconds"] > seconds  # one thread: seconds on a machine of its own
    print(row(run) + ("   ABOVE THE LIMIT" if run["gap"] > limit or late or run["peak_gb"] > 2 else ""), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(runs.values(), key=lambda one: (one["tasks"], one["family"], one["seed"]))
    given.out.write_text(json.dumps({**everything, "groups": GROUPS, place: ordered}, indent=1))


if __name__ == "__main__":
    main()
