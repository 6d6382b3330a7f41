"""The breaker's table and its pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import ConfigurationError
from jobqueue.model.breaker import (
    TRANSITIONS,
    Breaker,
    BreakerConfig,
    BreakerEvent,
    BreakerStatus,
    decide,
    lease,
    record,
)

CONFIG = BreakerConfig(failure_rate=0.5, minimum_calls=4, window_s=10, open_s=2, open_max_s=8, jitter=0.5, probes=2)
NOW = 1_000_000_000


def tripped(jitter_permille=0):
    """A breaker that has just opened for the first time."""
    breaker = Breaker()
    for _ in range(4):
        breaker = record(breaker, "s", False, NOW, CONFIG, jitter_permille=jitter_permille)
    return breaker


def test_every_state_has_a_way_on_and_every_event_one_source():
    """No state is a dead end, and no event means two things."""
    assert {source for source, _ in TRANSITIONS} == set(BreakerStatus)
    assert sorted(event for _, event in TRANSITIONS) == sorted(BreakerEvent)


def test_it_opens_only_with_enough_calls():
    """Three failures of at least four calls needed leave it closed; the fourth opens it."""
    breaker = Breaker()
    for expected in (BreakerStatus.CLOSED,) * 3 + (BreakerStatus.OPEN,):
        breaker = record(breaker, "s", False, NOW, CONFIG)
        assert breaker.status is expected
    assert decide(breaker, breaker.open_until_us - 1, CONFIG).permits == 0
    assert decide(breaker, breaker.open_until_us, CONFIG).permits == CONFIG.probes


def test_failures_leave_the_window():
    """What failed before the window began no longer counts."""
    breaker = Breaker()
    for _ in range(3):
        breaker = record(breaker, "s", False, NOW, CONFIG)
    assert record(breaker, "s", False, NOW + 10_000_000, CONFIG).status is BreakerStatus.CLOSED


def test_open_time_doubles_up_to_its_cap_and_starts_again_after_closing():
    """Each failed probe doubles the open time; a proved provider starts afresh."""
    breaker, lasted = tripped(), []
    for _ in range(4):
        lasted.append(breaker.open_until_us)
        now = breaker.open_until_us
        breaker = record(lease(breaker, ("p",), now + 1000, now), "p", False, now, CONFIG)
        lasted[-1] = breaker.open_until_us - now
    assert lasted == [4_000_000, 8_000_000, 8_000_000, 8_000_000]
    now = breaker.open_until_us
    breaker = lease(breaker, ("p", "q"), now + 1000, now)
    breaker = record(record(breaker, "p", True, now, CONFIG), "q", True, now, CONFIG)
    assert breaker == Breaker()


def test_a_dead_probe_frees_its_lease_at_its_deadline():
    """While both probes are leased none may pass; when one's time is over another may."""
    breaker = tripped()
    now = breaker.open_until_us
    breaker = lease(breaker, ("p",), now + 1000, now)
    breaker = lease(breaker, ("q",), now + 5000, now)
    assert decide(breaker, now + 999, CONFIG).permits == 0
    assert decide(breaker, now + 1000, CONFIG).permits == 1
    assert record(breaker, "p", False, now + 1000, CONFIG).status is BreakerStatus.HALF_OPEN


def test_an_answer_from_before_the_trip_is_no_probe():
    """Only leased probes decide in half-open, and while open nothing does."""
    breaker = tripped()
    assert record(breaker, "old", True, NOW, CONFIG) == breaker
    now = breaker.open_until_us
    breaker = lease(breaker, ("p",), now + 1000, now)
    assert record(breaker, "old", False, now, CONFIG) == breaker


@given(st.integers(1, 40), st.integers(0, 1000))
def test_jitter_only_adds_and_never_more_than_configured(opens, jitter_permille):
    """The open time lies between the base and the base plus the configured share."""
    base = CONFIG.open_us(opens, 0)
    assert base <= CONFIG.open_us(opens, jitter_permille) <= base * 1.5
    assert base <= CONFIG.open_us(opens + 1, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_rate", 0),
        ("failure_rate", 1.1),
        ("minimum_calls", 0),
        ("window_s", 0),
        ("open_s", 700),
        ("open_max_s", 3601),
        ("jitter", -0.1),
        ("probes", 0),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    """The error says which field holds which wrong value."""
    with pytest.raises(ConfigurationError, match=f"{name} {value}"):
        BreakerConfig(**{name: value})
