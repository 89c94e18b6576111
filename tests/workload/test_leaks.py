"""Labels left among the inputs are said, whatever their name and type."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import DataWarning
from coterie.workload import from_arrays, from_datasets, from_graph

RNG = np.random.default_rng(0)
N = 90
X = pd.DataFrame(RNG.normal(size=(N, 3)), columns=list("pqr"))
Y = pd.DataFrame({"a": (X["p"] > 0).astype(int), "b": 1e6 + 50 * X["q"] + RNG.normal(size=N)})


def holes(y):
    return y.astype(float).mask(RNG.random(N) < 0.3)


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x, more):
        return self.head(x) + more[:, None]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: from_arrays(X.join(Y), Y), r"'a' is the label of 'a'; 'b' is the label of 'b'"),
        (lambda: from_arrays(X.assign(old=Y["b"]), Y), r"'old' is the label of 'b'\. "),
        (lambda: from_arrays(X.assign(old=Y["a"] == 1), Y.apply(holes)), r"'old' is the label of 'a'\. "),
        (lambda: from_arrays(np.column_stack([X, Y["a"]]), Y), "column 3 is the label of 'a'"),
        (lambda: from_arrays(np.column_stack([X, Y["b"]]).astype("f4"), Y), "column 3 is the label of 'b'"),
        (lambda: from_arrays({"x": X, "more": Y["a"]}, Y, build_model=Parts), "'more' is the label of 'a'"),
        (lambda: from_datasets({n: (X.assign(old=Y[n]), Y[n]) for n in Y}), "'old' is the label of 'a'"),
        (
            lambda: from_graph(X.assign(c=Y["a"]), [[0], [1]], Y, build_model=lambda: torch.nn.Linear(4, 2)),
            "'c' is the label of 'a'",
        ),
    ],
)
def test_labels_among_the_inputs_are_said(make, words):
    with pytest.warns(DataWarning, match=f"holds labels: {words}"):
        make()


def test_columns_that_differ_somewhere_are_not_said():
    almost = X.assign(old=Y["a"].where(np.arange(N) != 40, 1 - Y["a"]), other=Y["b"] * 2, flag=1.0)
    few = Y.assign(c=np.where(np.arange(N) % 12 == 0, Y["a"], np.nan))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Parameter `x` holds labels")
        from_arrays(almost, Y)
        from_arrays(X.assign(old=few["c"].fillna(0.5)), few)
        from_arrays(RNG.normal(size=(N, 1, 2, 2)), Y)
