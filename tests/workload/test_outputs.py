"""Outputs in every form that models return them in: read by name or place, with the width of each task."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from coterie import from_arrays
from coterie.errors import WorkloadError
from coterie.workload import Task, validate
from coterie.workload.workload import by_name, join_outputs

ROWS = 6
TASKS = (Task("sick"), Task("stage", "multiclass", classes=3), Task("age", "regression"))
A, B, C = (torch.arange(ROWS * width).reshape(ROWS, width) + 100.0 * i for i, width in enumerate((1, 3, 1)))
Named = namedtuple("Named", ["stage", "age", "sick"])


class Typed(NamedTuple):
    age: Any
    sick: Any
    stage: Any


@dataclass
class Data:
    stage: Any
    sick: Any
    age: Any
    hidden: Any = None


@dataclass
class Scores:
    logits: Any
    hidden: Any = None


Other = namedtuple("Other", ["first", "second", "third"])

GOOD = {
    "tensor": torch.cat([A, B, C], 1),
    "list in order": [A, B, C],
    "one dimension for one number": (A[:, 0], B, C[:, 0]),
    "mapping in another order": OrderedDict(age=C, stage=B, sick=A, extra=B),
    "named tuple in another order": Named(stage=B, age=C, sick=A),
    "typed tuple in another order": Typed(C, A[:, 0], B),
    "dataclass in another order": Data(B, A, C, hidden=B),
    "scores among other outputs": Scores(torch.cat([A, B, C], 1), hidden=B),
    "scores by name among other outputs": {"logits": {"age": C, "sick": A, "stage": B}, "loss": A},
    "scores and nothing": (torch.cat([A, B, C], 1), None),
    "one in a tuple": (Data(B, A, C),),
    "the only part of a mapping": {"y": [A, B, C]},
}
BAD = {
    "widths exchanged in a list": ([B, A, C], "binary task 'sick'.*another order"),
    "widths exchanged in a mapping": ({"sick": B, "stage": A, "age": C}, "'sick'"),
    "widths that add up": ((A, torch.cat([B, C], 1), C[:, :0]), "'stage'.*a class"),
    "widths exchanged in a dataclass": (Data(stage=A, sick=A, age=B), r"\(rows, 3\).*'stage'"),
    "two logits": ((B[:, :2], B[:, :2], C), "of two logits"),
    "a dimension too many": ({"sick": A[..., None], "stage": B, "age": C}, r"'sick'. Found shape \(6, 1, 1\).*squeeze"),
    "one dimension for classes": ((A, B[:, 0], C), "'stage'"),
    "other names": (Other(A, B, C), r"names \['first', 'second', 'third'\].*forward="),
    "some names": (Data(stage=B, sick=A, age=None), r"without the tasks \['age'\]"),
    "a task missing": ({"sick": A, "stage": B}, r"without the tasks \['age'\]"),
    "a task beside scores": ({"sick": A, "logits": torch.cat([A, B, C], 1)}, r"without the tasks \['stage', 'age'\]"),
    "scores and hidden state": ((torch.cat([A, B, C], 1), B), "3 tasks. Found 2 parts"),
    "nothing for a task": ([A, None, C], "1 of them None"),
    "numpy": ((A, B.numpy(), C), "ndarray for task 'stage'"),
    "numbers": ((A, 3.0, C), "float for task 'stage'"),
    "other rows": ((A, B, C[:2]), "as many rows"),
    "turned": (torch.cat([A, B, C], 1).T[:, :4], "transpose"),
    "text": ("abc", "Found str"),
    "nothing": (None, "Found NoneType"),
    "a class": (Data, "Found type"),
    "sparse": (torch.cat([A, B, C], 1).to_sparse(), "sparse_coo one"),
    "quantised": (torch.quantize_per_tensor(torch.cat([A, B, C], 1), 0.1, 0, torch.quint8), "quantised one"),
}


@pytest.mark.parametrize("name", GOOD)
def test_outputs_are_put_into_the_order_of_the_tasks(name):
    torch.testing.assert_close(join_outputs(GOOD[name], TASKS), torch.cat([A, B, C], 1))


@pytest.mark.parametrize("name", BAD)
def test_outputs_that_do_not_fit_are_refused(name):
    raw, message = BAD[name]
    with pytest.raises(WorkloadError, match=message):
        join_outputs(raw, TASKS)


def test_a_workload_refuses_widths_that_add_up():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)

        def forward(self, x):
            hidden = self.trunk(x).relu()
            return {"b": self.second(hidden), "a": self.first(hidden)}

    rng = np.random.default_rng(0)
    y = np.stack([rng.integers(0, 2, 60), rng.integers(0, 3, 60)], 1)
    workload = from_arrays(
        rng.normal(size=(60, 4)), y, tasks=[Task("a"), Task("b", "multiclass", classes=3)], model=Swapped()
    )
    with pytest.raises(WorkloadError, match="binary task 'a'"):
        validate(workload)


class OnePart(nn.Linear):
    def forward(self, x):
        return super().forward(x)


class Parts(nn.Linear):
    def forward(self, left, right=None):
        return super().forward(left if right is None else left + right)


class Whole(nn.Linear):
    def forward(self, parts, mask=None):
        return super().forward(parts["left"])


def test_mappings_go_by_name_where_the_names_are_those_of_forward():
    x = torch.zeros(2, 3)
    assert by_name(OnePart(3, 2), {"x": x})
    assert not by_name(OnePart(3, 2), {"left": x})
    assert by_name(Parts(3, 2), {"left": x, "right": x})
    assert by_name(Parts(3, 2), {"left": x})
    assert not by_name(Whole(3, 2), {"left": x})
    assert not by_name(torch.compile(Whole(3, 2), backend="eager"), {"left": x})
    assert not by_name(nn.DataParallel(Whole(3, 2)), {"left": x})
    assert by_name(torch.compile(Parts(3, 2), backend="eager"), {"left": x, "right": x})
