"""A fabricated result with the schema of ``result.json``, of any size, with names that try to break a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NASTY = (
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "</title></style></script><img src=x onerror=alert(2)>",
    "\"quoted\" & 'single' `back`",
    "{{ 7 * 7 }}{% raw %}",
    "a very long name " * 9,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2,
    "水質監視局第三観測所の溶存酸素量の日平均値と季節変動の予測タスク",
    "مهمة التنبؤ بجودة المياه",
    "ক্ষেত্র-পরীক্ষা 🧪👩‍🔬",
    "null\x00byte\x1b[31mred\u202eesrever",
    "https://example.org/task?a=1&b=2",
    "$\\frac{1}{2}$ [bold]rich[/bold]",
    "lone \ud800 surrogate",
)


def plain_names(amount: int) -> list[str]:
    stems = ("membrane", "cytosol", "nucleus", "vacuole", "ribosome", "transport", "signal", "energy", "lipid")
    return [f"{stems[i % len(stems)]} {i // len(stems) + 1}" if amount > 10 else stems[i] for i in range(amount)]


def entry(mean: float, width: float, seeds: int) -> dict[str, float | None]:
    if seeds < 2:
        return {"mean": mean, "low": None, "high": None}
    return {"mean": mean, "low": mean - width, "high": mean + width}


def _grouping(names: Sequence[str], groups: int) -> dict[str, Any]:
    parts = [list(names[g::groups]) for g in range(groups)]
    serves = {name: g for g, part in enumerate(parts) for name in part}
    return {"groups": parts, "serves": serves, "objective": 1.2345678, "bound": 1.25, "method": "sdp"}


def _candidate(
    name: str, groups: list[list[str]], names: Sequence[str], mean: float, seeds: int, rng: np.random.Generator
) -> dict[str, Any]:
    base = name == "single-task"
    tasks = []
    for task in names:
        gain = 0.0 if base else mean + 0.03 * float(rng.standard_normal())
        interval = entry(gain, 0.0 if base else 0.01 + 0.03 * float(rng.random()), seeds)
        loss = {"test": 0.5 * (1 - gain), "validation": 0.48 * (1 - gain)}
        tasks.append({"name": task, "test": interval, "validation": entry(gain + 0.005, 0.02, seeds), "loss": loss})
    total = {
        "validation": entry(0.0 if base else mean + 0.006, 0.0 if base else 0.009, seeds),
        "test": entry(0.0 if base else mean, 0.0 if base else 0.012, seeds),
    }
    over_one = {part: entry(mean - 0.008, 0.0 if name == "all-in-one" else 0.012, seeds) for part in total}
    return {
        "name": name, "models": len(groups), "groups": groups, "total": total, "over_one_model": over_one,
        "tasks": tasks,
    }  # fmt: skip


def sample_result(
    names: Sequence[str] | None = None, *, groups: int = 3, seeds: int = 3, do_not_bother: bool = False, seed: int = 0
) -> dict[str, Any]:
    """A result. ``groups`` is the number of groups, ``seeds`` the number of training seeds."""
    rng = np.random.default_rng(seed)
    names = plain_names(14) if names is None else list(names)
    grouping = _grouping(names, groups)
    serves = np.array([grouping["serves"][n] for n in names])
    values = np.where(serves[:, None] == serves[None, :], 0.03, -0.015) + 0.015 * rng.standard_normal((len(names),) * 2)
    np.fill_diagonal(values, 0.0)
    all_in_one = [list(names)]
    single = [[n] for n in names]
    chosen = "all-in-one" if do_not_bother else f"grouped ({groups})"
    text = (
        f"Do not bother: one model for all {len(names)} tasks is as good as any grouping, within the noise."
        if do_not_bother
        else f"Train {groups} models instead of one: 3.1 % lower loss than single-task training."
    )
    one = {
        "groups": all_in_one,
        "serves": dict.fromkeys(names, 0),
        "objective": None,
        "bound": None,
        "method": "all-in-one",
    }
    return {
        "coterie": "0.1.0",
        "workload": {
            "name": "yeast",
            "reference": "yeast",
            "tasks": [{"name": n, "kind": "binary", "classes": None} for n in names],
            "rows": {"train": 1450, "validation": 483, "test": 484},
            "labels": 2417 * len(names),
            "missing": 0.16,
            "known_groups": None,
            "known_groups_ari": None,
        },
        "settings": {
            "method": "task-vectors",
            "groups": None,
            "seeds": seeds,
            "options": {"d": 14, "penalty": 0.1},
            "hidden": [64, 32],
        },
        "recommendation": {
            "text": text,
            "candidate": chosen,
            "verdict": "no" if do_not_bother else "yes",
            "do_not_bother": do_not_bother,
            "models": 1 if do_not_bother else groups,
            "reason": "Picked on validation rows, reported on test rows; its interval lies above the others' means.",
        },
        "affinity": {
            "tasks": list(names),
            "values": values.tolist(),
            "counts": None,
            "kind": "gain",
            "method": "task-vectors",
        },
        "grouping": grouping,
        "served": one if do_not_bother else grouping,
        "comparison": {
            "baseline": "single-task",
            "one_model": "all-in-one",
            "seeds": list(range(seeds)),
            "candidates": [
                _candidate("single-task", single, names, 0.0, seeds, rng),
                _candidate("all-in-one", all_in_one, names, 0.008, seeds, rng),
                _candidate(f"grouped ({groups})", grouping["groups"], names, 0.031, seeds, rng),
            ],
        },
        "costs": [
            {"stage": "base models", "flops": 3.2e12, "seconds": 4.21, "share": 0.031},
            {"stage": "gradient features", "flops": 1.1e12, "seconds": 1.3, "share": 0.0107},
            {"stage": "regression", "flops": 2.0e9, "seconds": 0.06, "share": 0.00002},
            {"stage": "comparison: real trainings", "flops": 2.2e13, "seconds": 31.0, "share": 0.21},
        ],
        "reference_flops": 1.03e14,
        "notes": [
            "features: forward mode because an example has 14 tasks",
            "task vectors: 14 directions from 3 base models",
        ],
        "warnings": [],
        "environment": {"python": "3.11.9", "torch": "2.13.0", "threads": 2, "device": "cpu"},
        "seconds": 41.7,
        "date": "2026-03-04T05:06:07+00:00",
    }


def nasty_result(amount: int = len(NASTY)) -> dict[str, Any]:
    """Names that try to break the page, missing numbers everywhere, overlapping groups, long notes."""
    names = [*NASTY, *plain_names(100)][:amount]
    result = sample_result(names, groups=4, seed=1)
    values = result["affinity"]["values"]
    values[0] = [None] * amount
    values[1][2], values[2][1], values[3][3] = math.nan, math.inf, None
    counts = np.full((amount, amount), 12.0)
    counts[1, 2] = math.nan
    result["affinity"]["counts"] = counts.tolist()
    served = result["served"] = {**result["grouping"], "groups": [list(g) for g in result["grouping"]["groups"]]}
    served["groups"][0].append(served["groups"][1][0])  # trained in two groups, served by one
    chosen = result["comparison"]["candidates"][2]
    chosen["tasks"][0]["test"] = {"mean": None, "low": None, "high": math.nan}
    chosen["tasks"][1]["test"] = {"mean": -54.3, "low": -90.0, "high": 2.0}
    chosen["tasks"][1]["loss"] = {"test": math.nan, "validation": None}
    result["workload"]["name"] = NASTY[2]
    result["workload"]["reference"] = "/very/long/path" * 20 + "/workload.py:attribute"
    result["workload"]["known_groups"] = [list(names[:2]), list(names[2:])]
    result["workload"]["known_groups_ari"] = 0.4213
    result["recommendation"]["text"] = f"Train 4 models; {NASTY[0]} and {NASTY[6]} profit most."
    result["settings"][NASTY[0]] = NASTY[6]
    result["costs"].append({"stage": NASTY[0], "flops": math.nan, "seconds": None, "share": math.inf})
    result["warnings"] = [f"DataWarning: {NASTY[6]} has one class only; {NASTY[2]}", "second\nline"]
    result["notes"].append(NASTY[5] * 3)
    result["environment"]["device"] = NASTY[1]
    return result


def with_formula(result: dict[str, Any]) -> dict[str, Any]:
    """The result with a formula whose effects are a quarter of its affinity; its standard errors are 0.4 %."""
    tasks = result["affinity"]["tasks"]
    n = len(tasks)
    values = np.array(
        [[v if v is not None and math.isfinite(v) else 0.0 for v in row] for row in result["affinity"]["values"]]
    )
    effects = np.where(np.eye(n, dtype=bool), 0.0, values / 4)
    doubt = np.column_stack([np.full((n, n), -0.02), np.full(n, -4.0), np.full(n, 0.1)])
    formula = {
        "tasks": list(tasks), "effects": effects.tolist(), "errors": np.full((n, n), 0.004).tolist(),
        "level": [0.02] * n, "slope": [0.003] * n, "doubt": doubt.tolist(), "off": [0.001] * n, "power": 0.5, "size": 5,
    }  # fmt: skip
    return {**result, "formula": formula}
