"""Do the groups found on `water` agree with the water systems that its stations belong to?

    python benchmarks/known_groups.py

Adjusted Rand index (1 is the same partition, 0 is chance) for several numbers of groups, pairwise and higher-order
affinities, both methods. Writes benchmarks/results/known_groups.json and prints a table.
"""

import argparse
import json
from pathlib import Path

import torch

import coterie

COUNTS = (2, 3, 5, 12)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    workload = coterie.load_workload("water")
    assert workload.known_groups is not None
    rows = []
    for method in ("task-vectors", "grad-tag"):
        for order in ("pairwise", "higher"):
            affinity, _ = coterie.estimate_affinity(workload, method=method, order=order, evaluation="linear")
            found = [coterie.group(affinity, k).adjusted_rand_index(workload.known_groups) for k in COUNTS]
            rows.append({"method": method, "order": order, "index": dict(zip(map(str, COUNTS), found, strict=True))})
            print(f"{method:13s} {order:9s}", *(f"k={k}: {x:+.3f} " for k, x in zip(COUNTS, found, strict=True)))
    sizes = [len(group) for group in workload.known_groups]
    path = Path(__file__).parent / "results" / "known_groups.json"
    path.write_text(json.dumps({"known": sizes, "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
