"""Answers nobody can trust: silence after sending, refused tokens, and handlers with bugs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from engine_world import QUICK, Scripted, World
from store_world import scratch_database

from jobqueue.engine import control
from jobqueue.errors import (
    AuthorizationExpired,
    OutcomeUnknown,
    ProviderUnavailable,
)
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.store import jobs
from jobqueue.store.database import Database

Outcomes = Sequence[ItemOutcome]


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_doubt") as found:
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


def test_an_unanswered_idempotent_request_is_repeated_with_its_key(make: Callable[..., World]) -> None:
    """The provider may have carried it out: the repetition is verbatim."""
    world = make(first_time(OutcomeUnknown("silence"))).with_job(5)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    first, second = world.handler.calls
    assert (first.idempotency_key, first.items) == (second.idempotency_key, second.items)
    assert world.batches[0]["has_effect"]
    assert world.handler.probes == []


class Probing(Scripted):
    """An operation that is not idempotent; *found* says what a look after an unanswered request shows."""

    def __init__(self, apply: Callable[[Call], Outcomes], found: Callable[[int], ItemOutcome | None]) -> None:
        super().__init__(apply)
        self._found = found

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        self.note_probe(call)
        return [self._found(item.seq) for item in call.items]


def test_an_unanswered_request_that_must_not_be_repeated_is_probed_first(make: Callable[..., World]) -> None:
    """What took effect is recorded, what certainly did not is sent again, what nobody can know is unconfirmed."""
    known = {0: SUCCEEDED, 1: None, 2: ItemOutcome.unconfirmed("no trace"), 3: None, 4: SUCCEEDED}
    world = make(handler=Probing(first_time(OutcomeUnknown("silence")), known.get)).with_job(5)
    world.operation = replace(world.operation, is_idempotent=False)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    assert world.handler.sent == [(0, 1, 2, 3, 4), (1, 3)]
    assert len(world.handler.probes) == 1
    assert {seq for seq, status in world.outcomes.items() if status == "unconfirmed"} == {2}
    world.agrees(5)


def test_a_provider_without_a_way_to_look_leaves_unanswered_items_unconfirmed(make: Callable[..., World]) -> None:
    """Nothing is sent twice."""
    world = make(first_time(OutcomeUnknown("silence"))).with_job(5)
    world.operation = replace(world.operation, is_idempotent=False)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    assert len(world.handler.calls) == 1
    assert set(world.outcomes.values()) == {"unconfirmed"}
    world.agrees(5)


def test_an_effect_in_doubt_whose_probe_never_answers_ends_unconfirmed(make: Callable[..., World]) -> None:
    """Hours of outage after an unanswered request do not make a failure of what may have happened."""

    class NeverAnswers(Scripted):
        def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
            self.note_probe(call)
            raise ProviderUnavailable("503")

    world = make(handler=NeverAnswers(first_time(OutcomeUnknown("silence")))).with_job(3)
    world.operation = replace(world.operation, is_idempotent=False)
    world.config = replace(QUICK, slice_s=0.1)
    world.run_until(lambda: bool(world.handler.probes))
    world.config = replace(QUICK, outage_budget_s=1e-6)
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    assert set(world.outcomes.values()) == {"unconfirmed"}
    assert len(world.handler.calls) == 1


def test_a_refused_token_pauses_the_job_until_a_person_resumes_it(make: Callable[..., World]) -> None:
    """What is under way is recorded, the reason is shown, and the refused batch goes on as it was."""
    world = make(first_time(AuthorizationExpired("401 token expired"))).with_job(40)
    report = world.run()
    job = jobs.get(world.database, world.job_id)
    assert (report.reason, job.status) == ("paused", JobStatus.PAUSED)
    assert job.status_reason == "needs_authorization: 401 token expired"
    assert world.run().claimed == 0
    control.resume(world.database, world.job_id)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert Counter(world.handler.sent).most_common(1)[0][1] == 2
    world.agrees(40)


def test_a_bug_is_quarantined_with_its_traceback_and_its_neighbours_finish(make: Callable[..., World]) -> None:
    """The batch is tried three times, halved, and only the item that breaks the handler becomes a letter."""

    def apply(call: Call) -> Outcomes:
        if 6 in [item.seq for item in call.items]:
            raise ZeroDivisionError("a bug")
        return all_of(call)

    world = make(apply).with_job(16)
    world.size = 8
    assert world.run_to_the_end() is JobStatus.COMPLETED_WITH_FAILURES
    (letter,) = world.letters
    assert letter["seq"] == 6
    assert letter["reason"].startswith("ZeroDivisionError: a bug\n")
    assert "test_engine_doubt.py" in letter["reason"]
    assert letter["fingerprint"].startswith("handler_error: ZeroDivisionError")
    world.agrees(16)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda call: [SUCCEEDED],
        lambda call: None,
        lambda call: [None] * len(call.items),
        lambda call: [SUCCEEDED] * (len(call.items) - 1) + ["done"],
        lambda call: [ItemOutcome.retrying("busy", "later")] + [None] * (len(call.items) - 1),
        lambda call: [SUCCEEDED] * (len(call.items) - 1) + [ItemOutcome.succeeded({"at": object()})],
        lambda call: [ItemOutcome.succeeded(float("nan"))] * len(call.items),
    ],
    ids=["too few", "none", "no outcomes", "one is a string", "half of it", "not JSON", "not a number"],
)
def test_a_handler_that_returns_nonsense_is_judged_like_one_that_raised(
    make: Callable[..., World], wrong: Callable[[Call], Outcomes]
) -> None:
    """Nothing of the nonsense is kept, each item ends as the handler's error, and the slice goes on."""
    is_wrong = [True]

    def apply(call: Call) -> Outcomes:
        return wrong(call) if is_wrong and len(call.items) > 1 else all_of(call)

    world = make(apply).with_job(2)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert [len(seqs) for seqs in world.handler.sent] == [2, 2, 2, 1, 1]
    world.agrees(2)
