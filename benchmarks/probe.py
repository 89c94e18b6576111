"""What do probe runs cost? Plain training, TAG alone, and one probe run for TAG, cosine and ETAP.

    python benchmarks/probe.py [yeast]

One thread. Every repetition times all variants one after the other, so that a busy machine slows all of them; medians
and ratios are over repetitions. "naive" measures one task at a time with copies of the model and the optimiser, as the
formulas say. FLOPs are those on the books of the estimates. Writes benchmarks/results/probe.json and prints a table.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.affinity import get_estimator
from coterie.affinity.costs import training_flops
from coterie.affinity.scores import probe as probe_module
from coterie.affinity.scores.gradient_probe import GradientProbe
from coterie.affinity.scores.probe import Probe, run_probe
from coterie.training import measure_cost
from coterie.training.evaluate import row_losses
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.workload import Workload, load_workload
from coterie.workload.structure import find_structure

EVERY, REPETITIONS = 10, 5
VARIANTS = {
    "TAG alone": Probe(every=EVERY, gram=False),
    "cosine and ETAP": Probe(every=EVERY, lookahead=False),
    "all three": Probe(every=EVERY),
}


class NaiveGradientProbe(GradientProbe):
    """The look ahead of TAG with loops: one gradient, one copy and one pass a task."""

    def _measure(self, rows: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        before = self._means(self._model, rows)
        names = [name.removeprefix("model.") for name in self._names]
        for source in range(len(before)):
            found = torch.autograd.grad(before[source], self._trunk, retain_graph=True)
            # both in one, so that the copied optimiser holds the copied parameters
            model, twin = copy.deepcopy((self._model, optimizer))
            named = dict(model.named_parameters())
            for p in named.values():
                p.grad = None
            for name, gradient in zip(names, found, strict=True):
                named[name].grad = gradient
            twin.step()
            with torch.no_grad():
                change = 1 - self._means(model, rows) / before
            self.sums["tag"][:, source] += change.detach().double().numpy()
            self.sums["n_tag"][:, source] += 1

    def _means(self, model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        losses, observed = row_losses(self._workload, model, rows)
        return losses.sum(0) / observed.sum(0)


def naive(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same with the naive gradient probe."""

    def wrapped() -> Any:
        probe_module.GradientProbe = NaiveGradientProbe
        try:
            return run()
        finally:
            probe_module.GradientProbe = GradientProbe

    return wrapped


def variants(work: Workload, job: Job, trunk: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {"plain training": lambda: fit_one(work, job)}
    for label, probe in VARIANTS.items():
        found[label] = lambda probe=probe: run_probe(work, trunk, job, probe)
    found["TAG alone, naive"] = naive(found["TAG alone"])
    return found


def booked(work: Workload, job: Job) -> dict[str, float]:
    """FLOPs by variant."""
    flops = {name: get_estimator(name, every=EVERY).estimate(work).costs for name in ("tag", "cosine")}
    products = {row["stage"]: row["flops"] for row in flops["cosine"].rows()}["inner products"]
    return {
        "plain training": training_flops(work, fit_one(work, job), measure_cost(work)),
        "TAG alone": flops["tag"].flops,
        "cosine and ETAP": flops["cosine"].flops,
        "all three": flops["tag"].flops + products,
    }


def measure(name: str) -> dict[str, Any]:
    work = load_workload(name)
    job = Job(tuple(range(work.n_tasks)), 0)
    trunk = find_structure(work, work.build_model(0)).trunk
    runs = variants(work, job, trunk)
    a, b = (runs[label]().sums for label in ("TAG alone", "TAG alone, naive"))
    difference = float(np.abs(a["tag"] / a["n_tag"] - b["tag"] / b["n_tag"]).max())
    spread = float(np.abs(a["tag"] / a["n_tag"]).max())
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for repetition in range(REPETITIONS + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            if repetition:  # the first warms up
                seconds[label].append(time.perf_counter() - start)
    flops = booked(work, job)
    rows: dict[str, dict[str, Any]] = {}
    print(f"\n{name}: {work.n_tasks} tasks, a measurement every {EVERY} steps, {REPETITIONS} repetitions")
    print(f"  largest difference to naive {difference:.1e}, largest entry {spread:.1e}")
    for label in runs:
        times = np.array(seconds[label])
        ratio = {other: float(np.median(times / np.array(seconds[other]))) for other in ("plain training", "TAG alone")}
        rows[label] = {"seconds": seconds[label], "median": float(np.median(times)), "flops": flops.get(label)}
        rows[label]["ratios"] = ratio
        work_done = f"{flops[label] / 1e6:8.0f} MFLOP" if label in flops else " " * 14
        print(
            f"  {label:18s} {np.median(times) * 1e3:8.1f} ms {work_done}   x plain {ratio['plain training']:.2f}   "
            f"x TAG {ratio['TAG alone']:.2f}"
        )
    return {"variants": rows, "difference to naive": difference, "largest entry": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", default=["yeast"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(name) for name in options.sets}
    settings = {"every": EVERY, "repetitions": REPETITIONS, "threads": 1}
    path = Path(__file__).parent / "results" / "probe.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "sets": results}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
