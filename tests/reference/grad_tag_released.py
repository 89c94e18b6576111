"""The released Grad-TAG evaluation, one subset at a time: scikit-learn's regression, heads that stay where they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def released_losses(work, state, matrices, subset, c, heads, intercept=True):
    """Validation losses of the tasks of a subset.

    Every label's gradient over all parameters is projected and becomes a row of a logistic regression without offset.
    What it finds is projected back and added to the parameters that belong to no head; its intercept is let go.

    Args:
        work: workload with binary tasks whose model has one output a task.
        state: of the base model.
        matrices: name of a parameter -> (d, *shape) directions.
        subset: numbers of the tasks.
        c: inverse strength of the ridge, as scikit-learn counts it.
        heads: names of the parameters that belong to heads.
    """
    from sklearn.linear_model import LogisticRegression

    model = work.build_model(0).eval()
    model.load_state_dict(dict(state))
    features, labels = [], []
    for task in subset:
        for row in work.rows_of((task,), "train").tolist():
            model.zero_grad()
            model(work.inputs[row : row + 1])[0, task].backward()
            features.append(
                sum(matrices[name].flatten(1).double() @ p.grad.flatten().double() for name, p in named(model))
            )
            labels.append(float(work.labels[row, task]))
    fit = LogisticRegression(C=c, fit_intercept=intercept, tol=1e-10, max_iter=10_000)
    fit.fit(torch.stack(features).numpy(), np.array(labels))
    u = torch.from_numpy(fit.coef_[0])
    losses = []
    with torch.no_grad():
        for name, parameter in named(model):
            if name not in heads:
                parameter += torch.tensordot(u, matrices[name].double(), 1).float()
        for task in subset:
            rows = work.rows_of((task,), "validation")
            logits = model(work.inputs[rows])[:, task]
            losses.append(
                float(nn.functional.binary_cross_entropy_with_logits(logits, work.labels[rows, task].float()))
            )
    return losses


def named(model):
    """Names and parameters."""
    return list(model.named_parameters())
