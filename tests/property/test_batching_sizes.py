"""How many items go into one request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import ConfigurationError
from jobqueue.model.batching import FULL_HEALTH_PERMILLE, BatchConfig, grown, halved, pick_batch_size

configs = st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100)).map(
    lambda sizes: BatchConfig(*sorted(sizes))
)
limits = st.integers(1, 10_000)
healths = st.floats(0, 1)


@given(configs, st.none() | st.integers(-5, 20_000), st.none() | st.integers(0, 10_000), healths)
def test_a_size_keeps_its_bounds(config, remaining, limit, health):
    """Whatever is known of the quota, the size lies between the smallest and the largest."""
    size = pick_batch_size(config, remaining=remaining, limit=limit, health=health)
    assert config.min_size <= size <= config.max_size


@given(configs, limits, healths, st.data())
def test_a_scarcer_quota_never_makes_batches_smaller(config, limit, health, data):
    """The less is left, the larger the batch."""
    less, more = sorted((data.draw(st.integers(0, limit)), data.draw(st.integers(0, limit))))
    sizes = [pick_batch_size(config, remaining=left, limit=limit, health=health) for left in (less, more)]
    assert sizes[0] >= sizes[1]


@given(configs, limits, st.floats(0.5, 1))
def test_plenty_gives_the_optimum_and_the_last_request_the_largest(config, limit, share):
    """From half the quota on it is the optimal size; with nothing left, or none known, the extremes."""
    plenty = -(-limit // 2) if share == 0.5 else limit
    assert pick_batch_size(config, remaining=plenty, limit=limit, health=1.0) == config.optimal_size
    assert pick_batch_size(config, remaining=0, limit=limit, health=1.0) == config.max_size
    assert pick_batch_size(config, remaining=None, limit=None, health=1.0) == config.optimal_size


@given(configs, limits, st.data())
def test_a_size_caused_failure_halves_it(config, limit, data):
    """Half the health is half the size, but never below the smallest."""
    remaining = data.draw(st.integers(0, limit))
    full = pick_batch_size(config, remaining=remaining, limit=limit, health=1.0)
    half = pick_batch_size(config, remaining=remaining, limit=limit, health=halved(FULL_HEALTH_PERMILLE) / 1000)
    assert half in {max(config.min_size, full // 2), max(config.min_size, (full + 1) // 2)}


@given(st.integers(1, FULL_HEALTH_PERMILLE), st.integers(0, 30))
def test_health_recovers_within_twenty_successes(health, failures):
    """However often it was halved, it stays positive and twenty successes restore it."""
    for _ in range(failures):
        assert 1 <= halved(health) <= max(1, health / 2)
        health = halved(health)
    for _ in range(20):
        assert grown(health) > health or health == FULL_HEALTH_PERMILLE
        health = grown(health)
    assert health == FULL_HEALTH_PERMILLE


@given(configs, limits, st.data(), healths, healths)
def test_better_health_never_makes_batches_smaller(config, limit, data, one, other):
    """And at full health the size is that of the quota alone."""
    remaining = data.draw(st.integers(0, limit))
    worse, better = sorted((one, other))
    sizes = [pick_batch_size(config, remaining=remaining, limit=limit, health=h) for h in (worse, better, 1.0)]
    assert sizes == sorted(sizes)


@given(configs, limits, st.data(), st.lists(st.booleans(), max_size=40))
def test_a_size_recovers_from_whatever_happened(config, limit, data, successes):
    """Each failure makes it no larger, each success no smaller, and twenty successes bring it back."""
    remaining = data.draw(st.integers(0, limit))

    def size(health):
        return pick_batch_size(config, remaining=remaining, limit=limit, health=health / FULL_HEALTH_PERMILLE)

    health, full = FULL_HEALTH_PERMILLE, size(FULL_HEALTH_PERMILLE)
    for is_success in successes + [True] * 20:
        before = size(health)
        health = grown(health) if is_success else halved(health)
        assert size(health) >= before if is_success else size(health) <= before
    assert size(health) == full


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_sizes_out_of_order_are_refused(sizes):
    """The error shows the three sizes."""
    with pytest.raises(ConfigurationError, match=", ".join(map(str, sizes))):
        BatchConfig(*sizes)
