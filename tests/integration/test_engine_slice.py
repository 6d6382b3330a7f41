"""A slice from claim to finish, and what each answer of a provider does to the batch it is about."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from engine_world import QUICK, Scripted, World
from store_world import PROVIDER, one, scratch_database

from jobqueue.engine import control
from jobqueue.errors import (
    BatchRejected,
    ItemRejected,
    ProviderUnavailable,
    RateLimited,
)
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import RateLimitConfig
from jobqueue.store import jobs, limits
from jobqueue.store.database import Database

Outcomes = Sequence[ItemOutcome]


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_slice") as found:
        yield found


@pytest.fixture
def make(url: str, redis_url: str) -> Iterator[Callable[..., World]]:
    with Database(url) as database:

        def made(apply: Callable[[Call], Outcomes] | None = None, handler: Scripted | None = None) -> World:
            return World(url, redis_url, database, handler or Scripted(apply))

        yield made


def all_of(call: Call, outcome: ItemOutcome = SUCCEEDED) -> list[ItemOutcome]:
    return [outcome] * len(call.items)


def first_time(raised: Exception, then: Callable[[Call], Outcomes] = all_of) -> Callable[[Call], Outcomes]:
    """An effect whose first call raises."""
    todo = [raised]

    def apply(call: Call) -> Outcomes:
        if todo:
            raise todo.pop()
        return then(call)

    return apply


def test_a_job_runs_from_claim_to_finish_with_one_call_an_item(make: Callable[..., World]) -> None:
    """Every item of every part is sent once, in full batches, and the slice sees the job end."""
    world = make().with_job(53, part_size=20)
    report = world.run()

    assert (report.ended, report.finished, report.lost, report.requests) == (JobStatus.SUCCEEDED, 3, 0, 11)
    assert Counter(seq for seqs in world.handler.sent for seq in seqs) == Counter(range(53))
    assert sorted(map(len, world.handler.sent)) == [3] + [5] * 10
    world.agrees(53)
    assert {batch["status"] for batch in world.batches} == {"recorded"}
    assert world.status is JobStatus.SUCCEEDED


def test_a_slice_whose_parts_all_end_at_once_goes_on_with_the_next_ones(make: Callable[..., World]) -> None:
    """Four answers that arrive together make room for four more parts: one slice does the whole job."""
    together = threading.Barrier(4)

    def apply(call: Call) -> Outcomes:
        together.wait(10)
        return all_of(call)

    world = make(apply).with_job(120, part_size=5)
    report = world.run()
    assert (report.ended, report.claimed) == (JobStatus.SUCCEEDED, 24)
    world.agrees(120)


def test_a_call_carries_what_its_batch_row_says(make: Callable[..., World]) -> None:
    """Key, attempt, deadline and items of the request are those of the intent."""
    world = make().with_job(7)
    world.run()
    rows = {batch["idempotency_key"]: batch for batch in world.batches}
    assert len(rows) == len(world.handler.calls) == 2
    for call in world.handler.calls:
        row = rows[call.idempotency_key]
        assert [item.seq for item in call.items] == list(range(row["first_seq"], row["last_seq"] + 1))
        assert (call.attempt, call.deadline_s, row["scope"]) == (1, world.operation.deadline_s, PROVIDER)
        assert call.items[0].key == f"item-{row['first_seq']}"


def test_an_item_that_may_pass_later_is_tried_again_alone_and_then_becomes_a_dead_letter(
    make: Callable[..., World],
) -> None:
    """Three attempts with a key each; its neighbours are sent once; the letter tells all three."""

    def apply(call: Call) -> Outcomes:
        return [ItemOutcome.retrying("busy", "later") if item.seq == 3 else SUCCEEDED for item in call.items]

    world = make(apply).with_job(10)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES

    of_item = [call for call in world.handler.calls if 3 in [item.seq for item in call.items]]
    assert [call.attempt for call in of_item] == [1, 2, 3]
    assert len({call.idempotency_key for call in of_item}) == 3
    assert [len(call.items) for call in of_item] == [5, 1, 1]
    (letter,) = world.letters
    assert (letter["seq"], letter["reason"]) == (3, "later (attempt 3 of 3)")
    assert [event["code"] for event in letter["history"]] == ["busy"] * 3
    assert [event["attempt"] for event in letter["history"]] == [1, 2, 3]
    world.agrees(10)


def test_an_item_that_passes_at_its_second_attempt_is_counted_once(make: Callable[..., World]) -> None:
    """The straggler's row goes with its outcome, and the job succeeds."""

    def apply(call: Call) -> Outcomes:
        return all_of(call, ItemOutcome.retrying("busy", "later") if call.attempt == 1 else SUCCEEDED)

    world = make(apply).with_job(8)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert Counter(seq for seqs in world.handler.sent for seq in seqs) == Counter(dict.fromkeys(range(8), 2))
    world.agrees(8)


@pytest.mark.parametrize("culprits", [{5}, {0, 15}])
def test_a_refused_batch_is_bisected_until_only_the_culprits_fail(
    make: Callable[..., World], culprits: set[int]
) -> None:
    """Each culprit costs at most two requests a halving; every other item passes."""

    def apply(call: Call) -> Outcomes:
        if culprits & {item.seq for item in call.items}:
            raise BatchRejected("one of them is wrong") if len(call.items) > 1 else ItemRejected("wrong", code="wrong")
        return all_of(call)

    world = make(apply).with_job(16)
    world.size = 16
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES

    assert {seq for seq, status in world.outcomes.items() if status == "failed"} == culprits
    assert {letter["seq"] for letter in world.letters} == culprits
    assert len(world.handler.calls) <= 1 + 2 * math.log2(16) * len(culprits)
    assert len({call.idempotency_key for call in world.handler.calls}) == len(world.handler.calls)
    world.agrees(16)


def test_a_batch_too_large_for_the_provider_is_halved(make: Callable[..., World]) -> None:
    """Nothing fails, nothing counts as an attempt."""

    def apply(call: Call) -> Outcomes:
        if len(call.items) > 4:
            raise ProviderUnavailable("413", is_size_caused=True)
        return all_of(call)

    world = make(apply).with_job(16)
    world.size = 16
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert sorted(map(len, world.handler.sent)) == [4, 4, 4, 4, 8, 8, 16]
    assert {call.attempt for call in world.handler.calls} == {1}
    world.agrees(16)


def test_a_throttle_parks_the_part_and_uses_up_nothing(make: Callable[..., World]) -> None:
    """The slice leaves at once, the part is due when the provider said, and the very same request comes again."""
    world = make(first_time(RateLimited("slow down", retry_after_s=300.0))).with_job(5)
    report = world.run()

    assert (report.reason, report.requests, world.status) == ("parked", 1, JobStatus.PARKED)
    (batch,) = world.batches
    assert (batch["status"], batch["failures"], batch["has_effect"]) == ("waiting", 0, False)
    row = jobs.progress_row(world.database, world.job_id)
    assert 290 < row["next_due_in_s"] <= 300
    assert "noop" in row["wait_reason"]

    world.wake()
    assert world.run().reason == "parked"
    assert len(world.handler.calls) == 1
    world.redis_forget_pause()
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    first, second = world.handler.calls
    assert (first.idempotency_key, first.attempt, first.items) == (second.idempotency_key, second.attempt, second.items)


def test_intents_whose_grants_a_rebuild_overtook_are_not_sent_until_they_are_granted_anew(
    make: Callable[..., World], url: str
) -> None:
    """The limiter is counted again under a new epoch in mid-run: nothing is lost, nothing is sent twice."""
    rebuilt: list[int] = []

    def apply(call: Call) -> Outcomes:
        if len(rebuilt) < 3:
            with Database(url) as other:
                rebuilt.append(limits.begin_epoch(other, PROVIDER, "another server"))
        return all_of(call)

    world = make(apply).with_job(100, part_size=50)
    world.size = 2
    report = world.run()
    assert report.ended is JobStatus.SUCCEEDED
    assert Counter(seq for seqs in world.handler.sent for seq in seqs) == Counter(range(100))
    epoch = one(world.database, "SELECT epoch FROM limiter_epochs WHERE provider = %(p)s", {"p": PROVIDER})
    assert epoch > rebuilt[-1]
    world.agrees(100)


def test_a_persons_second_try_is_another_call(make: Callable[..., World]) -> None:
    """It has a key of its own: a provider that honours keys must not repeat the refusal it remembers."""
    refuse = [True]

    def apply(call: Call) -> Outcomes:
        return all_of(call, ItemOutcome.failed("gone", "no such thing") if refuse else SUCCEEDED)

    world = make(apply).with_job(1)
    world.run_to_the_end()
    refuse.clear()
    control.retry(world.database, world.job_id)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert len({call.idempotency_key for call in world.handler.calls}) == 2


def test_a_window_that_is_full_parks_instead_of_waiting(make: Callable[..., World]) -> None:
    """Ten requests pass, the rest waits for the window without holding a worker; nothing is sent beyond the limit."""
    world = make().with_job(60)
    world.provider = "tidal"
    world = replace(world, limits=RateLimitConfig(windows="10 per 1 hour", breaker=None)).with_job(60)
    report = world.run()
    assert (report.reason, len(world.handler.calls)) == ("parked", 10)
    assert len(world.outcomes) == 50
    assert "10 per 1 hour" in jobs.progress_row(world.database, world.job_id)["wait_reason"]


def test_an_outage_backs_off_and_repeats_the_same_request(make: Callable[..., World]) -> None:
    """It counts as a failure of the batch and not as an attempt of its items."""
    world = make(first_time(ProviderUnavailable("503"))).with_job(5)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    first, second = world.handler.calls
    assert (first.idempotency_key, first.attempt) == (second.idempotency_key, second.attempt)
    assert [batch["status"] for batch in world.batches] == ["repeated", "recorded"]
    assert [batch["failures"] for batch in world.batches] == [1, 1]
    assert world.batches[0]["error"] == "ProviderUnavailable: 503"


def test_an_outage_beyond_its_budget_fails_the_items(make: Callable[..., World]) -> None:
    """The budget is time since the batch was first sent."""

    def apply(call: Call) -> Outcomes:
        raise ProviderUnavailable("503")

    world = make(apply).with_job(5)
    world.config = replace(QUICK, outage_budget_s=1e-6)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    assert {letter["fingerprint"] for letter in world.letters} == {
        "provider_unavailable: the provider was out for more than … s: …"
    }
    world.agrees(5)


def test_a_retried_dead_letter_that_is_throttled_is_still_sent_and_counted_once(make: Callable[..., World]) -> None:
    """Its batch waits and comes again as it was; the straggler it came from is not sent beside it."""
    refuse = [True]

    def apply(call: Call) -> Outcomes:
        if refuse:
            return all_of(call, ItemOutcome.failed("gone", "no such thing"))
        if len(world.handler.calls) == 2:
            raise RateLimited("slow down", retry_after_s=300.0)
        return all_of(call)

    world = make(apply).with_job(3)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    refuse.clear()
    assert control.retry(world.database, world.job_id) == 3
    assert world.run().reason == "parked"
    world.redis_forget_pause()
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert len(world.handler.calls) == 3
    world.agrees(3)
