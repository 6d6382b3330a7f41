"""Limits by level and name, their version, and what was learned; what was sent under names that hold all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from store_world import claim_all, new_job, one, opened_row, part_row, scratch_database, sql, write

from jobqueue.engine.limits import change_limits, remove_limits
from jobqueue.errors import ConfigurationError, NotFoundError
from jobqueue.local import LocalStack
from jobqueue.model.backoff import ErrorKind, Jitter, RetryPolicy
from jobqueue.model.batching import BatchConfig
from jobqueue.model.breaker import BreakerStatus, CircuitBreakerState
from jobqueue.model.limit import Cooldown, LearnedLimit, RateLimitConfig, Scope, ScopeKind
from jobqueue.model.limit_change import LimitsChange
from jobqueue.store import limits
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_limit_levels") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_overrides_are_read_back_beside_their_defaults(database: Database) -> None:
    """By kind and name; an account that has none takes the default, one that has takes nothing of it."""
    own = RateLimitConfig(ScopeKind.ACCOUNT, "50/second", scope_name="big")
    save = RateLimitConfig(ScopeKind.OPERATION, unit_windows="5/day", scope_name="save")
    for config in (RateLimitConfig(ScopeKind.ACCOUNT, "5/second", max_concurrency=2), own, save):
        limits.set_limits(database, config, "tidal")
    found = limits.provider_limits(database, "tidal")
    assert found.config(ScopeKind.ACCOUNT, "big") == own
    _, of_operation, of_account = found.limits_for(Scope("tidal", "big", "save"))
    assert (of_operation.scope.name, of_operation.windows[0].text) == ("tidal:save", "5 per 1 day (units)")
    assert (of_account.scope.name, of_account.windows[0].limit, of_account.max_concurrency) == ("tidal/big", 50, None)
    assert found.limits_for(Scope("tidal", "small", "load"))[1].max_concurrency == 2


def test_the_providers_way_of_repeating_is_read_back(database: Database) -> None:
    """By kind of error; what is bounded by time has no attempts."""
    policies = {
        ErrorKind.OUTAGE: RetryPolicy.of_kind(ErrorKind.OUTAGE, {"base_s": 2, "cap_s": 90, "jitter": "decorrelated"}),
        ErrorKind.ITEM: RetryPolicy(7, 0.5, 9.0, Jitter.EQUAL),
    }
    limits.set_limits(database, RateLimitConfig(windows="1/second", backoff=policies), "apple_music")
    assert limits.provider_limits(database, "apple_music").backoff == policies
    stored = one(database, "SELECT backoff FROM rate_limit_configs WHERE provider = 'apple_music'")
    assert "max_attempts" not in stored["outage"]


CHANGES: dict[str, Callable[[Database], object]] = {
    "a level": lambda db: limits.set_limits(db, RateLimitConfig(windows="3/second"), "youtube_music"),
    "an override": lambda db: limits.set_limits(
        db, RateLimitConfig(ScopeKind.ACCOUNT, scope_name="a"), "youtube_music"
    ),
    "an override's end": lambda db: limits.remove_limits(db, "youtube_music", ScopeKind.ACCOUNT, "a"),
    "batch sizes": lambda db: limits.set_batch_config(db, "youtube_music", "*", BatchConfig(1, 1, 1)),
    "a command": lambda db: change_limits(db, "youtube_music", LimitsChange(windows="4/second")),
}


def test_every_change_of_limits_raises_the_version_of_that_provider(database: Database) -> None:
    """By one, in the same transaction; the other providers keep theirs, and so does the epoch of their grants."""
    epoch = limits.begin_epoch(database, "youtube_music", "run")
    other = limits.config_version(database, "spotify")
    for name, change in CHANGES.items():
        before = limits.config_version(database, "youtube_music")
        change(database)
        after = limits.config_version(database, "youtube_music")
        assert after == before + 1 == limits.provider_limits(database, "youtube_music").version, name
    assert limits.config_version(database, "spotify") == other
    assert one(database, "SELECT epoch FROM limiter_epochs WHERE provider = 'youtube_music'") == epoch
    assert limits.config_version(database, "nobody") == 0


def test_a_change_that_fails_leaves_limits_and_version_alone(database: Database) -> None:
    """What is out of range is found before anything is stored, in whatever value it is."""
    before = limits.provider_limits(database, "spotify")
    change = LimitsChange(windows="7/second", breaker={"failure_rate": 7})
    with pytest.raises(ConfigurationError, match="failure_rate"):
        change_limits(database, "spotify", change, batch=("*", 1, 1, 1))
    assert limits.provider_limits(database, "spotify") == before


def test_a_dry_run_shows_the_difference_and_stores_nothing(database: Database) -> None:
    """The same difference as the change itself then shows."""
    before = limits.provider_limits(database, "spotify")
    change = LimitsChange(ScopeKind.ACCOUNT, "big", windows="7/second", learned_floor=3)
    shown = change_limits(database, "spotify", change, batch=("save", 1, 2, 3), is_dry_run=True)
    assert shown.version is None
    assert limits.provider_limits(database, "spotify") == before
    assert limits.stored_batch_config(database, "spotify", "save") == limits.stored_batch_config(
        database, "spotify", "*"
    )
    done = change_limits(database, "spotify", change, batch=("save", 1, 2, 3))
    assert done.changed == shown.changed
    assert done.changed["windows"] == ("", "7/second")
    assert done.changed["batch"][1] == {"min": 1, "optimal": 2, "max": 3}
    remove_limits(database, "spotify", ScopeKind.ACCOUNT, "big")


def test_two_changes_at_once_lose_neither(url: str, database: Database) -> None:
    """Each begins from what the other left: five people set five values of one level."""
    limits.set_limits(database, RateLimitConfig(ScopeKind.ACCOUNT, "1/second"), "noop")
    values: list[dict[str, object]] = [
        {"windows": "2/second"}, {"max_concurrency": 3}, {"cooldown_s": 4.0}, {"learned_floor": 5}, {"breaker": {"probes": 6}},
    ]  # fmt: skip
    gate = threading.Barrier(len(values))

    def change(value: dict[str, object]) -> None:
        with Database(url) as own:
            limits.config_version(own, "noop")
            gate.wait(10)
            change_limits(own, "noop", LimitsChange(ScopeKind.ACCOUNT, **value))  # type: ignore[arg-type]

    with ThreadPoolExecutor(len(values)) as pool:
        list(pool.map(change, values))
    found = limits.provider_limits(database, "noop").config(ScopeKind.ACCOUNT)
    assert found is not None
    assert found.breaker is not None
    assert (found.windows, found.max_concurrency, found.cooldown_default_s, found.learned_floor, found.breaker.probes) == (
        "2/second", 3, 4.0, 5, 6,
    )  # fmt: skip


def test_an_override_that_ends_takes_its_state_along_only_where_nothing_stays_for_it(database: Database) -> None:
    """An operation without limits has no level: its pause would fall on the whole provider. An account keeps its own."""
    limits.set_limits(database, RateLimitConfig(ScopeKind.ACCOUNT, "5/second"), "tidal")
    for kind in (ScopeKind.ACCOUNT, ScopeKind.OPERATION):
        limits.set_limits(database, RateLimitConfig(kind, scope_name="x"), "tidal")
    names = ("tidal/x", "tidal:x")
    limits.save_cooldowns(database, "tidal", [Cooldown(name, 60.0) for name in names])
    limits.save_breakers(database, "tidal", [CircuitBreakerState(name, BreakerStatus.OPEN, 1, 9.0) for name in names])
    limits.remove_limits(database, "tidal", ScopeKind.ACCOUNT, "x")
    limits.remove_limits(database, "tidal", ScopeKind.OPERATION, "x")
    assert [found.scope_name for found in limits.cooldowns(database, "tidal")] == ["tidal/x"]
    assert [found.scope_name for found in limits.breakers(database, "tidal")] == ["tidal/x"]
    with pytest.raises(NotFoundError, match="no limits of its own for operation 'x'"):
        limits.remove_limits(database, "tidal", ScopeKind.OPERATION, "x")


def test_what_was_learned_is_kept_by_scope_beside_a_pause(database: Database) -> None:
    """It replaces what was learned about that scope before, and no pause is needed for it, nor lost with it."""
    on_p = LearnedLimit("tidal/p", "r60", "80 per 1 minute", 40, 39, 30, 10.0, 1)
    then = LearnedLimit("tidal/p", "r1", "9 per 1 second", 4, 4, 2, 0.5, 0)
    on_q = LearnedLimit("tidal/q", "r1", "9 per 1 second", 5, 5, 2, 0.5, 0)
    limits.save_learned(database, "tidal", {"tidal/p": [on_p], "tidal/q": [on_q]})
    limits.save_cooldowns(database, "tidal", [Cooldown("tidal/p", 60.0, "slow down")])
    limits.save_learned(database, "tidal", {"tidal/p": [then]})
    kept = {found.scope_name: found for found in limits.learned(database, "tidal")}
    assert kept["tidal/q"].throttled_ago_s > 0.5, "it grows older"
    assert {name: replace(found, throttled_ago_s=0.5) for name, found in kept.items()} == {
        "tidal/p": then,
        "tidal/q": on_q,
    }
    assert "tidal/p" in {found.scope_name for found in limits.cooldowns(database, "tidal")}
    limits.save_learned(database, "tidal", {"tidal/q": []})
    assert [found.scope_name for found in limits.learned(database, "tidal")] == ["tidal/p"]
    assert limits.learned(database, "spotify") == []
    assert "tidal/q" not in {found.scope_name for found in limits.cooldowns(database, "tidal")}


def test_what_was_sent_is_found_under_every_scope_of_the_provider_and_no_other(database: Database) -> None:
    """Its own name, its operations, its accounts; a wildcard of SQL in a name stands for itself."""
    sql(database, "INSERT INTO providers (name, base_url) VALUES ('a_b', 'http://x'), ('axb', 'http://x')")
    scopes = ["a_b", "a_b/me", "a_b:save", "a_b:save/me", "a_b/x:y", "axb", "axb/me", "axb:save", "a_bc", "a_bc:save"]
    for number, scope in enumerate(scopes):
        job_id = new_job(database, 1, digest=f"sent-{number}")
        claim = claim_all(database, job_id)[0]
        epoch = limits.begin_epoch(database, "noop", "run")
        record = Record([part_row(0, claim.fence, has_intents=True, cursor=1)], opened=[opened_row(0, 1, 0, 0)])
        write(database, job_id, record, epoch=epoch)
        sql(database, "UPDATE batches SET scope = %(s)s WHERE job_id = %(j)s", {"s": scope, "j": job_id})
    found = [row["scope"] for row in limits.sent_since(database, "a_b", 60.0)]
    assert sorted(found) == sorted(scopes[:5])
    assert sorted(row["scope"] for row in limits.sent_since(database, "axb", 60.0)) == sorted(scopes[5:8])


def test_stored_limits_that_cannot_be_read_are_named(database: Database) -> None:
    """With the provider and level, and what to do."""
    limits.set_limits(database, RateLimitConfig(ScopeKind.ACCOUNT, scope_name="odd"), "noop")
    sql(database, "UPDATE rate_limit_configs SET breaker = '{\"opens\": 1}' WHERE scope_name = 'odd'")
    with pytest.raises(ConfigurationError, match=r"stored limits of noop \(account odd\) are wrong: .*limits set noop"):
        limits.provider_limits(database, "noop")
    sql(database, "DELETE FROM rate_limit_configs WHERE scope_name = 'odd'")


def test_a_level_keeps_what_a_change_does_not_name(database: Database) -> None:
    """The command stores the whole level, and the rest of it as it was."""
    before = limits.provider_limits(database, "spotify").config(ScopeKind.PROVIDER)
    assert before is not None
    change_limits(database, "spotify", LimitsChange(learned_floor=9))
    assert limits.provider_limits(database, "spotify").config(ScopeKind.PROVIDER) == replace(before, learned_floor=9)
