"""Commands about one job, and the list of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from jobqueue.cli import progress_view as view
from jobqueue.cli.command import count_option, examples, job_argument, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import clean, counted, emit, note, say, table
from jobqueue.cli.watching import follow
from jobqueue.model.job import JobStatus


@click.command(epilog=examples("jobqueue status 42", "jobqueue status 42 --json | jq .remaining"))
@job_argument
@json_option
def status(job_id: int, is_json: bool) -> int:
    """Show where a job stands.

    Exit code 1 if it ended and not everything succeeded.
    """
    with open_queue() as queue:
        progress = queue.get_job_status(job_id)
        label = queue.get_label_status(job_id)
        if is_json:
            emit(progress.as_dict() | {"label": None if label is None else label.as_dict()})
        elif progress.job.status.is_terminal:
            for line in [view.headline(progress), *view.summary_lines(progress, queue.dead_letter_groups(job_id))]:
                say(line)
        else:
            for line in view.status_lines(progress):
                say(line)
            if label is not None:
                say(f"  {view.label_line(label)}")
    return view.exit_code(progress)


@click.command(epilog=examples("jobqueue watch 42", "jobqueue watch 42 >> nightly.log"))
@job_argument
@json_option
def watch(job_id: int, is_json: bool) -> int:
    """Show a job's progress until it ends; Ctrl-C stops watching, not the job.

    On a terminal it is a live display, in a pipe a line for each change, with --json one document in the end.
    Exit code 1 if not everything succeeded.
    """
    with open_queue() as queue:
        progress = follow(queue, job_id, is_json=is_json)
    if is_json:
        emit(progress.as_dict())
    return view.exit_code(progress)


@click.command(epilog=examples("jobqueue pause 42"))
@job_argument
@json_option
def pause(job_id: int, is_json: bool) -> int:
    """Stop sending for a job; what is under way is finished and recorded."""
    with open_queue() as queue:
        return _moved(job_id, queue.pause_job(job_id), f"go on with: jobqueue resume {job_id}", is_json=is_json)


@click.command(epilog=examples("jobqueue resume 42"))
@job_argument
@json_option
def resume(job_id: int, is_json: bool) -> int:
    """Go on with a paused job."""
    with open_queue() as queue:
        return _moved(job_id, queue.resume_job(job_id), f"watch it: jobqueue watch {job_id}", is_json=is_json)


@click.command(
    epilog=examples("jobqueue cancel 42", "jobqueue enqueue rollback 42   # cancels it and undoes what it did")
)
@job_argument
@json_option
def cancel(job_id: int, is_json: bool) -> int:
    """End a job for good; what it did stays done."""
    with open_queue() as queue:
        remedy = f"undo what it did: jobqueue enqueue rollback {job_id}"
        return _moved(job_id, queue.cancel_job(job_id), remedy, is_json=is_json)


@click.command(epilog=examples("jobqueue retry 42"))
@job_argument
@json_option
def retry(job_id: int, is_json: bool) -> int:
    """Try a job's failed and unconfirmed items again, and what a failed job left undone."""
    with open_queue() as queue:
        count = queue.retry_job(job_id)
    if is_json:
        emit({"job_id": job_id, "retried_items": count})
    else:
        say(f"job {job_id}: {counted(count, 'item')} to be tried again · watch it: jobqueue watch {job_id}")
    return DONE


@click.command(
    "list",
    epilog=examples("jobqueue list", "jobqueue list --state running --state parked", "jobqueue list --before 1200"),
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(status) for status in JobStatus]),
    help="Only jobs in this state; may be repeated.",
)
@click.option(
    "--before", "before_id", type=click.IntRange(min=1), metavar="JOB_ID", help="Only older ones: the next page."
)
@count_option(50)
@json_option
def list_jobs(states: Sequence[str], before_id: int | None, count: int, is_json: bool) -> int:
    """List jobs, the latest first."""
    with open_queue() as queue:
        rows = queue.list_jobs(states=list(states) or None, before_id=before_id, count=count)
    if is_json:
        emit({"jobs": rows, "next": rows[-1]["id"] if len(rows) == count else None})
        return DONE
    if not rows:
        note("There is no such job." if states or before_id else "There are no jobs yet. See: jobqueue enqueue --help")
        return DONE
    table(
        [row | {"done": f"{row['done']:,}/{row['total']:,}", "created_at": row["created_at"][:19]} for row in rows],
        {
            "id": "JOB",
            "status": "STATUS",
            "type": "TYPE",
            "provider": "PROVIDER",
            "account": "ACCOUNT",
            "operation": "OPERATION",
            "priority": "PRIORITY",
            "done": "DONE",
            "failed": "FAILED",
            "created_at": "CREATED (UTC)",
        },
        right=("id", "done", "failed"),
    )
    if len(rows) == count:
        note(f"more: jobqueue list --before {rows[-1]['id']}")
    return DONE


@click.command(
    epilog=examples("jobqueue items 42 --status failed", "jobqueue items 42 --count 1000 --after 3.4000 --json")
)
@job_argument
@click.option("--status", "item_status", metavar="STATUS", help="Only items with this outcome, such as failed.")
@click.option("--after", default="", metavar="MARK", help="Where the page before ended; it says so itself.")
@count_option(100)
@json_option
def items(job_id: int, item_status: str | None, after: str, count: int, is_json: bool) -> int:
    """List a job's items with their outcomes, page by page."""
    with open_queue() as queue:
        page = queue.items(job_id, status=item_status, after=after, count=count)
    if is_json:
        emit({"items": page.rows, "next": page.next or None})
        return DONE
    if not page.rows:
        note("There are no more such items." if after else "There are no such items.")
        return DONE
    table(
        [row | {"why": _why(row)} for row in page.rows],
        {"seq": "SEQ", "key": "KEY", "status": "STATUS", "attempts": "ATTEMPTS", "why": "WHY"},
        right=("seq", "attempts"),
    )
    if page.next:
        chosen = f" --status {item_status}" if item_status else ""
        note(f"more: jobqueue items {job_id}{chosen} --count {count} --after {page.next}")
    return DONE


def _moved(job_id: int, now: JobStatus, remedy: str, *, is_json: bool) -> int:
    if is_json:
        emit({"job_id": job_id, "status": str(now)})
    else:
        say(f"job {job_id} is {now} · {remedy}")
    return DONE


def _why(row: dict[str, Any]) -> str:
    """Why an item has the outcome it has, in a few words."""
    if error := row["error"]:
        return clean(f"{error.get('code', '')}: {error.get('message', '')}")
    result = row["result"]
    return clean(str(result["why"])) if isinstance(result, dict) and "why" in result else ""
