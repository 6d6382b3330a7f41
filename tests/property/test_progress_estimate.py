"""How long the rest takes, and what a job's numbers add up to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from jobqueue.model.job import Job, JobStatus, Priority
from jobqueue.model.limit import WindowState
from jobqueue.model.progress import JobProgress, estimate_s

MINUTE = (100, 60.0)
HOUR = (1000, 3600.0)

remains = st.integers(1, 10**7)
paces = st.one_of(st.none(), st.floats(0.01, 1e5))
batches = st.integers(1, 100)
window_lists = st.lists(st.tuples(st.integers(1, 10_000), st.floats(1, 86_400)), max_size=3)


@given(remains, paces, batches, st.integers(1, 2), window_lists)
def test_the_slower_of_pace_and_quota_decides(
    remaining: int, pace: float | None, size: int, requests: int, windows: list[tuple[int, float]]
) -> None:
    """Never faster than the pace so far, never faster than the windows that must still pass."""
    found = estimate_s(
        remaining=remaining, items_per_s=pace, items_a_batch=size, requests_a_batch=requests, windows=windows
    )
    needed = math.ceil(remaining / size) * requests
    for limit, length_s in windows:
        assert (found or 0.0) >= (math.ceil(needed / limit) - 1) * length_s
    if pace is not None:
        assert found is not None
        assert found >= remaining / pace


@given(remains, remains, paces, batches, window_lists)
def test_less_work_never_takes_longer(
    few: int, more: int, pace: float | None, size: int, windows: list[tuple[int, float]]
) -> None:
    """The estimate falls as the work does."""
    first, second = (
        estimate_s(remaining=n, items_per_s=pace, items_a_batch=size, requests_a_batch=1, windows=windows) or 0.0
        for n in sorted((few, few + more))
    )
    assert first <= second


def test_two_windows_of_one_limit_both_count() -> None:
    """100 a minute and 100 an hour: the hour decides, whichever comes first in the list."""
    for windows in ([(100, 60.0), (100, 3600.0)], [(100, 3600.0), (100, 60.0)]):
        found = estimate_s(remaining=300, items_per_s=None, items_a_batch=1, requests_a_batch=1, windows=windows)
        assert found == 2 * 3600.0


def test_nothing_left_takes_no_time_and_nothing_known_says_nothing() -> None:
    """Zero for a job that is done; None where neither pace nor quota tells anything."""
    done = estimate_s(remaining=0, items_per_s=None, items_a_batch=1, requests_a_batch=1, windows=[MINUTE])
    unknown = estimate_s(remaining=5, items_per_s=None, items_a_batch=1, requests_a_batch=1, windows=[MINUTE])
    assert done == 0.0
    assert unknown is None


def test_quota_counts_requests_and_not_items() -> None:
    """2,500 items in batches of 25 with a look each are 200 requests: one whole minute besides the one that is open."""
    found = estimate_s(remaining=2500, items_per_s=1000.0, items_a_batch=25, requests_a_batch=2, windows=[MINUTE, HOUR])
    assert found == 60.0


def job(status: JobStatus) -> Job:
    now = datetime(2026, 1, 2, 3, tzinfo=UTC)
    return Job(
        id=1, type="noop", provider="noop", account="", operation="noop", priority=Priority.LOW, options={},
        status=status, status_reason="", item_count=10, rollback_of=None, created_at=now, started_at=now,
        finished_at=now, deadline_at=None, is_planned=True, summary={"duplicates": 1},
    )  # fmt: skip


@given(st.sampled_from(JobStatus), st.tuples(*[st.integers(0, 2)] * 4))
def test_done_remaining_and_cancelled_always_add_up_to_the_total(
    status: JobStatus, counts: tuple[int, int, int, int]
) -> None:
    """Items of a cancelled job without an outcome are cancelled, of any other job they remain."""
    succeeded, skipped, failed, unconfirmed = counts
    progress = JobProgress(job(status), succeeded, skipped, failed, unconfirmed)
    assert progress.done + progress.remaining + progress.cancelled == progress.total == 10
    assert (progress.cancelled > 0) == (status is JobStatus.CANCELLED)


def test_progress_is_plain_json() -> None:
    """Every number under its name, instants in ISO form, windows with what they limit."""
    window = WindowState("noop", "5 per 1 minute", 5, 3, 1, 1, 0.5, 59.12345)
    progress = replace(JobProgress(job(JobStatus.RUNNING)), succeeded=4, quota=(window,), waiting_for="noop quota")
    found = json.loads(json.dumps(progress.as_dict()))
    assert found["total"] == 10
    assert found["done"] == 4
    assert found["remaining"] == 6
    assert found["priority"] == "low"
    assert found["created_at"] == "2026-01-02T03:00:00+00:00"
    assert found["deadline_at"] is None
    assert found["waiting_for"] == "noop quota"
    assert found["quota"] == [
        {"scope": "noop", "window": "5 per 1 minute", "limit": 5, "used": 3, "in_flight": 1, "foreign": 0,
         "remaining": 1, "frees_in_s": 0.5, "resets_in_s": 59.123},
    ]  # fmt: skip
