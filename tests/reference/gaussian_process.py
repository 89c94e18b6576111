"""A Gaussian process over subsets the slow way: plain loops over pairs (S, t), one formula after the other."""

from __future__ import annotations

import math

import numpy as np


def pairs(subsets):
    return [(set(np.flatnonzero(row).tolist()), int(task)) for row in subsets for task in np.flatnonzero(row)]


def terms(a, b, x_a, x_b, likeness, typical):
    """Covariances of unit variance between f(S, t) and f(S', t')."""
    (s, t), (s2, t2) = a, b
    p, p2 = s - {t}, s2 - {t2}
    root = math.sqrt(max(len(p), 1) * max(len(p2), 1))
    same = float(t == t2)
    shared = len(p & p2) / root
    crossed = float(t2 in p and t in p2) / root
    transfer = sum(likeness.sources[i, j] for i in p for j in p2) / root * likeness.targets[t, t2]
    found = [
        same,
        1.0,
        x_a * x_b,
        x_a * x_b * same,
        math.log(len(s) / typical) * math.log(len(s2) / typical),
        same * float(not p and not p2),
        shared * same,
        transfer,
        shared * same + crossed,
        math.exp(-len(p ^ p2) / 4.0) * same,
    ]
    found += [sum(feature[t, j] for j in p) * sum(feature[t2, j] for j in p2) / root for feature in likeness.features]
    return found + [sum(alike[i, j] for i in p for j in p2) / root * alike[t, t2] for alike in likeness.alike]


def kernel(a, b, x_a, x_b, process, share):
    """Covariance of two values; `share` multiplies each term's variance."""
    names = process.likeness.names
    total = 0.0
    for name, value, variance, part in zip(
        names, terms(a, b, x_a, x_b, process.likeness, process.typical), process.variances, share, strict=False
    ):
        factor = 1.0 if name in ("slope", "task slope") else process.relative[a[1]] * process.relative[b[1]]
        total += part * variance * value * factor
    return total


def posterior(process, seen, values, seen_estimates, asked, asked_estimates):
    """Mean and standard deviation (pairs asked), by the textbook formulas with an explicit inverse."""
    scaled = (seen_estimates - process.centre) / process.scale
    x = [scaled[row, task] for row in range(len(seen)) for task in np.flatnonzero(seen[row])]
    scaled = (asked_estimates - process.centre) / process.scale
    z = [scaled[row, task] for row in range(len(asked)) for task in np.flatnonzero(asked[row])]
    known, wanted = pairs(seen), pairs(asked)
    names = process.likeness.names
    full = [1.0] * len(names)
    lucky = [name.split()[0] in ("partners", "transfer", "mutual", "overlap", "alike") for name in names]
    kept = [1.0 - process.settings.luck * one for one in lucky]
    noise = process.variances[-1]
    gram = np.array([[kernel(a, b, u, v, process, full) for b, v in zip(known, x, strict=True)]
                     for a, u in zip(known, x, strict=True)])  # fmt: skip
    gram += np.diag([noise * process.relative[t] ** 2 + 1e-6 for _, t in known])
    across = np.array([[kernel(a, b, u, v, process, kept) for b, v in zip(known, x, strict=True)]
                       for a, u in zip(wanted, z, strict=True)])  # fmt: skip
    flat = [values[row, task] for row in range(len(seen)) for task in np.flatnonzero(seen[row])]
    target = np.array(
        [
            (y - process.centre[t]) / process.scale[t] - 0.35 * u - process.offset
            for y, (_, t), u in zip(flat, known, x, strict=True)
        ]
    )
    inverse = np.linalg.inv(gram)
    luck = sum(process.settings.luck * v for v, one in zip(process.variances, lucky, strict=False) if one)
    mean, deviation = [], []
    for row, (a, u) in enumerate(zip(wanted, z, strict=True)):
        scale = process.scale[a[1]]
        guess = 0.35 * u + process.offset + across[row] @ inverse @ target
        mean.append(process.centre[a[1]] + scale * guess)
        own = kernel(a, a, u, u, process, kept) - across[row] @ inverse @ across[row]
        own += process.settings.shift * process.relative[a[1]] ** 2 * (noise + luck)
        own += process.settings.own * process.relative[a[1]] ** 2 * noise
        deviation.append(scale * math.sqrt(own * (1 + process.settings.unsure / (len(known) + process.settings.known))))
    return np.array(mean), np.array(deviation)
