"""Shares become counts without the errors of binary fractions."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.adaptive.decision import top_fraction
from segblocks_jax.exact import count_of, exact
from segblocks_jax.systems.segblocks.settings import Mode

TOTALS = st.integers(1, 5000)
PERCENT = st.integers(0, 100)


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_fraction_survives_its_float(top, bottom):
    assert exact(top / bottom) == Fraction(top, bottom)
    assert exact(np.float64(top / bottom)) == Fraction(top, bottom)


@given(st.floats(0, 1))
def test_every_float_is_its_own_fraction(share):
    assert float(exact(share)) == share


@pytest.mark.parametrize(
    ("step", "total", "multiple"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (1 / 3, 3, 1),
        (1 / 49, 98, 2),
        (0.07, 100, 7),
        (0.01, 50, 1),
    ],
)
def test_buckets_are_whole_shares(step, total, multiple):
    expected = sorted({*range(0, total, multiple), total})
    assert buckets(total, step) == tuple(expected)


@given(PERCENT.filter(bool), TOTALS, st.data())
def test_a_bucket_is_the_next_multiple(percent, total, data):
    count = data.draw(st.integers(0, total))
    multiple = max(1, total * percent // 100)
    expected = min(total, (count + multiple - 1) // multiple * multiple)
    assert round_to_bucket(count, total, percent / 100) == expected


@given(PERCENT, TOTALS)
def test_shares_round_to_the_nearest_count_and_halves_to_even(percent, total):
    expected = round(Fraction(percent * total, 100))
    assert count_of(percent / 100, total) == expected
    mode = Mode.parse(f"share={percent / 100}")
    assert mode.count(total) == expected


@pytest.mark.parametrize(
    ("share", "total", "count"), [(0.29, 50, 14), (0.57, 50, 28), (0.07, 50, 4)]
)
def test_a_halfs_neighbor_in_binary_does_not_decide(share, total, count):
    """In binary, 0.29 * 50 and 0.57 * 50 lie below the half, 0.07 * 50 above it."""
    assert count_of(share, total) == count
    scores = jnp.arange(float(total)).reshape(1, 1, total)
    assert top_fraction(scores, share).sum() == count


@pytest.mark.parametrize("rows", [5, 8, 10, 16, 20])
@pytest.mark.parametrize("tenths", range(11))
def test_middle_takes_whole_rows(rows, tenths):
    policy = sb.policies.create("middle", block_size=1, target=tenths / 10)
    high = np.flatnonzero(policy(jnp.zeros((1, rows, 1, 3))).action)
    first, last = rows * (10 - tenths) // 20, rows * (10 + tenths) // 20
    assert high.tolist() == list(range(first, last))
