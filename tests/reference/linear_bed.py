"""Logistic tasks whose model is linear in its parameters, and subsets that are really retrained."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy.optimize import minimize

from coterie.affinity.blocks import TaskBlock, compute_statistics
from coterie.affinity.newton import values
from coterie.affinity.refine import Stopping, iterate
from coterie.workload.losses import get_loss

RIDGE, WIDTH, ROWS, TASKS = 0.02, 24, 300, 6
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(range(TASKS), size)]


class Bed:
    """Related logistic tasks that share one weight vector and have a bias each."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=WIDTH) / WIDTH**0.5
        weights = 1.5 * shared + 2.0 * rng.normal(size=(TASKS, WIDTH)) / WIDTH**0.5
        self.x = rng.normal(size=(2, TASKS, ROWS, WIDTH))
        margins = np.einsum("ptnd,td->ptn", self.x, weights) + rng.normal(size=TASKS)[None, :, None]
        self.y = (rng.random(margins.shape) < 1 / (1 + np.exp(-margins))).astype(float)
        everything = self.retrain(tuple(range(TASKS)), np.zeros(WIDTH), np.zeros(TASKS))
        self.base = everything[0], np.array([everything[1][task] for task in range(TASKS)])

    def retrain(self, subset, start, biases):
        """Train weights and biases, pulled towards the start, on the pooled labels of a subset."""
        count = ROWS * len(subset)

        def objective(theta):
            weight, value, gradient = theta[:WIDTH], 0.0, np.zeros_like(theta)
            for k, t in enumerate(subset):
                margin = self.x[0, t] @ weight + theta[WIDTH + k]
                value += (np.logaddexp(0, margin) - self.y[0, t] * margin).sum() / count
                first = (1 / (1 + np.exp(-margin)) - self.y[0, t]) / count
                gradient[:WIDTH] += self.x[0, t].T @ first
                gradient[WIDTH + k] += first.sum()
            away = theta - np.concatenate([start, biases[list(subset)]])
            return value + RIDGE / 2 * away @ away, gradient + RIDGE * away

        initial = np.concatenate([start, biases[list(subset)]])
        found = minimize(objective, initial, jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 0.0})
        return found.x[:WIDTH], dict(zip(subset, found.x[WIDTH:], strict=True))

    def truth(self) -> np.ndarray:
        """Validation losses of every subset, really retrained from the base."""
        result = np.full((len(SUBSETS), TASKS), np.nan)
        for row, subset in enumerate(SUBSETS):
            weight, biases = self.retrain(subset, *self.base)
            for t in subset:
                margin = self.x[1, t] @ weight + biases[t]
                result[row, t] = (np.logaddexp(0, margin) - self.y[1, t] * margin).mean()
        return result

    def estimate(self, directions: np.ndarray, *, offset: bool = True) -> np.ndarray:
        """Validation losses by the offset regression on projected gradients."""
        parts = []
        for part in range(2):
            margins = [self.x[part, t] @ self.base[0] + self.base[1][t] for t in range(TASKS)]
            parts.append(
                [
                    TaskBlock(
                        torch.from_numpy(self.x[part, t] @ directions),
                        torch.ones(ROWS, 1, dtype=torch.float64),
                        torch.from_numpy(margins[t]),
                        torch.from_numpy(self.y[part, t]),
                        get_loss("binary"),
                    )
                    for t in range(TASKS)
                ]
            )
        mask = np.zeros((len(SUBSETS), TASKS), dtype=bool)
        for row, subset in enumerate(SUBSETS):
            mask[row, list(subset)] = True
        sums = compute_statistics(parts[0], offset=offset)
        return values(iterate(sums, parts[0], mask, RIDGE, stopping=Stopping(1e-12, 200)), parts[1])


def error(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmax(np.abs(estimate - truth)))


def mean_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean((estimate - truth) ** 2)))


def rademacher(d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(WIDTH, d)) / d**0.5
