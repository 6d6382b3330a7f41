"""Look, journal, effect: their order, their cost, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from engine_world import PLENTY, QUICK, Scripted, World
from store_world import PROVIDER, contents, one, scratch_database, sql

from jobqueue.errors import BatchRejected, OutcomeUnknown, RateLimited
from jobqueue.handler import Call, Decision, Effect, Reading
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import RateLimitConfig
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_effects") as found:
        yield found


class Library(Scripted):
    """A shelf of things; the effect takes them away, and a look takes *pages* requests."""

    def __init__(self, there: set[int], apply: Callable[[Call], Any] | None = None, *, pages: int = 1) -> None:
        super().__init__(apply)
        self.there = there
        self.pages = pages

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        self.note_look(call)
        page = carry.get("page", 0) + 1
        if page < self.pages:
            return Reading(None, {"page": page})
        return Reading(tuple({"saved": item.seq in self.there} for item in call.items))

    def decide(self, call: Call, before: Sequence[Mapping[str, Any]]) -> Sequence[Decision]:
        return [Effect({"saved": False}) if state["saved"] else ItemOutcome.skipped("not there") for state in before]

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        results = super().apply(call)
        self.there -= {item.seq for item in call.items}
        return results


@pytest.fixture
def make(url: str, redis_url: str) -> Iterator[Callable[..., World]]:
    with Database(url) as database:

        def made(handler: Scripted, item_count: int, *, provider: str = PROVIDER, **operation: Any) -> World:
            world = World(url, redis_url, database, handler, provider=provider)
            world.operation = replace(world.operation, is_observed=True, **operation)
            return world.with_job(item_count)

        yield made


def test_intent_and_journal_are_committed_before_the_effect(make: Callable[..., World], url: str) -> None:
    """Seen by the provider's side of the call over another connection: batch sent, before-state on record, no outcome."""
    seen: list[tuple[str, bool, list[Any], int]] = []

    def apply(call: Call) -> Sequence[ItemOutcome]:
        with Database(url) as other:
            params = {"j": world.job_id, "k": call.idempotency_key}
            (batch,) = sql(other, "SELECT * FROM batches WHERE job_id = %(j)s AND idempotency_key = %(k)s", params)
            seqs = [item.seq for item in call.items]
            journal = sql(
                other,
                "SELECT before FROM item_journal WHERE job_id = %(j)s AND seq = ANY (%(s)s) ORDER BY seq",
                {"j": world.job_id, "s": seqs},
            )
            outcomes = one(
                other,
                "SELECT count(*) FROM item_outcomes WHERE job_id = %(j)s AND seq = ANY (%(s)s)",
                {"j": world.job_id, "s": seqs},
            )
            seen.append((batch["status"], batch["has_effect"], [row["before"] for row in journal], outcomes))
        return [SUCCEEDED] * len(call.items)

    world = make(Library(set(range(10)), apply), 10)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert seen == [("sent", True, [{"saved": True}] * 5, 0)] * 2
    world.agrees(10)


def test_a_look_is_on_record_before_it_is_made(make: Callable[..., World], url: str) -> None:
    """Its batch is observing, with two requests counted for the limiter and no effect yet."""
    seen: list[dict[str, Any]] = []

    class Watched(Library):
        def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
            with Database(url) as other:
                seen.extend(sql(other, "SELECT * FROM batches WHERE job_id = %(j)s", {"j": world.job_id}))
            return super().observe_step(call, carry)

    world = make(Watched({0, 1, 2}), 3)
    world.run_to_the_end()
    (batch,) = seen
    assert (batch["status"], batch["requests"], batch["has_effect"]) == ("observing", 2, False)


def test_items_that_need_no_effect_are_neither_sent_nor_journalled(make: Callable[..., World]) -> None:
    """They are skipped with the reason; a batch of such items makes one request."""
    world = make(Library({0, 2}), 10)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert world.handler.sent == [(0, 2)]
    assert [j["seq"] for j in contents(world.database, world.job_id)["item_journal"]] == [0, 2]
    assert {seq for seq, status in world.outcomes.items() if status == "skipped"} == {1, 3, 4, 5, 6, 7, 8, 9}
    assert sorted(batch["requests"] for batch in world.batches) == [1, 2]
    world.agrees(10)


def test_a_look_of_several_requests_goes_on_where_it_was(make: Callable[..., World]) -> None:
    """Each step is a batch of its own with what it carries; nothing of it is left to be sent again."""
    handler = Library(set(range(5)), pages=4)
    world = make(handler, 5)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert len(handler.looks) == 4
    assert handler.sent == [(0, 1, 2, 3, 4)]
    assert len({call.idempotency_key for call in handler.looks}) == 1
    assert [batch["status"] for batch in world.batches] == ["repeated"] * 3 + ["recorded"]
    world.agrees(5)


def test_a_throttled_effect_keeps_its_journal_and_needs_no_second_look(make: Callable[..., World]) -> None:
    """The repetition carries the before-state that was recorded."""
    thrown = [RateLimited("slow down", retry_after_s=0.01)]

    def apply(call: Call) -> Sequence[ItemOutcome]:
        if thrown:
            raise thrown.pop()
        return [SUCCEEDED] * len(call.items)

    handler = Library(set(range(4)), apply)
    world = make(handler, 4)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    first, second = handler.calls
    assert len(handler.looks) == 1
    assert first.before == second.before == tuple({"saved": True} for _ in range(4))
    assert first.idempotency_key == second.idempotency_key


def test_a_retried_item_keeps_the_before_state_of_its_first_attempt(make: Callable[..., World]) -> None:
    """Its effect may have happened: another look might show our own doing."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        return [
            ItemOutcome.retrying("busy", "later") if item.seq == 1 and call.attempt == 1 else SUCCEEDED
            for item in call.items
        ]

    handler = Library(set(range(4)), apply)
    world = make(handler, 4)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert handler.sent == [(0, 1, 2, 3), (1,)]
    assert len(handler.looks) == 1
    assert handler.calls[1].before == ({"saved": True},)


def test_ordered_requests_follow_one_another_in_item_order_also_after_a_split(make: Callable[..., World]) -> None:
    """Never two at once, and no half overtakes a half before it, whichever of them is split again."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        if len(call.items) > 2 and call.items[0].seq % 8 == 0:
            raise BatchRejected("too clever")
        done.append(tuple(item.seq for item in call.items))
        return [SUCCEEDED] * len(call.items)

    done: list[tuple[int, ...]] = []
    world = make(Library(set(range(24)), apply), 24, is_ordered=True)
    world.size = 8
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert done == [seqs for n in (0, 8, 16) for seqs in ((n, n + 1), (n + 2, n + 3), tuple(range(n + 4, n + 8)))]
    world.agrees(24)


def test_an_ordered_part_waits_for_its_first_unanswered_request(make: Callable[..., World]) -> None:
    """Nothing later is sent before the repetition has its answer."""
    thrown = [OutcomeUnknown("silence")]

    def apply(call: Call) -> Sequence[ItemOutcome]:
        if call.items[0].seq == 5 and thrown:
            raise thrown.pop()
        return [SUCCEEDED] * len(call.items)

    world = make(Library(set(range(15)), apply), 15, is_ordered=True)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert [seqs[0] for seqs in world.handler.sent] == [0, 5, 5, 10]
    world.agrees(15)


@pytest.mark.parametrize(
    ("limits", "costs"),
    [
        (RateLimitConfig(windows="1 per 1 second", breaker=None), {}),
        (RateLimitConfig(windows="1000 per 1 second", max_concurrency=1, breaker=None), {}),
        (RateLimitConfig(windows="1000 per 1 second", max_concurrency=1, breaker=None), {"cost_units": 3}),
    ],
    ids=["one request a second", "one at a time", "one at a time, costs differ"],
)
def test_look_and_effect_pass_limits_that_allow_one_request_at_a_time(
    make: Callable[..., World], limits: RateLimitConfig, costs: dict[str, int]
) -> None:
    """The tightest limits slow a job down; they never stop it for good."""
    world = make(Library({0, 1}), 2, **costs)
    world.limits = limits
    world.config = replace(QUICK, slice_s=3.0)
    world.run_until(lambda: world.status.is_terminal, most_slices=3)
    assert world.handler.sent == [(0, 1)]


def test_looks_and_effects_are_paid_at_their_own_price(make: Callable[..., World]) -> None:
    """Fifty units an effect and one a look: a window of 102 units lets two batches through."""
    world = make(Library(set(range(20))), 20, provider="tidal", cost_units=50)
    world.limits = replace(PLENTY, unit_windows="102 per 1 hour")
    report = world.run()
    assert (report.reason, len(world.handler.calls)) == ("parked", 2)
    assert [batch["cost_units"] for batch in world.batches] == [51, 51]


def test_a_handler_decides_how_many_items_fit_into_one_request(make: Callable[..., World]) -> None:
    """Fewer than the batch size where the items are large; what did not fit comes next, in order."""

    class Small(Library):
        def fits(self, operation: Any, items: Sequence[Any]) -> int:
            return 2

    world = make(Small(set(range(5))), 5, is_ordered=True)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert world.handler.sent == [(0, 1), (2, 3), (4,)]
