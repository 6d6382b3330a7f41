"""The breaker's table and its pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import InvalidInputError
from jobqueue.model.breaker import (
    COMMANDS,
    LOOK_AGAIN_US,
    TRANSITIONS,
    Breaker,
    BreakerConfig,
    BreakerEvent,
    BreakerStatus,
    CircuitBreakerState,
    calls,
    decide,
    force,
    lease,
    record,
    slow_start_left_us,
)
from jobqueue.model.call_window import Calls, CountWindow, TimeWindow

CONFIG = BreakerConfig(failure_rate=0.5, minimum_calls=4, window_s=10, open_s=2, open_max_s=8, jitter=0.5, probes=2)
NOW = 1_000_000_000


def tripped(jitter_permille=0, config=CONFIG):
    """A breaker that has just opened for the first time."""
    breaker = Breaker()
    for _ in range(config.minimum_calls):
        breaker = record(breaker, "s", False, NOW, config, jitter_permille=jitter_permille)
    assert breaker.status is BreakerStatus.OPEN
    return breaker


def half_open(config=CONFIG):
    """A breaker with the probe ``p`` under way, and when."""
    breaker = tripped(config=config)
    now = breaker.open_until_us
    return lease(breaker, ("p",), now + 1000, now), now


def proved(config=CONFIG):
    """A breaker that has just closed, and when."""
    breaker = tripped(config=config)
    now = breaker.open_until_us
    names = tuple("pqrstuvw"[: config.probes])
    breaker = lease(breaker, names, now + 1000, now)
    for name in names:
        breaker = record(breaker, name, True, now, config)
    return breaker, now


def test_every_state_has_a_way_on_and_every_event_one_target():
    """No state is a dead end, no event means two things, and only a person leads to or out of what a person set."""
    assert {source for source, _ in TRANSITIONS} == set(BreakerStatus)
    assert {event for _, event in TRANSITIONS} == set(BreakerEvent)
    for event in BreakerEvent:
        assert len({target for (_, of), target in TRANSITIONS.items() if of is event}) == 1
    commanded = {BreakerStatus.FORCED_OPEN, BreakerStatus.DISABLED}
    for (source, event), target in TRANSITIONS.items():
        assert event in COMMANDS.values() or not {source, target} & commanded


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
    assert breaker == Breaker(closed_at_us=now)


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


def test_the_last_calls_count_however_long_ago_they_were():
    """A window of four calls forgets the fifth last, and time forgets nothing."""
    config = BreakerConfig(failure_rate=0.75, minimum_calls=4, window_calls=4)
    breaker = Breaker()
    for step, is_success in enumerate((False, False, True, True, False)):
        breaker = record(breaker, "s", is_success, NOW + step * 10**12, config)
    assert breaker.window == CountWindow(4, "1001")
    breaker = record(breaker, "s", False, NOW, config)
    assert (breaker.status, calls(breaker, NOW, config)) == (BreakerStatus.CLOSED, Calls(4, 2))
    assert record(breaker, "s", False, NOW, config).status is BreakerStatus.OPEN


def window_and_answers():
    return st.tuples(
        st.one_of(st.just(TimeWindow(7)), st.integers(1, 9).map(CountWindow)),
        st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 40)), max_size=40),
    )


@given(window_and_answers())
def test_a_window_holds_exactly_the_calls_it_should(drawn):
    """Counted from the list of all answers: the last so many, or those of the ten newest buckets."""
    window, answers = drawn
    now, seen = NOW, []
    for is_failure, is_slow, later_us in answers:
        now += later_us
        window = window.add(is_failure=is_failure, is_slow=is_slow, now_us=now)
        seen.append((is_failure, is_slow, now))
    held = seen[-window.size :] if isinstance(window, CountWindow) else [s for s in seen if s[2] // 7 > now // 7 - 10]
    assert window.calls(now) == Calls(len(held), sum(s[0] for s in held), sum(s[1] for s in held))


@pytest.mark.parametrize(("latency_s", "expected"), [(0.999999, "closed"), (1.0, "open"), (0, "closed")])
def test_slow_answers_open_it_though_none_failed(latency_s, expected):
    """An answer is slow from slow_call_s on; an unknown latency is not."""
    config = BreakerConfig(minimum_calls=4, slow_call_s=1)
    breaker = Breaker()
    for latency_us in (0, 0, 5_000_000, round(latency_s * 1_000_000)):
        breaker = record(breaker, "s", True, NOW, config, latency_us=latency_us)
    assert breaker.status == expected


def test_slow_answers_say_nothing_unless_configured():
    """Without slow_call_s no latency opens it."""
    breaker = Breaker()
    for _ in range(9):
        breaker = record(breaker, "s", True, NOW, CONFIG, latency_us=10**10)
    assert calls(breaker, NOW, CONFIG) == Calls(9)


def test_a_slow_probe_opens_it_again():
    """A breaker that opened because of slowness must not close on a slow answer."""
    config = BreakerConfig(minimum_calls=4, slow_call_s=1)
    breaker, now = half_open(config)
    assert record(breaker, "p", True, now, config, latency_us=1_000_000).opens == 2
    assert record(breaker, "p", True, now, config, latency_us=999_999).successes == 1


@pytest.mark.parametrize("status", [BreakerStatus.CLOSED, BreakerStatus.HALF_OPEN])
def test_an_answer_without_a_verdict_is_never_counted(status):
    """A 429, an unused slot or an unknown outcome frees a probe's lease and does nothing else, however slow it was."""
    config = BreakerConfig(minimum_calls=4, slow_call_s=1)
    breaker, now = half_open(config) if status is BreakerStatus.HALF_OPEN else (Breaker(), NOW)
    for _ in range(9):
        breaker = record(breaker, "p", None, now, config, latency_us=9_000_000)
    assert (breaker.status, breaker.window, breaker.live_leases(now)) == (status, None, {})


def test_slow_start_doubles_what_may_be_in_flight_in_each_fifth():
    """Two probes proved it: 2, 4, 8, 16, 32 in flight, then any number; what is under way already counts."""
    config = BreakerConfig(minimum_calls=4, slow_start_s=10, probes=2)
    breaker, now = proved(config)
    for fifth, most in enumerate((2, 4, 8, 16, 32)):
        for at in (now + fifth * 2_000_000, now + (fifth + 1) * 2_000_000 - 1):
            assert decide(breaker, at, config).permits == most
            assert decide(breaker, at, config, in_flight=most - 1).permits == 1
            held = decide(breaker, at, config, in_flight=most + 5)
            assert (held.permits, held.lifts_at_us) == (0, min(at + LOOK_AGAIN_US, now + (fifth + 1) * 2_000_000))
    assert slow_start_left_us(breaker, now + 9_999_999, config) == 1
    assert decide(breaker, now + 10_000_000, config, in_flight=99).permits is None


def test_no_slow_start_unless_it_was_proved():
    """A new breaker and one that a person closed let everything pass; so does one configured without."""
    config = BreakerConfig(minimum_calls=4, slow_start_s=0)
    breaker, now = proved(config)
    for at in (now - 1, now):
        assert decide(breaker, at, config).permits is None
    for breaker in (Breaker(), force(tripped(), BreakerStatus.CLOSED)):
        assert decide(breaker, NOW, CONFIG, in_flight=99).permits is None


@pytest.mark.parametrize("make", [Breaker, tripped, lambda: half_open()[0], lambda: proved()[0]])
def test_a_command_holds_until_the_next_one(make):
    """Forced open lets nothing pass, disabled everything; neither counts, leases or waits, and both end as new."""
    for status, permits in ((BreakerStatus.FORCED_OPEN, 0), (BreakerStatus.DISABLED, None)):
        breaker = force(make(), status)
        for later in (0, 10**12):
            assert decide(breaker, NOW + later, CONFIG, in_flight=99).permits == permits
        assert lease(breaker, ("p",), NOW + 1000, NOW) == breaker
        assert record(breaker, "p", False, NOW, CONFIG) == breaker
        assert force(breaker, BreakerStatus.CLOSED) == Breaker()
    assert decide(force(make(), BreakerStatus.FORCED_OPEN), NOW, CONFIG).lifts_at_us == NOW + LOOK_AGAIN_US


@pytest.mark.parametrize("status", [BreakerStatus.OPEN, BreakerStatus.HALF_OPEN])
def test_what_only_events_lead_to_cannot_be_commanded(status):
    """The error names the field, the value and what can be said instead."""
    with pytest.raises(InvalidInputError, match=f"{status}.*forced_open, disabled, closed") as caught:
        force(Breaker(), status)
    assert caught.value.field == "status"


def test_fewer_probes_configured_meanwhile_do_not_lock_it():
    """Three of four probes succeeded when two became enough: the next one closes it."""
    four, two = BreakerConfig(minimum_calls=4, probes=4), BreakerConfig(minimum_calls=4, probes=2)
    breaker, now = tripped(config=four), NOW + 10**9
    breaker = lease(breaker, ("p", "q", "r"), now + 1000, now)
    for slot in ("p", "q", "r"):
        breaker = record(breaker, slot, True, now, four)
    assert decide(breaker, now, two).permits == 1
    assert record(lease(breaker, ("s",), now + 1, now), "s", True, now, two).status is BreakerStatus.CLOSED


def test_another_window_configured_meanwhile_starts_empty():
    """What was counted in other buckets or another ring cannot be told apart in the new one."""
    breaker = record(Breaker(), "s", False, NOW, CONFIG)
    for config in (BreakerConfig(window_s=20), BreakerConfig(window_calls=10), BreakerConfig(window_calls=11)):
        assert calls(breaker, NOW, config) == Calls()
        breaker = record(breaker, "s", True, NOW, config)
        assert calls(breaker, NOW, config) == Calls(1)


def test_rates_are_shares_of_the_calls():
    """Nothing called, no rate."""
    state = CircuitBreakerState("web", BreakerStatus.CLOSED, calls=8, failures=2, slow=4)
    assert (state.failure_rate, state.slow_rate) == (0.25, 0.5)
    assert CircuitBreakerState("web", BreakerStatus.CLOSED).failure_rate == 0
