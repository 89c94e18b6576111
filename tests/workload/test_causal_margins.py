"""Log-odds of answers from those of their tokens, against 60 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import softplus

from coterie.workload import get_loss
from coterie.workload.causal.margins import sequence_margin

LISTS = st.lists(st.floats(-200, 200), min_size=1, max_size=5)


def exact(tokens, *, per_token=False):
    """log(p / (1 - p)) with 1 - p from the sum of -log p of the tokens, in 200 digits."""
    with mpmath.workdps(200):
        total = mpmath.fsum(mpmath.log1p(mpmath.exp(-mpmath.mpf(h))) for h in tokens)
        total = total / len(tokens) if per_token else total
        return float(-mpmath.log(mpmath.expm1(total)))


def margin(tokens, dtype=torch.float64, **options):
    values = torch.tensor(tokens, dtype=dtype)
    return sequence_margin(values, torch.ones(len(tokens), dtype=torch.bool), **options)


@given(LISTS, st.booleans())
def test_values_agree_with_many_digits(tokens, per_token):
    found = float(margin(tokens, per_token=per_token))
    assert found == pytest.approx(exact(tokens, per_token=per_token), rel=1e-8, abs=1e-8)


@given(LISTS)
def test_single_precision_loses_no_digits(tokens):
    tokens = torch.tensor(tokens).tolist()  # numbers that single precision has
    assert float(margin(tokens, torch.float32)) == pytest.approx(exact(tokens), rel=1e-5, abs=1e-5)


@given(st.floats(-1e4, 1e4))
def test_an_answer_of_one_token_has_the_log_odds_of_the_token(h):
    assert float(margin([h])) == pytest.approx(h, rel=1e-8, abs=1e-8)


@given(LISTS)
def test_the_loss_is_the_sum_of_the_losses_of_the_tokens(tokens):
    loss = get_loss("sequence").value(margin(tokens), torch.tensor(1.0))
    torch.testing.assert_close(loss, softplus(-torch.tensor(tokens, dtype=torch.float64)).sum(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [0.0, 1.0, 12.0, 13.0, 87.0, 104.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("per_token", [False, True])
def test_gradients_are_finite_and_right_everywhere(size, sign, per_token):
    tokens = torch.tensor([sign * size, sign * size + 1.0, 3.0], requires_grad=True)
    sequence_margin(tokens, torch.tensor([True, True, False]), per_token=per_token).backward()
    assert bool(torch.isfinite(tokens.grad).all())
    assert float(tokens.grad[2]) == 0
    values = [mpmath.mpf(float(value)) for value in tokens.detach()[:2]]
    with mpmath.workdps(9000 if size > 1000 else 200):
        for index in (0, 1):
            total = mpmath.fsum(mpmath.log1p(mpmath.exp(-h)) for h in values) / (2 if per_token else 1)
            slope = mpmath.exp(total) / mpmath.expm1(total) / (1 + mpmath.exp(values[index])) / (2 if per_token else 1)
            assert float(tokens.grad[index]) == pytest.approx(float(slope), rel=1e-4 + 1e-7 * size, abs=1e-7)


def test_tokens_that_are_not_there_do_not_count():
    present = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    values = torch.tensor([[1.0, 2.0, -50.0], [0.5, 90.0, 90.0], [4.0, 4.0, 4.0]])
    found = sequence_margin(values, present)
    assert found.tolist() == pytest.approx([exact([1.0, 2.0]), 0.5, 0.0], abs=1e-6)


def test_it_can_be_stacked_and_differentiated_forwards():
    values, present = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 20, torch.ones(6, 3).bool()
    torch.testing.assert_close(torch.vmap(sequence_margin)(values, present), sequence_margin(values, present))
    tangent = torch.ones_like(values)
    forward = torch.func.jvp(lambda h: sequence_margin(h, present), (values,), (tangent,))[1]
    reverse = torch.func.grad(lambda h: sequence_margin(h, present).sum())(values).sum(1)
    torch.testing.assert_close(forward, reverse)
