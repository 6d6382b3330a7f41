"""A job's progress in words; pure functions of one `JobProgress`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobqueue.cli.failure import DONE, JOB_FAILED
from jobqueue.cli.output import clean, counted, duration
from jobqueue.model.item import ItemStatus
from jobqueue.model.job import JobStatus
from jobqueue.model.progress import JobProgress
from jobqueue.store.labels import LabelStatus

OUTCOMES = ("succeeded", "skipped", "failed", "unconfirmed", "retrying", "cancelled")
_TROUBLE = (ItemStatus.FAILED, ItemStatus.UNCONFIRMED)
_GROUPS_SHOWN = 5


def exit_code(progress: JobProgress) -> int:
    """1 for a job that ended without doing all of its work, else 0."""
    status = progress.job.status
    return JOB_FAILED if status.is_terminal and status is not JobStatus.SUCCEEDED else DONE


def headline(progress: JobProgress) -> str:
    """``job 42 · enforcement · spotify · unsave_tracks · 12,431 items``."""
    job = progress.job
    undone = f" · undoes job {job.rollback_of}" if job.rollback_of else ""
    return f"job {job.id} · {clean(job.description)}{undone}"


def share(progress: JobProgress) -> float:
    """How much is done, 0..1; of a job without items, whether it has ended."""
    if progress.total:
        return progress.done / progress.total
    return 1.0 if progress.job.status.is_terminal else 0.0


def amount(progress: JobProgress) -> str:
    """``5,200/12,431 (41 %)``, or that it is not known yet how much there is to do."""
    if not progress.job.is_planned and not progress.job.status.is_terminal:
        return "planning"
    percent = int(share(progress) * 100)
    return f"{progress.done:,}/{progress.total:,} ({percent} %)"


def pace(progress: JobProgress) -> str:
    """Speed, batch size, requests and time left."""
    words = []
    if progress.items_per_s is not None:
        words.append(f"{progress.items_per_s:,.1f} items/s")
    if progress.batch_size:
        words.append(f"batch {progress.batch_size:,}")
    if progress.requests:
        words.append(counted(progress.requests, "request"))
    if progress.in_flight:
        words.append(f"{progress.in_flight} in flight")
    if progress.eta_s is not None and progress.remaining:
        words.append(f"ETA {duration(progress.eta_s)}")
    if progress.breaker:
        words.append(f"breaker {progress.breaker.replace('_', '-')}")
    return " · ".join(words)


def quota(progress: JobProgress) -> str:
    """``87 of 100 per 1 minute``, one for each window."""
    return " · ".join(f"{window.used + window.in_flight:,} of {window.text}" for window in progress.quota)


def outcomes(progress: JobProgress) -> str:
    """The counts that are not zero."""
    words = [f"{name} {getattr(progress, name):,}" for name in OUTCOMES if getattr(progress, name)]
    return " · ".join(words) or "no outcome yet"


def waiting(progress: JobProgress) -> str:
    """What the job waits for, and when that lifts; empty when it waits for nothing."""
    job = progress.job
    if job.status is JobStatus.PAUSED:
        reason = f" ({clean(job.status_reason)})" if job.status_reason else ""
        return f"paused{reason}; go on with: jobqueue resume {job.id}"
    if job.status.is_terminal:
        return ""
    if progress.waiting_for:
        lifts_s = progress.next_due_in_s
        lifts = f", lifts in {duration(max(1.0, lifts_s))}" if lifts_s is not None and lifts_s > 0 else ""
        return f"waiting for {clean(progress.waiting_for)}{lifts}"
    if job.status is JobStatus.QUEUED:
        return "waiting for a worker (see: jobqueue workers)"
    return ""


def plain_line(progress: JobProgress) -> str:
    """Everything in one line, for a log."""
    job = progress.job
    words = [f"job {job.id} {job.status}", amount(progress), pace(progress)]
    if progress.quota:
        words.append(f"quota {quota(progress)}")
    trouble = [f"{name} {getattr(progress, name):,}" for name in OUTCOMES[2:] if getattr(progress, name)]
    return " · ".join(word for word in [*words, *trouble, waiting(progress)] if word)


def change_mark(progress: JobProgress) -> tuple[object, ...]:
    """Equal as long as a new line would tell nothing new."""
    reason = "" if progress.job.status.is_terminal else progress.waiting_for
    return (progress.job.status, progress.done, progress.total, progress.retrying, progress.breaker, reason)


def status_lines(progress: JobProgress) -> list[str]:
    """What ``jobqueue status`` shows."""
    job = progress.job
    reason = f" ({clean(job.status_reason)})" if job.status_reason else ""
    lines = [headline(progress), f"  {job.status}{reason} · {amount(progress)} · {outcomes(progress)}"]
    if not job.status.is_terminal:
        lines += [f"  {text}" for text in (pace(progress), waiting(progress)) if text]
        lines += [f"  quota {quota(progress)}"] if progress.quota else []
    lines += [f"  {text}" for text in _input_lines(job.summary)]
    return lines


def summary_lines(progress: JobProgress, groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """How an ended job ended.

    Args:
        progress: The job.
        groups: Its dead letters by reason.
    """
    job = progress.job
    took = f" in {duration(_took_s(progress))}" if job.finished_at else ""
    reason = f": {clean(job.status_reason)}" if job.status_reason else ""
    lines = [f"job {job.id} {str(job.status).replace('_', ' ')}{took}{reason}"]
    for name in OUTCOMES:
        if count := getattr(progress, name):
            where = f"   jobqueue items {job.id} --status {name}" if name in _TROUBLE else ""
            lines.append(f"  {name:<12}{count:>12,}{where}")
    undone = progress.remaining - progress.retrying
    if undone > 0:
        lines.append(f"  {'undone':<12}{undone:>12,}   jobqueue items {job.id} --status waiting")
    lines += [f"  {group['count']:>8,} × {clean(str(group['fingerprint']))}" for group in groups[:_GROUPS_SHOWN]]
    if job.status in (JobStatus.FAILED, JobStatus.COMPLETED_WITH_FAILURES):
        lines.append(f"  try again: jobqueue retry {job.id}")
    return lines


def _took_s(progress: JobProgress) -> float:
    job = progress.job
    return ((job.finished_at or datetime.now(UTC)) - job.created_at).total_seconds()


def _input_lines(summary: Mapping[str, Any]) -> list[str]:
    words = []
    if duplicates := summary.get("duplicates"):
        words.append(f"{counted(int(duplicates), 'duplicate')} collapsed")
    if skipped := summary.get("skipped_invalid"):
        words.append(f"{counted(int(skipped), 'invalid row')} left out")
    return [" · ".join(words)] if words else []


def label_line(status: LabelStatus) -> str:
    """``label rechunk:demo: 1 of 1 in use (job 3), 2 in line``."""
    if status.capacity is None:
        return f"label {clean(status.label)}: not in use"
    ids = sorted({holder.job_id for holder in status.holders})
    who = f" ({'job' if len(ids) == 1 else 'jobs'} {', '.join(map(str, ids))})" if ids else ""
    line = f", {len(status.waiters):,} in line" if status.waiters else ""
    return f"label {clean(status.label)}: {len(status.holders):,} of {status.capacity:,} in use{who}{line}"
