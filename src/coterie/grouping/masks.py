"""Sets of tasks as bits of a whole number."""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import IntArray


def submasks(code: int) -> IntArray:
    """All submasks of a bit mask, the empty one included.

    Example:
        >>> submasks(0b101).tolist()
        [0, 1, 4, 5]
    """
    masks = np.zeros(1, dtype=np.int64)
    while code:
        lowest = code & -code
        masks = np.concatenate([masks, masks | lowest])
        code ^= lowest
    return masks
