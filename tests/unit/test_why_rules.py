"""Which of several reasons binds, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.cli.why import lines
from jobqueue.model.job import Job, JobStatus, Priority
from jobqueue.model.limit import DenialReason, Denied
from jobqueue.model.progress import JobProgress
from jobqueue.model.reason import Constraint
from jobqueue.model.standstill import (
    NEXT_ATTEMPT,
    Delivery,
    Facts,
    LabelHold,
    LeaseHolder,
    Parked,
    Retries,
    SeenWorker,
    UndoneJob,
)
from jobqueue.model.why import explain

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDLE = Delivery((SeenWorker("w1", ("high", "default", "low")),))
NOBODY = Delivery()
DENIED = Denied(DenialReason.WINDOW, "spotify: 100 per 1 minute", 12.0, "spotify")
LIVE = LeaseHolder("slice-1", "host", 7, parts=2, ends_in_s=18.0)
GONE = LeaseHolder("slice-2", "host/boot", 8, parts=1, ends_in_s=9.0, is_gone=True)


def job(status: JobStatus = JobStatus.RUNNING, **changes: Any) -> Job:
    base = Job(
        id=42,
        type="enforcement",
        provider="spotify",
        account="demo",
        operation="unsave_tracks",
        priority=Priority.DEFAULT,
        options={},
        status=status,
        status_reason="",
        item_count=1000,
        rollback_of=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW if status.is_terminal else None,
        deadline_at=None,
        is_planned=True,
        summary={},
    )
    return replace(base, **changes)


def facts(status: JobStatus = JobStatus.RUNNING, reason: str = "", **more: Any) -> Facts:
    """A job with two due parts, an idle worker and a scheduler, unless *more* says otherwise."""
    known: dict[str, Any] = {"open_parts": 2, "due_parts": 2, "delivery": IDLE} | more
    return Facts(JobProgress(job(status, status_reason=reason)), **known)


def binding(found: Facts) -> str:
    return str(explain(found).binding.kind)


def test_a_free_job_is_just_about_to_be_taken_up() -> None:
    """Nothing holds it up."""
    found = explain(facts())
    assert (found.binding.kind, found.is_moving, found.others) == (Constraint.PICKUP, False, ())


def test_a_moving_job_says_how_it_moves_and_lists_what_slows_it() -> None:
    """Slices, requests under way and pace; the limit is named, and binds nothing."""
    moving = facts(due_parts=0, holders=(LIVE, replace(LIVE, name="slice-3")), denied=DENIED)
    moving = replace(moving, progress=replace(moving.progress, in_flight=12, items_per_s=40.0))
    found = explain(moving)
    assert found.is_moving
    assert found.binding.detail == "running: 2 slices, 12 requests under way, 40.0 items/s"
    assert [reason.kind for reason in found.others] == [Constraint.WINDOW]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # A person's pause comes before all that follows from it or stands behind it.
        ({"status": JobStatus.PAUSED, "reason": "by a person", "delivery": NOBODY, "denied": DENIED}, "paused"),
        ({"status": JobStatus.PAUSED, "reason": "needs_authorization: 401", "delivery": NOBODY}, "authorization"),
        # Without Redis nothing else can be known of workers.
        ({"delivery": None, "redis_error": "Redis cannot be reached: no", "has_scheduler": False}, "redis"),
        # What never lifts by itself comes before what does, however late.
        ({"delivery": NOBODY, "denied": replace(DENIED, retry_after_s=86_400.0)}, "no_worker"),
        ({"delivery": replace(IDLE, refusal="type 'x' is unknown"), "denied": DENIED}, "refused"),
        ({"has_scheduler": False}, "no_scheduler"),
        ({"has_scheduler": False, "delivery": replace(IDLE, hints=1)}, "pickup"),
        # Of what lifts by itself, the last.
        ({"denied": DENIED, "labels": (LabelHold("a", 1, 1, 30.0),)}, "label"),
        ({"denied": DENIED, "labels": (LabelHold("a", 1, 1, 3.0),)}, "window"),
        ({"denied": DENIED, "undone": UndoneJob(41, leases=1, leases_end_in_s=15.0)}, "undone_job"),
        ({"denied": DENIED, "undone": UndoneJob(41)}, "window"),
        # Of equals, the first from the job outward.
        ({"status": JobStatus.PAUSED, "delivery": None, "redis_error": "Redis cannot be reached: no"}, "paused"),
        ({"delivery": replace(NOBODY, refusal="type 'x' is unknown"), "has_scheduler": False}, "no_worker"),
        ({"delivery": replace(IDLE, refusal="type 'x' is unknown"), "has_scheduler": False}, "refused"),
        ({"denied": DENIED, "undone": UndoneJob(41, leases=1, leases_end_in_s=12.0)}, "undone_job"),
        ({"denied": DENIED, "labels": (LabelHold("a", 1, 1, 12.0),)}, "window"),
        ({"labels": (LabelHold("a", 1, 1, 9.0),), "holders": (GONE,), "due_parts": 0}, "label"),
        # What stops some of it does not bind while the rest is free.
        ({"holders": (GONE,)}, "pickup"),
        ({"holders": (GONE,), "due_parts": 0}, "lease"),
        ({"retries": Retries(items=3, items_next_in_s=40.0)}, "pickup"),
        ({"asleep_parts": 2, "due_parts": 0}, "sweep"),
        ({"open_parts": 0, "due_parts": 0}, "sweep"),
    ],
    ids=str,
)
def test_of_several_reasons_one_binds(more: dict[str, Any], expected: str) -> None:
    """What a person must lift first, then what lifts last, then the order from the job outward."""
    assert binding(facts(**more)) == expected


@pytest.mark.parametrize("reason", list(DenialReason))
def test_each_of_the_limiters_reasons_keeps_its_name_and_words(reason: DenialReason) -> None:
    """The constraint is the limiter's own."""
    found = explain(facts(denied=replace(DENIED, reason=reason))).binding
    assert (str(found.kind), found.detail, found.lifts_in_s) == (str(reason), DENIED.constraint, 12.0)


def test_a_parked_part_waits_for_its_own_time_though_the_limit_lifts_earlier() -> None:
    """Each parked part comes back at a time of its own."""
    parked = (Parked(f"waiting for {DENIED.constraint}", 2, 17.0),)
    found = explain(facts(due_parts=0, parked=parked, denied=DENIED))
    assert (str(found.binding.kind), found.binding.lifts_in_s) == ("window", 17.0)
    assert found.others == ()
    lifted = explain(facts(due_parts=0, parked=parked))
    assert (str(lifted.binding.kind), lifted.binding.lifts_in_s) == ("turn", 17.0)


def test_parts_in_backoff_bind_when_all_of_them_wait() -> None:
    """How many items and requests, and the first time."""
    retries = Retries(items=3, items_next_in_s=40.0, batches=1, batches_next_in_s=8.0, error="ProviderUnavailable: 503")
    found = explain(facts(due_parts=0, parked=(Parked(NEXT_ATTEMPT, 2, 8.0),), retries=retries)).binding
    assert (str(found.kind), found.lifts_in_s) == ("retry", 8.0)
    assert found.detail == "3 items to be tried again and 1 request to be sent again after ProviderUnavailable: 503"


def test_busy_workers_are_counted_by_what_they_do() -> None:
    """All busy with others: which queues and jobs; one that is idle or at this job is enough."""
    queues = ("high", "default")
    others = (SeenWorker("w1", queues, 7, "high"), SeenWorker("w2", queues, 9, "default"))
    found = explain(facts(delivery=Delivery(others))).binding
    assert (str(found.kind), found.lifts_in_s) == ("busy", None)
    assert (
        "all 2 workers of its queue default busy with other jobs: 1 with default, 1 with high (job 7, 9)"
        in found.detail
    )
    assert binding(facts(delivery=Delivery((*others, SeenWorker("w3", queues))))) == "pickup"
    assert binding(facts(delivery=Delivery((*others, SeenWorker("w3", queues, 42, "default"))))) == "pickup"
    assert binding(facts(delivery=Delivery(others), denied=DENIED)) == "window"


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_terminal])
def test_an_ended_job_has_one_reason_and_the_next_step(status: JobStatus) -> None:
    """Whatever else is wrong around it."""
    found = explain(facts(status, delivery=NOBODY, denied=DENIED, has_scheduler=False))
    assert (found.binding.kind, found.others, found.evidence) == (Constraint.ENDED, (), ())
    assert found.binding.remedy


def test_a_silent_holder_is_no_sign_of_life() -> None:
    """Its lease has to end first."""
    silent = replace(LIVE, silent_for_s=4.0, ends_in_s=6.0)
    found = explain(facts(due_parts=0, holders=(silent,)))
    assert (str(found.binding.kind), found.binding.lifts_in_s, found.is_moving) == ("lease", 6.0, False)
    assert explain(facts(holders=(silent, LIVE), due_parts=0)).is_moving


workers = st.lists(
    st.builds(
        SeenWorker,
        st.just("w"),
        st.sampled_from([("high",), ("default", "low")]),
        st.none() | st.integers(1, 50),
        st.sampled_from(["", "high", "default"]),
    ),
    max_size=3,
).map(tuple)
any_facts = st.builds(
    Facts,
    progress=st.sampled_from(JobStatus).map(lambda status: JobProgress(job(status))),
    open_parts=st.integers(0, 3),
    due_parts=st.integers(0, 3),
    asleep_parts=st.integers(0, 1),
    parked=st.lists(
        st.builds(Parked, st.sampled_from(["", NEXT_ATTEMPT, "waiting for x"]), st.integers(1, 3), st.floats(0, 99)),
        max_size=2,
    ).map(tuple),
    holders=st.lists(st.sampled_from([LIVE, GONE]), max_size=2).map(tuple),
    retries=st.builds(Retries, st.integers(0, 2), st.none() | st.floats(-5, 50), suspects=st.integers(0, 1)),
    denied=st.none() | st.just(DENIED),
    undone=st.none() | st.builds(UndoneJob, st.just(41), st.integers(0, 2), st.floats(0, 20)),
    labels=st.lists(st.builds(LabelHold, st.just("l"), st.just(1), st.just(1)), max_size=1).map(tuple),
    delivery=st.none() | st.builds(Delivery, workers, st.integers(0, 2), st.sampled_from(["", "unknown"])),
    has_scheduler=st.booleans(),
)


@given(any_facts)
def test_every_job_gets_one_answer_of_three_to_eight_lines(found: Facts) -> None:
    """Whatever the facts: a binding reason, no time below zero, plain JSON, a next step, and nothing told twice."""
    answer = explain(found)
    document = json.loads(json.dumps(answer.as_dict()))
    assert document["binding"] in set(Constraint)
    kinds = [document["binding"], *(other["constraint"] for other in document["others"])]
    assert len(kinds) == len(set(kinds))
    for reason in (answer.binding, *answer.others):
        assert reason.lifts_in_s is None or reason.lifts_in_s >= 0
        assert not (reason.is_for_person and not reason.remedy)
    shown = lines(found, answer)
    assert 3 <= len(shown) <= 8
    assert shown[-1].startswith("  next: ")
    assert len(shown[-1]) > len("  next: ")


def test_the_text_names_constraint_time_and_what_to_do() -> None:
    """For a person: what holds it up, when that lifts, what else there is, what was seen, what is next."""
    parked = (Parked(f"waiting for {DENIED.constraint}", 2, 12.0),)
    found = facts(JobStatus.PARKED, due_parts=0, parked=parked, denied=DENIED, retries=Retries(3, 40.0))
    assert lines(found, explain(found)) == [
        "job 42 · enforcement · spotify · unsave_tracks · 1,000 items",
        "  parked · 0/1,000 (0 %) · no outcome yet",
        "  held up by: spotify: 100 per 1 minute, lifts in 12 s (window)",
        "  also: 3 items to be tried again, lifts in 40 s (retry)",
        "  seen: 1 worker on default, 1 idle · a scheduler leads · 2 open parts: 0 held, 0 due, 2 parked",
        "  next: it goes on by itself; watch it: jobqueue watch 42",
    ]
