"""Short sketches of long gradients that keep their scalar products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from coterie._check import whole_number
from coterie.features.directions import _key

#: most buckets: bucket and sign of an entry have four bytes
LONGEST = 2**30 - 1


class CountSketch:
    """Add up the entries of a vector, each with a random sign, in d random buckets.

    Scalar products of sketches are unbiased. Bucket and sign of an entry depend on (seed, name of the parameter, place
    in it) only, on every device. Vectors that are compared need the same sketch, so that the errors of their scalar
    products are not independent of each other.

    For vectors of length 1 with scalar product c and many entries the error of the scalar product has the standard
    deviation sqrt((1 + c^2) / d). That of the *cosine of the sketches* is smaller, (1 - c^2) / sqrt(d): their norms err
    along with their scalar product, as in the correlation of d draws of two normal variables. Nearly parallel vectors
    thus lose nearly nothing. Vectors with few large entries err as often, but the error is mostly none, seldom large.

    Args:
        sizes: name -> number of entries of each parameter.
        size: d, number of buckets.
        seed: any whole number.

    Raises:
        SettingError: a size that is no whole number in 1..2^30 - 1.

    Cost:
        One addition an entry; four bytes an entry for its bucket and sign, as much as one gradient. No (entries, d)
        matrix.

    Source:
        Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002; as random projection:
        Weinberger et al., "Feature hashing", arXiv 0902.2206, lemma 2 (mean and variance of the scalar product).

    Example:
        >>> sketch = CountSketch({"w": 1000}, size=64)
        >>> one, two = torch.ones(1000), torch.arange(1000.0)
        >>> torch.allclose(sketch({"w": one + two}), sketch({"w": one}) + sketch({"w": two}), atol=1e-2)
        True
    """

    def __init__(self, sizes: Mapping[str, int], size: int, seed: int = 0) -> None:
        self.size = size = whole_number(size, "size", low=1, high=LONGEST)
        self._places = {name: _places(seed, name, count, size) for name, count in sizes.items()}

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """(d,) sketch of named tensors, at least in single precision, on their device."""
        first = next(iter(values.values()))
        # twice the buckets: the upper half takes what is subtracted, so that no entry has to be multiplied by a sign
        total = first.new_zeros(2 * self.size, dtype=torch.promote_types(first.dtype, torch.float32))
        for name, value in values.items():
            if self._places[name].device != value.device:
                self._places[name] = self._places[name].to(value.device)
            total.index_add_(0, self._places[name], value.detach().flatten().to(total.dtype))
        return total[: self.size] - total[self.size :]


def _places(seed: int, name: str, count: int, size: int) -> Tensor:
    """(count,) int32 in 0..2 size - 1: bucket, plus `size` for a negative sign."""
    words = np.random.Philox(key=_key(seed, name)).random_raw(-(-count // 2))
    draws = np.asarray(words, dtype="<u8").view("<u4")[:count].astype(np.uint64)
    return torch.from_numpy(((draws * np.uint64(2 * size)) >> np.uint64(32)).astype(np.int32))
