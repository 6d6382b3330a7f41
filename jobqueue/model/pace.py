"""What a slice does next, as a pure function of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_WAIT_S = 2.0
"""A worker never waits longer than this for a limit or a retry; it parks the part instead."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the slice sees.

    Attributes:
        stop_reason: Why it must stop at the next boundary; empty to go on.
        in_flight: Requests under way.
        capacity: Most requests under way at once.
        ready: Batches that could be sent now.
        is_next_isolated: Whether the next of them must be alone.
        is_isolated_in_flight: Whether the one under way must stay alone.
        denied_for_s: Seconds until the limiter may be asked again; 0 when it may be asked now.
        next_ready_in_s: Seconds until a held part has a batch ready again; None when no held part waits.
        can_claim: Whether more parts may be there to claim.
        held: Parts held.
    """

    stop_reason: str
    in_flight: int
    capacity: int
    ready: int
    is_next_isolated: bool
    is_isolated_in_flight: bool
    denied_for_s: float
    next_ready_in_s: float | None
    can_claim: bool
    held: int


@dataclass(frozen=True, slots=True)
class Send:
    """Reserve slots for up to *count* batches and send them."""

    count: int


@dataclass(frozen=True, slots=True)
class ClaimMore:
    """Take another due part."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for an answer, at most *for_s*; None for as long as it takes."""

    for_s: float | None


@dataclass(frozen=True, slots=True)
class Leave:
    """Give every part up and end the slice.

    Attributes:
        park_s: How long the limit or the retries will not let anything pass; 0 when work is due at once.
    """

    reason: str
    park_s: float = 0.0


Action = Send | ClaimMore | Wait | Leave


def next_action(now: Snapshot) -> Action:
    """What to do next.

    Answers come first: nothing is given up while a request is under way. A batch that may have killed a process is sent
    alone. Waits up to `LONGEST_WAIT_S` are sat out, longer ones are parked.
    """
    if now.stop_reason:
        return Wait(None) if now.in_flight else Leave(now.stop_reason)
    if now.ready and now.denied_for_s <= 0 and now.in_flight < now.capacity and not now.is_isolated_in_flight:
        if not now.is_next_isolated:
            return Send(now.capacity - now.in_flight)
        if not now.in_flight:
            return Send(1)
    room = now.in_flight < now.capacity and not now.is_isolated_in_flight and not (now.ready and now.is_next_isolated)
    if room and not now.ready and now.can_claim and now.denied_for_s <= 0:
        return ClaimMore()
    lift_s = _lift_s(now)
    if now.in_flight:
        return Wait(lift_s)
    if lift_s is None:
        return Leave("nothing is due")
    return Wait(lift_s) if lift_s <= LONGEST_WAIT_S else Leave("parked", park_s=lift_s)


def _lift_s(now: Snapshot) -> float | None:
    """Seconds until something may be sent again; None when only an answer or another part could bring work."""
    if now.ready and now.denied_for_s > 0:
        return now.denied_for_s
    if now.ready:  # an isolated batch waits for the requests under way
        return None if now.in_flight else 0.0
    if now.next_ready_in_s is None:
        return None
    return max(now.next_ready_in_s, now.denied_for_s, 0.0)
