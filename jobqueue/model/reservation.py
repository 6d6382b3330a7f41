"""What a reservation answers, and what a caller reports back. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from jobqueue.errors import InvalidInputError, NotFoundError
from jobqueue.model.breaker import CircuitBreakerState
from jobqueue.model.limit_state import Cooldown, LearnedLimit
from jobqueue.model.quota import QuotaReport
from jobqueue.model.scope import Scope, ScopeKind


class UnknownProviderError(NotFoundError):
    """No limits are configured for the provider."""


class CostExceedsLimitError(InvalidInputError):
    """One request costs more than a whole window allows: it could never be granted."""


class DenialReason(StrEnum):
    """What a denied reservation waits for."""

    WINDOW = "window"
    COOLDOWN = "cooldown"
    BREAKER = "breaker"
    CONCURRENCY = "concurrency"
    PRIORITY = "priority"  # somebody of a higher one waits and goes first
    REBUILD = "rebuild"
    OUTDATED = "outdated"  # the caller's limits were changed meanwhile: read them anew


class SlotUse(StrEnum):
    """What became of a slot."""

    OK = "ok"  # answered; the breaker counts a success
    UNUSED = "unused"  # certainly never sent; the slot is given back wholly
    FAILURE = "failure"  # the provider failed; the breaker counts it
    UNKNOWN = "unknown"  # sent, perhaps; counts in the windows and says nothing about the provider's health
    THROTTLED = "throttled"  # 429 or alike: a cool-down, never counted by the breaker


class Adjustment(StrEnum):
    """What a person may change of a scope's state."""

    FORGET_LEARNED = "forget_learned"
    LIFT_COOLDOWN = "lift_cooldown"
    FORCE_OPEN = "forced_open"
    DISABLE_BREAKER = "disabled"
    CLOSE_BREAKER = "closed"

    @property
    def is_of_breaker(self) -> bool:
        """Whether it concerns the circuit breaker."""
        return self in (Adjustment.FORCE_OPEN, Adjustment.DISABLE_BREAKER, Adjustment.CLOSE_BREAKER)


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to send one request of *scope*, until its grant's deadline.

    Attributes:
        id: Unique; ends in the cost.
    """

    id: str
    scope: Scope
    cost_units: int = 1


@dataclass(frozen=True, slots=True)
class Granted:
    """Slots to send requests with.

    Attributes:
        slots: 1..want of them; settle each one.
        epoch: Which life of the limiter's state granted them. Commit an intent only while it is still the provider's
            epoch.
        deadline_s: The slots end by themselves this long after the grant; no request may be under way any more by then.
    """

    slots: tuple[Slot, ...]
    epoch: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing may be sent now.

    Attributes:
        reason: What kind of constraint binds; of several, the one that lifts last.
        constraint: The constraint in words, such as ``spotify: 100 per 1 minute``.
        retry_after_s: When to ask again, rounded up to a millisecond and never zero. If what must free is still in
            flight it is a lower bound, for nobody knows when the answer comes.
        scope_name: The scope that binds.
        is_in_line: Whether a place in line is kept until then and two seconds more: who asks in time goes first.
    """

    reason: DenialReason
    constraint: str
    retry_after_s: float
    scope_name: str
    is_in_line: bool = False


@dataclass(frozen=True, slots=True)
class Throttle:
    """The provider asked for a pause.

    Attributes:
        retry_after_s: The pause it named; None when it named none and the configured default holds.
        scope_kind: Whether the whole provider pauses or one account. Where no limits are kept per account it is the
            provider.
    """

    retry_after_s: float | None = None
    scope_kind: ScopeKind = ScopeKind.PROVIDER


@dataclass(frozen=True, slots=True)
class SlotResult:
    """What became of one slot.

    Attributes:
        use: What the answer said.
        latency_s: From sending to the whole answer; None when there was none.
        throttle: Given when *use* is ``throttled``.
        operation: The provider's operation, for batch health; empty to leave it alone.
        is_size_caused: The batch was too large (413, a timeout or a 5xx on a large batch): halves the batch health.
        reports: What the answer said of the provider's quotas.
        malformed_headers: Its rate-limit fields that were ignored because they meant nothing.
        answered_at_s: When the answer came, on `time.monotonic`'s clock; None for now. Only with it may a result be
            reported late without the slot being held longer.
    """

    slot: Slot
    use: SlotUse = SlotUse.OK
    latency_s: float | None = None
    throttle: Throttle | None = None
    operation: str = ""
    is_size_caused: bool = False
    reports: tuple[QuotaReport, ...] = ()
    malformed_headers: int = 0
    answered_at_s: float | None = None

    @classmethod
    def unused(cls, slot: Slot) -> SlotResult:
        """The slot was never used for a request."""
        return cls(slot, SlotUse.UNUSED)

    @classmethod
    def throttled(
        cls, slot: Slot, retry_after_s: float | None = None, scope_kind: ScopeKind = ScopeKind.PROVIDER
    ) -> SlotResult:
        """The provider answered that it wants a pause."""
        return cls(slot, SlotUse.THROTTLED, throttle=Throttle(retry_after_s, scope_kind))


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling changed that must outlive Redis.

    Attributes:
        slots: How many slots were still held; late ones and repeats do not count.
        cooldowns: Those set or prolonged.
        breakers: Those that opened or closed.
        learned: By scope name, every limit learned there, where that changed; empty when all was forgotten.
        called: Owners whose turn came early because slots were given back: they may ask now.
    """

    slots: int
    cooldowns: tuple[Cooldown, ...] = ()
    breakers: tuple[CircuitBreakerState, ...] = ()
    learned: Mapping[str, tuple[LearnedLimit, ...]] = field(default_factory=dict)
    called: tuple[str, ...] = ()

    def __add__(self, other: Settled) -> Settled:
        return Settled(
            self.slots + other.slots,
            self.cooldowns + other.cooldowns,
            self.breakers + other.breakers,
            {**self.learned, **other.learned},
            self.called + other.called,
        )
