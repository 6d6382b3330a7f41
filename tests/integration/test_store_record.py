"""The one statement that records work: all of it or nothing, under the fence and the limiter's epoch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from store_world import (
    PROVIDER,
    checkpoint,
    claim_all,
    closed_row,
    contents,
    expire_leases,
    failed_rows,
    new_job,
    opened_row,
    part_row,
    range_row,
    scratch_database,
    sql,
    write,
)

from jobqueue.local import LocalStack
from jobqueue.store import checkpoints, limits
from jobqueue.store.checkpoints import Claim, Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_record") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


@pytest.fixture
def epoch(database: Database) -> int:
    """The limiter's epoch now."""
    return limits.begin_epoch(database, PROVIDER, "run")


def full_record(claim: Claim) -> Record:
    """A record with something in every section, for a part of ten items of which 0..4 were sent as batch 1."""
    single, letter = failed_rows(claim.part, 2)
    event = {"code": "busy", "message": "later"}
    return Record(
        parts=[
            part_row(claim.part, claim.fence, cursor=8, batch_no=5, has_intents=True, has_outcomes=True,
                     succeeded=2, failed=1, requests=1)
        ],
        closed=[closed_row(claim.part, 1)],
        opened=[opened_row(claim.part, 2, 5, 7)],
        split=[
            opened_row(claim.part, no, seq, seq, due_in_s=0.0, idempotency_key=f"half-{no}") for no, seq in ((3, 3), (4, 4))
        ],
        turned=[{"part": claim.part, "no": 5, "deadline_s": 12.0}],
        journal=[{"part": claim.part, "seq": seq, "batch_no": 5, "before": {"n": seq}, "after": {}} for seq in (8, 9)],
        ranges=[range_row(claim.part, 0, 1)],
        singles=[single],
        dead=[letter],
        retries=[{"part": claim.part, "seq": 3, "attempts": 1, "due_in_s": 30.0, "event": event}],
    )  # fmt: skip


def started_job(database: Database, epoch: int, name: str = "holder") -> tuple[int, Claim]:
    """A job of ten items with batch 1 sent (0..4), batch 5 observing (8..9) and item 1 waiting for a retry."""
    job_id = new_job(database, 10)
    claim = claim_all(database, job_id, name)[0]
    record = Record(
        parts=[part_row(0, claim.fence, cursor=5, batch_no=1, has_intents=True)],
        opened=[opened_row(0, 1, 0, 4), opened_row(0, 5, 8, 9, status="observing", requests=2, has_effect=False)],
        retries=[{"part": 0, "seq": 1, "attempts": 1, "due_in_s": 0.0, "event": {"code": "busy"}}],
    )
    assert write(database, job_id, record, epoch=epoch).is_epoch_current
    return job_id, claim


def test_a_record_writes_every_section_in_one_transaction(database: Database, epoch: int) -> None:
    """Outcomes, counters, cursor, batches, journal, retries and dead letters, all seen together."""
    job_id, claim = started_job(database, epoch)
    recorded = write(database, job_id, full_record(claim), epoch=epoch, commit=77)

    assert recorded == checkpoints.Recorded(frozenset({0}), True, "running", epoch, config_version=0)
    found = contents(database, job_id)
    (part,) = found["batch_checkpoints"]
    assert (part["cursor"], part["batch_no"], part["succeeded"], part["failed"], part["requests"]) == (8, 5, 2, 1, 1)
    assert part["last_commit"] == 77
    assert part["recorded_at"] is not None
    assert {b["no"]: b["status"] for b in found["batches"]} == {
        1: "recorded", 2: "sent", 3: "waiting", 4: "waiting", 5: "sent",
    }  # fmt: skip
    assert [b["has_effect"] for b in found["batches"] if b["no"] == 5] == [True]
    assert {o["seq"]: o["status"] for o in found["item_outcomes"]} == {0: "succeeded", 1: "succeeded", 2: "failed"}
    assert [j["seq"] for j in found["item_journal"]] == [8, 9]
    assert [r["seq"] for r in found["item_retries"]] == [3]  # item 1 has its outcome: it waits no more
    assert [d["key"] for d in found["dead_letters"]] == ["item-2"]


def test_a_stale_holder_writes_nothing_at_all(database: Database, epoch: int) -> None:
    """After another claim not one row of any table changes, in any section of the record."""
    job_id, stale = started_job(database, epoch, "stale")
    expire_leases(database, job_id)
    claim_all(database, job_id, "new")
    before = contents(database, job_id)

    recorded = write(database, job_id, full_record(stale), epoch=epoch)

    assert recorded.held == frozenset()
    assert contents(database, job_id) == before


def test_a_recorded_outcome_ends_the_count_of_a_parts_crashes(database: Database, epoch: int) -> None:
    """Intents alone do not."""
    job_id, _ = started_job(database, epoch)
    expire_leases(database, job_id)
    claim = claim_all(database, job_id)[0]
    intent = Record([part_row(0, claim.fence, has_intents=True, cursor=7)], opened=[opened_row(0, 6, 5, 6)])
    assert write(database, job_id, intent, epoch=epoch).is_epoch_current
    assert checkpoint(database, job_id)["crashes"] == 1
    write(
        database,
        job_id,
        Record([part_row(0, claim.fence, has_outcomes=True, succeeded=1)], ranges=[range_row(0, 0, 0)]),
    )
    assert checkpoint(database, job_id)["crashes"] == 0


def test_of_two_parts_only_the_one_still_held_is_written(database: Database, epoch: int) -> None:
    """A lost part is left out whole; the other one's work is kept."""
    job_id = new_job(database, 4, part_size=2)
    claims = claim_all(database, job_id)
    sql(database, "UPDATE batch_checkpoints SET fence = fence + 1 WHERE job_id = %(j)s AND part = 0", {"j": job_id})
    record = Record(
        parts=[part_row(p, claims[p].fence, has_outcomes=True, succeeded=2) for p in (0, 1)],
        ranges=[range_row(0, 0, 1), range_row(1, 2, 3)],
    )
    assert write(database, job_id, record, epoch=epoch).held == {1}
    assert [o["seq"] for o in contents(database, job_id)["item_outcomes"]] == [2, 3]
    assert checkpoint(database, job_id, 0)["succeeded"] == 0


def test_a_claim_in_mid_record_and_a_record_in_mid_claim_never_both_win(
    url: str, database: Database, epoch: int
) -> None:
    """Twenty rounds of both at once: a record is written whole under the old fence or not at all."""
    gate = threading.Barrier(2)
    job_ids = [new_job(database, 2) for _ in range(20)]
    claims = {job_id: claim_all(database, job_id)[0] for job_id in job_ids}
    for job_id in job_ids:
        expire_leases(database, job_id)

    def record(own: Database, job_id: int) -> bool:
        row = part_row(0, claims[job_id].fence, has_outcomes=True, succeeded=2)
        return bool(write(own, job_id, Record(parts=[row], ranges=[range_row(0, 0, 1)]), epoch=epoch).held)

    def claim(own: Database, job_id: int) -> bool:
        # What is locked by the record is passed over.
        return bool(claim_all(own, job_id, "other"))

    def race(work: Any) -> list[bool]:
        with Database(url) as own:
            assert not own.connection.closed
            found = []
            for job_id in job_ids:
                gate.wait(30)
                found.append(work(own, job_id))
            return found

    with ThreadPoolExecutor(2) as pool:
        written, _ = pool.map(race, (record, claim))
    for job_id, is_written in zip(job_ids, written, strict=True):
        outcomes = len(contents(database, job_id)["item_outcomes"])
        assert (outcomes, checkpoint(database, job_id)["succeeded"]) == ((2, 2) if is_written else (0, 0))


def test_under_an_old_epoch_outcomes_are_kept_and_intents_are_not(database: Database, epoch: int) -> None:
    """A rebuilt limiter did not count these intents: the cursor stays, the repeated batch stays open, outcomes count."""
    job_id, claim = started_job(database, epoch)
    newer = limits.begin_epoch(database, PROVIDER, "another run")
    record = Record(
        parts=[part_row(0, claim.fence, cursor=8, batch_no=2, has_intents=True, has_outcomes=True, succeeded=4)],
        closed=[closed_row(0, 1), closed_row(0, 5, "repeated")],
        opened=[opened_row(0, 2, 5, 7)],
        ranges=[range_row(0, 0, 3)],
    )
    recorded = write(database, job_id, record, epoch=epoch)

    assert (recorded.held, recorded.is_epoch_current, recorded.epoch) == (frozenset({0}), False, newer)
    part = checkpoint(database, job_id)
    assert (part["cursor"], part["succeeded"]) == (5, 4)
    assert {b["no"]: b["status"] for b in contents(database, job_id)["batches"]} == {1: "recorded", 5: "observing"}
    assert write(database, job_id, Record(parts=record.parts, opened=record.opened), epoch=newer).is_epoch_current
    assert checkpoint(database, job_id)["cursor"] == 8


def test_the_journal_keeps_the_first_before_state(database: Database, epoch: int) -> None:
    """A later look may already show our own effect; an entry that is taken back may be written anew."""
    job_id, claim = started_job(database, epoch)
    for saved in (True, False):
        entry = {"part": 0, "seq": 8, "batch_no": 5, "before": {"saved": saved}, "after": {}}
        write(database, job_id, Record(parts=[part_row(0, claim.fence)], journal=[entry]))
    assert [j["before"] for j in contents(database, job_id)["item_journal"]] == [{"saved": True}]
    write(database, job_id, Record(parts=[part_row(0, claim.fence)], unjournalled=[{"part": 0, "seq": 8}]))
    assert contents(database, job_id)["item_journal"] == []


def test_effects_are_numbered_in_the_order_of_their_journal(database: Database, epoch: int) -> None:
    """Within one record by batch and position, so that a rollback can go backwards."""
    job_id, claim = started_job(database, epoch)
    journal = [
        {"part": 0, "seq": seq, "batch_no": no, "before": {}, "after": {}} for no, seq in ((2, 6), (1, 1), (1, 0))
    ]
    write(database, job_id, Record(parts=[part_row(0, claim.fence)], journal=journal))
    rows = sql(database, "SELECT seq FROM item_journal WHERE job_id = %(j)s ORDER BY effect_seq", {"j": job_id})
    assert [row["seq"] for row in rows] == [0, 1, 6]


def test_a_record_that_breaks_a_rule_changes_nothing(database: Database, epoch: int) -> None:
    """Two outcomes for one item: counters, cursor and batches stay as they were."""
    job_id, claim = started_job(database, epoch)
    before = contents(database, job_id)
    record = full_record(claim)
    record.ranges.append(range_row(0, 1, 1, "skipped"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        write(database, job_id, record, epoch=epoch)
    assert contents(database, job_id) == before
