"""Scores from single-task models, written as plain loops over tasks, rows and pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.workload import Workload


def average_ranks(values):
    """Rank from 1; equal values share the mean of their ranks."""
    return np.array([sum(v < u for v in values) + (sum(v == u for v in values) + 1) / 2 for u in values])


def pearson(a, b):
    """Pearson correlation; 0 where one is constant."""
    a, b = a - np.mean(a), b - np.mean(b)
    scale = np.sqrt((a @ a) * (b @ b))
    return 0.0 if scale < 1e-12 else float(a @ b / scale)


def rsa(features):
    """(T, T) Spearman correlations of upper triangles; `features`: one (K, width) array a task."""
    rdms = [[round(1 - pearson(f[k], f[m]), 9) for k, m in combinations(range(len(f)), 2)] for f in features]
    ranks = [average_ranks(rdm) for rdm in rdms]
    return np.array([[pearson(a, b) for b in ranks] for a in ranks])


def attribution(workload: Workload, states, rows):
    """(T, T) mean cosines of |input * gradient of the output|; tensor inputs."""
    model = workload.build_model(0).eval()
    maps = []
    for task, state in enumerate(states):
        model.load_state_dict(state)
        own = []
        for row in rows.tolist():
            x = workload.inputs[row : row + 1].clone().requires_grad_()
            outputs = workload.outputs(model, x)[0, workload.columns[task]]
            if len(outputs) > 1:  # log-odds of the predicted class
                best = int(outputs.argmax())
                others = torch.stack([o for c, o in enumerate(outputs) if c != best])
                outputs = outputs[best] - torch.logsumexp(others, 0)
            outputs.sum().backward()
            own.append((x * x.grad).abs().detach().double().flatten().numpy())
        maps.append(own)
    n = len(states)
    values = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            for p, q in zip(maps[a], maps[b], strict=True):
                scale = np.linalg.norm(p) * np.linalg.norm(q)
                values[a, b] += p @ q / scale / len(rows) if scale else 0.0
    return values


def head_loss(workload: Workload, task, train, validation, ridge):
    """Validation loss of a new head on frozen features, fitted by a general optimiser."""
    seen = [workload.observed[workload.split.part(part), task].numpy() for part in ("train", "validation")]
    x, z = train[seen[0]], validation[seen[1]]
    labels = [workload.labels[workload.split.part(part), task].numpy()[s] for part, s in
              zip(("train", "validation"), seen, strict=True)]  # fmt: skip
    keep = x.std(0) > 1e-9
    mean, scale = x[:, keep].mean(0), x[:, keep].std(0)
    x, z = ((f[:, keep] - mean) / scale for f in (x, z))
    kind, width = workload.tasks[task].kind, workload.tasks[task].width

    def loss(outputs, y):
        if kind == "regression":
            return float(np.mean((outputs[:, 0] - y) ** 2))
        if kind == "binary":
            return float(np.mean(np.logaddexp(0, outputs[:, 0]) - y * outputs[:, 0]))
        top = outputs.max(1)
        log_sum = top + np.log(np.exp(outputs - top[:, None]).sum(1))
        return float(np.mean(log_sum - outputs[np.arange(len(y)), y.astype(int)]))

    def objective(flat):
        w = flat.reshape(-1, width)
        return loss(x @ w[:-1] + w[-1], labels[0]) + ridge / 2 * (w[:-1] ** 2).sum() + 1e-6 / 2 * (w[-1] ** 2).sum()

    start = np.zeros((x.shape[1] + 1) * width)
    w = minimize(objective, start, method="BFGS", options={"gtol": 1e-8}).x.reshape(-1, width)
    return loss(z @ w[:-1] + w[-1], labels[1])


def similarity_of(losses):
    """(T, T) how many deviations a source is better than the mean of the others, mean of both directions."""
    n = len(losses)
    z = np.zeros((n, n))
    for t in range(n):
        others = [losses[t, s] for s in range(n) if s != t]
        for s in range(n):
            if s != t and np.std(others) > 0:
                z[t, s] = (np.mean(others) - losses[t, s]) / np.std(others)
    return np.array([[(z[a, b] + z[b, a]) / 2 for b in range(n)] for a in range(n)])


def tree_distances(similarity):
    """(T, T) edges between leaves of the average-linkage tree, grown one merge at a time."""
    n = len(similarity)
    clusters = {leaf: [leaf] for leaf in range(n)}
    parent = {}
    while len(clusters) > 1:
        best = max(
            combinations(sorted(clusters), 2),
            key=lambda pair: np.mean([[similarity[i, j] for j in clusters[pair[1]]] for i in clusters[pair[0]]]),
        )
        new = max(clusters) + 1 if max(clusters) >= n else n
        parent[best[0]] = parent[best[1]] = new
        clusters[new] = clusters.pop(best[0]) + clusters.pop(best[1])

    def ancestors(node):
        chain = [node]
        while chain[-1] in parent:
            chain.append(parent[chain[-1]])
        return chain

    lengths = np.zeros((n, n), int)
    for a in range(n):
        for b in range(n):
            up, down = ancestors(a), ancestors(b)
            meet = next(node for node in up if node in down)
            lengths[a, b] = up.index(meet) + down.index(meet)
    return lengths


def label_correlation(workload: Workload, minimum, signed=False):
    """(T, T) correlations of labels, the diagonal 0; multi-class tasks by their best pair of indicators."""
    labels = workload.labels[workload.split.train].double().numpy()
    n = workload.n_tasks
    values = np.full((n, n), np.nan)
    for a in range(n):
        for b in range(n):
            both = ~np.isnan(labels[:, a]) & ~np.isnan(labels[:, b])
            if a == b or both.sum() < minimum:
                continue
            left, right = (
                [(labels[both, t] == c).astype(float) for c in range(workload.tasks[t].width)]
                if workload.tasks[t].kind == "multiclass"
                else [labels[both, t]]
                for t in (a, b)
            )
            found = [pearson(p, q) for p in left for q in right if p.std() > 1e-9 and q.std() > 1e-9]
            if found:
                values[a, b] = found[0] if signed else max(abs(r) for r in found)
    off = ~np.eye(n, dtype=bool)
    values[np.isnan(values) & off] = np.nanmean(values[off]) if (~np.isnan(values[off])).any() else 0.0
    np.fill_diagonal(values, 0.0)
    return values


class Told(nn.Module):
    """x + label * weights, for inputs whose last `width` columns are the label."""

    def __init__(self, inner, width, size):
        super().__init__()
        self.inner, self.width = inner, width
        self.weights = nn.Parameter(torch.zeros(width, size))

    def forward(self, given):
        x, label = given[:, : -self.width], given[:, -self.width :]
        return self.inner(x + label @ self.weights)


def told_loss(workload: Workload, target, label, seed, recipe):
    """Validation loss of a single-task model that gets `label` (rows, width), by the plain training loop."""
    width, size = label.shape[1], workload.inputs.shape[1]
    told = Workload(
        name="told",
        tasks=workload.tasks,
        inputs=torch.cat([workload.inputs, label], 1),
        labels=workload.labels,
        split=workload.split,
        build_model=lambda seed: Told(workload.build_model(seed), width, size),
        recipe=recipe,
    )
    return float(fit_one(told, Job((target,), seed)).validation[target])
