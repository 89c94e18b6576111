"""On a model that is linear in its parameters the estimate is exact: it equals really retraining every subset."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from reference.linear_bed import WIDTH, Bed, error, mean_error, rademacher


def test_without_projection_values_equal_retraining() -> None:
    bed = Bed()
    truth = bed.truth()
    assert error(bed.estimate(np.eye(WIDTH)), truth) < 1e-4
    assert np.nanstd(truth - np.nanmean(truth, 0)) > 1e-2  # there is something to predict


def test_the_error_falls_as_the_projection_widens() -> None:
    bed = Bed()
    truth = bed.truth()
    errors = [
        np.mean([mean_error(bed.estimate(rademacher(d, seed)), truth) for seed in range(4)]) for d in (4, 16, 64, 256)
    ]
    assert all(later < 0.8 * earlier for earlier, later in pairwise(errors)), errors


def test_leaving_out_the_offset_is_visibly_worse() -> None:
    bed = Bed()
    truth = bed.truth()
    with_offset, without = (bed.estimate(np.eye(WIDTH), offset=flag) for flag in (True, False))
    assert mean_error(without, truth) > 100 * mean_error(with_offset, truth)
    assert mean_error(without, truth) > 0.02
