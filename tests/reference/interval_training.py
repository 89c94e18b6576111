"""The training step with intervals as tasks as its authors describe it, written as plainly as possible.

Uncertainty weighting: ``sum_i (exp(-s_i) l_i / k + s_i) / 2``, with s in a group of the model's AdamW (rate 0.025,
no decay). The loss of an interval is the mean of its slice of the batch.
"""

import torch


def slice_means(per_example, t, spans):
    """Mean loss of each interval, with a loop over examples; NaN without any."""
    means = []
    for first, last in spans:
        own = [loss for loss, step in zip(per_example, t.tolist(), strict=True) if first <= step <= last]
        means.append(torch.stack(own).mean() if own else torch.tensor(float("nan")))
    return torch.stack(means)


def uncertainty_loss(s, losses):
    """The loss that is differentiated with respect to model and s."""
    total = 0.0
    for s_i, l_i in zip(s, losses, strict=True):
        total = total + 0.5 * (torch.exp(-s_i) * l_i / len(losses) + s_i)
    return total


def train(model, losses_of, spans, batches, learning_rate):
    """Trajectory of s (steps, k) and of the total loss, and the model trained in place.

    Args:
        losses_of: gives (B,) losses of a batch.
        batches: pairs of a batch and its time steps.
    """
    s = torch.zeros(len(spans), requires_grad=True)
    groups = [{"params": list(model.parameters())}, {"params": [s], "lr": 0.025}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
    path, totals = [], []
    for batch, t in batches:
        total = uncertainty_loss(s, slice_means(losses_of(batch, t), t, spans))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        path.append(s.detach().clone())
        totals.append(total.item())
    return torch.stack(path), totals
