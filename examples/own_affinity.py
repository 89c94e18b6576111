"""Bring an own affinity matrix: group it, look at the bound, save it. No training at all."""

import numpy as np

import coterie

NAMES = ("cat", "dog", "horse", "car", "truck")
# rows are targets, columns are sources, larger is better: how much the column helps the row
VALUES = np.array(
    [
        [0.00, 0.08, 0.05, -0.02, -0.03],
        [0.07, 0.00, 0.06, -0.01, -0.02],
        [0.02, 0.03, 0.00, 0.01, 0.00],
        [-0.04, -0.03, 0.00, 0.00, 0.09],
        [-0.05, -0.02, 0.01, 0.10, 0.00],
    ]
)

if __name__ == "__main__":
    affinity = coterie.Affinity(VALUES, NAMES)
    grouping = coterie.group(affinity, k=2)
    for members in grouping.names:
        print(", ".join(members))
    print(f"objective {grouping.objective:.4f}, no partition into 2 groups exceeds {grouping.bound:.4f}")
    grouping.save("grouping.json")
