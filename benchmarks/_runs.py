"""A run from end to end, timed, for the benchmarks of whole kinds of workloads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import coterie
from coterie.workload import Workload


def timed_run(workload: Workload, out: Path, **options: Any) -> tuple[coterie.RunResult, dict[str, Any]]:
    """What a run found, and its time, advice, groups and gains on test data for the table."""
    start, processor = time.perf_counter(), time.process_time()
    result = coterie.run(workload, out=out, **options)
    return result, {
        "seconds": time.perf_counter() - start,
        "processor seconds": time.process_time() - processor,
        "recommendation": str(result),
        "groups": [[workload.task_names[task] for task in group] for group in result.grouping.groups],
        "gains": {entry["name"]: entry["total"]["test"] for entry in result.result["comparison"]["candidates"]},
    }
