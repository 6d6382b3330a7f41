"""What a reservation answers, and what a caller reports back. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from jobqueue.errors import InvalidInputError, NotFoundError
from jobqueue.model.breaker import CircuitBreakerState
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
class Cooldown:
    """A pause a provider asked for.

    Attributes:
        remaining_s: Until it lifts, from now.
    """

    scope_name: str
    remaining_s: float
    reason: str = "throttled"


@dataclass(frozen=True, slots=True)
class LearnedLimit:
    """A limit learned from throttles.

    Attributes:
        window_id: Of the window it holds for, as in `Window.id`.
        text: The window in words.
        limit: How many requests it takes now, as far as is known.
        known: How many were seen to pass.
        base: Half of what it was thought to be before the throttle.
        throttled_ago_s: Since the throttle it was learned from.
        proofs: How often more than was known has passed since.
    """

    scope_name: str
    window_id: str
    text: str
    limit: int
    known: int
    base: int
    throttled_ago_s: float
    proofs: int

    def as_dict(self) -> dict[str, str | int | float]:
        """The same as JSON."""
        return {
            "scope": self.scope_name,
            "window": self.text,
            "limit": self.limit,
            "known": max(self.known, self.base),
            "throttled_ago_s": round(self.throttled_ago_s, 3),
            "proofs": self.proofs,
        }


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who was denied and has a place in line.

    Attributes:
        owner: As given to `reserve`.
        class_: 0 goes first.
        want: Requests it asked for.
        asks_in_s: Until its time to ask again.
        waited_s: Since it was denied first.
    """

    scope_name: str
    owner: str
    class_: int
    want: int
    asks_in_s: float
    waited_s: float


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


@dataclass(frozen=True, slots=True)
class WindowState:
    """How far a window is used up.

    Attributes:
        used: Requests or units that were answered and still count.
        in_flight: Those of slots still held.
        remaining: What is left now, at least 0.
        frees_in_s: Until the first of what was answered counts no more; 0 when nothing counts.
        resets_in_s: Until all of it counts no more; 0 when nothing counts.
        foreign: What others take of it, as far as the provider's answers told.
    """

    scope_name: str
    text: str
    limit: int
    used: int
    in_flight: int
    remaining: int
    frees_in_s: float
    resets_in_s: float
    foreign: int = 0

    def as_dict(self) -> dict[str, str | int | float]:
        """The same as JSON."""
        return {
            "scope": self.scope_name,
            "window": self.text,
            "limit": self.limit,
            "used": self.used,
            "in_flight": self.in_flight,
            "foreign": self.foreign,
            "remaining": self.remaining,
            "frees_in_s": round(self.frees_in_s, 3),
            "resets_in_s": round(self.resets_in_s, 3),
        }


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """Where everything stands that a request of *scope* must pass.

    Attributes:
        epoch: 0 while what was sent is being counted again; then nothing else is known.
        in_flight: Slots held in the innermost level that keeps limits.
        batch_health: By operation, 1 when no batch failed for its size, down to 1/1000.
        learned: Limits learned from throttles.
        waiting: Who waits in line, the first 32 of each scope by their time.
        margins_s: By scope, how long after its sending an eager window counts a request.
        latency_s: The mean time to an answer in the innermost level; 0 when unknown.
        malformed_headers: Rate-limit headers that could not be read, since the state was last rebuilt.
    """

    scope: Scope
    epoch: int
    windows: tuple[WindowState, ...]
    in_flight: int
    cooldowns: tuple[Cooldown, ...] = ()
    breakers: tuple[CircuitBreakerState, ...] = ()
    batch_health: Mapping[str, float] = field(default_factory=dict)
    learned: tuple[LearnedLimit, ...] = ()
    waiting: tuple[Waiter, ...] = ()
    margins_s: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    malformed_headers: int = 0

    @property
    def tightest(self) -> WindowState | None:
        """The window with the smallest share left; None without windows."""
        return min(self.windows, key=lambda w: w.remaining / w.limit, default=None)
