"""A Gaussian process over runs, written down plainly: every covariance by itself, one dense matrix."""

import math

import numpy as np

#: what the fast code adds to every variance of noise and of luck, so that its factors exist
TINY = 1e-8


def covariance(results, variances, usual, first, second, *, alike=None, priors=()):
    """Of two values: each is (run as a dict of trained, variant, seed and number, target)."""

    def v(name):
        return math.exp(variances.logs[name]) if name in variances.logs else 0.0

    (a, t), (b, u) = first, second
    common = sum(x and y for x, y in zip(a["trained"], b["trained"], strict=True)) / usual
    apart = sum(x != y for x, y in zip(a["trained"], b["trained"], strict=True))
    quality = common * usual**2 / max(sum(a["trained"]), 1) / max(sum(b["trained"]), 1)
    near = math.exp(-apart / v("length"))
    sizes = [math.log(max(sum(one["trained"]), 1) / usual) for one in (a, b)]
    size = sizes[0] * sizes[1]
    same_variant = a["variant"] == b["variant"] != ""
    total = v("shared near") * near + v("shared size") * size + v("shared quality") * quality
    if same_variant:
        total += v("shared variant level") + v("shared variant size") * size
    if a["number"] == b["number"] is not None:
        total += v("shared luck") + TINY
    total += common * sum(b_q[t] * b_q[u] for b_q in variances.loadings)
    if alike is not None:
        total += v("alike") * common * float(alike[t] @ alike[u])
    for number, prior in enumerate(priors):
        values = [prior(np.array([one["trained"]]))[0][task] for one, task in (first, second)]
        total += v(f"prior {number}") * values[0] * values[1]
    one, two = results.targets[t], results.targets[u]
    for place, source in enumerate(results.sources):
        # what the source does to the one, the one does to the source, where that is the other target
        for other, target in enumerate(results.sources):
            pair = {source, one} == {target, two} and source != one and target != two
            total += v("mutual") / usual * (pair and a["trained"][place] and b["trained"][other])
    if t != u:
        return total
    total += v("own level") + v("own partners") * common + v("own near") * near + v("own size") * size
    if a["seed"] == b["seed"] is not None:
        total += v("own seed")
    if same_variant:
        total += v("own variant level") + v("own variant partners") * common + v("own variant near") * near
    place = results.sources.index(results.targets[t]) if results.targets[t] in results.sources else None
    if place is not None:
        total += v("own alone") * (not a["trained"][place]) * (not b["trained"][place])
    return total


def as_runs(results):
    """Each run as a dict."""
    seeds = results.seeds.tolist()
    lasting = {seed for seed in seeds if seed >= 0 and seeds.count(seed) > 1}
    return [
        {
            "trained": row.tolist(),
            "variant": variant,
            "seed": seed if seed in lasting else None,
            "number": number,
        }
        for number, (row, variant, seed) in enumerate(zip(results.trained, results.variants, seeds, strict=True))
    ]


def dense(results, values, errors, variances, usual, asked, **known):
    """Log likelihood without pi, posterior means and standard deviations (subsets, targets) of standardised values.

    Args:
        results: the runs.
        values: (runs, targets) standardised, NaN where not measured.
        errors: (runs, targets) variances of measurement.
        variances: of the process.
        usual: mean size.
        asked: (subsets, sources) of the usual variant.
        known: likeness of targets, priors.
    """
    runs = as_runs(results)
    seen = [(run, t) for t in range(values.shape[1]) for run in runs if np.isfinite(values[run["number"], t])]
    y = np.array([values[run["number"], t] for run, t in seen])
    noise = [
        math.exp(variances.logs["noise"] + variances.noises[t]) + TINY + errors[run["number"], t] for run, t in seen
    ]

    def cov(one, two):
        return covariance(results, variances, usual, one, two, **known)

    matrix = np.array([[cov(one, two) for two in seen] for one in seen]) + np.diag(noise)
    likelihood = -0.5 * (y @ np.linalg.solve(matrix, y) + np.linalg.slogdet(matrix)[1])
    means, deviations = np.empty((2, len(asked), values.shape[1]))
    for row, trained in enumerate(asked.tolist()):
        for t in range(values.shape[1]):
            point = ({"trained": trained, "variant": "", "seed": None, "number": None}, t)
            across = np.array([cov(point, other) for other in seen])
            means[row, t] = across @ np.linalg.solve(matrix, y)
            deviations[row, t] = math.sqrt(cov(point, point) - across @ np.linalg.solve(matrix, across))
    return likelihood, means, deviations
