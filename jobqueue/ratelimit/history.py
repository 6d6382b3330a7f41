"""What the limiter asks of the database when Redis has lost, or rolled back, its state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from jobqueue.model.limit import CircuitBreakerState, Cooldown, LearnedLimit


@dataclass(frozen=True, slots=True)
class SentRequests:
    """Requests of one scope that were sent, or that may still be.

    Attributes:
        scope_name: As in `Scope.name`.
        sent_ago_s: Seconds since the last of them was sent, or since its intent was committed if no more is known.
        answered_ago_s: Seconds since the last of them was answered; None when any may still be in flight.
        cost_units: What each cost.
        count: How many.
    """

    scope_name: str
    sent_ago_s: float
    answered_ago_s: float | None
    cost_units: int
    count: int


class RequestHistory(Protocol):
    """The truth about what was sent, kept where it survives Redis.

    The order makes a rebuild exact: `begin_epoch` is called first, and whoever commits an intent checks that the epoch
    of its grant is still the provider's. So every intent is either seen by `sent_since` or refused.
    """

    def begin_epoch(self, provider: str, run_id: str) -> int:
        """Raise the provider's epoch, note the server it belongs to, and return it; from 1, never the same twice."""

    def sent_since(self, provider: str, since_s: float) -> Iterable[SentRequests]:
        """Requests of all the provider's scopes sent in the last *since_s* seconds, in any order."""

    def cooldowns(self, provider: str) -> Iterable[Cooldown]:
        """Cool-downs that have not lifted."""

    def breakers(self, provider: str) -> Iterable[CircuitBreakerState]:
        """Breakers that are not closed."""

    def learned(self, provider: str) -> Iterable[LearnedLimit]:
        """Limits learned from throttles."""


class NoHistory:
    """For use without a database: what Redis still has is kept, and what it lost counts as never sent."""

    def begin_epoch(self, provider: str, run_id: str) -> int:
        """Always 1: the first to install wins."""
        return 1

    def sent_since(self, provider: str, since_s: float) -> Iterable[SentRequests]:
        """Nothing."""
        return ()

    def cooldowns(self, provider: str) -> Iterable[Cooldown]:
        """None."""
        return ()

    def breakers(self, provider: str) -> Iterable[CircuitBreakerState]:
        """None."""
        return ()

    def learned(self, provider: str) -> Iterable[LearnedLimit]:
        """None."""
        return ()
