"""Digests of states tell every type of numbers apart."""

import torch

from coterie.affinity.costs import digest


def test_every_type_of_numbers_has_a_digest():
    types = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)
    ones = [digest({"a": torch.ones(2, 3, dtype=each)}) for each in types]
    assert len(set(ones)) == len(types)
    assert digest({"a": torch.ones(3, 2).bfloat16().T}) == ones[1]
    assert digest({"a": torch.zeros(2, 3).bfloat16()}) != ones[1]
    assert len({digest({"a": torch.tensor(number)}) for number in (1.0, 2.0)}) == 2
    assert digest(None) is None
