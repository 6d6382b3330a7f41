"""Second tries by a person, dead letters, retention, and the plan of a rollback."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from store_world import (
    checkpoint,
    claim_all,
    contents,
    failed_rows,
    finish_part,
    new_job,
    one,
    opened_row,
    part_row,
    range_row,
    release,
    scratch_database,
    sql,
    write,
)

from jobqueue.engine import control
from jobqueue.engine.sweep import sweep
from jobqueue.errors import InvalidTransitionError, NotFoundError
from jobqueue.local import LocalStack
from jobqueue.model.item import ItemStatus
from jobqueue.model.job import JobStatus
from jobqueue.store import checkpoints, cleanup, dead_letters, due, jobs, rollbacks
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_retry") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def ended_job(database: Database, item_count: int = 6, failed: tuple[int, ...] = (1, 4), **more: Any) -> int:
    """A job of two parts that ended with failures."""
    job_id = new_job(database, item_count, part_size=item_count // 2, **more)
    for claim in claim_all(database, job_id).values():
        finish_part(database, job_id, claim, failed=failed)
    jobs.finish(database, job_id)
    return job_id


def test_failed_items_get_their_attempts_again_and_keep_their_history(database: Database) -> None:
    """Outcomes, counters, the parts' ends and the letters are taken back together; the rest of the job stays done."""
    job_id = ended_job(database)
    assert jobs.get(database, job_id).status is JobStatus.COMPLETED_WITH_FAILURES
    assert control.retry(database, job_id) == 2

    found = contents(database, job_id)
    assert [o["seq"] for o in found["item_outcomes"]] == [0, 2, 3, 5]
    assert {r["seq"]: (r["attempts"], r["history"][0]["status"]) for r in found["item_retries"]} == {
        1: (0, "failed"), 4: (0, "failed"),
    }  # fmt: skip
    assert {d["state"] for d in found["dead_letters"]} == {"retried"}
    assert [(p["failed"], p["finished_at"], p["due_at"] is not None) for p in found["batch_checkpoints"]] == [
        (0, None, True), (0, None, True),
    ]  # fmt: skip
    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    assert set(claim_all(database, job_id)) == {0, 1}


def test_chosen_items_are_retried_and_the_others_stay_as_they_are(database: Database) -> None:
    """Only the chosen item's part is opened again."""
    job_id = ended_job(database)
    assert control.retry(database, job_id, seqs=[4, 5]) == 1
    assert [r["seq"] for r in contents(database, job_id)["item_retries"]] == [4]
    assert checkpoint(database, job_id, 0)["finished_at"] is not None


@pytest.mark.parametrize("failed", [(), (1,)])
def test_a_retry_with_nothing_to_do_is_refused_and_changes_nothing(database: Database, failed: tuple[int, ...]) -> None:
    """A job that succeeded, and one none of whose chosen items failed, keep their end."""
    job_id = ended_job(database, failed=failed)
    before = jobs.get(database, job_id)
    with pytest.raises(InvalidTransitionError):
        control.retry(database, job_id, seqs=[0])
    assert jobs.get(database, job_id) == before
    assert contents(database, job_id)["item_retries"] == []


def test_a_part_whose_items_were_retried_while_it_was_held_does_not_finish(database: Database) -> None:
    """Its holder records on under its fence, and its release leaves the part due for the second try."""
    job_id = new_job(database, 4)
    claim = claim_all(database, job_id)[0]
    single, letter = failed_rows(0, 1)
    first = Record([part_row(0, claim.fence, has_outcomes=True, failed=1)], singles=[single], dead=[letter])
    write(database, job_id, first)
    held_until = checkpoint(database, job_id)["due_at"]

    assert control.retry(database, job_id) == 1

    assert checkpoint(database, job_id)["due_at"] == held_until
    rest = [range_row(0, 0, 0), range_row(0, 2, 3)]
    row = part_row(0, claim.fence, has_outcomes=True, succeeded=3)
    assert write(database, job_id, Record([row], ranges=rest)).held == {0}
    assert release(database, job_id, claim, is_finished=True) == {0}
    assert jobs.finish(database, job_id) is None
    assert checkpoint(database, job_id)["finished_at"] is None
    assert list(claim_all(database, job_id)) == [0]


def test_a_job_does_not_end_under_a_retry_of_its_items(url: str, database: Database) -> None:
    """The retry takes a part's end back while another worker ends the job: the job stays open for the second try."""
    job_id = new_job(database, 2)
    finish_part(database, job_id, claim_all(database, job_id)[0], failed=[1])
    with ThreadPoolExecutor(1) as pool, Database(url) as other, Database(url, name="ends") as ending:
        with other.transaction():
            assert control.retry(other, job_id) == 1
            ended = pool.submit(jobs.finish, ending, job_id)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ends' AND wait_event_type = 'Lock'"
            while not ended.done() and not one(database, waits):
                pass
        assert ended.result(30) is None
    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    assert list(claim_all(database, job_id)) == [0]


def test_a_failed_job_goes_on_where_it_stopped_and_its_own_letter_is_retried(database: Database) -> None:
    """Parts without an end fall due again; the deadline it failed by is lifted, so the sweep lets it be."""
    job_id = new_job(database, 4, part_size=2, max_run_s=60)
    finish_part(database, job_id, claim_all(database, job_id)[0])
    sql(database, "UPDATE jobs SET deadline_at = now() - interval '1 second' WHERE id = %(j)s", {"j": job_id})
    sweep(database)
    job = jobs.get(database, job_id)
    assert (job.status, job.status_reason) == (JobStatus.FAILED, "took longer than it may; 2 of 4 items are undone")
    (letter,) = dead_letters.list_letters(database, job_id=job_id)
    assert (letter["seq"], letter["reason"]) == (None, job.status_reason)
    release(database, job_id, checkpoints.Claim(1, "items", 2, 3, 2, 0, 1, 0, False, 0, 2))

    assert control.retry_letters(database, [letter["id"]]) == 0
    sweep(database)

    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    assert dead_letters.list_letters(database, job_id=job_id) == []
    assert list(claim_all(database, job_id)) == [1]


def test_letters_are_retried_by_their_ids(database: Database) -> None:
    """Letters of several jobs at once; an id that waits no more is named."""
    first, second = ended_job(database), ended_job(database)
    ids = [letter["id"] for job_id in (first, second) for letter in dead_letters.list_letters(database, job_id=job_id)]
    assert control.retry_letters(database, ids[1:3]) == 2
    assert [r["seq"] for job_id in (first, second) for r in contents(database, job_id)["item_retries"]] == [4, 1]
    with pytest.raises(NotFoundError, match=f"id {ids[1]}"):
        control.retry_letters(database, ids)
    assert len(contents(database, first)["item_retries"]) == 1


def test_letters_are_listed_in_pages_grouped_and_discarded(database: Database) -> None:
    """By state, job and fingerprint; a discarded letter waits no more and cannot be discarded twice."""
    job_id = ended_job(database, failed=(0, 2, 5))
    found = dead_letters.list_letters(database, job_id=job_id, count=2)
    rest = dead_letters.list_letters(database, job_id=job_id, after_id=found[-1]["id"])
    assert [letter["seq"] for letter in found + rest] == [0, 2, 5]
    assert {letter["fingerprint"] for letter in found} == {"refused: refused …"}
    (group,) = dead_letters.group(database, job_id=job_id)
    assert (group["fingerprint"], group["count"]) == ("refused: refused …", 3)
    assert dead_letters.list_letters(database, job_id=job_id, fingerprint="another") == []

    chosen = [found[0]["id"]]
    assert dead_letters.discard(database, chosen, reason="known") == chosen
    assert dead_letters.discard(database, chosen, reason="again") == []
    assert [letter["seq"] for letter in dead_letters.list_letters(database, job_id=job_id)] == [2, 5]
    (gone,) = dead_letters.list_letters(database, job_id=job_id, state="discarded")
    assert gone["state_reason"] == "known"
    row = next(row for row in dead_letters.jobs_with_letters(database) if row["job_id"] == job_id)
    assert row["count"] == 2


def test_cleanup_removes_everything_of_an_expired_job_but_its_waiting_letters(database: Database) -> None:
    """Younger, active and still needed jobs stay whole."""
    expired, young, needed, active = (ended_job(database), ended_job(database), ended_job(database), new_job(database))
    rollback_id = new_job(database, 0, type="rollback", rollback_of=needed, digest="undo")
    for job_id in (expired, needed):
        sql(database, "UPDATE jobs SET finished_at = now() - interval '2 days' WHERE id = %(j)s", {"j": job_id})

    assert cleanup.delete_expired(database, older_than_s=86_400) == [expired]

    left = contents(database, expired)
    assert {table: len(rows) for table, rows in left.items() if rows} == {"dead_letters": 2}
    assert one(database, "SELECT count(*) FROM job_items WHERE job_id = %(j)s", {"j": expired}) == 0
    assert {d["state"] for d in left["dead_letters"]} == {"waiting"}
    for job_id in (young, needed, active, rollback_id):
        assert jobs.get(database, job_id).id == job_id
    with pytest.raises(NotFoundError, match=f"no job {expired}"):
        control.retry_letters(database, [left["dead_letters"][0]["id"]])
    control.cancel(database, rollback_id)
    assert cleanup.delete_expired(database, older_than_s=86_400) == [needed]


def test_a_cleanup_that_died_in_the_middle_is_gone_on_with(database: Database) -> None:
    """Half deleted, the job is not given another try; the next cleanup removes the rest of it."""
    job_id = ended_job(database)
    sql(database, "UPDATE jobs SET expiring_at = now() WHERE id = %(j)s", {"j": job_id})
    sql(database, "DELETE FROM job_items WHERE job_id = %(j)s AND part = 0", {"j": job_id})
    with pytest.raises((InvalidTransitionError, NotFoundError)):
        control.retry(database, job_id)
    assert cleanup.delete_expired(database, older_than_s=86_400) == [job_id]
    assert one(database, "SELECT count(*) FROM job_items WHERE job_id = %(j)s", {"j": job_id}) == 0


def test_the_journal_reads_backwards_and_leaves_out_what_did_not_happen(database: Database) -> None:
    """Everything journalled but skipped, latest first: what failed without an effect is taken out of the journal."""
    job_id = new_job(database, 6)
    claim = claim_all(database, job_id)[0]
    journal = [{"part": 0, "seq": n, "batch_no": n // 2, "before": {"n": n}, "after": {"n": -n}} for n in range(6)]
    statuses = ["succeeded", "failed", "skipped", "unconfirmed"]
    ranges = [range_row(0, n, n, status) for n, status in enumerate(statuses)]
    sums = dict.fromkeys(statuses, 1)
    row = part_row(0, claim.fence, has_outcomes=True, **sums)
    write(database, job_id, Record([row], journal=journal, ranges=ranges))

    entries = list(rollbacks.journal_backwards(database, job_id))

    assert [(e.seq, e.status) for e in entries] == [
        (5, None), (4, None), (3, ItemStatus.UNCONFIRMED), (1, ItemStatus.FAILED), (0, ItemStatus.SUCCEEDED),
    ]  # fmt: skip
    assert (entries[0].key, entries[0].before, entries[0].after) == ("item-5", {"n": 5}, {"n": -5})
    assert rollbacks.undo_counts(database, job_id) == (1, 1, 4)


def test_a_rollback_is_planned_once_under_its_fence(database: Database) -> None:
    """A planner that lost its lease changes nothing; the plan's part never counts as an item."""
    source = ended_job(database)
    job_id = new_job(database, 0, type="rollback", rollback_of=source, digest="undo-2")
    claim = claim_all(database, job_id)[0]
    assert (claim.kind, jobs.get(database, job_id).is_planned) == ("plan", False)
    plan = {"part": 0, "item_count": 0, "summary": {"undoes": 0}}
    assert not rollbacks.finish_plan(database, job_id, fence=claim.fence - 1, **plan)  # type: ignore[arg-type]
    assert jobs.finish(database, job_id) is None
    assert rollbacks.finish_plan(database, job_id, fence=claim.fence, **plan)  # type: ignore[arg-type]
    assert jobs.get(database, job_id).is_planned
    assert jobs.get(database, job_id).summary["undoes"] == 0
    assert jobs.finish(database, job_id) is JobStatus.SUCCEEDED


def test_live_leases_and_flights_say_how_long_a_rollback_waits(database: Database) -> None:
    """The longest lease, and the latest deadline of a request that may still be on the wire."""
    job_id = new_job(database, 4)
    claim = claim_all(database, job_id, lease_s=30)[0]
    leases, longest_s = due.live_leases(database, job_id)
    assert leases == 1
    assert 29 < longest_s <= 30
    assert due.flights_until_s(database, job_id) == 0
    epoch = one(database, "SELECT epoch FROM limiter_epochs WHERE provider = 'noop'")
    row = part_row(0, claim.fence, has_intents=True, cursor=2)
    write(database, job_id, Record([row], opened=[opened_row(0, 1, 0, 1, deadline_s=12.0)]), epoch=epoch)
    assert 11 < due.flights_until_s(database, job_id) <= 12
