"""Forms in which candidates and seeds may come, and those in which they may not."""

from __future__ import annotations

import pytest

from coterie.errors import SettingError
from coterie.evaluation.compare import as_groupings, as_seeds
from coterie.grouping import Grouping

TASKS = ("a", "b", "c")


def test_groupings_and_lists_of_names_or_numbers() -> None:
    found = as_groupings(
        {"x": [["a", "c"], ["b"]], "y": [[0], [1, 2]], "z": Grouping.from_labels(TASKS, [0, 0, 1])}, TASKS
    )
    assert found["x"].serves == (0, 1, 0)
    assert found["y"].serves == (0, 1, 1)
    assert found["z"].serves == (0, 0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        [["a", "b"], ["c"]],
        {"x": [["a", "b"]]},
        {"x": [["a", "b"], ["b", "c"]]},
        {"x": [["a", "b"], ["nope"]]},
        {"x": 3},
        {"x": ["a", "b", "c"]},
        {"x": Grouping.from_labels(("p", "q", "r"), [0, 0, 1])},
    ],
)
def test_other_candidates_are_refused(bad: object) -> None:
    with pytest.raises(SettingError, match="candidates"):
        as_groupings(bad, TASKS)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -1, 1.5, [], [1, 1], [-1], "two", True, None])
def test_other_seeds_are_refused(bad: object) -> None:
    with pytest.raises(SettingError, match="seeds"):
        as_seeds(bad)  # type: ignore[arg-type]
