"""Jobs in Postgres: created whole or not at all, found again by their key, moved only as the table allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from store_world import checkpoint, claim_all, create, finish_part, new_job, one, scratch_database, sql

from jobqueue.engine import control
from jobqueue.errors import (
    ConflictError,
    DuplicateJobError,
    IdempotencyConflictError,
    InvalidTransitionError,
    NotFoundError,
)
from jobqueue.local import LocalStack
from jobqueue.model.job import TRANSITIONS, JobEvent, JobRequest, JobStatus, Priority
from jobqueue.model.parting import PartRange
from jobqueue.store import copying, due, jobs
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_jobs") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_a_job_is_stored_with_its_parts_and_items(database: Database) -> None:
    """Every item is in the part its position says, every part is due at once, and the job reads back as it was given."""
    job_id = new_job(
        database, 10, part_size=4, account="me", priority=Priority.HIGH, options={"a": [1]}, max_run_s=60.0
    )

    job = jobs.get(database, job_id)
    assert (job.status, job.item_count, job.account, job.priority) == (JobStatus.QUEUED, 10, "me", Priority.HIGH)
    assert job.options == {"a": [1]}
    assert job.is_planned
    assert job.deadline_at is not None
    assert (job.deadline_at - job.created_at).total_seconds() == 60
    parts = sql(database, "SELECT * FROM batch_checkpoints WHERE job_id = %(j)s ORDER BY part", {"j": job_id})
    assert [(p["first_seq"], p["last_seq"], p["cursor"], p["item_count"]) for p in parts] == [
        (0, 3, 0, 4), (4, 7, 4, 4), (8, 9, 8, 2),
    ]  # fmt: skip
    assert due.job_work(database, job_id)[0] == 3
    items = jobs.items_page(database, job_id)
    assert [(item["part"], item["seq"], item["key"]) for item in items] == [(n // 4, n, f"item-{n}") for n in range(10)]
    assert items[3]["payload"] == {"n": 3}
    assert items[2]["payload"] is None


@pytest.mark.parametrize(
    "key", ["tab\there", "line\nbreak", "back\\slash", "carriage\rreturn", "ünïcödé 🎵", "\\N", "\\."]
)
def test_any_text_survives_copy(database: Database, key: str) -> None:
    """What COPY would take for syntax arrives as it was, as key and within a payload."""
    request = JobRequest(type="noop", provider="noop")
    row = b"0\t0\t" + copying.copy_fields(key, {"text": key})
    job_id, _ = jobs.create(database, jobs.NewJob(request, "d", 1), [PartRange(0, 0, 0)], [row])
    (item,) = jobs.items_page(database, job_id)
    assert item["key"] == key
    assert item["payload"] == {"text": key}


def test_a_job_whose_items_cannot_be_read_leaves_nothing_behind(database: Database) -> None:
    """Job, parts and items are one transaction with whatever brings the items."""
    before = one(database, "SELECT count(*) FROM jobs")

    def rows() -> Iterator[bytes]:
        yield b"0\t0\t" + copying.copy_fields("fine", {})
        raise OSError("the file is gone")

    request = JobRequest(type="noop", provider="noop")
    with pytest.raises(OSError, match="the file is gone"):
        jobs.create(database, jobs.NewJob(request, "d", 2), [PartRange(0, 0, 1)], rows())
    assert one(database, "SELECT count(*) FROM jobs") == before


def test_the_same_key_with_the_same_payload_is_the_same_job(database: Database) -> None:
    """The second time nothing is stored and the first job's id comes back."""
    first, is_new = create(database, 3, idempotency_key="key-a")
    again, is_new_again = create(database, 3, idempotency_key="key-a")
    assert (first, True, False) == (again, is_new, is_new_again)
    assert len(jobs.items_page(database, first)) == 3


def test_the_same_key_with_another_payload_is_refused_by_name(database: Database) -> None:
    """The error names the key and the job that has it; keys of other owners and jobs without a key do not clash."""
    job_id = new_job(database, idempotency_key="key-b")
    with pytest.raises(IdempotencyConflictError, match=f"'key-b' was used for job {job_id} with another payload"):
        new_job(database, idempotency_key="key-b", digest="another")
    assert new_job(database, idempotency_key="key-b", digest="another", owner="somebody else") != job_id
    assert new_job(database) != new_job(database)


def _at_once(url: str, count: int, **request: object) -> list[object]:
    """*count* submissions over as many connections, let go together; ids or errors."""
    gate = threading.Barrier(count)

    def submit(_: int) -> object:
        with Database(url) as database:
            assert not database.connection.closed
            gate.wait(30)
            try:
                return create(database, 3, **request)  # type: ignore[arg-type]
            except ConflictError as error:
                return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(submit, range(count)))


def test_ten_submissions_at_once_with_one_key_make_one_job(url: str, database: Database) -> None:
    """One of them is new, all ten get its id, and its items are stored once."""
    found = _at_once(url, 10, idempotency_key="key-c")
    assert len({answer[0] for answer in found}) == 1  # type: ignore[index]
    assert sum(answer[1] for answer in found) == 1  # type: ignore[index]
    assert one(database, "SELECT count(*) FROM jobs WHERE idempotency_key = 'key-c'") == 1


def test_of_unique_submissions_at_once_one_wins_and_the_others_name_it(url: str) -> None:
    """Five equal unique jobs race: four are refused with the id of the fifth."""
    found = _at_once(url, 5, is_unique=True, digest="race")
    won = [answer[0] for answer in found if isinstance(answer, tuple)]
    refused = [answer for answer in found if isinstance(answer, DuplicateJobError)]
    assert (len(won), len(refused)) == (1, 4)
    assert {error.job_id for error in refused} == set(won)
    assert all(f"job {won[0]}" in error.message for error in refused)


def test_a_unique_job_may_come_again_once_the_first_has_ended(database: Database) -> None:
    """Active, whether unique itself or not, an equal job is in the way; ended it is not."""
    first = new_job(database, digest="again")
    with pytest.raises(DuplicateJobError) as caught:
        new_job(database, digest="again", is_unique=True)
    assert caught.value.job_id == first
    control.cancel(database, first)
    second = new_job(database, digest="again", is_unique=True)
    assert second > first


def test_a_retry_that_would_make_a_second_active_unique_job_is_refused_and_names_the_first(database: Database) -> None:
    """The ended unique job stays ended while its equal is at work."""
    first = new_job(database, 2, digest="twice", is_unique=True)
    finish_part(database, first, claim_all(database, first)[0], failed=[1])
    assert jobs.finish(database, first) is JobStatus.COMPLETED_WITH_FAILURES
    second = new_job(database, 2, digest="twice", is_unique=True)

    with pytest.raises(DuplicateJobError, match=f"job {second}") as caught:
        control.retry(database, first)

    assert caught.value.job_id == second
    assert jobs.get(database, first).status is JobStatus.COMPLETED_WITH_FAILURES
    control.cancel(database, second)
    assert control.retry(database, first) == 1


def test_a_job_that_is_not_there_is_named(database: Database) -> None:
    """Reading and moving it say which id, and where to look."""
    for ask in (jobs.get, control.pause):
        with pytest.raises(NotFoundError, match=r"there is no job 987654.*jobqueue list"):
            ask(database, 987654)


def test_random_walks_through_the_states_agree_with_the_table(database: Database) -> None:
    """The stored state moves as the table says, an end time comes and goes with it, and refusals change nothing."""
    random = Random(7)
    for _ in range(6):
        job_id, expected = new_job(database, 1), JobStatus.QUEUED
        for _ in range(12):
            event = random.choice(list(JobEvent))
            target = TRANSITIONS.get((expected, event))
            if target is None:
                with pytest.raises(InvalidTransitionError):
                    jobs.move(database, job_id, event)
            else:
                assert jobs.move(database, job_id, event, reason=f"by {event}") is target
                expected = target
            job = jobs.get(database, job_id)
            assert (job.status, job.finished_at is not None) == (expected, expected.is_terminal)


def test_a_running_job_all_of_whose_parts_wait_is_shown_as_parked(database: Database) -> None:
    """Parked is derived: from held or due parts to none and back."""
    job_id = new_job(database, 2)
    claim_all(database, job_id)
    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    sql(
        database,
        "UPDATE batch_checkpoints SET holder = NULL, due_at = now() + interval '1 hour' WHERE job_id = %(j)s",
        {"j": job_id},
    )
    assert jobs.get(database, job_id).status is JobStatus.PARKED
    assert control.pause(database, job_id) is JobStatus.PAUSED
    assert checkpoint(database, job_id)["due_at"] is None
    assert control.resume(database, job_id) is JobStatus.RUNNING
    assert jobs.get(database, job_id).status is JobStatus.RUNNING


def test_pages_of_items_by_status_hold_each_item_once(database: Database) -> None:
    """Pages follow one another by position; a status filters by what became of each item, waiting and cancelled too."""
    job_id = new_job(database, 7, part_size=4)
    claims = claim_all(database, job_id)
    finish_part(database, job_id, claims[0], failed=[1, 3])

    def pages(status: str | None, count: int = 2) -> list[int]:
        seqs: list[int] = []
        after = (-1, -1)
        while page := jobs.items_page(database, job_id, status=status, after=after, count=count):
            assert len(page) <= count
            seqs += [item["seq"] for item in page]
            after = (page[-1]["part"], page[-1]["seq"])
        return seqs

    assert pages(None) == [0, 1, 2, 3, 4, 5, 6]
    assert pages("failed") == [1, 3]
    assert pages("succeeded", count=1) == [0, 2]
    assert pages("waiting") == [4, 5, 6]
    assert pages("cancelled") == []
    control.cancel(database, job_id)
    assert pages("cancelled") == [4, 5, 6]
    assert jobs.items_page(database, job_id, status="failed")[0]["error"]["code"] == "refused"


def test_jobs_are_listed_latest_first_with_their_counts(database: Database) -> None:
    """Pages go backwards by id and a state filters."""
    first, second = new_job(database, 2), new_job(database, 3)
    finish_part(database, first, claim_all(database, first)[0], failed=[0])
    jobs.finish(database, first)
    found = jobs.list_jobs(database, count=2)
    assert [job.id for job, _ in found] == [second, first]
    assert found[1][1]["failed"] == 1
    assert found[1][1]["succeeded"] == 1
    ended = jobs.list_jobs(database, states=[JobStatus.COMPLETED_WITH_FAILURES], before_id=second, count=1)
    assert [job.id for job, _ in ended] == [first]
