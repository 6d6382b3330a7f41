"""A job's progress in words."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from jobqueue.cli import progress_view as view
from jobqueue.cli.output import cell, clean, duration
from jobqueue.cli.watching import Lines, draw
from jobqueue.model.job import Job, JobStatus, Priority
from jobqueue.model.limit import WindowState
from jobqueue.model.progress import JobProgress

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = WindowState("spotify", "100 per 1 minute", 100, 80, 7, 13, 3.0, 57.0)


def job(status: JobStatus = JobStatus.RUNNING, **changes: object) -> Job:
    """A job of 1,000 items."""
    base = Job(
        id=42,
        type="enforcement",
        provider="spotify",
        account="demo",
        operation="unsave_tracks",
        priority=Priority.HIGH,
        options={},
        status=status,
        status_reason="",
        item_count=1000,
        rollback_of=None,
        created_at=STARTED,
        started_at=STARTED,
        finished_at=STARTED + timedelta(seconds=133) if status.is_terminal else None,
        deadline_at=None,
        is_planned=True,
        summary={},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def progress(status: JobStatus = JobStatus.RUNNING, **counts: object) -> JobProgress:
    """That job's progress."""
    return JobProgress(job(status), **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (133, "2 min 13 s"),
        (3600, "1 h"),
        (3840, "1 h 4 min"),
        (270_000, "3 d 3 h"),
        (-5, "0 s"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """Seconds as a person says them."""
    assert duration(seconds) == text


def test_nothing_a_terminal_would_obey_is_written() -> None:
    """Escape sequences and line breaks in keys and messages are shown, not sent."""
    assert clean("\x1b[31mred\nline\u202e") == "\\x1b[31mred\\nline\\u202e"
    assert clean("Ünïcode 漢字") == "Ünïcode 漢字"
    assert len(cell("x" * 500)) == 60


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus.QUEUED, 0),
        (JobStatus.RUNNING, 0),
        (JobStatus.PAUSED, 0),
        (JobStatus.SUCCEEDED, 0),
        (JobStatus.COMPLETED_WITH_FAILURES, 1),
        (JobStatus.FAILED, 1),
        (JobStatus.CANCELLED, 1),
    ],
)
def test_the_exit_code_is_1_for_a_job_that_ended_without_all_its_work(status: JobStatus, code: int) -> None:
    """An active job is no failure, whatever failed so far."""
    assert view.exit_code(progress(status, failed=3)) == code


def test_the_plain_line_tells_everything() -> None:
    """State, amount, speed, batch size, quota, time left, breaker, trouble and what it waits for."""
    line = view.plain_line(
        progress(
            JobStatus.PARKED,
            succeeded=400,
            failed=7,
            retrying=2,
            items_per_s=86.04,
            batch_size=40,
            requests=1,
            eta_s=84,
            quota=(WINDOW,),
            breaker="half_open",
            waiting_for="spotify: 100 per 1 minute",
            next_due_in_s=12.2,
        )
    )
    assert line == (
        "job 42 parked · 407/1,000 (40 %) · 86.0 items/s · batch 40 · 1 request · ETA 1 min 24 s · breaker half-open · "
        "quota 87 of 100 per 1 minute · failed 7 · retrying 2 · "
        "waiting for spotify: 100 per 1 minute, lifts in 12 s"
    )


def test_what_a_job_waits_for_names_the_way_on() -> None:
    """A paused job says how to resume it, a queued one where to look, an ended one waits for nothing."""
    paused = JobProgress(job(JobStatus.PAUSED, status_reason="needs_authorization"))
    assert view.waiting(paused) == "paused (needs_authorization); go on with: jobqueue resume 42"
    assert "jobqueue workers" in view.waiting(progress(JobStatus.QUEUED))
    assert view.waiting(progress(JobStatus.RUNNING)) == ""
    assert view.waiting(progress(JobStatus.SUCCEEDED, waiting_for="spotify")) == ""


def test_a_rollback_that_is_not_planned_yet_has_no_percentage() -> None:
    """Until the journal is read nobody knows how much there is to do."""
    planning = JobProgress(job(item_count=0, rollback_of=41, is_planned=False))
    assert view.amount(planning) == "planning"
    assert "undoes job 41" in view.headline(planning)


def test_the_summary_counts_outcomes_and_says_what_to_do() -> None:
    """How long it took, each outcome with where to read more, the most frequent reasons, and how to try again."""
    failed = JobProgress(
        job(JobStatus.COMPLETED_WITH_FAILURES), succeeded=980, skipped=9, failed=10, unconfirmed=1, quota=(WINDOW,)
    )
    lines = view.summary_lines(failed, [{"count": 10, "fingerprint": "invalid_id: \x1b[1m…"}])
    assert lines[0] == "job 42 completed with failures in 2 min 13 s"
    assert lines[1:3] == ["  succeeded            980", "  skipped                9"]
    assert lines[3].endswith("10   jobqueue items 42 --status failed")
    assert lines[4].endswith("1   jobqueue items 42 --status unconfirmed")
    assert lines[5] == "        10 × invalid_id: \\x1b[1m…"
    assert lines[6] == "  try again: jobqueue retry 42"


def test_the_summary_of_a_failed_job_lists_what_is_undone() -> None:
    """A job that ran out of time says why and how much it left."""
    lines = view.summary_lines(
        JobProgress(job(JobStatus.FAILED, status_reason="longer than 2 h"), succeeded=400, retrying=5), []
    )
    assert lines[0] == "job 42 failed in 2 min 13 s: longer than 2 h"
    assert any(line.split() == ["undone", "595", "jobqueue", "items", "42", "--status", "waiting"] for line in lines)
    cancelled = view.summary_lines(progress(JobStatus.CANCELLED, succeeded=400), [])
    assert any(line.split() == ["cancelled", "600"] for line in cancelled)


def test_lines_come_once_a_second_for_changes_only(capsys: pytest.CaptureFixture[str]) -> None:
    """The same state twice is one line, a quick change waits, the end is always told."""
    now_s = 0.0
    lines = Lines(lambda: now_s)
    lines.show(progress(succeeded=1))
    now_s = 0.5
    lines.show(progress(succeeded=2))
    now_s = 1.2
    lines.show(progress(succeeded=2))
    now_s = 9.0
    lines.show(progress(succeeded=2, items_per_s=3.0, eta_s=5.0))
    now_s = 9.1
    lines.show(progress(JobStatus.SUCCEEDED, succeeded=1000))
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[1] for line in said] == ["1/1,000 (0 %)", "2/1,000 (0 %)", "1,000/1,000 (100 %)"]


def test_trouble_is_told_once_and_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A log does not fill up while a server is away."""
    lines = Lines(lambda: 0.0)
    lines.show_trouble("Postgres cannot be reached.")
    lines.show_trouble("Postgres cannot be reached.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Postgres cannot be reached.\n")


def test_the_live_picture_holds_the_same_facts() -> None:
    """Bar, amount, state, pace, quota, outcomes and the reason for waiting, on any width."""
    picture = draw(
        progress(
            JobStatus.PARKED,
            succeeded=400,
            items_per_s=86.0,
            batch_size=40,
            eta_s=84,
            quota=(WINDOW,),
            breaker="closed",
            waiting_for="spotify: 100 per 1 minute",
            next_due_in_s=12.0,
        )
    )
    for width in (200, 40):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        console.print(picture)
        text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
        for fact in ("400/1,000 (40 %)", "parked", "86.0 items/s", "batch 40", "87 of 100", "breaker closed"):
            assert fact in text, (width, fact)
        assert "lifts in 12 s" in text
