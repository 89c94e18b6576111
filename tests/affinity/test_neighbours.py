"""Neighbours of a group are fitted from its factorisation: the same values as one by one."""

import numpy as np
import pytest
import torch

from coterie.affinity import conjugate, neighbours
from coterie.affinity import linear as stopped
from coterie.affinity.blocks import TaskBlock, compute_statistics
from coterie.affinity.conjugate import ConjugateSolver, Shifts
from coterie.affinity.linear import PATH, LinearBase, chosen, mixed, path_values, place_of
from coterie.affinity.neighbours import LEAST, neighbourhoods
from coterie.affinity.newton import check_layout, ridges
from coterie.workload import get_loss

TASKS, DIRECTIONS = 16, 10


def linear_base(kind: torch.dtype = torch.float64) -> LinearBase:
    """Tasks with different numbers of examples, head parameters and losses; the last one is not validated."""
    generator = torch.Generator().manual_seed(0)

    def block(task: int, rows: int) -> TaskBlock:
        g, head, offset = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(kind) for shape in (
            (rows, DIRECTIONS), (rows, task % 4), (rows,)
        ))  # fmt: skip
        targets = (torch.rand(rows, generator=generator) < 0.5).to(kind)
        return TaskBlock(g, head, offset, targets, get_loss("binary" if task % 3 else "regression"))

    train = [block(task, 20 + 3 * task) for task in range(TASKS)]
    validation = [block(task, 8 + task if task < TASKS - 1 else 0) for task in range(TASKS)]
    return LinearBase(compute_statistics(train), tuple(train), tuple(validation))


def changes(group: np.ndarray) -> np.ndarray:
    """The group, all with one task more or less, and two exchanges."""
    n = len(group)
    rows = [group, *(group ^ (np.arange(n) == task) for task in range(n))]
    inside, outside = np.flatnonzero(group), np.flatnonzero(~group)
    for a, b in zip(inside[:2], outside[:2], strict=False):
        rows.append(group ^ np.isin(np.arange(n), [a, b]))
    return np.stack([row for row in rows if row.any()])


@pytest.mark.parametrize("size", [1, 2, 5, 9, TASKS])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_values_are_those_of_single_fits(size, kind, monkeypatch):
    base = linear_base(kind)
    group = np.random.default_rng(size).permutation(TASKS) < size
    subsets = np.unique(changes(group), axis=0)
    plain = path_values(base, subsets, PATH)
    asked = []
    monkeypatch.setattr(stopped, "CROSSOVER", 0)
    monkeypatch.setattr(stopped, "_scattered", lambda *args: asked.append(len(args[1])) or plain[:, : len(args[1])])
    if size > 2:  # with few tasks the ridge changes too much for an interpolation
        np.testing.assert_allclose(path_values(base, subsets, PATH), plain, rtol=2e-5, atol=1e-6)
        assert not asked
    elif size == 1:
        path_values(base, subsets, PATH)
        assert asked == [len(subsets)]


def test_single_precision_is_left_where_the_ridge_is_too_weak_for_it(monkeypatch):
    base, group = linear_base(), np.arange(TASKS) < 9
    monkeypatch.setattr(neighbours, "CROSSOVER", 0)
    strong, weak = (base.neighbours(path) for path in ((1.0, 0.1, 0.01), (1.0, 1e-3, 1e-9)))
    subsets = changes(group)
    assert weak.values(group, subsets) is None
    found = strong.values(group, subsets)
    assert found is not None
    expected = np.stack([base.values(subsets, ridge) for ridge in strong.path])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_too_little_memory_leaves_the_usual_way():
    base, group = linear_base(), np.arange(TASKS) < 9
    assert base.neighbours(PATH).values(group, changes(group), memory=1000) is None


def test_rows_are_worked_off_in_parts(monkeypatch):
    base, group = linear_base(), np.arange(TASKS) < 9
    subsets = changes(group)
    whole = base.neighbours(PATH).values(group, subsets)
    monkeypatch.setattr(neighbours, "_ROWS", 4)
    np.testing.assert_allclose(base.neighbours(PATH).values(group, subsets), whole, rtol=1e-9)


def test_neighbourhoods_of_several_groups_are_told_apart():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 60)) < 0.5
    lone = rng.random((5, 60)) < 0.5
    rows = np.concatenate([first ^ np.eye(60, dtype=bool)[:20], lone, second ^ np.eye(60, dtype=bool)[20:50]])
    order = rng.permutation(len(rows))
    found, rest = neighbourhoods(rows[order])
    groups = {group.tobytes(): sorted(order[own].tolist()) for group, own in found}
    assert groups == {first.tobytes(): list(range(20)), second.tobytes(): list(range(25, 55))}
    assert sorted(order[rest].tolist()) == list(range(20, 25))
    assert neighbourhoods(rows[: LEAST - 1]) == ([], list(range(LEAST - 1)))


@pytest.mark.parametrize(("ridge", "first", "open_ends"), [(1.0, 0, (2,)), (0.01, 1, (0, 2)), (1e-4, 2, (0,))])
def test_only_the_strengths_that_count_are_fitted(ridge, first, open_ends, monkeypatch):
    """Others only where the mean loss is lowest at an end of the first three beyond which there are more."""
    rng = np.random.default_rng(0)
    subsets = np.unique(rng.random((60, TASKS)) < 0.4, axis=0)
    centre, level = rng.uniform(-1, 5, size=len(subsets)), rng.normal(size=TASKS)
    bowls = (np.arange(len(PATH))[:, None, None] - centre[:, None]) ** 2 + level
    full = np.where(subsets, bowls, np.nan)

    def along(base, asked, path, numbers, converged, memory):
        rows = [int(np.flatnonzero((subsets == row).all(1))[0]) for row in asked]
        return full[list(numbers)][:, rows]

    monkeypatch.setattr(stopped, "_along", along)
    monkeypatch.setattr(stopped, "CROSSOVER", 0)
    found = path_values(linear_base(), subsets, PATH, around=place_of(ridge, PATH))
    asked = np.isin(np.abs(np.arange(first, first + 3) - centre[:, None]).argmin(1), open_ends)
    assert 0 < asked.sum() < len(subsets)
    fitted = ~np.isnan(found).all(2)
    assert fitted[first : first + 3].all()
    np.testing.assert_array_equal(fitted.sum(0), np.where(asked, len(PATH), 3))
    np.testing.assert_array_equal(chosen(found), chosen(full))
    np.testing.assert_array_equal(mixed(found, PATH, ridge), mixed(full, PATH, ridge))


@pytest.mark.parametrize("uniform", [True, False])
def test_products_for_all_tasks_at_once_are_those_task_by_task(uniform, monkeypatch):
    base, rng = linear_base(), np.random.default_rng(0)
    subsets = rng.random((7, TASKS)) < 0.4
    subsets[:, 3] = False
    layout = check_layout(base.statistics, subsets)
    shifts = Shifts.of(base.statistics, layout, ridges(0.1, layout), base.statistics.penalty())
    shifts = Shifts(shifts.trunk, torch.ones_like(shifts.heads)) if uniform else shifts
    direction, found = torch.from_numpy(rng.normal(size=(7, DIRECTIONS))).float(), []
    for few in (48, -1):
        monkeypatch.setattr(conjugate, "_FEW", few)
        found.append(ConjugateSolver.of(base.statistics, layout, shifts)._products()(direction))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)
