"""A clock that stands still and a history in memory, for the tests of the limiter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from jobqueue.local.valkey import Valkey
from jobqueue.model.limit import (
    CircuitBreakerState,
    Cooldown,
    Denied,
    Granted,
    LearnedLimit,
    ProviderLimits,
    RateLimitConfig,
    Scope,
    ScopeKind,
    Slot,
    SlotResult,
    Window,
    WindowMode,
)
from jobqueue.ratelimit.history import SentRequests
from jobqueue.ratelimit.limiter import Limiter

SPOTIFY = Scope("spotify")


class Clock:
    """Microseconds that move only when told to."""

    def __init__(self) -> None:
        self.now_us = 1_763_800_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


@dataclass
class Sent:
    """A request as the database knows it."""

    slot: Slot
    sent_at_us: int
    ends_by_us: int
    answered_at_us: int | None = None
    is_unused: bool = False

    @property
    def ended_at_us(self) -> int:
        """The last instant the provider can have counted it at."""
        return self.ends_by_us if self.answered_at_us is None else self.answered_at_us


class MemoryHistory:
    """`RequestHistory` over a list."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.epoch = 0
        self.sent: dict[str, Sent] = {}
        self.paused: list[tuple[str, int]] = []
        self.opened: list[CircuitBreakerState] = []
        self.known: list[LearnedLimit] = []

    def commit(self, slots: Iterable[Slot], epoch: int, deadline_s: float) -> None:
        """Note intents, as the engine does before it sends."""
        assert epoch == self.epoch, "the engine would refuse this grant"
        ends_by_us = self.clock.now_us + math.ceil(deadline_s * 1_000_000)
        for slot in slots:
            self.sent[slot.id] = Sent(slot, self.clock.now_us, ends_by_us)

    def answer(self, slot: Slot, *, is_unused: bool = False) -> None:
        entry = self.sent[slot.id]
        if entry.answered_at_us is None and self.clock.now_us <= entry.ends_by_us:
            entry.answered_at_us, entry.is_unused = self.clock.now_us, is_unused

    def begin_epoch(self, provider: str, run_id: str) -> int:
        self.epoch += 1
        return self.epoch

    def sent_since(self, provider: str, since_s: float) -> Iterable[SentRequests]:
        now_us = self.clock.now_us
        for entry in self.sent.values():
            sent_ago_s = (now_us - entry.sent_at_us) / 1_000_000
            if sent_ago_s > since_s or entry.is_unused:
                continue
            answered = entry.answered_at_us
            answered_ago_s = None if answered is None else (now_us - answered) / 1_000_000
            yield SentRequests(entry.slot.scope.name, sent_ago_s, answered_ago_s, entry.slot.cost_units, 1)

    def cooldowns(self, provider: str) -> Iterable[Cooldown]:
        now_us = self.clock.now_us
        return [Cooldown(name, (until - now_us) / 1_000_000) for name, until in self.paused if until > now_us]

    def breakers(self, provider: str) -> Iterable[CircuitBreakerState]:
        return self.opened

    def learned(self, provider: str) -> Iterable[LearnedLimit]:
        return self.known


def provider_limits(windows: str = "", **options: object) -> ProviderLimits:
    """Limits of ``spotify``; *account_windows* adds a level, *longest_request_s* is the provider's."""
    account_windows = options.pop("account_windows", None)
    longest_request_s = options.pop("longest_request_s", 10.0)
    options.setdefault("breaker", None)
    options.setdefault("mode", WindowMode.STRICT)
    configs = [RateLimitConfig(windows=windows, **options)]  # type: ignore[arg-type]
    if account_windows is not None:
        configs.append(
            RateLimitConfig(ScopeKind.ACCOUNT, windows=str(account_windows), mode=WindowMode.STRICT, breaker=None)
        )
    return ProviderLimits("spotify", tuple(configs), float(str(longest_request_s)))


def worst_case(requests: Iterable[Sent], window: Window, within: Scope) -> int:
    """The most any window of the provider can have seen, whichever instant of its life each request was counted at.

    A request can be counted in a window [a, a + length] exactly if its life meets it. The number of lives a window
    meets is largest for one that begins at the end of some life.
    """
    lives = [
        (r.sent_at_us, r.ended_at_us, r.slot.cost_units if window.is_weighted else 1)
        for r in requests
        if not r.is_unused and within in (r.slot.scope, *r.slot.scope.parents())
    ]
    grouped = Counter[tuple[int, int]]()
    for sent, ended, weight in lives:
        grouped[sent, ended] += weight
    starts = {ended for _, ended in grouped}
    return max(
        (sum(w for (sent, ended), w in grouped.items() if sent <= a + window.length_us and ended >= a) for a in starts),
        default=0,
    )


class Worker:
    """A limiter and the database it commits to."""

    def __init__(self, url, clock, history=None, **options):
        self.history = history or MemoryHistory(clock)
        options.setdefault("windows", "4/minute")
        self.limiter = Limiter(url, {"spotify": provider_limits(**options)}, self.history, clock_us=clock)

    def take(self, want=1, scope=SPOTIFY):
        """Slots whose intents are committed; none when denied."""
        decision = self.limiter.reserve(scope, want=want, deadline_s=10)
        if isinstance(decision, Denied):
            return ()
        self.history.commit(decision.slots, decision.epoch, decision.deadline_s)
        return decision.slots

    def answer(self, slots):
        """Record and settle them."""
        for slot in slots:
            self.history.answer(slot)
        return self.limiter.settle([SlotResult(slot) for slot in slots])

    def close(self):
        """Close the limiter's connection."""
        self.limiter.close()


class SamePortValkey(Valkey):
    """A server that comes back where it was, or says that another process took its port meanwhile."""

    def start(self) -> None:
        port = self.port
        super().start()
        assert port in (0, self.port), f"port {port} was taken by another process"


def use_up(limiter, count, clock, gap_s=0.01):
    """Send and answer *count* requests, one after the other."""
    for _ in range(count):
        (slot,) = limiter.reserve(SPOTIFY).slots
        limiter.settle([SlotResult(slot)])
        clock.advance(gap_s)


def send(limiter, count, **result):
    """Send *count* requests and answer them at once."""
    decision = limiter.reserve(SPOTIFY, want=count)
    assert isinstance(decision, Granted), decision
    assert len(decision.slots) == count
    limiter.settle([SlotResult(slot, **result) for slot in decision.slots])
