"""The same run in one process, on four Dask workers, and on four Dask workers one of which is killed now and then.

All runs have to end with the same results: everything in ``result.json`` but seconds, bit for bit. The workers are
processes of this machine with one thread each, started and with torch imported before the clock starts. A killed
worker is a random one, killed with SIGKILL; its nanny starts another.

Writes benchmarks/results/cluster.json; ``--write`` also fills the table of docs/cluster.md. Run:
``python benchmarks/cluster.py`` (the time of three runs of ``coterie run yeast --seeds 120``).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
JOBS = "work"  # the function that Coterie submits: the beginning of Dask's names for its jobs


class Lost(logging.Handler):
    """Counts the jobs that Coterie sends again."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.count = 0

    def emit(self, record):
        """Count."""
        self.count += "is sent again" in record.getMessage()


def counter():
    """A plugin of Dask's scheduler that counts finished jobs, and those that were under way when a worker was lost."""
    from distributed import SchedulerPlugin

    class Counter(SchedulerPlugin):
        finished = again = 0

        def transition(self, key, start, finish, *args, **kwargs):
            if str(key).startswith(JOBS) and start == "processing":
                self.finished += finish == "memory"
                self.again += finish == "released"

    return Counter()


@contextmanager
def killer(cluster, every):
    """Kill a random worker every so many seconds; 0 for never."""
    stop, killed, rng = threading.Event(), [], np.random.default_rng(0)

    def kill():
        while not stop.wait(every):
            workers = [nanny for nanny in cluster.workers.values() if nanny.pid]
            if workers:
                pid = workers[rng.integers(len(workers))].pid
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    if every:
        thread.start()
    try:
        yield killed
    finally:
        stop.set()
        if every:
            thread.join()


def numbers(result):
    """A result without how long things took."""
    kept = {key: value for key, value in result.items() if key != "seconds"}
    kept["costs"] = [{key: value for key, value in row.items() if key != "seconds"} for row in result["costs"]]
    return json.loads(json.dumps(kept))


def one(options, executor=None):
    """Wall seconds and the content of result.json."""
    import coterie

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        coterie.run(options.workload, seeds=options.seeds, out=folder, executor=executor)
        seconds = time.perf_counter() - start
        return seconds, json.loads((Path(folder) / "result.json").read_text())


def on_dask(options, every):
    """One run on a new cluster."""
    from distributed import Client, LocalCluster

    lost, logger = Lost(), logging.getLogger("coterie")
    logger.addHandler(lost)
    logger.setLevel(logging.INFO)
    with (
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: __import__("coterie.training"))
        counted = counter()
        cluster.scheduler.add_plugin(counted)
        with killer(cluster, every) as killed:
            seconds, result = one(options, client.get_executor())
    logger.removeHandler(lost)
    facts = {"kills": len(killed), "jobs": counted.finished, "again": counted.again, "sent_again": lost.count}
    return seconds, result, facts


def measure(options):
    from coterie.workload import load_workload
    from coterie.workload.travel import parcel

    seconds, expected = one(options)
    rows = [{"where": "1 process", "seconds": seconds, "identical": None}]
    print(f"1 process: {seconds:.1f} s", flush=True)
    for name, every in (("", 0.0), (f", one killed every {options.every:g} s", options.every)):
        seconds, result, facts = on_dask(options, every)
        same = numbers(result) == numbers(expected)
        rows.append({"where": f"{options.workers} Dask workers{name}", "seconds": seconds, "identical": same, **facts})
        print(rows[-1], flush=True)
    work = load_workload(options.workload)
    return {
        "workload": options.workload,
        "seeds": options.seeds,
        "cores": len(os.sched_getaffinity(0)),
        "parcel_bytes": len(parcel(work).data),
        "rows": rows,
    }


def table(result):
    cores = f"{result['cores']} core{'' if result['cores'] == 1 else 's'}"
    lines = [
        f"`coterie run {result['workload']} --seeds {result['seeds']}` on a machine with {cores}:",
        "",
        "| where | seconds | jobs | workers killed | jobs done again | same result |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        again = "" if "again" not in row else str(row["again"] + row["sent_again"])
        same = "" if row["identical"] is None else ("yes" if row["identical"] else "no")
        cells = (row["where"], f"{row['seconds']:.0f}", row.get("jobs", ""), row.get("kills", ""), again, same)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def fill(page, text):
    """Put the table between its markers."""
    old = page.read_text(encoding="utf-8")
    new = re.sub(r"(<!-- cluster -->).*?(<!-- end -->)", lambda m: f"{m[1]}\n\n{text}\n\n{m[2]}", old, flags=re.DOTALL)
    page.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="yeast")
    parser.add_argument("--seeds", type=int, default=120)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cluster.json")
    parser.add_argument("--write", action="store_true", help="fill the table of docs/cluster.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print(table(result))
    if options.write:
        fill(ROOT / "docs" / "cluster.md", table(result))
    if not all(row["identical"] in (None, True) for row in result["rows"]):
        raise SystemExit("the results differ")


if __name__ == "__main__":
    main()
