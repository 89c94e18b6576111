"""Task weighting written from the equations, for tests: exact minimum-norm weights, DWA, random weights."""

import math
from itertools import combinations

import numpy as np
import torch


def min_norm_weights(gram):
    """The point of the simplex with the smallest w' G w, by trying every support."""
    n, best, found = len(gram), math.inf, None
    for size in range(1, n + 1):
        for support in combinations(range(n), size):
            block = gram[np.ix_(support, support)]
            system = np.block([[block, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            solution = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
            if (solution < -1e-12).any():
                continue
            weights = np.zeros(n)
            weights[list(support)] = solution
            value = weights @ gram @ weights
            if value < best - 1e-15:
                best, found = value, weights
    return found


def dynamic_weights(history, window, temperature):
    """DWA's weights for the step after `history`, a list of rows of losses with NaN for missing ones."""
    n = len(history[0])
    full = len(history) // window
    if full < 2:
        return [1.0 / n] * n
    rates = []
    for task in range(n):
        means = []
        for k in (full - 1, full - 2):
            seen = [row[task] for row in history[k * window : (k + 1) * window] if not math.isnan(row[task])]
            means.append(sum(seen) / len(seen) if seen else math.nan)
        rate = means[0] / means[1]
        rates.append(1.0 if math.isnan(rate) else rate)
    exponentials = [math.exp(rate / temperature) for rate in rates]
    return [e / sum(exponentials) for e in exponentials]


def random_weights(n, seed, step):
    """RLW's weights at a step, drawn in blocks of 64 steps."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step // 64)
    numbers = torch.randn(64, n, generator=generator)[step % 64].tolist()
    exponentials = [math.exp(number) for number in numbers]
    return [e / sum(exponentials) for e in exponentials]
