"""The workload umls against its files, read once more line by line. Skipped where a package is missing."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from coterie.datasets import umls
from coterie.errors import DataWarning, MissingDependencyError
from coterie.workload import validate

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pykeen") is None or importlib.util.find_spec("torch_geometric") is None,
    reason="umls needs: pip install --no-deps pykeen==1.11.1, and torch_geometric",
)


@pytest.fixture(scope="module")
def triples():
    folder = Path(importlib.util.find_spec("pykeen").submodule_search_locations[0]) / "datasets" / "umls"
    text = "\n".join((folder / f"{part}.txt").read_text() for part in ("train", "valid", "test"))
    return [tuple(line.split("\t")) for line in text.split("\n") if line]


@pytest.fixture(scope="module")
def found():
    return umls.read()


def test_known_counts(triples, found):
    names, edges, pairs, labels, relations = found
    assert len(triples) == len(set(triples)) == 6529
    assert len(names) == 135
    assert edges.shape == (2, 1000)
    assert pairs.shape == (6748, 2)
    assert labels.shape == (6748, 23)
    assert relations[:3] == ["affects", "analyzes", "assesses_effect_of"]
    assert labels.any(1).sum() == 3374
    assert len({tuple(pair) for pair in pairs}) == 6748


def test_labels_are_the_triples(triples, found):
    names, _, pairs, labels, relations = found
    listed = set(triples)
    by_hand = [[(names[a], relation, names[b]) in listed for relation in relations] for a, b in pairs]
    np.testing.assert_array_equal(labels, np.array(by_hand))
    # every triple of a task is in the table: nothing that holds was left out
    assert labels.sum() == sum(relation in relations for _, relation, _ in triples)
    assert {relation for _, relation, _ in triples} - set(relations) >= {"isa", "issue_in", "contains"}
    assert min(labels.sum(0)) == 52


def test_edges_are_the_hierarchy_both_ways(triples, found):
    names, edges, _, _, relations = found
    by_hand = {(a, b) for a, relation, b in triples if relation == "isa"}
    linked = {(names[a], names[b]) for a, b in edges.T}
    assert linked == by_hand | {(b, a) for a, b in by_hand}
    assert ("virus", "organism") in linked
    assert "isa" not in relations


def test_both_orders_of_two_types_share_a_part(found):
    workload = umls.load()
    parts = {}
    for part in ("train", "validation", "test"):
        for a, b in workload.inputs[workload.split.part(part)].tolist():
            parts.setdefault(frozenset((a, b)), set()).add(part)
    assert all(len(where) == 1 for where in parts.values())
    assert [len(workload.split.part(part)) for part in ("train", "validation", "test")] == [1394, 1650, 3704]
    np.testing.assert_array_equal(workload.inputs.numpy(), found[2])


def test_it_can_be_used_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        workload = umls.load()
        validate(workload)
    assert workload.n_tasks == 23
    assert {task.kind for task in workload.tasks} == {"binary"}
    assert not workload.labels.isnan().any()


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps pykeen==1\.11\.1"):
        umls.load()
