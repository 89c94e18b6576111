"""A graph of 20 million edges with 500 overlapping communities: propagation, base model, features, groups.

The graph is drawn (numpy, seed 0), as real ones of this size cannot be shipped:

* 500,000 nodes fall into 20 areas at random. 500 communities have sizes between 300 and 6,000, uniform on a logarithmic
  scale. A community belongs to an area; 4 of 5 of its members are drawn from there, the others from all nodes. So
  communities overlap, those of one area most.
* Edges: every community links pairs of its members at random, 16 a member; the rest up to the number of edges are pairs
  of any nodes. All edges go both ways, so the matrix has twice as many entries.
* Features: each community has a direction in 32 dimensions (standard normal, divided by the root of 32). A node has
  the sum over its communities, and standard normal noise in every dimension.

A task is whether a node belongs to a community. Features are spread over the whole graph (two hops of
``coterie.workload.propagate``); labels are known for 12,000 nodes, drawn such that small communities have positives.
From there on everything is done as in ``many_tasks.py``: base model, features of all labels, 2,000 random subsets,
groups with their proven bounds, all on one thread.

``--scale .01`` makes nodes, edges and communities' members so much fewer. Prints Markdown and writes
benchmarks/results/large_graph.json. Run: ``python benchmarks/large_graph.py --real 36``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from many_tasks import RECIPE, Clock, enriched, go_through, in_own_process, markdown, options
from numpy.typing import NDArray

OUT = Path(__file__).parent / "results" / "large_graph.json"
AREAS, WIDTH, HOPS = 20, 32, 2
#: members of a community
SIZES = (300, 6000)
#: share of a community's members that come from its area
INSIDE = 0.8
#: edges that a community draws for each of its members
EDGES_A_MEMBER = 16


@dataclass
class Communities:
    """Edges both ways (2, 2 x edges), features (nodes, WIDTH), and members (nodes, communities) as a sparse matrix."""

    edges: NDArray[np.int32]
    x: NDArray[np.float32]
    member: Any
    areas: NDArray[np.int64]


def draw(nodes: int, edges: int, count: int, scale: float, seed: int = 0) -> Communities:
    """The graph of the recipe above."""
    from scipy import sparse

    rng = np.random.default_rng(seed)
    area_of_node = rng.integers(0, AREAS, nodes)
    lists = [np.flatnonzero(area_of_node == area) for area in range(AREAS)]
    areas = rng.integers(0, AREAS, count)
    sizes = np.exp(rng.uniform(*np.log(np.array(SIZES) * scale), count)).round().astype(int)
    members = []
    for area, size in zip(areas, sizes, strict=True):
        inside = min(round(INSIDE * size), len(lists[area]))
        own = rng.choice(lists[area], inside, replace=False)
        members.append(np.unique(np.concatenate([own, rng.integers(0, nodes, size - inside)])))
    pairs = [one[rng.integers(0, len(one), (2, EDGES_A_MEMBER * len(one)))].astype(np.int32) for one in members]
    rest = edges - sum(pair.shape[1] for pair in pairs)
    if rest < 0:
        sys.exit(f"The communities alone have {edges - rest} edges, more than {edges}. Give more --edges.")
    pairs.append(rng.integers(0, nodes, (2, rest), dtype=np.int32))
    one_way = np.concatenate(pairs, axis=1)
    at = (np.concatenate(members), np.repeat(np.arange(count), [len(one) for one in members]))
    member = sparse.csc_matrix((np.ones(len(at[0]), dtype=np.float32), at), shape=(nodes, count))
    directions = rng.normal(size=(count, WIDTH)).astype(np.float32) / WIDTH**0.5
    x = member @ directions + rng.standard_normal((nodes, WIDTH), dtype=np.float32)
    return Communities(np.concatenate([one_way, one_way[::-1]], axis=1), x, member, areas)


def workload_of(x: NDArray[np.float32], graph: Communities, chosen: NDArray[np.int64]) -> Any:
    """Rows of the chosen nodes, a binary task a community, split 1/2, 1/4, 1/4."""
    import coterie

    rows = len(chosen)
    labels = graph.member[chosen].toarray()
    parts = np.split(np.arange(rows), [rows // 2, rows // 2 + rows // 4])
    if any(labels[part].sum(0).min() == 0 for part in parts):
        sys.exit("A community has no member in a part of the split. Give more --rows.")
    return coterie.from_arrays(
        x[chosen],
        labels,
        tasks=[coterie.Task(f"area {area}, community {n}", "binary") for n, area in enumerate(graph.areas)],
        recipe=coterie.Recipe(**RECIPE),
        split=dict(zip(("train", "validation", "test"), parts, strict=True)),
        hidden=(64, 32),
        name="communities",
    )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One run, stage by stage."""
    from coterie.training import fit
    from coterie.training.job import Job
    from coterie.workload import propagate

    clock = Clock()
    nodes, edges = round(given.nodes * given.scale), round(given.edges * given.scale)
    with clock.stage("draw the graph (no part of the job)"):
        graph = draw(nodes, edges, given.tasks, given.scale)
    with clock.stage(f"propagation, {HOPS} hops"):
        rows = propagate(graph.x, graph.edges, hops=HOPS)
    graph.edges = graph.edges[:, :0]
    with clock.stage("choose labelled nodes, make the workload"):
        chosen = enriched(graph.member, given.rows, 0)
        workload = workload_of(rows, graph, chosen)
    result = {"nodes": nodes, "edges": edges, "directed entries": 2 * edges, **go_through(workload, given, clock)}
    without = workload_of(graph.x, graph, chosen)
    everything = tuple(range(given.tasks))
    result["mean test loss of all-in-one models"] = {
        name: float(np.mean(fit(one, [Job(everything, 0)], keep_states=False)[0].test))
        for name, one in (("propagated features", workload), ("features as they are", without))
    }
    return result


def main() -> None:
    parser = options(__doc__, rows=12000)
    parser.add_argument("--nodes", type=int, default=500_000)
    parser.add_argument("--edges", type=int, default=20_500_000, help="each counted once; they go both ways")
    parser.add_argument("--scale", type=float, default=1.0, help="of nodes, edges and members")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(given)))
        return
    run = in_own_process(__file__, sys.argv[1:])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{run['nodes']} nodes, {run['edges']} edges\n{markdown(run)}\n{run['mean test loss of all-in-one models']}")


if __name__ == "__main__":
    main()
