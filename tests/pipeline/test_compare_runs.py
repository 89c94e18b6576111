"""A run whose comparison may take so many real trainings."""

from __future__ import annotations

import pytest

from coterie.errors import SettingError
from coterie.pipeline import plan, run
from coterie.workload import Workload


def test_a_run_keeps_to_the_runs_of_its_comparison(tiny: Workload) -> None:
    result = run(tiny, seeds=3, bases=1, compare_runs=30)
    record = result.comparison.halving
    assert record is not None
    assert record.spent <= record.runs == 30
    assert result.result["settings"]["compare_runs"] == 30
    assert result.result["comparison"]["halving"]["spent"] == record.spent
    assert result.result["notes"][-1] == record.lines()[-1]
    assert {"all-in-one", "single-task"} <= set(result.comparison.candidates)


def test_too_few_runs_are_refused_before_anything_is_estimated(tiny: Workload) -> None:
    stages: list[str] = []
    for call in (run, plan):
        with pytest.raises(SettingError, match=r"`compare_runs` should be at least \d+ for groupings into \[2"):
            call(tiny, seeds=3, bases=1, compare_runs=10, progress=lambda stage, done, total: stages.append(stage))
        with pytest.raises(SettingError, match="compare_runs"):
            call(tiny, compare_runs=0)
    assert set(stages) <= {"plan"}


def test_the_plan_counts_no_more_runs(tiny: Workload) -> None:
    def trainings(**options: int) -> str:
        return next(row["what"] for row in plan(tiny, **options)["rows"] if row["stage"] == "comparison")

    assert trainings(compare_runs=31) == "31 real trainings"
    assert trainings(compare_runs=10**6) == trainings()
