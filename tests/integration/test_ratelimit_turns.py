"""A place in line is good for what was wanted when it was taken, not for ever."""

from __future__ import annotations

import limiter_play
import pytest
import redis
from limiter_play import Client, fairness, play
from ratelimit_world import SPOTIFY, use_up

from jobqueue.model.limit import DenialReason, Denied, Granted, Scope, ScopeKind, SlotResult


@pytest.mark.parametrize("latency_s", [(0.1, 0.3), (2.5, 4.0)])
@pytest.mark.parametrize("jobs", [2, 10])
def test_slots_that_free_one_by_one_go_to_each_in_turn(make, clock, monkeypatch, jobs, latency_s):
    """Who always wants more than frees up must not stay the first: a slot every six seconds, Jain's index over twenty
    windows; also when the answer takes longer than a place is kept.
    """
    monkeypatch.setattr(limiter_play, "LATENCY_S", latency_s)
    limiter = make("10/minute")
    use_up(limiter, 10, clock, gap_s=6)
    clients = [Client(f"job {n}", begins_s=n * 0.3) for n in range(jobs)]
    play(limiter, clock, clients, for_s=1200)
    assert fairness(clients) >= 0.95
    assert sum(len(client.granted_at_us) for client in clients) >= 20 * 10 * 0.9


def test_who_has_all_it_asks_for_keeps_nothing_back(make, clock):
    """It once wanted eight and is content with two: the other six are for whoever asks next."""
    limiter = make("8/minute")
    use_up(limiter, 8, clock)
    denial = limiter.reserve(SPOTIFY, want=8, owner="first")
    clock.advance(denial.retry_after_s + 0.5)
    assert len(limiter.reserve(SPOTIFY, want=2, owner="first").slots) == 2
    assert isinstance(limiter.reserve(SPOTIFY, want=6, owner="second"), Granted)


def test_who_leaves_the_line_keeps_nobody_waiting(make, clock):
    """Fifty jobs wait for one slot a minute and are cancelled: the last one need not sleep for fifty minutes."""
    limiter = make("1/minute")
    use_up(limiter, 1, clock, gap_s=0)
    for n in range(50):
        limiter.reserve(SPOTIFY, owner=f"cancelled {n}")
    assert limiter.reserve(SPOTIFY, owner="patient").retry_after_s > 3000
    called = [owner for n in range(50) for owner in limiter.leave(SPOTIFY, f"cancelled {n}")]
    assert called[-1] == "patient"
    assert limiter.reserve(SPOTIFY, owner="patient").retry_after_s == pytest.approx(60, abs=0.01)
    assert limiter.leave(SPOTIFY, "nobody") == ()
    assert [waiter.owner for waiter in limiter.snapshot(SPOTIFY).waiting] == ["patient"]


def test_those_who_never_come_back_are_forgotten(make, clock, redis_url):
    """Their places are kept for a while and not without bound, however many of them lapse."""
    limiter = make("1/minute")
    use_up(limiter, 1, clock, gap_s=0)
    for n in range(1100):
        limiter.reserve(SPOTIFY, owner=f"gone {n}")
    assert len(limiter.snapshot(SPOTIFY).waiting) == 32
    clock.advance(1200 * 60)
    limiter.reserve(SPOTIFY)
    with redis.Redis.from_url(redis_url) as client:
        assert client.zcard("{spotify}:limit:scope::waiting") == 0
        assert client.hlen("{spotify}:limit:scope::wants") <= 256


def test_who_must_wait_for_something_else_leaves_the_line_it_stood_in(make, clock):
    """Alice's turn at the provider has come, but her account is paused: her slot is for Bob, at once."""
    limiter = make("2/minute", account_windows="9/minute")
    alice, bob = Scope("spotify", "alice"), Scope("spotify", "bob")
    slots = limiter.reserve(alice, want=2).slots
    limiter.settle([SlotResult(slots[0])])
    denied = limiter.reserve(alice, owner="alice")
    assert (denied.scope_name, denied.is_in_line) == ("spotify", True)
    limiter.settle([SlotResult.throttled(slots[1], 600, ScopeKind.ACCOUNT)])
    clock.advance(denied.retry_after_s)
    assert limiter.reserve(alice, owner="alice").scope_name == "spotify/alice"
    assert len(limiter.reserve(bob, want=2).slots) == 2


def test_room_under_a_cap_is_kept_for_the_first_in_line(make, clock):
    """An answer made room while its time had come: whoever just comes gets none of it."""
    limiter = make("9/minute", max_concurrency=1)
    (slot,) = limiter.reserve(SPOTIFY).slots
    denied = limiter.reserve(SPOTIFY, owner="first")
    assert denied.is_in_line
    clock.advance(denied.retry_after_s)
    limiter.settle([SlotResult(slot)])
    late = limiter.reserve(SPOTIFY)
    assert isinstance(late, Denied)
    assert late.reason is DenialReason.CONCURRENCY
    assert isinstance(limiter.reserve(SPOTIFY, owner="first"), Granted)


def test_asking_why_takes_no_place(make):
    """Only who means to send stands in line."""
    limiter = make("1/minute")
    limiter.reserve(SPOTIFY)
    assert isinstance(limiter.why(SPOTIFY, owner="curious"), Denied)
    assert limiter.snapshot(SPOTIFY).waiting == ()
