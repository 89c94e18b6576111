"""Forward-mode features against the ways in which they are usually computed. One thread; about two minutes.

Compared, for a perceptron of more than 90,000 parameters, d = 200 random directions over all parameters (heads
included, as published), 40 and 100 binary tasks with every label present:

* features: ``coterie.features.compute_features`` in forward mode, the public entry with everything that it does;
* loop: ``torch.autograd.grad`` for each example and task, each gradient times a dense (parameters x d) matrix;
* loop, blocks of 100: the same, but 100 gradients are collected before each product;
* vmapped Jacobians: ``vmap(jacrev)`` or ``vmap(grad)`` over examples, the quicker of the two, times the dense matrix;
* vmap(jvp): forward mode by hand, five lines: ``jvp`` of the model on a batch of rows, ``vmap`` over dense directions.

Beside them stands a floor: the matrix products alone that forward mode cannot avoid (tangents of every direction
through every layer), without directions, activations or results.

The slow ways are timed on the first rows and scaled to all; their features are compared on the same rows. Fast and slow
runs take turns, so that another load on the machine meets both. Processor time, medians.
Run: ``python benchmarks/features.py``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import copy
import itertools
import json
import platform
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.plan import TensorSizes
from coterie.workload import Split, Task, Workload

INPUTS, HIDDEN, D, ROWS, REPEATS = 640, (128, 64), 200, 1024, 5
#: rows on which the slow ways are timed
SLOW_ROWS = {"loop": 4, "loop, blocks of 100": 8, "vmapped Jacobians": 16, "vmap(jvp)": 256, "products alone": 256}
TARGETS = {40: {"loop": 60, "vmapped Jacobians": 10}, 100: {"loop": 150, "vmapped Jacobians": 50}}
RESULT = Path(__file__).parent / "results" / "features.json"


def problem(tasks: int) -> tuple[Workload, nn.Module, RandomDirections]:
    torch.manual_seed(tasks)
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN[0]), nn.ReLU(), nn.Linear(*HIDDEN), nn.ReLU(), nn.Linear(HIDDEN[1], tasks)
    )
    rows = torch.arange(ROWS)
    labels = torch.randint(0, 2, (ROWS, tasks)).float()
    split = Split(rows, rows[:8], rows[:8])
    names = tuple(Task(f"task {i}") for i in range(tasks))
    workload = Workload("benchmark", names, torch.randn(ROWS, INPUTS), labels, split, lambda seed: model)
    return workload, model, RandomDirections.of(model, D, seed=1)


def dense_matrix(directions: RandomDirections) -> Tensor:
    chunk = directions.chunk(0, D)
    return torch.cat([chunk[name].reshape(D, -1) for name in directions.names], 1).T.contiguous()


def loop(model: nn.Module, x: Tensor, tasks: int, matrix: Tensor, block: int) -> Tensor:
    """(rows, tasks, d): each gradient by itself, projected as soon as `block` of them are there."""
    parameters = list(model.parameters())
    buffer = torch.empty(block, matrix.shape[0], dtype=x.dtype)
    result, filled = [], 0
    for row in range(len(x)):
        out = model(x[row : row + 1])[0]
        for task in range(tasks):
            grads = torch.autograd.grad(out[task], parameters, retain_graph=True)
            torch.cat([g.reshape(-1) for g in grads], out=buffer[filled])
            filled += 1
            if filled == block:
                result.append(buffer @ matrix)
                filled = 0
    return torch.cat([*result, buffer[:filled] @ matrix]).reshape(len(x), tasks, -1)


def vmapped(model: nn.Module, x: Tensor, tasks: int, matrix: Tensor, way: str) -> Tensor:
    """(rows, tasks, d): Jacobians of all rows at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(p: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, p, (row,))

    if way == "jacrev":
        jacobian = vmap(jacrev(outputs), (None, 0))(parameters, x)
    else:
        one = grad(lambda p, row, pick: (outputs(p, row) * pick).sum())
        jacobian = vmap(vmap(one, (None, None, 0)), (None, 0, None))(parameters, x, torch.eye(tasks))
    flat = torch.cat([jacobian[name].reshape(len(x) * tasks, -1) for name in parameters], 1)
    return (flat @ matrix).reshape(len(x), tasks, -1)


def by_hand(model: nn.Module, x: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """(rows, tasks, d): forward mode as an expert writes it, 20 directions at a time."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    one = lambda move: jvp(lambda p: functional_call(model, p, (x,)), (parameters,), (move,))[1]  # noqa: E731
    parts = [{name: value[start : start + 20] for name, value in matrices.items()} for start in range(0, D, 20)]
    return torch.cat([vmap(one)(part) for part in parts]).permute(1, 2, 0)


def products(x: Tensor, tasks: int, hidden: list[Tensor]) -> None:
    """The products of forward mode: inputs with moved weights, and tangents with weights, of every layer."""
    widths = [x.shape[1], *HIDDEN, tasks]
    tangents = [torch.zeros(len(x) * 20, width) for width in HIDDEN]
    weights = [torch.zeros(b, 20 * c) for b, c in itertools.pairwise(widths)]
    for _ in range(0, D, 20):
        for value, weight in zip([x, *hidden], weights, strict=True):
            value @ weight
        for tangent, width in zip(tangents, widths[2:], strict=True):
            tangent @ weights[0].new_zeros(tangent.shape[1], width)


def timed(work: Callable[[], object]) -> float:
    """Seconds of the processor."""
    cpu = time.process_time()
    work()
    return time.process_time() - cpu


def memory(tasks: int) -> dict[str, float]:
    """Largest tensor and peaks of one fast run."""
    workload, model, directions = problem(tasks)
    run = lambda: compute_features(workload, model, directions, FeatureOptions(heads="projected", mode="forward"))  # noqa: E731
    compute_features(
        workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected", mode="forward")
    )  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = run().plan
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    tracemalloc.start()
    with TensorSizes() as sizes:
        run()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    parameters = sum(p.numel() for p in model.parameters())
    # directions come from numpy, which the tensor count does not see: their largest tensor is that of a chunk
    chunk = 4 * plan.directions_per_chunk * max(p.numel() for p in model.parameters())
    mib = 2**20
    return {
        "tasks": tasks,
        "parameters": parameters,
        "dense_matrix_mib": 4 * parameters * D / mib,
        "features_mib": plan.feature_bytes / mib,
        "largest_tensor_beside_features_mib": max(*(sizes.sizes - {plan.feature_bytes}), chunk) / mib,
        "peak_working_mib": (sizes.peak + numpy_peak - plan.feature_bytes) / mib,
        "planned_working_mib": plan.bytes / mib,
        "process_growth_mib": grown / 1024,
        "directions_per_chunk": plan.directions_per_chunk,
        "rows_per_chunk": plan.rows_per_chunk,
    }


def compare(tasks: int) -> dict[str, Any]:
    """Times and differences for a number of tasks."""
    workload, model, directions = problem(tasks)
    matrix = dense_matrix(directions)
    inputs = workload.inputs
    assert isinstance(inputs, Tensor)
    dense = {name: value.contiguous() for name, value in directions.chunk(0, D).items()}
    hidden = [torch.randn(SLOW_ROWS["products alone"], width) for width in HIDDEN]
    ways: dict[str, list[Callable[[Tensor], Any]]] = {
        "loop": [lambda x: loop(model, x, tasks, matrix, 1)],
        "loop, blocks of 100": [lambda x: loop(model, x, tasks, matrix, 100)],
        "vmapped Jacobians": [
            lambda x: vmapped(model, x, tasks, matrix, "jacrev"),
            lambda x: vmapped(model, x, tasks, matrix, "grad"),
        ],
        "vmap(jvp)": [lambda x: by_hand(model, x, dense)],
        "products alone": [lambda x: products(x, tasks, hidden)],
    }
    fast: list[float] = []
    slow: dict[str, list[list[float]]] = {name: [[] for _ in each] for name, each in ways.items()}
    run = lambda: compute_features(workload, model, directions, FeatureOptions(heads="projected", mode="forward"))  # noqa: E731
    found = run().g.reshape(tasks, ROWS, D).transpose(0, 1)
    for _ in range(REPEATS):
        fast.append(timed(run))
        for name, each in ways.items():
            x = inputs[: SLOW_ROWS[name]]
            for number, way in enumerate(each):
                slow[name][number].append(timed(lambda way=way, x=x: way(x)))
    errors = {
        name: max(_difference(found, way(inputs[: SLOW_ROWS[name]])) for way in each)
        for name, each in ways.items()
        if name != "products alone"
    }
    exact = loop(copy.deepcopy(model).double(), inputs[:2].double(), tasks, matrix.double(), 100)
    errors["loop in double precision"] = _difference(found, exact)
    median = statistics.median(fast) / ROWS
    rows: dict[str, Any] = {}
    for name, each in slow.items():
        seconds = min(statistics.median(way) for way in each) / SLOW_ROWS[name]
        rows[name] = {
            "ms_per_row": 1e3 * seconds,
            "times_slower": seconds / median,
            "target": TARGETS[tasks].get(name),
        }
    return {
        "tasks": tasks,
        "parameters": matrix.shape[0],
        "relative_error": max(errors.values()),
        "relative_errors": errors,
        "features_ms_per_row": 1e3 * median,
        "features_seconds": median * ROWS,
        "above_floor": 1 / rows["products alone"]["times_slower"],
        "against": rows,
    }


def _difference(found: Tensor, want: Tensor) -> float:
    """Relative difference (Frobenius norm) on the rows of `want`."""
    return float((found[: len(want)].double() - want.double()).norm() / want.double().norm())


def growth() -> dict[str, float]:
    """Time with 20 and with 200 tasks."""
    few, many = problem(20), problem(200)
    times: dict[int, list[float]] = {20: [], 200: []}
    for repeat in range(REPEATS + 1):
        for count, (workload, model, directions) in ((20, few), (200, many)):
            one = timed(
                lambda w=workload, m=model, d=directions: compute_features(
                    w, m, d, FeatureOptions(heads="projected", mode="forward")
                )
            )
            if repeat:
                times[count].append(one)
    cpu = {n: statistics.median(times[n]) for n in times}
    return {"seconds_20": cpu[20], "seconds_200": cpu[200], "ratio": cpu[200] / cpu[20]}


def report(result: dict[str, Any], sizes: list[dict[str, float]], comparisons: list[dict[str, Any]]) -> None:
    print(
        f"\nOne thread, d = {D}, {ROWS} rows, directions over all parameters. Slow ways on {SLOW_ROWS} rows, scaled.\n"
    )
    print(f"{'tasks':>5} {'parameters':>10}  {'way':<22}{'ms a row':>10}{'slower':>9}{'target':>8}")
    for one in comparisons:
        print(
            f"{one['tasks']:>5} {one['parameters']:>10}  {'features, forward':<22}{one['features_ms_per_row']:>10.3f}"
        )
        for name, row in one["against"].items():
            target = f"{row['target']}x" if row["target"] else "-"
            print(f"{'':>16}  {name:<22}{row['ms_per_row']:>10.2f}{row['times_slower']:>8.2f}x{target:>8}")
        print(
            f"{'':>16}  relative difference {one['relative_error']:.1e} at most (target 1e-5), "
            f"{one['relative_errors']['loop in double precision']:.1e} to double precision"
        )
    grown = result["growth"]
    print(
        f"\n20 -> 200 tasks: {grown['seconds_20']:.2f} s -> {grown['seconds_200']:.2f} s, {grown['ratio']:.2f} times "
        f"(target at most 2)"
    )
    for one in sizes:
        print(
            f"memory, {one['tasks']:.0f} tasks: largest tensor {one['largest_tensor_beside_features_mib']:.1f} MiB, "
            f"peak beside the features {one['peak_working_mib']:.1f} MiB (planned {one['planned_working_mib']:.1f}), "
            f"process grew by {one['process_growth_mib']:.1f} MiB with {one['features_mib']:.1f} MiB of features; "
            f"a dense (parameters x d) matrix: {one['dense_matrix_mib']:.1f} MiB"
        )
    print(f"\n{'All targets are met.' if result['passed'] else 'A TARGET IS MISSED.'}  {RESULT}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    torch.set_num_threads(1)
    sizes = [memory(tasks) for tasks in (40, 100)]  # before any dense matrix exists in this process
    comparisons = [compare(tasks) for tasks in (40, 100)]
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "d": D,
        "rows": ROWS,
        "slow_rows": SLOW_ROWS,
        "form": "directions over all parameters, heads included (as published)",
        "load": os.getloadavg()[0],
        "memory": sizes,
        "comparisons": comparisons,
        "growth": growth(),
    }
    met = [one["relative_error"] < 1e-5 for one in comparisons]
    met += [
        row["times_slower"] >= row["target"] for one in comparisons for row in one["against"].values() if row["target"]
    ]
    met += [result["growth"]["ratio"] <= 2]
    met += [one["largest_tensor_beside_features_mib"] < one["dense_matrix_mib"] / 3 for one in sizes]
    result["passed"] = all(met)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    report(result, sizes, comparisons)
    raise SystemExit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
