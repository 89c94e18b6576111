"""Skill measures written as plain loops."""

import math


def pearson(xs, ys):
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    cross = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return cross / math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))


def columns(estimate, truth, counts):
    """For each task the (estimate, truth) pairs that are known, each as often as its subset was drawn."""
    found = []
    for t in range(len(truth[0])):
        rows = []
        for i in range(len(truth)):
            if math.isfinite(estimate[i][t]) and math.isfinite(truth[i][t]):
                rows += [(float(estimate[i][t]), float(truth[i][t]))] * int(counts[i])
        found.append(rows)
    return found


def within_task(estimate, truth, counts=None):
    counts = [1] * len(truth) if counts is None else counts
    xs, ys = [], []
    for rows in columns(estimate, truth, counts):
        if rows:
            mx, my = (sum(row[side] for row in rows) / len(rows) for side in (0, 1))
            xs += [x - mx for x, _ in rows]
            ys += [y - my for _, y in rows]
    return pearson(xs, ys)


def mean_by_task(estimate, truth, counts=None, least=4):
    counts = [1] * len(truth) if counts is None else counts
    found = []
    for t, rows in enumerate(columns(estimate, truth, counts)):
        different = [i for i in range(len(truth)) if counts[i] and math.isfinite(estimate[i][t] + truth[i][t])]
        if len(different) >= least:
            found.append(pearson([x for x, _ in rows], [y for _, y in rows]))
    return sum(found) / len(found)


def relative_distance(estimate, truth, counts=None):
    counts = [1] * len(truth) if counts is None else counts
    rows = [row for column in columns(estimate, truth, counts) for row in column]
    return math.sqrt(sum((x - y) ** 2 for x, y in rows) / sum(y**2 for _, y in rows))


def constant_distance(truth, counts=None):
    counts = [1] * len(truth) if counts is None else counts
    error = size = 0.0
    for rows in columns(truth, truth, counts):
        mean = sum(y for _, y in rows) / len(rows) if rows else 0.0
        error += sum((y - mean) ** 2 for _, y in rows)
        size += sum(y**2 for _, y in rows)
    return math.sqrt(error / size)


def one_run(values):
    found = []
    for s in range(len(values)):
        others = [run for number, run in enumerate(values) if number != s]
        mean = sum(others) / len(others)
        found.append(within_task(values[s], mean))
    return sum(found) / len(found)


def kendall(xs, ys):
    """Tau-b: concordant minus discordant, over the pairs that are not tied on either side."""
    both = x_untied = y_untied = 0
    for i in range(len(xs)):
        for j in range(i):
            a = int(xs[i] > xs[j]) - int(xs[i] < xs[j])
            b = int(ys[i] > ys[j]) - int(ys[i] < ys[j])
            both += a * b
            x_untied += a != 0
            y_untied += b != 0
    return both / math.sqrt(x_untied * y_untied)


def ranks(xs):
    return [sum(y < x for y in xs) + (sum(y == x for y in xs) + 1) / 2 for x in xs]


def match(predicted, true):
    size, scores, gains, rows = len(true), [], [], []
    for t in range(size):
        partners = [s for s in range(size) if s != t and math.isfinite(predicted[t][s] + true[t][s])]
        own, real = [predicted[t][s] for s in partners], [true[t][s] for s in partners]
        scores += own
        gains += real
        if len(partners) >= 3:
            top = [g for x, g in zip(own, real, strict=True) if x == max(own)]
            rows.append(
                {
                    "by_target": pearson(own, real),
                    "kendall": kendall(own, real),
                    "spearman": pearson(ranks(own), ranks(real)),
                    "hits": sum(g == max(real) for g in top) / len(top),
                    "regret": max(real) - sum(top) / len(top),
                    "chance": sum(g == max(real) for g in real) / len(real),
                    "chance_regret": max(real) - sum(real) / len(real),
                }
            )
    result = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    result["correlation"] = pearson(scores, gains)
    result["sign"] = sum((x > 0, x < 0) == (g > 0, g < 0) for x, g in zip(scores, gains, strict=True)) / len(gains)
    result["majority"] = max(sum(g > 0 for g in gains), sum(g <= 0 for g in gains)) / len(gains)
    good = [x for x, g in zip(scores, gains, strict=True) if g > 0]
    bad = [x for x, g in zip(scores, gains, strict=True) if g <= 0]
    result["separation"] = sum((x > y) + 0.5 * (x == y) for x in good for y in bad) / (len(good) * len(bad))
    return result
