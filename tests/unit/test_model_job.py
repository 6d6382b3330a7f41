"""Jobs, priorities and the transition table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jobqueue.errors import ConfigurationError, InvalidInputError, InvalidTransitionError
from jobqueue.model.job import ACTIVE, TERMINAL, TRANSITIONS, Job, JobEvent, JobStatus, Priority, sources, transition
from jobqueue.model.worker import WorkerConfig

S, E = JobStatus, JobEvent

# Written out by hand and not derived from the table: from, event, to.
EXPECTED = {
    (S.QUEUED, E.CLAIM): S.RUNNING,
    (S.QUEUED, E.PAUSE): S.PAUSED,
    (S.QUEUED, E.CANCEL): S.CANCELLED,
    (S.QUEUED, E.FAIL): S.FAILED,
    (S.RUNNING, E.CLAIM): S.RUNNING,
    (S.RUNNING, E.PAUSE): S.PAUSED,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.FINISH): S.SUCCEEDED,
    (S.RUNNING, E.FINISH_WITH_FAILURES): S.COMPLETED_WITH_FAILURES,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.PAUSED, E.RESUME): S.RUNNING,
    (S.PAUSED, E.CANCEL): S.CANCELLED,
    (S.PAUSED, E.FAIL): S.FAILED,
    (S.COMPLETED_WITH_FAILURES, E.RETRY): S.RUNNING,
    (S.FAILED, E.RETRY): S.RUNNING,
}


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("event", JobEvent)
def test_every_state_and_event_leads_where_the_table_says_or_is_refused_with_the_way_out(
    status: JobStatus, event: JobEvent
) -> None:
    """Each of the 64 pairs either moves the job or is refused by a message that names state, event and remedy."""
    expected = EXPECTED.get((status, event))
    if expected is not None:
        assert transition(7, status, event) is expected
        return
    with pytest.raises(InvalidTransitionError) as caught:
        transition(7, status, event)
    assert f"job 7 is {status}: cannot {event}" in caught.value.message
    for source in sources(event):
        assert source in caught.value.remedy


def test_parked_is_never_the_source_or_target_of_a_transition() -> None:
    """A parked job is a running one whose parts wait: nothing stores it."""
    assert S.PARKED not in {status for status, _ in TRANSITIONS} | set(TRANSITIONS.values())


def test_a_state_is_either_terminal_or_active() -> None:
    """No state is both, none is neither, and only a person's retry leads out of a terminal one."""
    assert set(JobStatus) == TERMINAL | ACTIVE
    assert not TERMINAL & ACTIVE
    assert {status for status in JobStatus if status.is_terminal} == TERMINAL
    assert {event for status, event in TRANSITIONS if status in TERMINAL} == {E.RETRY}


def test_every_state_but_succeeded_and_cancelled_can_still_end() -> None:
    """From each active stored state some path leads to every terminal state."""
    reached: dict[JobStatus, set[JobStatus]] = {}
    for start in ACTIVE - {S.PARKED}:
        seen, todo = {start}, [start]
        while todo:
            status = todo.pop()
            new = {to for (source, _), to in TRANSITIONS.items() if source is status} - seen
            seen |= new
            todo += new
        reached[start] = seen
    assert all(seen >= TERMINAL for seen in reached.values())


@pytest.mark.parametrize(("text", "priority"), [("high", 0), ("Default", 1), ("LOW", 2)])
def test_a_priority_is_read_by_its_queue_name_in_any_case(text: str, priority: int) -> None:
    """The names are those of the RQ queues."""
    assert Priority.parse(text) == priority
    assert Priority.parse(text).queue == text.lower()


def test_an_unknown_priority_names_the_known_ones() -> None:
    """The error says which field, which value, and what to use."""
    with pytest.raises(InvalidInputError, match=r"'urgent' is unknown.*high, default, low") as caught:
        Priority.parse("urgent")
    assert caught.value.field == "priority"


def test_a_jobs_description_is_one_readable_line() -> None:
    """Empty words are left out, thousands are grouped, and neither account nor options show."""
    job = Job(
        id=1,
        type="enforcement",
        provider="spotify",
        account="somebody",
        operation="unsave_tracks",
        priority=Priority.HIGH,
        options={"token": "secret"},
        status=S.QUEUED,
        status_reason="",
        item_count=12_431,
        rollback_of=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        started_at=None,
        finished_at=None,
        deadline_at=None,
        is_planned=True,
        summary={},
    )
    assert job.description == "enforcement · spotify · unsave_tracks · 12,431 items"
    assert replace(job, operation="").description == "enforcement · spotify · 12,431 items"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_flight", 0),
        ("in_flight", 65),
        ("slice_s", 0.0),
        ("slice_s", 30.5),
        ("slice_s", 301.0),
        ("heartbeat_s", 0.0),
        ("heartbeat_s", 6.5),
        ("poll_s", 0.0),
        ("poll_s", 2.5),
        ("retention_h", -1.0),
        ("max_bugs", 0),
        ("outage_budget_s", 0.0),
        ("max_run_s", 0.0),
    ],
)
def test_a_worker_configuration_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    """Each bound is checked; a heartbeat must leave room for the longest effect within the lease."""
    with pytest.raises(ConfigurationError, match=f"^{name} {value} is out of range"):
        WorkerConfig(**{name: value})  # type: ignore[arg-type]
