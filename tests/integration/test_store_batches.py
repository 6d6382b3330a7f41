"""What a successor reads back: batches as they were sent, histories, and text that Postgres cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_world import (
    PROVIDER,
    claim_all,
    closed_row,
    contents,
    failed_rows,
    new_job,
    opened_row,
    part_row,
    range_row,
    scratch_database,
    write,
)

from jobqueue.local import LocalStack
from jobqueue.store import checkpoints, dead_letters, limits
from jobqueue.store.checkpoints import Claim, Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_batches") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


@pytest.fixture
def epoch(database: Database) -> int:
    """The limiter's epoch now."""
    return limits.begin_epoch(database, PROVIDER, "run")


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


def test_an_items_history_grows_with_its_retries_and_ends_up_in_its_dead_letter(database: Database, epoch: int) -> None:
    """Two failed attempts and the last one, in order; the waiting row goes when the outcome comes."""
    job_id, claim = started_job(database, epoch)
    parts = [part_row(0, claim.fence)]
    for attempt in (1, 2):
        retry = {"part": 0, "seq": 7, "attempts": attempt, "due_in_s": 9.0, "event": {"code": f"busy-{attempt}"}}
        write(database, job_id, Record(parts=parts, retries=[retry]))
    (waiting,) = (w for w in checkpoints.retries_of_part(database, job_id, 0, count=10) if w.row.item.seq == 7)
    assert (waiting.row.item.key, waiting.attempts, waiting.tries, waiting.is_in_doubt) == ("item-7", 2, 2, False)
    assert 8 < waiting.due_in_s <= 9

    single, letter = failed_rows(0, 7)
    write(database, job_id, Record(parts=parts, singles=[single], dead=[letter]))

    (found,) = dead_letters.list_letters(database, job_id=job_id)
    assert [event["code"] for event in found["history"]] == ["busy-1", "busy-2", "refused"]
    assert (found["key"], found["payload"], found["reason"]) == ("item-7", {"n": 7}, "refused 7")
    assert [w.row.item.seq for w in checkpoints.retries_of_part(database, job_id, 0, count=10)] == [1]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("lone \ud83d", "lone \ufffd"),
        ("\udfb5 low", "\ufffd low"),
        ("\\u0000 \\\0", "\\u0000 \\\ufffd"),
        ("🎵", "🎵"),
    ],
)
def test_text_that_postgres_cannot_hold_is_kept_readable(
    database: Database, epoch: int, text: str, stored: str
) -> None:
    """A provider's NUL or half a surrogate pair becomes a replacement character; the record is not lost for it."""
    job_id, claim = started_job(database, epoch)
    single = {"part": 0, "seq": 0, "status": "succeeded", "attempts": 1, "result": {text: [text]}, "error": None}
    journal = {"part": 0, "seq": 0, "batch_no": 1, "before": {"name": text}, "after": {}}
    write(database, job_id, Record(parts=[part_row(0, claim.fence)], singles=[single], journal=[journal]))
    found = contents(database, job_id)
    assert found["item_outcomes"][0]["result"] == {stored: [stored]}
    assert found["item_journal"][0]["before"] == {"name": stored}


def test_a_batch_is_read_back_as_it_was_sent(database: Database, epoch: int) -> None:
    """Range, gaps, key, counts and what it carries; its items are those without an outcome, with their journal."""
    job_id, claim = started_job(database, epoch)
    parts = [part_row(0, claim.fence, has_intents=True, cursor=9)]
    opened = opened_row(
        0,
        2,
        5,
        8,
        seqs=[5, 6, 8],
        item_count=3,
        attempt=2,
        failures=3,
        crashes=1,
        is_isolated=True,
        failing_for_s=60.0,
    )
    journal = [{"part": 0, "seq": 8, "batch_no": 2, "before": {"saved": True}, "after": {"saved": False}}]
    write(
        database,
        job_id,
        Record(parts=parts, opened=[opened], journal=journal, ranges=[range_row(0, 5, 5)]),
        epoch=epoch,
    )
    closed = closed_row(0, 1, "waiting", due_in_s=5.0, failures=2, has_effect=True, carry={"page": 3}, error="silence")
    write(database, job_id, Record(parts=[part_row(0, claim.fence)], closed=[closed]))

    first, second, _ = checkpoints.unfinished_batches(database, job_id, 0)
    assert (first.no, first.status, first.failures, first.has_effect, first.carry) == (
        1,
        "waiting",
        2,
        True,
        {"page": 3},
    )
    assert 4 < first.due_in_s <= 5
    assert (second.no, second.seqs, second.attempt, second.failures, second.crashes) == (2, (5, 6, 8), 2, 3, 1)
    assert second.is_isolated
    assert 60 <= second.failing_for_s < 70
    items = checkpoints.items_of_batch(database, job_id, 0, second)
    assert [(i.item.seq, i.before, i.after) for i in items] == [
        (6, None, None), (8, {"saved": True}, {"saved": False}),
    ]  # fmt: skip
    assert checkpoints.batch_exists(database, job_id, 0, 2)
    assert not checkpoints.batch_exists(database, job_id, 0, 99)


def test_what_was_committed_can_be_asked_by_its_number(database: Database, epoch: int) -> None:
    """Only the latest record of a part answers to its number; the state of a job that is gone is cancelled."""
    job_id, claim = started_job(database, epoch)
    write(database, job_id, Record(parts=[part_row(0, claim.fence)]), commit=5)
    assert checkpoints.was_committed(database, job_id, [0], commit=5) == {0}
    write(database, job_id, Record(parts=[part_row(0, claim.fence)]), commit=6)
    assert checkpoints.was_committed(database, job_id, [0, 1], commit=5) == set()
    assert checkpoints.job_state(database, 987654) == "cancelled"
