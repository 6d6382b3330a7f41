"""Limits and what must outlive Redis; and the connection under everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from store_world import claim_all, new_job, one, opened_row, part_row, scratch_database, sql, write

from jobqueue.errors import NotFoundError, ServerUnavailableError
from jobqueue.local import LocalStack
from jobqueue.model.batching import BatchConfig
from jobqueue.model.breaker import BreakerConfig, BreakerStatus, CircuitBreakerState
from jobqueue.model.limit import Cooldown, RateLimitConfig, ScopeKind, WindowMode
from jobqueue.store import jobs, limits
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_limits") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_limits_are_stored_per_level_and_read_back(database: Database) -> None:
    """Every value of a level comes back as it was; setting it anew replaces it and leaves the other level alone."""
    account = RateLimitConfig(
        scope_kind=ScopeKind.ACCOUNT,
        windows="5/second",
        unit_windows="9/day",
        max_concurrency=3,
        cooldown_default_s=7.5,
        breaker=BreakerConfig(failure_rate=0.25, open_s=9.0),
        learned_floor=4,
    )
    limits.set_limits(database, account, "tidal")
    assert limits.provider_limits(database, "tidal").config(ScopeKind.ACCOUNT) == account
    limits.set_limits(database, replace(account, windows="7/second", max_concurrency=None, breaker=None), "tidal")
    found = limits.provider_limits(database, "tidal")
    of_account, of_provider = found.config(ScopeKind.ACCOUNT), found.config(ScopeKind.PROVIDER)
    assert of_account == replace(account, windows="7/second", max_concurrency=None, breaker=None)
    assert of_provider == RateLimitConfig(windows="200 per 1 minute", mode=WindowMode.STRICT)
    assert limits.provider_limits(database, "nobody").configs == ()


def test_batch_sizes_never_exceed_what_the_api_takes(database: Database) -> None:
    """The operation's own row comes before the provider's; without one the largest request is best."""
    limits.set_batch_config(database, "tidal", "*", BatchConfig(1, 20, 50))
    limits.set_batch_config(database, "tidal", "add", BatchConfig(2, 3, 4))
    assert limits.batch_config(database, "tidal", "remove", largest=100) == BatchConfig(1, 20, 50)
    assert limits.batch_config(database, "tidal", "remove", largest=10) == BatchConfig(1, 10, 10)
    assert limits.batch_config(database, "tidal", "add", largest=100) == BatchConfig(2, 3, 4)
    assert limits.batch_config(database, "nobody", "x", largest=7) == BatchConfig(1, 7, 7)


def test_an_endpoint_is_changed_value_by_value(database: Database) -> None:
    """What is not given stays; a provider without a row is named."""
    limits.set_endpoint(database, "youtube_music", base_url="http://127.0.0.1:1/v3", token_url=None)
    found = limits.endpoint(database, "youtube_music")
    assert (found.base_url, found.token_url) == ("http://127.0.0.1:1/v3", "https://oauth2.googleapis.com/token")
    assert "youtube_music" in {row["name"] for row in limits.list_providers(database)}
    with pytest.raises(NotFoundError, match="'nobody' is not configured"):
        limits.endpoint(database, "nobody")
    with pytest.raises(NotFoundError, match="'nobody' is not configured"):
        limits.set_endpoint(database, "nobody", base_url=None, token_url="http://x")


def test_a_longer_pause_outlives_a_shorter_one(database: Database) -> None:
    """What lifts later stays; pauses that lifted are not told."""
    limits.save_cooldowns(database, "spotify", [Cooldown("spotify", 60.0), Cooldown("spotify/me", 0.0)])
    limits.save_cooldowns(database, "spotify", [Cooldown("spotify", 5.0, "again")])
    (found,) = limits.cooldowns(database, "spotify")
    assert (found.scope_name, found.reason) == ("spotify", "again")
    assert 55 < found.remaining_s <= 60


def test_breakers_that_are_closed_are_not_told(database: Database) -> None:
    """An open breaker comes back with what is left of its time, a half-open one with none, a closed one not at all."""
    states = [
        CircuitBreakerState("tidal", BreakerStatus.OPEN, 3, 30.0),
        CircuitBreakerState("tidal/a", BreakerStatus.HALF_OPEN, 1, 0.0),
        CircuitBreakerState("tidal/b", BreakerStatus.OPEN, 1, 30.0),
    ]
    limits.save_breakers(database, "tidal", states)
    limits.save_breakers(database, "tidal", [CircuitBreakerState("tidal/b", BreakerStatus.CLOSED)])
    found = {breaker.scope_name: breaker for breaker in limits.breakers(database, "tidal")}
    assert set(found) == {"tidal", "tidal/a"}
    assert found["tidal"].opens == 3
    assert 29 < found["tidal"].open_remaining_s <= 30
    assert found["tidal/a"].open_remaining_s == 0


def test_what_was_sent_is_counted_by_scope_and_time(database: Database) -> None:
    """Open sends and those answered within the time; batches that only wait made no request."""
    job_id = new_job(database, 6)
    claim = claim_all(database, job_id)[0]
    epoch = limits.begin_epoch(database, "noop", "run")
    rows = [opened_row(0, no, no, no, requests=requests) for no, requests in ((0, 1), (1, 2), (2, 1), (3, 0))]
    write(database, job_id, Record([part_row(0, claim.fence, has_intents=True, cursor=4)], opened=rows), epoch=epoch)
    sql(
        database,
        "UPDATE batches SET status = 'recorded', sent_at = now() - interval '90 s', closed_at = now() - interval '80 s'"
        " WHERE job_id = %(j)s AND no = 2",
        {"j": job_id},
    )
    found = limits.sent_since(database, "noop", 60.0)
    assert sorted(row["requests"] for row in found) == [1, 2]
    assert all(row["closed_ago_s"] is None and 11 < row["deadline_in_s"] <= 12 for row in found)
    assert sorted(row["requests"] for row in limits.sent_since(database, "noop", 100.0)) == [1, 1, 2]
    assert limits.sent_since(database, "n_op", 60.0) == []


def test_every_epoch_is_newer_than_the_one_before(database: Database) -> None:
    """Also after another server process took over."""
    first = limits.begin_epoch(database, "spotify", "a")
    assert limits.begin_epoch(database, "spotify", "b") == first + 1
    assert limits.begin_epoch(database, "spotify", "b") == first + 2


def cut(database: Database, name: str) -> None:
    """End the backends of that application name."""
    sql(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(n)s", {"n": name})


def test_a_look_over_a_cut_connection_is_repeated_and_a_write_is_not(url: str, database: Database) -> None:
    """Whether a write took effect is not known: its caller must find out. The next call has a new connection."""
    with Database(url, name="cut-me") as other:
        job_id = new_job(other)
        cut(database, "cut-me")
        assert jobs.get(other, job_id).id == job_id
        cut(database, "cut-me")
        with pytest.raises(ServerUnavailableError, match="DATABASE_URL"):
            limits.begin_epoch(other, "spotify", "c")
        assert limits.begin_epoch(other, "spotify", "c") > 0


def test_a_look_within_a_transaction_that_broke_is_not_repeated_outside_of_it(url: str, database: Database) -> None:
    """Also not after a transaction within the transaction has ended."""
    with Database(url, name="cut-me-too") as other:
        job_id = new_job(other)

        def broken() -> None:
            with other.transaction():
                with other.transaction():
                    jobs.lock(other, job_id)
                cut(database, "cut-me-too")
                jobs.get(other, job_id)

        with pytest.raises(ServerUnavailableError):
            broken()
        assert jobs.get(other, job_id).id == job_id


def test_connections_say_who_they_are_and_give_up_on_locks_and_idle_transactions(database: Database) -> None:
    """A hung peer must not hold a part for longer than a lease."""
    assert one(database, "SHOW lock_timeout") == "10s"
    assert one(database, "SHOW idle_in_transaction_session_timeout") == "30s"
    assert one(database, "SHOW timezone") == "UTC"
    assert one(database, "SHOW application_name") == "jobqueue"


def test_rows_can_be_streamed_in_small_blocks(database: Database) -> None:
    """More rows than one block holds arrive in order."""
    job_id = new_job(database, 25)
    params = {"job_id": job_id, "part": 0, "seq": 3, "count": 1000}
    assert [row["seq"] for row in database.stream("items_from", params, size=4)] == list(range(3, 25))
