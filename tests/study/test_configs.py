"""Configuration files of training frameworks."""

from __future__ import annotations

import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.study.configs import merge_config, mixture_config

yaml = pytest.importorskip("yaml")
SHARES = {"code": 0.2, "chat": 0.7, "web: all\n#": 0.1, "old": 0.0}
FILES = {"code": "data/code.jsonl", "chat": "org/chat", "web: all\n#": "web.parquet"}
ROWS = {"code": 100, "chat": 1000, "web: all\n#": 80}


def test_llama_factory_has_a_probability_for_each_name() -> None:
    # its own reader: names and probabilities are split at commas and have to be as many
    found = yaml.safe_load(mixture_config({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3, "d": 0}, "llama-factory", seed=3))
    probabilities = [float(one) for one in found["interleave_probs"].split(",")]
    assert found["dataset"].split(",") == ["a", "b", "c"]
    assert sum(probabilities) == pytest.approx(1, abs=1e-9)
    assert probabilities == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert (found["mix_strategy"], found["seed"]) == ("interleave_over", 3)


def test_trl_has_fractions_or_rows() -> None:
    found = yaml.safe_load(mixture_config(SHARES, "trl", paths=FILES))["datasets"]
    assert found == [
        {"path": "json", "data_files": "data/code.jsonl", "split": "train", "fraction": 0.2},
        {"path": "org/chat", "split": "train", "fraction": 0.7},
        {"path": "parquet", "data_files": "web.parquet", "split": "train", "fraction": 0.1},
    ]
    some = yaml.safe_load(mixture_config(SHARES, "trl", paths=FILES, rows=ROWS, total=500))["datasets"]
    assert [entry["split"] for entry in some] == ["train[:100]", "train[:350]", "train[:50]"]


def test_axolotl_takes_as_many_rows_as_no_source_repeats() -> None:
    found = yaml.safe_load(mixture_config(SHARES, "axolotl", paths=FILES, rows=ROWS, row_type="alpaca"))
    assert [entry["split"] for entry in found["datasets"]] == ["train[:100]", "train[:350]", "train[:50]"]
    assert found["datasets"][2] == {
        "path": "web.parquet", "ds_type": "parquet", "split": "train[:50]", "type": "alpaca"
    }  # fmt: skip
    with pytest.raises(SettingError, match="`rows` has no number for code, chat"):
        mixture_config(SHARES, "axolotl", rows={"web: all\n#": 3})
    with pytest.raises(SettingError, match="What is written for TRL counts rows"):
        mixture_config(SHARES, "trl", total=5)
    with pytest.raises(SettingError, match=r"at most 500\. Found 600: 'code' has 100 rows"):
        mixture_config(SHARES, "axolotl", rows=ROWS, total=600)


def test_the_script_mixes_with_these_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"loaded": []}
    library = types.ModuleType("datasets")
    library.load_dataset = lambda *path, **options: asked["loaded"].append((path, options)) or path  # type: ignore[attr-defined]
    library.interleave_datasets = lambda parts, **options: asked.update(options, parts=parts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    script = tmp_path / "mixture.py"
    script.write_text(mixture_config(SHARES, "huggingface", paths=FILES, seed=5))
    runpy.run_path(str(script))
    assert asked["loaded"] == [
        (("json",), {"data_files": "data/code.jsonl", "split": "train"}),
        (("org/chat",), {"split": "train"}),
        (("parquet",), {"data_files": "web.parquet", "split": "train"}),
    ]
    assert asked["probabilities"] == [0.2, 0.7, 0.1]
    assert (asked["seed"], asked["stopping_strategy"], len(asked["parts"])) == (5, "all_exhausted", 3)


def test_comments_say_what_is_left_out_and_what_repeats() -> None:
    text = mixture_config(SHARES, "llama-factory", rows=ROWS)
    assert "left out: old" in text
    # chat decides: 1,000 rows of 70 % are a run of 1,429, in which code is 286 and web 143
    assert "about 1429 examples" in text
    assert "code 2.9 x, chat 1 x, web: all # 1.8 x" in text
    assert "code 0.2 x" in mixture_config(SHARES, "huggingface", rows=ROWS, total=100)


@given(
    st.dictionaries(st.text(min_size=1), st.integers(0, 1000), min_size=1, max_size=8).filter(
        lambda found: any(found.values())
    ),
    st.sampled_from(["trl", "llama-factory", "axolotl"]),
)
def test_any_names_and_shares_are_read_back(parts: dict[str, int], to: str) -> None:
    whole = sum(parts.values())
    shares = {name: np.float64(count / whole) for name, count in parts.items()}
    paths = {name: f"set-{place}" for place, name in enumerate(parts)}
    found = yaml.safe_load(mixture_config(shares, to, paths=paths, rows=dict.fromkeys(parts, 10**9)))
    kept = [name for name, count in parts.items() if count]
    if to == "llama-factory":
        assert found["dataset"].split(",") == [paths[name] for name in kept]
        return
    assert [entry["path"] for entry in found["datasets"]] == [paths[name] for name in kept]
    amounts = [entry.get("fraction") or int(entry["split"][7:-1]) for entry in found["datasets"]]
    assert np.array(amounts) / sum(amounts) == pytest.approx([shares[name] for name in kept], abs=1e-6 * len(kept))


def test_adapters_of_groups_are_merged_by_weight() -> None:
    found = yaml.safe_load(
        merge_config({"g 1": "out/one", "g 2": "out/two"}, "base/model", weights={"g 1": 1, "g 2": 3})
    )
    assert found == {
        "merge_method": "linear",
        "base_model": "base/model",
        "models": [
            {"model": "base/model+out/one", "parameters": {"weight": 0.25}},
            {"model": "base/model+out/two", "parameters": {"weight": 0.75}},
        ],
        "dtype": "bfloat16",
    }
    with pytest.raises(SettingError, match="positive number for each group"):
        merge_config({"a": "x", "b": "y"}, "base", weights={"a": 1})
    with pytest.raises(SettingError, match="`weights` names 'c'"):
        merge_config({"a": "x"}, "base", weights={"c": 1})
    with pytest.raises(SettingError, match="is empty"):
        merge_config({}, "base")


@pytest.mark.parametrize(
    ("shares", "more", "says"),
    [
        ({"a": 0.5, "b": 0.6}, {}, "add up to 1. .*1.1"),
        ({"a": -0.5, "b": 1.5}, {}, "at least 0"),
        ({}, {}, "add up to 1"),
        ({"a": float("nan"), "b": 1}, {}, "finite number for 'a'"),
        ({"a": 1}, {"paths": {"b": "x"}}, "`paths` names 'b', which is none of a"),
        ({"a": 1}, {"rows": {"a": 0}}, "at least 1"),
        ({"a": 1}, {"total": 0}, "`total`"),
        ({"a": 1}, {"paths": {"a": "x,y"}}, "commas"),
    ],
)
def test_bad_input_is_named(shares: dict[str, float], more: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        mixture_config(shares, "llama-factory", **more)


def test_an_unknown_framework_is_named() -> None:
    with pytest.raises(SettingError, match=r"`to`.*trl"):
        mixture_config({"a": 1}, json.loads('"tlr"'))
