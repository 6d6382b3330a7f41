"""Delays between attempts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import ConfigurationError
from jobqueue.model.backoff import (
    ErrorKind,
    Jitter,
    RetryPolicy,
    decorrelated_jitter_s,
    equal_jitter_s,
    exponential_s,
    full_jitter_s,
    nth_decorrelated_s,
)

attempts = st.integers(1, 10_000)
bases = st.floats(0.001, 10)
caps = st.floats(10, 1000)
randoms = st.integers(0, 2**32).map(Random)


@given(attempts, bases, caps)
def test_the_exponential_doubles_until_its_cap(attempt, base_s, cap_s):
    """It starts at the base, never falls, at most doubles, and stops at the cap, also after ten thousand attempts."""
    now, following = (exponential_s(a, base_s=base_s, cap_s=cap_s) for a in (attempt, attempt + 1))
    assert exponential_s(1, base_s=base_s, cap_s=cap_s) == base_s
    assert now <= following <= min(cap_s, 2 * now)


@given(attempts, bases, caps, randoms)
def test_full_jitter_lies_between_nothing_and_the_exponential(attempt, base_s, cap_s, random):
    """Any delay up to the exponential one."""
    assert (
        0
        <= full_jitter_s(attempt, base_s=base_s, cap_s=cap_s, random=random)
        <= exponential_s(attempt, base_s=base_s, cap_s=cap_s)
    )


@given(attempts, bases, caps, randoms)
def test_equal_jitter_keeps_half(attempt, base_s, cap_s, random):
    """Never below half the exponential delay, never above it."""
    whole_s = exponential_s(attempt, base_s=base_s, cap_s=cap_s)
    delay_s = equal_jitter_s(attempt, base_s=base_s, cap_s=cap_s, random=random)
    assert whole_s / 2 <= delay_s <= whole_s * (1 + 1e-12)


@given(st.floats(0, 1000), bases, caps, randoms)
def test_decorrelated_jitter_grows_from_the_delay_before(previous_s, base_s, cap_s, random):
    """At least the base, at most three times the delay before, never above the cap."""
    delay_s = decorrelated_jitter_s(previous_s, base_s=base_s, cap_s=cap_s, random=random)
    assert base_s <= delay_s <= min(cap_s, max(base_s, 3 * previous_s)) * (1 + 1e-12)


@given(attempts, bases, caps, randoms)
def test_a_decorrelated_delay_without_its_predecessor_stays_in_reach_of_a_chain(attempt, base_s, cap_s, random):
    """At least the base, at most what tripling can have come to, never above the cap."""
    delay_s = nth_decorrelated_s(attempt, base_s=base_s, cap_s=cap_s, random=random)
    assert base_s <= delay_s <= min(cap_s, base_s * 3.0 ** min(attempt, 50)) * (1 + 1e-9)


def test_a_decorrelated_policy_grows_where_no_delay_is_kept():
    """Repeating it with the base alone would never back off."""
    policy, random = RetryPolicy(99, base_s=1, cap_s=1000, jitter=Jitter.DECORRELATED), Random(7)
    means = [sum(policy.delay_s(n, random) for _ in range(500)) / 500 for n in (1, 3, 6)]
    assert means[0] < means[1] / 2 < means[2] / 4


@given(st.sampled_from(ErrorKind), st.builds(RetryPolicy, st.integers(1, 9), bases, caps, st.sampled_from(Jitter)))
def test_a_policy_is_read_back_as_it_was_stored(kind, policy):
    """Attempts only where they bound anything."""
    stored = policy.as_dict(kind)
    again = RetryPolicy.of_kind(kind, stored)
    assert again.as_dict(kind) == stored
    assert ("max_attempts" in stored) == (kind in (ErrorKind.ITEM, ErrorKind.BUG))
    assert (again.base_s, again.cap_s, again.jitter) == (policy.base_s, policy.cap_s, policy.jitter)


@given(st.sampled_from(Jitter), st.integers(1, 20), st.integers(1, 30), randoms)
def test_a_policy_stops_after_its_attempts(jitter, max_attempts, attempt, random):
    """A delay while attempts are left, None afterwards."""
    policy = RetryPolicy(max_attempts, base_s=1, cap_s=60, jitter=jitter)
    delay_s = policy.delay_s(attempt, random, previous_s=2.0)
    assert (delay_s is None) == (attempt >= max_attempts)
    assert delay_s is None or 0 <= delay_s <= 60


def test_full_jitter_is_spread_evenly():
    """The mean of many draws is half the exponential delay."""
    random = Random(3)
    draws = [full_jitter_s(4, base_s=1, cap_s=60, random=random) for _ in range(4000)]
    assert sum(draws) / len(draws) == pytest.approx(4.0, rel=0.05)
    assert min(draws) < 0.1
    assert max(draws) > 7.9


@pytest.mark.parametrize("values", [{"max_attempts": 0}, {"base_s": 0}, {"base_s": 5, "cap_s": 4}])
def test_an_impossible_policy_is_refused(values):
    """The error names the value."""
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        RetryPolicy(**values)
