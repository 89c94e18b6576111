"""Local search for the partition with the largest predicted gain."""

from __future__ import annotations

from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.grouping.matrix import IntArray
from coterie.grouping.objective import Objective, as_labels, membership
from coterie.grouping.search.moves import Limits, Partition, climb


@known_arguments
def search(
    objective: Objective, labels: IntArray, *, max_swaps: int | None = None, progress: Progress | None = None
) -> IntArray:
    """Move one task at a time while that gains; when no move does, exchange two tasks; stop when neither helps.

    Works for any worth that adds up over groups, such as the gain that a model predicts; it need not come from pairs.
    For a search that also changes the number of groups see :func:`coterie.grouping.search.groups.search_groups`.

    Args:
        objective: its `totals` say what single groups are worth; asked for many groups at once.
        labels: (T,) where to start; the number of groups stays and no group is emptied.
        max_swaps: exchanges that are tried when no move gains, most promising first; None for four a task, 200 at
            least, which are all up to 20 tasks.
        progress: called once at the start and once at the end.

    Returns:
        (T,) labels that are worth at least as much, groups numbered by their first task.

    Cost:
        T * groups groups are asked for at the start, about 16 for each move, and 2 T when no move is left.
    """
    say = progress or silent
    say("grouping: local search", 0, 1)
    current = as_labels(labels, len(labels))
    partition = Partition(objective, membership(current).T > 0)
    climb(partition, Limits(len(partition.groups), len(partition.groups)), max_swaps)
    say("grouping: local search", 1, 1)
    return as_labels(partition.labels, len(current))
