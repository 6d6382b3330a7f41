"""What a slice does next, over every snapshot it can see."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jobqueue.model.pace import LONGEST_WAIT_S, ClaimMore, Leave, Send, Snapshot, Wait, next_action

CAPACITY = 4
seconds = st.one_of(st.just(0.0), st.floats(0.001, 600.0), st.floats(1.9, 3.0))

snapshots = st.builds(
    Snapshot,
    stop_reason=st.sampled_from(["", "", "", "time", "shutdown", "paused"]),
    in_flight=st.integers(0, CAPACITY),
    capacity=st.just(CAPACITY),
    ready=st.integers(0, 3),
    is_next_isolated=st.booleans(),
    is_isolated_in_flight=st.booleans(),
    denied_for_s=seconds,
    next_ready_in_s=st.one_of(st.none(), seconds),
    can_claim=st.booleans(),
    held=st.integers(0, CAPACITY),
).filter(
    lambda now: (
        (now.ready > 0 or not now.is_next_isolated)
        and (now.in_flight == 1 or not now.is_isolated_in_flight)
        and now.held >= now.ready
    )
)


@given(snapshots)
def test_nothing_is_given_up_while_a_request_is_under_way(now: Snapshot) -> None:
    """Whatever the reason to stop, answers are awaited first."""
    if now.in_flight:
        assert not isinstance(next_action(now), Leave)


@given(snapshots)
def test_a_reason_to_stop_sends_and_claims_nothing_more(now: Snapshot) -> None:
    """It leaves with that reason as soon as nothing is under way."""
    told = replace(now, stop_reason="time")
    assert next_action(told) == (Wait(None) if now.in_flight else Leave("time"))


@given(snapshots)
def test_no_limit_is_waited_for_longer_than_two_seconds_with_nothing_under_way(now: Snapshot) -> None:
    """Longer waits park, for exactly as long as nothing can pass."""
    now = replace(now, stop_reason="", in_flight=0, is_isolated_in_flight=False)
    match next_action(now):
        case Wait(for_s=for_s):
            assert for_s is not None
            assert for_s <= LONGEST_WAIT_S
        case Leave(park_s=park_s) if park_s:
            assert park_s > LONGEST_WAIT_S
            assert park_s >= now.denied_for_s


@given(snapshots)
def test_sending_needs_something_ready_a_free_place_and_leave_from_the_limiter(now: Snapshot) -> None:
    """Send is never the answer to an empty snapshot: the loop cannot spin on it."""
    match next_action(now):
        case Send(count=count):
            assert now.ready > 0
            assert now.denied_for_s <= 0
            assert 1 <= count <= now.capacity - now.in_flight


@given(snapshots)
def test_an_isolated_batch_is_sent_alone_and_stays_alone(now: Snapshot) -> None:
    """It waits until nothing is under way, goes by itself, and nothing joins it or is claimed for it to wait behind."""
    action = next_action(now)
    if isinstance(action, Send) and now.is_next_isolated:
        assert now.in_flight == 0
        assert action.count == 1
    if now.is_isolated_in_flight:
        assert not isinstance(action, Send | ClaimMore)


@given(snapshots)
def test_a_wait_always_has_something_to_wait_for(now: Snapshot) -> None:
    """Waiting without an end needs an answer to come; a wait of no length never happens with work at hand."""
    match next_action(now):
        case Wait(for_s=None):
            assert now.in_flight
        case Wait(for_s=for_s) if for_s == 0.0:
            # A retry that fell due between two looks: the next look sees it as ready.
            assert now.ready == 0
            assert now.next_ready_in_s == 0.0


@given(snapshots)
def test_work_at_hand_is_never_parked(now: Snapshot) -> None:
    """Ready, allowed and not told to stop: it is sent, or waits only for the requests it must not run beside."""
    idle = replace(
        now, stop_reason="", in_flight=0, is_isolated_in_flight=False, ready=max(1, now.ready), denied_for_s=0.0
    )
    assert isinstance(next_action(idle), Send)


@given(snapshots)
def test_more_is_claimed_only_when_it_could_be_sent_at_once(now: Snapshot) -> None:
    """A part is not held while the limiter says no, no place is free or another batch is ready."""
    if isinstance(next_action(now), ClaimMore):
        assert now.can_claim
        assert not now.ready
        assert now.denied_for_s <= 0
        assert now.in_flight < now.capacity


@given(snapshots)
def test_without_anything_to_do_the_slice_ends(now: Snapshot) -> None:
    """No work held, none to claim, nothing awaited: it leaves, so no worker is kept for nothing."""
    idle = replace(
        now, stop_reason="", in_flight=0, is_isolated_in_flight=False, ready=0, is_next_isolated=False,
        next_ready_in_s=None, can_claim=False,
    )  # fmt: skip
    assert next_action(idle) == Leave("nothing is due")
