"""Small runs find what they found when their golden files were written (``python tests/golden/record.py``)."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from coterie.executors import LocalExecutor
from golden import record, workloads
from golden.compare import differences

HINT = "If this is meant, write the golden files anew with python tests/golden/record.py, and say why it changed"
TEXT = all(importlib.util.find_spec(name) for name in ("transformers", "peft"))


def kept(name: str) -> dict[str, Any]:
    return json.loads(record.path_of(name).read_text(encoding="utf-8"))


def check(old: Any, new: Any) -> None:
    # through JSON, as the file went: numpy's numbers and tuples are not what is kept
    lines = differences(old, json.loads(json.dumps(new)))
    assert not lines, "\n".join([f"{len(lines)} differences", *lines[:40], HINT])


@pytest.mark.parametrize("name", workloads.ALL)
def test_a_run_a_plan_and_groups_are_as_they_were(name: str, tmp_path: Path) -> None:
    if name == "text" and not TEXT:
        pytest.skip("extra `language`")
    check(kept(name), record.observe(name, tmp_path))


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_two_processes_find_the_same(name: str, tmp_path: Path, two_processes: LocalExecutor) -> None:
    found = record.observe_elsewhere(name, tmp_path, two_processes)
    old = kept(name)
    check({key: old[key] for key in found}, found)


def test_every_kind_of_change_is_seen() -> None:
    old = kept("plain")
    assert not differences(old, copy.deepcopy(old))
    values = old["result"]["affinity"]["values"]
    for change in (
        lambda new: new["result"]["affinity"]["values"][0].__setitem__(1, values[0][1] + 0.01),
        lambda new: new["result"]["served"]["groups"].pop(),
        lambda new: new["units"][0]["key"].update(seed=1),
        lambda new: new["units"][0]["arrays"].popitem(),
        lambda new: new["page"].__setitem__(1, new["page"][1].replace("Undecided", "Decided")),
        lambda new: new["console"].pop(),
        lambda new: new["plan"]["rows"][0].update(flops=new["plan"]["rows"][0]["flops"] * 1.01),
        lambda new: new.pop("group"),
        lambda new: new.update(more=1),
    ):
        new = copy.deepcopy(old)
        change(new)
        assert differences(old, new), change
    assert not differences({"a": [1.0, 1e-5], "b": "+1.3 %"}, {"a": [1.0002, 2e-5], "b": "+1.4 %"})
    assert differences({"a": 1, "b": "3 tasks"}, {"a": 1.0, "b": "4 tasks"}) == [
        "/a: 1 was kept, 1.0 found",
        "/b: '3 tasks' was kept, '4 tasks' found",
    ]


def test_golden_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in record.path_of("plain").parent.iterdir()) < 150_000
