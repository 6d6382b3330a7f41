"""`limits show`: who uses the windows, who waits, what was learned; and what was changed by hand outlives Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from cli_world import Program, environment, write_items

from jobqueue.delivery.queue import JobQueue
from jobqueue.model.job import Priority
from jobqueue.model.limit import Denied, Granted, Scope, ScopeKind, Slot, SlotResult, SlotUse
from jobqueue.model.quota import QuotaReport
from jobqueue.settings import Settings
from jobqueue.store import limits

SET = ("limits", "set", "noop")
SHOW = ("limits", "show", "noop")
NOOP = Scope("noop")


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """The program on empty servers."""
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.chdir(tmp_path)
    return Program(capsys, names)


@pytest.fixture
def queue(program: Program) -> Iterator[JobQueue]:
    """What a worker would use beside the program."""
    with JobQueue(Settings.from_environ()) as queue:
        yield queue


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the program's Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def take(queue: JobQueue, count: int, scope: Scope = NOOP) -> tuple[Slot, ...]:
    """Slots for *count* requests of *scope*."""
    decision = queue._limiter("noop").reserve(scope, want=count)
    assert isinstance(decision, Granted)
    assert len(decision.slots) == count
    return decision.slots


def wait_in_line(queue: JobQueue, owner: str, want: int, priority: Priority) -> None:
    """Let *owner* ask in vain."""
    decision = queue._limiter("noop").reserve(NOOP, want=want, owner=owner, priority=priority)
    assert isinstance(decision, Denied)
    assert decision.is_in_line


def settle(queue: JobQueue, *results: SlotResult) -> None:
    """Report *results*, and store what must outlive Redis, as a slice does."""
    settled = queue._limiter("noop").settle(results)
    limits.save_cooldowns(queue._database, "noop", settled.cooldowns)
    limits.save_breakers(queue._database, "noop", settled.breakers)
    limits.save_learned(queue._database, "noop", settled.learned)


def throttle(queue: JobQueue, scope: Scope = NOOP, *, kinds: Sequence[ScopeKind] = (ScopeKind.PROVIDER,)) -> None:
    """Have twelve requests answered well, and one more for each of *kinds* refused for half a minute."""
    slots = take(queue, 12 + len(kinds), scope)
    settle(queue, *(SlotResult(slot, latency_s=0.01) for slot in slots[:12]))
    settle(queue, *(SlotResult.throttled(slot, 30, kind) for slot, kind in zip(slots[12:], kinds, strict=True)))


def test_with_nothing_going_on_only_the_limits_are_shown(program: Program) -> None:
    """No line without news, and in the document an empty place for each."""
    program(*SET, "--windows", "10/minute", "--mode", "strict")
    assert program(*SHOW).out.splitlines() == [
        "noop, each provider: 10/minute (strict)",
        "SCOPE  WINDOW           USED  IN FLIGHT  LEFT  ALL FREE IN",
        "noop   10 per 1 minute     0          0    10  -",
        "breaker of noop: closed",
    ]
    view = program.json(*SHOW)
    assert [view[name] for name in ("learned", "cooldowns", "waiting", "eager_margins_s", "batch_health")] == [
        [], [], [], {}, {},
    ]  # fmt: skip
    assert (view["is_rebuilding"], view["latency_s"], view["malformed_headers"]) == (False, 0, 0)


def test_a_window_is_told_apart_by_who_uses_it(program: Program, queue: JobQueue) -> None:
    """Answered, under way, taken by others as the provider says, left; the column of others only where there are any."""
    program(*SET, "--windows", "10/minute", "--mode", "strict")
    slots = take(queue, 4)
    report = QuotaReport(remaining=3, limit=10, window_s=60, reset_in_s=20)
    settle(queue, SlotResult(slots[0], latency_s=0.12), SlotResult(slots[1], latency_s=0.12, reports=(report,)))
    (window,) = program.json(*SHOW)["windows"]
    assert {name: window[name] for name in ("limit", "used", "in_flight", "foreign", "remaining")} == {
        "limit": 10, "used": 2, "in_flight": 2, "foreign": 3, "remaining": 3,
    }  # fmt: skip
    lines = program(*SHOW).out.splitlines()
    assert re.split(r"  +", lines[1]) == ["SCOPE", "WINDOW", "USED", "IN FLIGHT", "BY OTHERS", "LEFT", "ALL FREE IN"]
    assert lines[2].split()[5:9] == ["2", "2", "3", "3"]
    assert lines[-1] == "answers take 120 ms on average"


def test_who_waits_is_shown_in_the_order_of_the_line(program: Program, queue: JobQueue) -> None:
    """A job by its number, another program's owner by its name, and of many the first ten."""
    program(*SET, "--windows", "2/hour", "--mode", "strict")
    settle(queue, *(SlotResult(slot) for slot in take(queue, 2)))
    wait_in_line(queue, "41", 8, Priority.LOW)
    wait_in_line(queue, "report\x1b[2J", 1, Priority.DEFAULT)
    wait_in_line(queue, "42", 2, Priority.HIGH)
    rows = program.json(*SHOW)["waiting"]
    assert [(row["job_id"], row["priority"], row["wants"]) for row in rows] == [
        (42, "high", 2), (None, "default", 1), (41, "low", 8),
    ]  # fmt: skip
    assert all(row["scope"] == "noop" and row["asks_in_s"] > 3590 and 0 <= row["waited_s"] < 60 for row in rows)
    heading, *lines = program(*SHOW).out.splitlines()[4:7]
    assert heading.split("  ")[0] == "WAITING"
    assert [line.split("  ")[0].strip() for line in lines] == ["job 42", "report\\x1b[2J"]
    for owner in range(100, 112):
        wait_in_line(queue, str(owner), 1, Priority.DEFAULT)
    shown = program(*SHOW).out
    assert "and 5 more: --json lists 32 of each scope" in shown
    assert "job 41" not in shown


def test_a_parked_job_is_seen_waiting(program: Program, tmp_path: Path) -> None:
    """The literal worker asked for it, and went; its place in line stays."""
    program(*SET, "--windows", "1/hour", "--batch", "noop=1,5,5")
    write_items(tmp_path / "items.csv", [f"item-{n}" for n in range(30)])
    program("enqueue", "noop", "--provider", "noop", "--items", "items.csv", "--priority", "low")
    ends_at_s = time.monotonic() + 30
    with program.worker():
        while not (rows := program.json(*SHOW)["waiting"]):
            assert time.monotonic() < ends_at_s, program.json("status", 1)
            time.sleep(0.05)
    assert [(row["job_id"], row["priority"]) for row in rows] == [(1, "low")]
    assert any(line.startswith("job 1 ") for line in program(*SHOW).out.splitlines())


def test_what_throttles_taught_is_shown_and_outlives_redis_until_it_is_forgotten(
    program: Program, queue: JobQueue, redis_client: redis.Redis
) -> None:
    """So does that it was forgotten, and that the pause was lifted."""
    program(*SET, "--windows", "20/minute", "--mode", "strict")
    throttle(queue)
    for _ in range(2):
        view = program.json(*SHOW)
        (learned,) = view["learned"]
        assert (learned["scope"], learned["limit"], learned["known"]) == ("noop", 10, 10)
        assert 0 <= learned["throttled_ago_s"] < 60
        assert [pause["reason"] for pause in view["cooldowns"]] == ["throttled"]
        shown = program(*SHOW).out
        assert "learned of noop, 20 per 1 minute: 10 may be sent now, 10 are known to pass, throttled" in shown
        assert "pause of noop: throttled, lifts in " in shown
        redis_client.flushall()
    answer = program("limits", "reset", "noop", "--learned", "--cooldown")
    assert answer.out.splitlines() == ["noop: what was learned is forgotten", "noop: the pause is lifted"]
    for _ in range(2):
        view = program.json(*SHOW)
        assert (view["learned"], view["cooldowns"]) == ([], [])
        redis_client.flushall()


def test_what_was_learned_of_one_level_is_forgotten_there_alone(
    program: Program, queue: JobQueue, redis_client: redis.Redis
) -> None:
    """The provider's stays, also once Redis is lost."""
    program(*SET, "--windows", "20/minute", "--mode", "strict")
    program(*SET, "--operation", "noop", "--windows", "20/minute")
    throttle(queue, Scope("noop", operation="noop"), kinds=(ScopeKind.PROVIDER, ScopeKind.OPERATION))
    show = (*SHOW, "--operation", "noop")
    assert [limit["scope"] for limit in program.json(*show)["learned"]] == ["noop", "noop:noop"]
    program("limits", "reset", "noop", "--operation", "noop", "--learned")
    for _ in range(2):
        view = program.json(*show)
        assert [limit["scope"] for limit in view["learned"]] == ["noop"]
        assert [pause["scope"] for pause in view["cooldowns"]] == ["noop", "noop:noop"], "pauses were not asked for"
        redis_client.flushall()


def test_a_learned_limit_that_holds_nothing_back_is_in_the_document_alone(program: Program, queue: JobQueue) -> None:
    """With a floor as high as the limit a throttle changes nothing."""
    program(*SET, "--windows", "20/minute", "--mode", "strict", "--floor", "20")
    throttle(queue)
    assert [limit["limit"] for limit in program.json(*SHOW)["learned"]] == [20]
    assert "learned" not in program(*SHOW).out


def test_a_breaker_shows_what_it_has_counted(program: Program, queue: JobQueue) -> None:
    """Failed and slow calls while closed; once open, when probes may pass."""
    program(*SET, "--windows", "", "--breaker", "minimum_calls=4,slow_call_s=2,slow_rate=1,open_s=60,jitter=0")
    first, second, *others = take(queue, 4)
    settle(queue, SlotResult(first, latency_s=3.0), SlotResult(second, SlotUse.FAILURE))
    (breaker,) = program.json(*SHOW)["breakers"]
    assert breaker == {
        "scope": "noop", "state": "closed", "opens": 0, "open_remaining_s": 0, "calls": 2, "failures": 1, "slow": 1,
        "failure_rate": 0.5, "slow_rate": 0.5, "slow_start_remaining_s": 0,
    }  # fmt: skip
    shown = program(*SHOW).out
    assert "breaker of noop: closed, of 2 calls 1 failed (50 %) and 1 took too long (50 %)\n" in shown
    settle(queue, *(SlotResult(slot, SlotUse.FAILURE) for slot in others))
    assert "breaker of noop: open, probes in 1 min\n" in program(*SHOW).out


@pytest.mark.parametrize(
    ("command", "state", "is_sent"),
    [("open", "forced_open", False), ("disable", "disabled", True), ("auto", "closed", True)],
)
def test_a_breaker_stays_where_it_was_put_when_redis_is_lost(
    program: Program, queue: JobQueue, redis_client: redis.Redis, command: str, state: str, is_sent: bool
) -> None:
    """At the level that was named and at no other, and whatever was before."""
    program(*SET, "--operation", "noop", "--windows", "500/minute")
    level = ("--operation", "noop")
    program("limits", "breaker", "noop", "disable" if command == "open" else "open", *level)
    program("limits", "breaker", "noop", command, *level)
    for _ in range(2):
        found = program.json(*SHOW, *level)["breakers"]
        assert {row["scope"]: row["state"] for row in found} == {"noop": "closed", "noop:noop": state}
        decision = queue._limiter("noop").reserve(Scope("noop", "bo", "noop"))
        assert isinstance(decision, Granted) is is_sent
        redis_client.flushall()


def test_eager_margins_malformed_headers_and_cut_batches_have_a_line_each(program: Program, queue: JobQueue) -> None:
    """The learned margin in milliseconds, from the sending."""
    program(*SET, "--windows", "5/second", "--mode", "eager")
    first, second = take(queue, 2)
    settle(
        queue,
        SlotResult(first, latency_s=0.2, malformed_headers=2),
        SlotResult(second, SlotUse.FAILURE, latency_s=0.2, operation="noop", is_size_caused=True),
    )
    view: dict[str, Any] = program.json(*SHOW)
    assert (view["malformed_headers"], view["batch_health"]) == (2, {"noop": 0.5})
    margin_s = view["eager_margins_s"]["noop"]
    assert 0.002 < margin_s < 0.5
    assert program(*SHOW).out.splitlines()[-4:] == [
        f"eager windows of noop count a request {1000 * margin_s:.0f} ms after its sending",
        "answers take 200 ms on average",
        "2 rate-limit headers could not be read and were ignored",
        "batches of noop are cut to 50 % because large ones failed",
    ]


def test_while_another_counts_again_nothing_is_made_up(
    program: Program, queue: JobQueue, redis_client: redis.Redis
) -> None:
    """No empty windows that look like a full quota."""
    program(*SET, "--windows", "10/minute")
    redis_client.flushall()
    redis_client.set("{noop}:limit:lease", "another", px=20_000)
    assert program.json(*SHOW)["is_rebuilding"] is True
    assert program(*SHOW).out.splitlines()[1:] == [
        "what was sent is being counted again: nothing else is known until that is done"
    ]
