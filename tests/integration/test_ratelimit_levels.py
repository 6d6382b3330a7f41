"""Limits of one operation, and overrides by name, on a real Redis."""

from __future__ import annotations

import pytest
import redis
from ratelimit_world import Clock, MemoryHistory

from jobqueue.model.breaker import BreakerConfig, BreakerStatus, CircuitBreakerState
from jobqueue.model.limit import (
    DenialReason,
    Denied,
    Granted,
    LearnedLimit,
    ProviderLimits,
    RateLimitConfig,
    Scope,
    ScopeKind,
    Slot,
    SlotResult,
    SlotUse,
)
from jobqueue.ratelimit.limiter import Limiter

QUICK_BREAKER = BreakerConfig(minimum_calls=1, failure_rate=0.5, open_s=5, jitter=0, probes=1)
LIMITS = ProviderLimits(
    "spotify",
    (
        RateLimitConfig(windows="100/minute", breaker=None),
        RateLimitConfig(ScopeKind.OPERATION, "5/minute", scope_name="save", breaker=QUICK_BREAKER),
        RateLimitConfig(ScopeKind.ACCOUNT, "3/minute", breaker=None),
        RateLimitConfig(ScopeKind.ACCOUNT, "20/minute", scope_name="big", breaker=None),
    ),
    10.0,
)


@pytest.fixture
def history():
    return MemoryHistory(Clock())


@pytest.fixture
def limiter(redis_url, history):
    limiter = Limiter(redis_url, {"spotify": LIMITS}, history, clock_us=history.clock)
    yield limiter
    limiter.close()


def taken(limiter: Limiter, scope: Scope, want: int = 50) -> tuple[Slot, ...]:
    decision = limiter.reserve(scope, want=want)
    return decision.slots if isinstance(decision, Granted) else ()


def test_an_override_holds_for_its_account_and_the_default_for_the_others(limiter):
    """Each account has its own count."""
    assert len(taken(limiter, Scope("spotify", "small"))) == 3
    assert len(taken(limiter, Scope("spotify", "other"))) == 3
    assert len(taken(limiter, Scope("spotify", "big"))) == 20


def test_an_operations_limit_is_shared_by_all_accounts(limiter):
    """What one account took is gone for the next; other operations are free."""
    assert len(taken(limiter, Scope("spotify", "big", "save"), 4)) == 4
    assert len(taken(limiter, Scope("spotify", "other", "save"))) == 1
    denied = limiter.reserve(Scope("spotify", "big", "save"))
    assert isinstance(denied, Denied)
    assert denied.scope_name == "spotify:save"
    assert len(taken(limiter, Scope("spotify", "big", "load"))) == 16


def test_an_operation_and_an_account_of_one_name_are_counted_apart(limiter):
    """Their keys differ as their names do."""
    assert len(taken(limiter, Scope("spotify", "save"))) == 3
    assert len(taken(limiter, Scope("spotify", operation="save"))) == 5


def test_an_account_may_be_called_anything(limiter):
    """Names that end like the keys of another account, or of the provider, are counted apart from them."""
    names = ("a", "a:slots", "a%3Aslots", ":slots", ":wants", ":r60", "operation:save")
    assert [len(taken(limiter, Scope("spotify", name), 1)) for name in names] == [1] * len(names)


def test_slots_of_an_operation_end_at_every_level(limiter, history):
    """After the answers and one window everything is free again."""
    scope = Scope("spotify", "other", "save")
    limiter.settle([SlotResult(slot) for slot in taken(limiter, scope)])
    state = limiter.snapshot(scope)
    assert [(window.scope_name, window.used, window.in_flight) for window in state.windows] == [
        ("spotify", 3, 0),
        ("spotify:save", 3, 0),
        ("spotify/other", 3, 0),
    ]
    history.clock.advance(61)
    assert [window.used for window in limiter.snapshot(scope).windows] == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "paused"),
    [(ScopeKind.PROVIDER, "spotify"), (ScopeKind.OPERATION, "spotify:save"), (ScopeKind.ACCOUNT, "spotify/other")],
)
def test_a_throttle_pauses_the_level_it_is_about(limiter, kind, paused):
    """And no other."""
    (slot,) = taken(limiter, Scope("spotify", "other", "save"), 1)
    (cooldown,) = limiter.settle([SlotResult.throttled(slot, 30, kind)]).cooldowns
    assert cooldown.scope_name == paused
    assert (not taken(limiter, Scope("spotify", "big", "load"), 1)) == (kind is ScopeKind.PROVIDER)


@pytest.mark.parametrize("kind", [ScopeKind.OPERATION, ScopeKind.ACCOUNT])
def test_a_throttle_of_a_level_without_limits_pauses_the_provider(redis_url, history, kind):
    """An account whose quota is not counted shares the provider's; never does its pause fall on one operation."""
    limits = ProviderLimits("spotify", (LIMITS.configs[0], RateLimitConfig(ScopeKind.OPERATION, scope_name="save")), 10)
    limiter = Limiter(redis_url, {"spotify": limits}, history, clock_us=history.clock)
    operation = "save" if kind is ScopeKind.ACCOUNT else "load"
    (slot,) = taken(limiter, Scope("spotify", "other", operation), 1)
    (cooldown,) = limiter.settle([SlotResult.throttled(slot, 30, kind)]).cooldowns
    limiter.close()
    assert cooldown.scope_name == "spotify"


def test_a_breaker_of_one_operation_leaves_the_others_alone(limiter):
    """It opens by that operation's failures, whoever's they are."""
    (slot,) = taken(limiter, Scope("spotify", "other", "save"), 1)
    (breaker,) = limiter.settle([SlotResult(slot, SlotUse.FAILURE)]).breakers
    assert breaker.scope_name == "spotify:save"
    denied = limiter.reserve(Scope("spotify", "big", "save"))
    assert isinstance(denied, Denied)
    assert denied.reason is DenialReason.BREAKER
    assert taken(limiter, Scope("spotify", "big", "load"), 1)


def test_an_empty_redis_is_counted_again_at_every_level(limiter, history, redis_url):
    """What was sent under one full name counts for provider, operation and account."""
    decision = limiter.reserve(Scope("spotify", "big", "save"), want=4, deadline_s=10)
    assert isinstance(decision, Granted)
    history.commit(decision.slots, decision.epoch, 10)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    found = {
        window.scope_name: window.in_flight for window in limiter.snapshot(Scope("spotify", "big", "save")).windows
    }
    assert found == {"spotify": 4, "spotify:save": 4, "spotify/big": 4}


@pytest.mark.parametrize("name", ["spotify/big", "spotify:save"])
def test_what_is_known_of_a_level_that_is_gone_does_not_fall_on_the_provider(redis_url, history, name):
    """Its limits were removed while a worker still stored its breaker and what it had learned."""
    limits = ProviderLimits("spotify", (RateLimitConfig(windows="100/minute", breaker=QUICK_BREAKER),), 10.0)
    history.opened = [CircuitBreakerState(name, BreakerStatus.OPEN, 1, 60.0)]
    history.known = [LearnedLimit(name, "r60", "3 per 1 minute", 3, 3, 1, 1.0, 0)]
    limiter = Limiter(redis_url, {"spotify": limits}, history, clock_us=history.clock)
    try:
        assert len(taken(limiter, Scope("spotify"))) == 50
        state = limiter.snapshot(Scope("spotify"))
    finally:
        limiter.close()
    assert [breaker.status for breaker in state.breakers] == [BreakerStatus.CLOSED]
    assert state.learned == ()
