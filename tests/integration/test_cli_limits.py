"""Limits from the command line: levels, overrides, the difference, and workers that follow without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from cli_world import Program, environment, write_items
from store_world import new_job, sql

from jobqueue.delivery.queue import JobQueue
from jobqueue.model.limit import Denied, Granted, Scope, ScopeKind, SlotResult
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import due, limits
from jobqueue.store.database import Database

SET = ("limits", "set", "noop")


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


def test_every_value_of_a_level_is_set_and_shown_before_and_after(program: Program) -> None:
    """One line a value, the breaker's fields and the backoff's kinds among them; what is not given is not shown."""
    answer = program(
        *SET, "--windows", "10/second; 100/minute", "--unit-windows", "500/day", "--max-concurrency", 8, "--cooldown", "1m",
        "--breaker", "failure_rate=0.25,open_s=30", "--floor", 5, "--backoff", "outage=full:1:300",
        "--backoff", "item=equal:2:60:7",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "windows: 100000000 per 1 minute → 10/second; 100/minute",
        "unit_windows: - → 500/day",
        "max_concurrency: not set → 8",
        "cooldown_s: 30 → 60",
        "learned_floor: 1 → 5",
        "breaker.failure_rate: 0.5 → 0.25",
        "breaker.open_s: 15 → 30",
        "backoff.item: not set → equal jitter from 2.0 s up to 1 min, 7 tries",
        "backoff.outage: not set → full jitter from 1.0 s up to 5 min",
    ]
    assert "nothing changed" in program(*SET, "--windows", "10/second; 100/minute", "--breaker", "open_s=30").out
    shown = program("limits", "show", "noop").out
    assert "noop, each provider: 10/second; 100/minute, 500/day units, 8 at once" in shown
    assert "backoff after outage: full jitter from 1.0 s up to 5 min" in shown
    assert program(
        *SET, "--max-concurrency", "none", "--backoff", "outage=default", "--breaker", "off"
    ).out.splitlines() == [
        "max_concurrency: 8 → not set",
        "breaker: on → off",
        "backoff.outage: full jitter from 1.0 s up to 5 min → not set",
    ]


def test_an_override_begins_as_the_default_and_ends_as_it(program: Program) -> None:
    """The difference is to what held for the account until then, and when it goes, to what holds again."""
    program(*SET, "--account-level", "--windows", "5/second", "--max-concurrency", 2)
    change = program.json(*SET, "--account", "team-7", "--windows", "50/second")
    assert (change["level"], change["is_dry_run"]) == ("noop/team-7", False)
    assert change["changed"] == {"windows": {"before": "5/second", "after": "50/second"}}
    assert change["after"]["max_concurrency"] == 2
    assert program(*SET, "--site", "example.com", "--windows", "5/second").out.splitlines() == [
        "noop/example.com:",
        "as before, and from now on whatever the default becomes",
    ]
    program(*SET, "--operation", "noop", "--unit-windows", "9/day")
    view = program.json("limits", "show", "noop", "--account", "team-7", "--operation", "noop")
    assert {found["level"]: found["limits"]["windows"] for found in view["overrides"]} == {
        "noop:noop": "", "noop/team-7": "50/second", "noop/example.com": "5/second",
    }  # fmt: skip
    assert [window["scope"] for window in view["windows"]] == ["noop", "noop:noop", "noop/team-7"]
    assert "noop/team-7: 50/second, 2 at once" in program("limits", "show", "noop").out
    gone = program("limits", "remove", "noop", "--account", "team-7")
    assert gone.out.splitlines() == ["noop/team-7:", "windows: 50/second → 5/second"]
    program("limits", "remove", "noop", "--operation", "noop")
    view = program.json("limits", "show", "noop", "--account", "team-7", "--operation", "noop")
    assert [window["limit"] for window in view["windows"]] == [100_000_000, 5]


def test_a_dry_run_shows_and_stores_nothing(program: Program) -> None:
    """With the same lines as the change, and a word that nothing was done."""
    change = (*SET, "--account", "team-7", "--windows", "5/second")
    answer = program(*change, "--dry-run")
    assert answer.out.splitlines() == ["noop/team-7:", "windows: - → 5/second", "nothing was stored: --dry-run"]
    assert program.json("limits", "show", "noop")["overrides"] == []
    document = program.json(*change, "--dry-run")
    assert (document["is_dry_run"], document["version"], document["after"]["windows"]) == (True, None, "5/second")
    assert (
        program(*SET, "--windows", "100000000 per 1 minute", "--dry-run").out
        == "nothing would change: it is so already\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (("--breaker", "opens=1"), "breaker: opens is unknown", "Did you mean 'open_s'?"),
        (("--breaker", "open_s"), "is not FIELD=VALUE", "limits set --help"),
        (("--breaker", "open_s=1,open_s=2"), "is not FIELD=VALUE", "limits set --help"),
        (("--breaker", "failure_rate=7"), "failure_rate 7.0 is out of range", "0.001..1"),
        (("--backoff", "weather=full:1:2"), "names no kind of error: outage, unknown_outcome, item, bug", "--help"),
        (("--backoff", "outage=full:1"), "is not KIND=JITTER:BASE:CAP[:ATTEMPTS]", "--help"),
        (("--backoff", "outage=some:1:2"), "jitter is one of full, equal, decorrelated", "--help"),
        (("--backoff", "outage=full:1:2:3"), "backoff outage: max_attempts 3 cannot be set", "bounded by time"),
        (("--backoff", "bug=full:1:2", "--backoff", "bug=default"), "one kind of error twice", "--help"),
        (("--backoff", "bug=full:9:2"), "base_s 9.0 and cap_s 2.0 do not fit", "base_s <= cap_s"),
        (("--max-concurrency", "0"), "'0' is no whole number from 1, nor 'none'", "--help"),
        (("--cooldown", "2d"), "cooldown_default_s 172800.0 is out of range", "86400"),
        (("--floor", "0"), "0 is not in the range x>=1", "--help"),
        (("--mode", "loose"), "'loose' is not", "--help"),
        (("--operation", "nop", "--windows", "1/second"), "operation 'nop' is unknown to noop", "Did you mean 'noop'?"),
        (("--account", "a\tb", "--windows", "1/second"), "holds control characters", "printable"),
        (("--account", "a", "--operation", "noop", "--windows", "1/second"), "one level", "Give an account"),
        (("--account", "a", "--backoff", "bug=full:1:2"), "backoff cannot be set for limits of kind account", "whole"),
        (("--account", "a"), "nothing is to be changed", "--windows"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_stored(
    program: Program, arguments: tuple[str, ...], message: str, remedy: str
) -> None:
    """Exit code 2, the value, what to do; and the good value beside it was not stored either."""
    beside = () if arguments == ("--account", "a") else ("--unit-windows", "9/day")
    answer = program(*SET, *arguments, *beside)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert remedy in answer.err
    view = program.json("limits", "show", "noop")
    assert (view["version"], view["overrides"], view["configured"]["provider"]["unit_windows"]) == (0, [], "")


def test_removing_what_is_not_there_is_an_error(program: Program) -> None:
    """So is removing a default."""
    answer = program("limits", "remove", "noop", "--account", "nobody")
    assert (answer.code, "no limits of its own for account 'nobody'" in answer.err) == (2, True)
    assert "only the limits of an account or an operation" in program("limits", "remove", "noop").err


def test_many_overrides_are_shown_shortly_and_listed_in_full(program: Program, database_url: str) -> None:
    """A thousand do not fill a screen; --json leaves none out."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO rate_limit_configs (provider, scope_kind, scope_name, windows, mode)"
            " SELECT 'noop', 'account', 'a-' || n, n || '/second', 'strict' FROM generate_series(1, 1000) AS n"
        )
    shown = program("limits", "show", "noop").out
    assert "and 980 more overrides: --json lists them all" in shown
    assert len(shown.splitlines()) < 30
    assert len(program.json("limits", "show", "noop")["overrides"]) == 1000


def test_a_program_that_runs_on_sees_limits_that_another_one_changed(program: Program) -> None:
    """It keeps limits in memory, and asks for their version before it uses them."""
    with JobQueue(Settings.from_environ()) as queue:
        assert [window.limit for window in queue.limits("noop").state.windows] == [100_000_000]
        program(*SET, "--windows", "3/hour")
        view = queue.limits("noop")
        assert [window.limit for window in view.state.windows] == [3]
        assert view.configured.config(ScopeKind.PROVIDER) is not None


def waiting(program: Program, is_reached: Callable[[Any], bool]) -> Any:
    """The job's status once *is_reached*, within half a minute."""
    ends_at_s = time.monotonic() + 30
    while not is_reached(status := program.json("status", 1)):
        assert time.monotonic() < ends_at_s, status
        time.sleep(0.05)
    return status


def test_a_running_worker_keeps_the_limits_of_its_jobs_operation_and_account(program: Program, tmp_path: Path) -> None:
    """The scope of a job is its provider, operation and account; raised limits let it go on, by the same worker."""
    write_items(tmp_path / "items.csv", [f"item-{n}" for n in range(30)])
    program(*SET, "--operation", "noop", "--windows", "4/hour")
    program(*SET, "--account", "bo", "--windows", "2/hour")
    program(*SET, "--batch", "noop=1,5,5")
    assert program("enqueue", "noop", "--provider", "noop", "--items", "items.csv", "--account", "bo").code == 0
    with program.worker():
        assert waiting(program, lambda status: status["waiting_for"] == "noop/bo: 2 per 1 hour")["done"] == 10
        program("limits", "remove", "noop", "--account", "bo")
        assert waiting(program, lambda status: status["waiting_for"] == "noop:noop: 4 per 1 hour")["done"] == 20
        program(*SET, "--operation", "noop", "--windows", "40/hour")
        assert waiting(program, lambda status: status["status"] == "succeeded")["done"] == 30


def paused(limiter: Limiter, database: Database, scope: Scope, kind: ScopeKind) -> None:
    """A throttle of *scope*, stored as a slice stores it."""
    decision = limiter.reserve(scope)
    assert isinstance(decision, Granted)
    settled = limiter.settle([SlotResult.throttled(decision.slots[0], 900, kind)])
    limits.save_cooldowns(database, scope.provider, settled.cooldowns)


def test_a_pause_that_is_lifted_stays_lifted_when_redis_is_lost(program: Program, redis_url: str) -> None:
    """Of the level that is named and of no other; what was parked for it falls due."""
    program(*SET, "--account", "bo", "--windows", "50/second")
    with JobQueue(Settings.from_environ()) as queue:
        limiter, database = queue._limiter("noop"), queue._database
        paused(limiter, database, Scope("noop", "bo"), ScopeKind.ACCOUNT)
        paused(limiter, database, Scope("noop"), ScopeKind.PROVIDER)
        job_id = new_job(database, 1)
        reason = "UPDATE batch_checkpoints SET due_at = now() + interval '1 h', wait_reason = 'waiting for noop: pause'"
        sql(database, reason)
        answer = program("limits", "reset", "noop", "--account", "bo", "--cooldown")
        assert (answer.code, answer.out) == (0, "noop/bo: the pause is lifted\n")
        for _ in range(2):
            pauses = program.json("limits", "show", "noop", "--account", "bo")["cooldowns"]
            assert [pause["scope"] for pause in pauses] == ["noop"]
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
        assert (due.next_due_in_s(database, job_id=job_id) or 0) <= 0
        assert program.json("limits", "reset", "noop", "--cooldown", "--learned", "--breaker")["cooldowns"] == []


def test_a_breaker_is_held_open_until_it_is_set_to_auto(program: Program, redis_url: str) -> None:
    """Also over a loss of Redis; then it is closed and works by itself again."""
    assert "nothing is sent until it is set to auto" in program("limits", "breaker", "noop", "open").out
    for _ in range(2):
        assert [found["state"] for found in program.json("limits", "show", "noop")["breakers"]] == ["forced_open"]
        with JobQueue(Settings.from_environ()) as queue:
            assert isinstance(queue._limiter("noop").reserve(Scope("noop", "bo")), Denied)
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
    assert program.json("limits", "breaker", "noop", "disable")["breakers"][0]["state"] == "disabled"
    assert program.json("limits", "breaker", "noop", "auto")["breakers"][0]["state"] == "closed"
    with JobQueue(Settings.from_environ()) as queue:
        assert isinstance(queue._limiter("noop").reserve(Scope("noop", "bo")), Granted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reset", "noop"), "give --learned, --cooldown or --breaker"),
        (("reset", "noop", "--account", "bo", "--cooldown"), "noop/bo has no limits of its own"),
        (("breaker", "noop", "open", "--operation", "noop"), "noop:noop has no limits of its own"),
        (("breaker", "noop", "ajar"), "'ajar' is not one of"),
    ],
)
def test_what_has_no_state_of_its_own_cannot_be_changed(
    program: Program, arguments: tuple[str, ...], message: str
) -> None:
    """It would change the whole provider's."""
    answer = program("limits", *arguments)
    assert (answer.code, message in answer.err) == (2, True), answer
