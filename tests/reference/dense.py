"""Dense metrics and labels, pixel by pixel, as slowly as they are defined."""

import math


def mean_iou(predicted, labels):
    """From classes (nested lists of numbers), not logits; -1 is unknown."""
    pairs = [(p, t) for p, t in zip(predicted, labels, strict=True) if t >= 0]
    found = []
    for k in {p for p, _ in pairs} | {t for _, t in pairs}:
        both = sum(p == k and t == k for p, t in pairs)
        either = sum(p == k or t == k for p, t in pairs)
        found.append(both / either)
    return sum(found) / len(found)


def average_precision(scores, hits):
    """Sum over thresholds of precision times the gain in recall."""
    total, before, area = sum(hits), 0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [h for s, h in zip(scores, hits, strict=True) if s >= threshold]
        area += (sum(taken) - before) / total * sum(taken) / len(taken)
        before = sum(taken)
    return area


def mean_angle(predicted, normals):
    """Degrees between vectors, by the arc cosine."""
    angles = []
    for a, b in zip(predicted, normals, strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        angles.append(math.degrees(math.acos(max(-1.0, min(1.0, dot / math.hypot(*a) / math.hypot(*b))))))
    return sum(angles) / len(angles)


def contours(depth):
    """1 where one of the four neighbours of a pixel of a nested list is farther."""
    height, width = len(depth), len(depth[0])
    found = [[0] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < height and 0 <= m < width and depth[k][m] > depth[i][j]:
                    found[i][j] = 1
    return found


def relief_normal(height, i, j):
    """Normal of a height field (nested list) by central differences, the border repeated."""

    def at(k, m):
        return height[max(0, min(k, len(height) - 1))][max(0, min(m, len(height[0]) - 1))]

    normal = ((at(i, j - 1) - at(i, j + 1)) / 2, (at(i - 1, j) - at(i + 1, j)) / 2, 1.0)
    return [x / math.hypot(*normal) for x in normal]
