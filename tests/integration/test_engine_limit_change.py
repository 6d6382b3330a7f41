"""Limits that change under running and parked work, and failures repeated in the provider's own way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from engine_world import QUICK, Scripted, World
from store_world import checkpoint, claim_all, new_job, scratch_database, sql

from jobqueue.engine.context import JobContext
from jobqueue.engine.limits import change_limits
from jobqueue.errors import ProviderUnavailable
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemError, ItemOutcome, ItemStatus
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import Scope, ScopeKind
from jobqueue.model.limit_change import OFF, LimitsChange
from jobqueue.store import due, limits
from jobqueue.store.database import Database

Outcomes = Sequence[ItemOutcome]


@dataclass
class StoredWorld(World):
    """Its limits are those of the database, read when a slice begins."""

    account: str = ""

    def context(self) -> JobContext:
        return replace(
            super().context(),
            scope=Scope(self.provider, self.account, self.operation.name),
            limits=limits.provider_limits(self.database, self.provider),
        )

    def set(self, **change: object) -> None:
        """As ``jobqueue limits set``."""
        change_limits(self.database, self.provider, LimitsChange(**change))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_limit_change") as found:
        yield found


@pytest.fixture
def make(url: str, redis_url: str) -> Iterator[Callable[..., StoredWorld]]:
    with Database(url) as database:
        sql(
            database, "UPDATE rate_limit_configs SET backoff = '{}', windows = '1000000/minute' WHERE provider = 'noop'"
        )
        sql(database, "DELETE FROM rate_limit_configs WHERE scope_name <> '' OR scope_kind <> 'provider'")

        def made(apply: Callable[[Call], Outcomes] | None = None) -> StoredWorld:
            return StoredWorld(url, redis_url, database, Scripted(apply))

        yield made


def test_a_running_slice_ends_when_its_limits_change_and_the_next_one_keeps_the_new_ones(
    make: Callable[..., StoredWorld],
) -> None:
    """It sees the change with its next record: what is under way is recorded, nothing more is sent by the old limits."""
    changed = threading.Lock()

    def apply(call: Call) -> Outcomes:
        with changed:
            if len(world.handler.calls) <= world.config.in_flight and not seen:
                seen.append(call)
                with Database(world.url) as own:
                    change_limits(own, "noop", LimitsChange(windows="7 per 1 hour"))
        return [SUCCEEDED] * len(call.items)

    seen: list[Call] = []
    world = make(apply).with_job(500)
    assert world.run().reason == "limits changed"
    sent = len(world.handler.calls)
    assert sent <= 2 * world.config.in_flight
    row = checkpoint(world.database, world.job_id)
    assert (row["holder"], row["wait_reason"]) == (None, "")
    assert world.run().reason == "parked"
    assert len(world.handler.calls) == max(sent, 7)
    assert {batch["scope"] for batch in world.batches} == {"noop:noop"}


def test_what_is_parked_falls_due_when_its_limits_change(make: Callable[..., StoredWorld]) -> None:
    """It does not sleep until the old limit would have lifted."""
    world = make()
    world.set(windows="2 per 1 hour")
    world.with_job(100)
    assert world.run().reason == "parked"
    assert (due.next_due_in_s(world.database, job_id=world.job_id) or 0) > 1000
    world.set(windows="1000 per 1 hour")
    assert (due.next_due_in_s(world.database, job_id=world.job_id) or 0) <= 0
    assert world.run().ended is JobStatus.SUCCEEDED


def test_what_parks_just_after_the_change_falls_due_as_well(make: Callable[..., StoredWorld]) -> None:
    """Its slice read the old limits and was refused by them; the change woke the others before it parked."""
    world = make()
    world.set(windows="2 per 1 hour")
    world.with_job(100)
    before = world.context()
    world.set(windows="1000 per 1 hour")
    old = replace(world, database=world.database)
    old.context = lambda: before  # type: ignore[method-assign]
    assert old.run().reason in ("parked", "limits changed")
    assert (due.next_due_in_s(world.database, job_id=world.job_id) or 0) <= 0


def test_only_what_waits_for_a_limit_of_that_provider_is_woken(make: Callable[..., StoredWorld]) -> None:
    """Not other providers, not held parts, not those that wait for their next attempt, not paused jobs."""
    world = make()
    reasons = {
        "limit": "waiting for noop: 2 per 1 hour",
        "level": "waiting for noop:noop/a: 2 per 1 hour",
        "attempt": "waiting for the next attempt",
        "held": "waiting for noop: 2 per 1 hour",
        "other": "waiting for tidal: 2 per 1 hour",
    }
    jobs = {}
    for number, (name, reason) in enumerate(reasons.items()):
        provider = "tidal" if name == "other" else "noop"
        jobs[name] = new_job(world.database, 1, digest=f"wake-{number}", provider=provider)
        if name == "held":
            claim_all(world.database, jobs[name])
        sql(
            world.database,
            "UPDATE batch_checkpoints SET due_at = now() + interval '1 h', wait_reason = %(r)s WHERE job_id = %(j)s",
            {"r": reason, "j": jobs[name]},
        )
    assert due.wake_parked(world.database, "noop") == 2
    woken = sql(world.database, "SELECT job_id FROM batch_checkpoints WHERE due_at <= now() AND finished_at IS NULL")
    assert {row["job_id"] for row in woken} >= {jobs["limit"], jobs["level"]}
    assert not {row["job_id"] for row in woken} & {jobs["attempt"], jobs["held"], jobs["other"]}


def test_an_override_lets_one_account_do_what_the_others_may_not(make: Callable[..., StoredWorld]) -> None:
    """The job's scope carries its account and operation down to the limiter and into every intent."""
    world = make()
    world.set(kind=ScopeKind.ACCOUNT, windows="2 per 1 hour", breaker=OFF)
    world.set(kind=ScopeKind.ACCOUNT, name="big", windows="1000 per 1 hour")
    world.account = "small"
    world.with_job(50)
    assert world.run().reason == "parked"
    assert len(world.handler.calls) == 2
    world.account = "big"
    world.with_job(51, digest="big")
    assert world.run().ended is JobStatus.SUCCEEDED
    assert {batch["scope"] for batch in world.batches} == {"noop:noop/big"}


def test_items_are_tried_as_often_as_the_provider_is_configured_for(make: Callable[..., StoredWorld]) -> None:
    """In place of the worker's three attempts there are five; the letter tells the number."""

    def apply(call: Call) -> Outcomes:
        return [ItemOutcome(ItemStatus.RETRYING, None, ItemError("busy", "later"))] * len(call.items)

    world = make(apply)
    world.set(backoff={"item": {"max_attempts": 5, "base_s": 0.001, "cap_s": 0.01, "jitter": "equal"}})
    world.with_job(1)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    assert [call.attempt for call in world.handler.calls] == [1, 2, 3, 4, 5]
    assert "attempt 5 of 5" in world.letters[0]["reason"]


def test_an_outage_waits_as_the_provider_is_configured_for_and_uses_up_no_attempts(
    make: Callable[..., StoredWorld],
) -> None:
    """Equal jitter never waits less than half its base; items of which one try is left are still sent after it."""
    failing = [True]

    def apply(call: Call) -> Outcomes:
        if failing:
            raise ProviderUnavailable("503")
        return [SUCCEEDED] * len(call.items)

    world = make(apply)
    world.config = replace(QUICK, retry=replace(QUICK.retry, max_attempts=1))
    world.set(breaker=OFF, backoff={"outage": {"base_s": 600, "cap_s": 600, "jitter": "equal"}})
    world.with_job(5)
    for _ in range(3):
        assert world.run().reason == "parked"
        assert 290 < (due.next_due_in_s(world.database, job_id=world.job_id) or 0) <= 600
        world.wake()
    failing.clear()
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert {call.attempt for call in world.handler.calls} == {1}
