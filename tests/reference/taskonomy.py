"""The published affinities of five Taskonomy tasks (TAG, arXiv 2109.04617; rows targets, columns sources)."""

from __future__ import annotations

import numpy as np

TASKS = ("segmentation", "normals", "depth", "keypoints", "edges")

TAG = np.array(
    [
        [11.99932, 0.0489104, 0.115374, 0.00454725, 0.00877614],
        [0.139824, 1.07099, 0.220962, 0.0104938, 0.0764597],
        [0.413559, 0.291415, 7.32764, 0.0135365, 0.0739569],
        [0.0210985, 0.010729, 0.013366, 0.733884, 0.689736],
        [0.056692, 0.0360067, 0.0366834, 0.303721, 5.96619],
    ]
)

#: cosine similarities; nothing was published for the diagonal
CS = np.array(
    [
        [np.nan, 0.242372, 0.259569, 0.0540602, 0.0886403],
        [0.242372, np.nan, 0.911583, 0.145885, 0.28014],
        [0.259569, 0.911583, np.nan, 0.0915305, 0.156465],
        [0.0540602, 0.145885, 0.0915305, np.nan, 2.96808],
        [0.0886403, 0.28014, 0.156465, 2.96808, np.nan],
    ]
)

#: optimum of the trace-k relaxation for k = 1..5, by Clarabel 0.11.1 (interior point, tolerances 1e-11)
OPTIMA = {
    ("TAG", "keep"): (5.936774258, 16.2182625, 22.29303007, 26.2061984, 27.098024),
    ("TAG", "zero"): (0.517169458, 0.9067433, 0.761195, 0.4967285, 0.0),
    ("CS", "zero"): (2.07933, 3.910429333, 3.879663, 2.96808, 0.0),
    ("CS", "mean"): (2.5991625, 5.058186875, 5.2598244375, 4.723132375, 2.5991625),
}

#: optimum of the penalised relaxation by price, same solver
PENALISED = {
    ("TAG", "keep"): {0.0: 27.098024, 0.5: 24.598024, 1.0: 22.2061984, 3.0: 14.2061984},
    ("CS", "mean"): {0.0: 5.2598244375, 0.1: 4.9598244375, 1.0: 3.058186875, 3.0: -0.4008375},
}

MATRICES = {"TAG": TAG, "CS": CS}
