"""Jobs, leases and records made by hand, for the tests of the store and the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from jobqueue.model.job import JobRequest
from jobqueue.model.parting import PartRange, part_ranges
from jobqueue.store import checkpoints, copying, jobs
from jobqueue.store.checkpoints import Claim, Holder, Record, Recorded
from jobqueue.store.database import Database

PROVIDER = "noop"
_commits = count(1)


def new_job(
    database: Database,
    item_count: int = 10,
    *,
    part_size: int | None = None,
    digest: str = "digest",
    rollback_of: int | None = None,
    **request: Any,
) -> int:
    """A job of items ``item-0``…, cut into parts of *part_size*; its id."""
    job_id, _ = create(database, item_count, part_size=part_size, digest=digest, rollback_of=rollback_of, **request)
    return job_id


def create(
    database: Database,
    item_count: int = 10,
    *,
    part_size: int | None = None,
    digest: str = "digest",
    rollback_of: int | None = None,
    **request: Any,
) -> tuple[int, bool]:
    """As `jobs.create` returns it."""
    size = part_size or max(1, item_count)
    parts: list[PartRange] = list(part_ranges(item_count, size))
    fields: dict[str, Any] = {"type": "noop", "provider": PROVIDER, "operation": "noop"} | request
    new = jobs.NewJob(JobRequest(**fields), digest, item_count, rollback_of=rollback_of)
    rows = (
        b"%d\t%d\t" % (seq // size, seq) + copying.copy_fields(f"item-{seq}", {"n": seq} if seq % 2 else {})
        for seq in range(item_count)
    )
    return jobs.create(database, new, parts, rows)


def holder(name: str = "holder", *, host: str = "host", pid: int = 1, pid_started: float = 1.0) -> Holder:
    """A process that may hold leases."""
    return Holder(name, host, pid, pid_started)


def claim_all(database: Database, job_id: int, name: str = "holder", *, lease_s: float = 20.0) -> dict[int, Claim]:
    """Every due part of the job, by number."""
    found = checkpoints.claim(database, job_id, holder(name), count=1000, lease_s=lease_s)
    return {claim.part: claim for claim in found}


def part_row(part: int, fence: int, **columns: Any) -> dict[str, Any]:
    """One row of a record's ``parts``; what is not given changes nothing."""
    return {
        "part": part,
        "fence": fence,
        "cursor": None,
        "batch_no": 0,
        "has_intents": False,
        "has_outcomes": False,
        "succeeded": 0,
        "skipped": 0,
        "failed": 0,
        "unconfirmed": 0,
        "requests": 0,
    } | columns


def opened_row(part: int, no: int, first_seq: int, last_seq: int, **columns: Any) -> dict[str, Any]:
    """One intent."""
    return {
        "part": part,
        "no": no,
        "first_seq": first_seq,
        "last_seq": last_seq,
        "seqs": None,
        "item_count": last_seq - first_seq + 1,
        "status": "sent",
        "idempotency_key": f"key-{no}",
        "cost_units": 1,
        "requests": 1,
        "attempt": 1,
        "failures": 0,
        "crashes": 0,
        "is_isolated": False,
        "has_effect": True,
        "failing_for_s": 0.0,
        "deadline_s": 12.0,
    } | columns


def closed_row(part: int, no: int, status: str = "recorded", **columns: Any) -> dict[str, Any]:
    """One batch's end."""
    return {
        "part": part,
        "no": no,
        "status": status,
        "due_in_s": None,
        "failures": 0,
        "failing_for_s": 0.0,
        "requests": 1,
        "has_effect": False,
        "carry": None,
        "error": None,
    } | columns


def range_row(part: int, first_seq: int, last_seq: int, status: str = "succeeded") -> dict[str, Any]:
    """Outcomes without words."""
    return {"part": part, "first_seq": first_seq, "last_seq": last_seq, "status": status, "attempts": 1}


def failed_rows(part: int, seq: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A failed item's outcome and its dead letter."""
    error = {"code": "refused", "message": f"refused {seq}"}
    single = {"part": part, "seq": seq, "status": "failed", "attempts": 1, "result": None, "error": error}
    letter = {"part": part, "seq": seq, "fingerprint": "refused: refused …", "reason": error["message"], "event": error}
    return single, letter


def write(database: Database, job_id: int, record: Record, *, epoch: int = 0, commit: int | None = None) -> Recorded:
    """`checkpoints.record` with a number of its own."""
    number = next(_commits) if commit is None else commit
    return checkpoints.record(database, job_id, record, commit=number, scope=PROVIDER, provider=PROVIDER, epoch=epoch)


def finish_part(database: Database, job_id: int, claim: Claim, *, failed: Sequence[int] = ()) -> None:
    """Record an outcome for each item of the part and release it as finished."""
    record = Record()
    for seq in range(claim.first_seq, claim.last_seq + 1):
        if seq in failed:
            single, letter = failed_rows(claim.part, seq)
            record.singles.append(single)
            record.dead.append(letter)
        else:
            record.ranges.append(range_row(claim.part, seq, seq))
    sums = {"succeeded": len(record.ranges), "failed": len(record.singles)}
    record.parts.append(part_row(claim.part, claim.fence, has_outcomes=True, **sums))
    write(database, job_id, record)
    release(database, job_id, claim, is_finished=True)


def release(
    database: Database, job_id: int, claim: Claim, *, due_in_s: float = 0.0, is_finished: bool = False
) -> set[int]:
    """Give one part up."""
    row = {"part": claim.part, "fence": claim.fence, "due_in_s": due_in_s, "reason": "", "is_finished": is_finished}
    return checkpoints.release(database, job_id, [row])


def sql(database: Database, statement: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Any statement, to look behind the store's back or to break something on purpose."""
    cursor = database.connection.execute(statement, params)
    return cursor.fetchall() if cursor.description else []


def one(database: Database, statement: str, params: Mapping[str, Any] | None = None) -> Any:
    """The only value of the only row."""
    (row,) = sql(database, statement, params)
    (value,) = row.values()
    return value


def checkpoint(database: Database, job_id: int, part: int = 0) -> dict[str, Any]:
    """The part's row."""
    (row,) = sql(
        database, "SELECT * FROM batch_checkpoints WHERE job_id = %(j)s AND part = %(p)s", {"j": job_id, "p": part}
    )
    return row


def expire_leases(database: Database, job_id: int) -> None:
    """As if the lease time had passed: the holders stay named."""
    sql(
        database,
        "UPDATE batch_checkpoints SET due_at = now() - interval '1 second' WHERE job_id = %(j)s AND holder IS NOT NULL",
        {"j": job_id},
    )


def contents(database: Database, job_id: int) -> dict[str, list[dict[str, Any]]]:
    """Every row any record of the job could have written, for comparing before and after."""
    tables = ("batch_checkpoints", "batches", "item_outcomes", "item_retries", "item_journal", "dead_letters")
    return {
        table: sql(database, f"SELECT * FROM {table} WHERE job_id = %(j)s ORDER BY 1, 2, 3", {"j": job_id})
        for table in tables
    }


@contextmanager
def scratch_database(server_url: str, template: str, name: str) -> Iterator[str]:
    """A copy of *template* for the tests of one module, each of which makes jobs of its own: copying takes long."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
