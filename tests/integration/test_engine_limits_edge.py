"""Limits at their edges: a half-open breaker, a grant that grew old, and what a person may not do meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from engine_world import Scripted, World
from store_world import new_job, sql

from jobqueue.engine import control, enqueue
from jobqueue.engine.flight import Flight
from jobqueue.engine.gate import Gate
from jobqueue.engine.masking import masked
from jobqueue.errors import InvalidInputError, InvalidTransitionError, ProviderUnavailable
from jobqueue.handler import Call, Decision, Effect, Reading
from jobqueue.model.breaker import BreakerConfig
from jobqueue.model.item import SUCCEEDED, ItemOutcome, State
from jobqueue.model.job import JobRequest, JobStatus
from jobqueue.model.limit import RateLimitConfig
from jobqueue.store.database import Database


class Shelf(Scripted):
    """Every item is there and is taken away; *on_look* may say that the provider is out."""

    def __init__(self, on_look: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        self._on_look = on_look

    def observe_step(self, call: Call, carry: Mapping[str, object]) -> Reading:
        self.note_look(call)
        self._on_look(len(self.looks))
        return Reading(tuple({"saved": True} for _ in call.items))

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        self.on_decide()
        return [Effect({"saved": False}) for _ in before]

    def on_decide(self) -> None:
        """Nothing, unless a test says so."""

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        super().apply(call)
        return [SUCCEEDED] * len(call.items)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


def world_of(handler: Shelf, database: Database, redis_url: str, items: int = 5) -> World:
    world = World(database.url, redis_url, database, handler)
    world.operation = replace(world.operation, is_observed=True)
    return world.with_job(items)


@pytest.mark.parametrize("probes", [1, 2])
def test_a_half_open_breaker_lets_looks_and_effects_pass_one_by_one(
    database: Database, redis_url: str, probes: int
) -> None:
    """A look and its effect never fit into one probe: each goes alone, and the job ends."""

    def out(number: int) -> None:
        if number == 1:
            raise ProviderUnavailable("503")

    handler = Shelf(out)
    world = world_of(handler, database, redis_url)
    breaker = BreakerConfig(failure_rate=0.01, minimum_calls=1, open_s=0.1, open_max_s=0.1, jitter=0, probes=probes)
    world.limits = RateLimitConfig(windows="1000 per 1 minute", breaker=breaker)
    world.size = 5

    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert len(handler.calls) == 1
    world.agrees(5)


def test_a_slot_is_not_used_once_it_may_end_before_the_request(database: Database, redis_url: str) -> None:
    """The look's record took so long that the effect's slot grew old: the effect asks for another one."""
    late_s = [0.0]

    class Slow(Shelf):
        def on_decide(self) -> None:
            late_s[0] += 5.0 if len(self.looks) == 1 else 0.0

    def slow(number: int) -> None:
        late_s[0] += 15.0 if number == 1 else 0.0

    handler = Slow(slow)
    world = world_of(handler, database, redis_url)
    world.clock = lambda: time.monotonic() + late_s[0]
    world.config = replace(world.config, slice_s=30.0)

    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert len(handler.looks) == 1
    assert len(handler.calls) == 1
    waiting, sent = world.batches
    assert (waiting["status"], waiting["requests"], waiting["error"]) == ("repeated", 1, "not sent in time")
    assert (sent["status"], sent["requests"], sent["crashes"]) == ("recorded", 1, 0)
    world.agrees(5)


def test_a_job_that_is_being_rolled_back_cannot_be_retried(database: Database) -> None:
    """Later effects would escape the rollback; the message names the job that rolls it back."""
    source = new_job(database, 3)
    params = {"j": source}
    sql(database, "UPDATE jobs SET state = 'completed_with_failures', finished_at = now() WHERE id = %(j)s", params)
    rollback = new_job(database, 1, digest="another")
    sql(database, "UPDATE jobs SET rollback_of = %(j)s WHERE id = %(r)s", params | {"r": rollback})

    with pytest.raises(InvalidTransitionError, match=f"being rolled back by job {rollback}"):
        control.retry(database, source)


def test_an_account_without_a_token_here_is_unknown() -> None:
    """The message names the account that is known, and nothing is refused where the environment names none."""
    request = JobRequest(type="enforcement", provider="spotify", account="eve", operation="unsave_tracks")
    with pytest.raises(InvalidInputError, match=r"account 'eve' of spotify is unknown.*--account demo"):
        enqueue.check_account(request, "demo")
    enqueue.check_account(request, "eve")
    enqueue.check_account(request, None)


@pytest.mark.parametrize(
    "text",
    [
        "no answer from https://x.test/a?access_token=SEKRET&b=1",
        "Authorization: Bearer SEKRET-token",
        "token SEKRET was refused",
        "password=SEKRET",
    ],
)
def test_secrets_are_masked_in_what_is_written_down(text: str) -> None:
    """Given secrets, credentials in queries and authorization headers become stars."""
    assert "SEKRET" not in masked(text, secrets=("SEKRET", ""))
    assert "***" in masked(text, secrets=("SEKRET",))
    assert masked("404: no such track", secrets=("",)) == "404: no such track"


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("account", JobRequest(type="noop", provider="noop", account="a" * 201)),
        ("owner", JobRequest(type="noop", provider="noop", owner="new\nline")),
        ("max_run_s", JobRequest(type="noop", provider="noop", max_run_s=0)),
    ],
)
def test_texts_and_bounds_are_checked_before_anything_is_stored(field: str, request_: JobRequest) -> None:
    """The field is named."""
    with pytest.raises(InvalidInputError) as caught:
        enqueue.check_texts(request_)
    assert caught.value.field == field


def test_whoever_else_waits_in_the_line_does_not_end_a_slice(database: Database, redis_url: str) -> None:
    """A program of its own may use the same limits under any name; a slot given back calls it as well."""
    world = world_of(Shelf(), database, redis_url)
    world.limits = RateLimitConfig(windows="4 per 1 hour", breaker=None)
    with world.tools("other") as tools, world.tools("slice") as own:
        slots = tools.limiter.reserve(world.context().scope, want=4).slots
        for owner in ("radio", "9" * 30, "\u0664"):
            assert tools.limiter.reserve(world.context().scope, owner=owner).is_in_line
        gate = Gate(world.context(), own.limiter, own.database, time.monotonic)
        gate.give_back(Flight(part=0, no=1, items=[], idempotency_key="", slots=list(slots[:3])))
        gate.settle()
        assert tools.limiter.snapshot(world.context().scope).in_flight == 1
