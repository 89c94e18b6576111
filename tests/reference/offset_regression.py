"""The offset regression of one subset, in plain float64, by scipy's L-BFGS: slow and obvious."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize


@dataclass
class Reference:
    """The optimum of one subset."""

    u: np.ndarray
    w: dict[int, np.ndarray]
    objective: float


def objective(blocks, subset, ridge, theta, *, penalty=(1.0, 1.0), offset=True):
    """J_S and its gradient at theta = [u, w_t for t in subset]."""
    d = blocks[0].g.shape[1]
    total, grad = 0.0, np.zeros_like(theta)
    count = sum(blocks[t].rows for t in subset)
    start = d
    for t in subset:
        block = blocks[t]
        q = block.head.shape[1]
        g, head = block.g.double().numpy(), block.head.double().numpy()
        base = block.offset.double() if offset else torch.zeros(block.rows, dtype=torch.float64)
        margin = base + torch.from_numpy(g @ theta[:d] + head @ theta[start : start + q])
        targets = block.targets.double()
        total += float(block.loss.value(margin, targets).sum()) / count
        first = block.loss.first(margin, targets).numpy() / count
        grad[:d] += g.T @ first
        grad[start : start + q] += head.T @ first
        start += q
    weights = np.full_like(theta, ridge * penalty[1])
    weights[:d] = ridge * penalty[0]
    return total + 0.5 * float(weights @ theta**2), grad + weights * theta


def fit(blocks, subset, ridge, *, penalty=(1.0, 1.0), offset=True, gtol=1e-11):
    """Minimise J_S to convergence."""
    d = blocks[0].g.shape[1]
    size = d + sum(blocks[t].head.shape[1] for t in subset)
    found = minimize(
        lambda theta: objective(blocks, subset, ridge, theta, penalty=penalty, offset=offset),
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 0.0, "gtol": gtol, "maxcor": 30},
    )
    heads, start = {}, d
    for t in subset:
        q = blocks[t].head.shape[1]
        heads[t] = found.x[start : start + q]
        start += q
    return Reference(found.x[:d], heads, float(found.fun))


def newton(blocks, subset, ridge, *, penalty=(1.0, 1.0)):
    """One dense Newton step from zero."""
    d = blocks[0].g.shape[1]
    widths = [blocks[t].head.shape[1] for t in subset]
    size = d + sum(widths)
    count = sum(blocks[t].rows for t in subset)
    weights = np.full(size, ridge * penalty[1])
    weights[:d] = ridge * penalty[0]
    hessian = np.diag(weights)
    start = d
    for t, q in zip(subset, widths, strict=True):
        block = blocks[t]
        x = np.zeros((block.rows, size))
        x[:, :d] = block.g.double().numpy()
        x[:, start : start + q] = block.head.double().numpy()
        second = block.loss.second(block.offset.double(), block.targets.double()).numpy()
        hessian += x.T @ (second[:, None] * x) / count
        start += q
    _, gradient = objective(blocks, subset, ridge, np.zeros(size), penalty=penalty)
    theta = np.linalg.solve(hessian, -gradient)
    return theta[:d], theta


def values(blocks, subset, u, w):
    """Mean loss of each task of the subset."""
    result = {}
    for t in subset:
        block = blocks[t]
        margin = block.offset.double() + block.g.double() @ torch.from_numpy(u.copy())
        margin = margin + block.head.double() @ torch.from_numpy(w[t].copy())
        result[t] = float(block.loss.value(margin, block.targets.double()).mean())
    return result


def make_blocks(seed, rows, d, widths, kinds, dtype=torch.float64, scale=1.0):
    """Random blocks: one task an entry of `rows`, `widths`, `kinds` (loss objects)."""
    rng = np.random.default_rng(seed)
    from coterie.affinity.blocks import TaskBlock

    blocks = []
    for n, q, loss in zip(rows, widths, kinds, strict=True):
        g, head, offset = rng.normal(size=(n, d)) * scale, rng.normal(size=(n, q)) * scale, rng.normal(size=n)
        name = type(loss).__name__
        targets = rng.normal(size=n) if name == "RegressionLoss" else (rng.random(n) < 0.5).astype(float)
        parts = [torch.from_numpy(np.asarray(part)).to(dtype) for part in (g, head, offset, targets)]
        blocks.append(TaskBlock(*parts, loss))
    return blocks
