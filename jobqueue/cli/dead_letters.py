"""Commands about dead letters: items and jobs that used up their attempts and wait for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from jobqueue.cli.command import MOST_AT_ONCE, Group, count_option, examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import clean, counted, emit, note, say, table
from jobqueue.delivery.queue import JobQueue
from jobqueue.errors import InvalidInputError, NotFoundError

C = TypeVar("C", bound=Callable[..., Any])

_ID = click.IntRange(min=1, max=2**63 - 1)


@click.group("dead-letters", cls=Group)
def dead_letters() -> None:
    """Look at what failed for good, and decide: retry or discard."""


def _chosen(command: C) -> C:
    """Add the ways to choose letters."""
    for option in (
        click.option("--fingerprint", metavar="TEXT", help="All letters that failed for this reason."),
        click.option("--job", "job_id", type=_ID, metavar="JOB_ID", help="All letters of this job."),
        click.argument("ids", nargs=-1, type=_ID, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@dead_letters.command(
    "list",
    epilog=examples(
        "jobqueue dead-letters list --groups",
        "jobqueue dead-letters list --job 42",
        "jobqueue dead-letters list --fingerprint 'invalid_id: …'",
    ),
)
@click.option("--job", "job_id", type=_ID, metavar="JOB_ID", help="Only those of this job.")
@click.option("--fingerprint", metavar="TEXT", help="Only those that failed for this reason.")
@click.option("--groups", "is_grouped", is_flag=True, help="Count them by reason.")
@click.option("--after", "after_id", type=click.IntRange(min=0), default=0, metavar="ID", help="The next page.")
@count_option(100)
@json_option
def list_letters(
    job_id: int | None, fingerprint: str | None, is_grouped: bool, after_id: int, count: int, is_json: bool
) -> int:
    """List letters nobody has decided on, oldest first."""
    with open_queue() as queue:
        if is_grouped:
            return _list_groups(queue.dead_letter_groups(job_id), is_json=is_json)
        rows = queue.dead_letters(job_id=job_id, fingerprint=fingerprint, count=count, after_id=after_id)
    if is_json:
        emit({"dead_letters": rows, "next": rows[-1]["id"] if len(rows) == count else None})
        return DONE
    if not rows:
        note("No dead letter waits for a decision.")
        return DONE
    table(
        [row | {"key": row["key"] or "(the whole job)"} for row in rows],
        {"id": "ID", "job_id": "JOB", "provider": "PROVIDER", "key": "KEY", "reason": "REASON"},
        right=("id", "job_id"),
    )
    if len(rows) == count:
        note(f"more: --after {rows[-1]['id']}")
    return DONE


@dead_letters.command(epilog=examples("jobqueue dead-letters show 7"))
@click.argument("letter_id", type=_ID, metavar="ID")
@json_option
def show(letter_id: int, is_json: bool) -> int:
    """Show one letter with its history."""
    with open_queue() as queue:
        letter = queue.dead_letter(letter_id)
    if letter is None:
        raise NotFoundError(f"there is no dead letter {letter_id}.", remedy="List them: jobqueue dead-letters list")
    if is_json:
        emit(letter)
        return DONE
    for name in ("id", "state", "job_id", "job_type", "provider", "account", "operation", "key", "payload"):
        if letter.get(name) not in (None, "", {}):
            say(f"{name:<12}{clean(str(letter[name]))}")
    say(f"{'reason':<12}{clean(str(letter['reason']))}")
    for number, entry in enumerate(letter["history"] or (), 1):
        say(f"  {number}. {clean(str(entry))}")
    return DONE


@dead_letters.command(epilog=examples("jobqueue dead-letters retry 7 8", "jobqueue dead-letters retry --job 42"))
@_chosen
@json_option
def retry(ids: Sequence[int], job_id: int | None, fingerprint: str | None, is_json: bool) -> int:
    """Try the items of these letters again."""
    count = 0
    with open_queue() as queue:
        for some in _choose(queue, ids, job_id, fingerprint):
            count += queue.retry_dead_letters(some)
    if is_json:
        emit({"retried_items": count})
    else:
        say(f"{counted(count, 'item')} to be tried again")
    return DONE


@dead_letters.command(epilog=examples("jobqueue dead-letters discard 7 --reason 'the account was closed'"))
@_chosen
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever looks later.")
@json_option
def discard(ids: Sequence[int], job_id: int | None, fingerprint: str | None, reason: str, is_json: bool) -> int:
    """Give these letters up."""
    discarded: list[int] = []
    with open_queue() as queue:
        for some in _choose(queue, ids, job_id, fingerprint):
            discarded += queue.discard_dead_letters(some, reason=reason)
    gone = sorted(set(ids) - set(discarded))
    if gone and not discarded:
        raise NotFoundError(
            f"no waiting dead letter has the id {gone[0]}.", remedy="List them: jobqueue dead-letters list"
        )
    if is_json:
        emit({"discarded": discarded, "not_found": gone})
    else:
        say(f"{counted(len(discarded), 'letter')} discarded")
        if gone:
            note(f"not waiting: {', '.join(map(str, gone))}")
    return DONE


def _choose(queue: JobQueue, ids: Sequence[int], job_id: int | None, fingerprint: str | None) -> Iterator[list[int]]:
    """The ids meant, some at a time.

    Raises:
        InvalidInputError: Nothing is chosen, or in two ways at once.
    """
    if bool(ids) == bool(job_id or fingerprint):
        raise InvalidInputError(
            "which letters is not clear.", remedy="Give either ids, or --job and --fingerprint.", field="ids"
        )
    if ids:
        yield list(ids)
        return
    after_id, is_any = 0, False
    while rows := queue.dead_letters(job_id=job_id, fingerprint=fingerprint, count=MOST_AT_ONCE, after_id=after_id):
        after_id, is_any = rows[-1]["id"], True
        yield [row["id"] for row in rows]
    if not is_any:
        raise NotFoundError("no such dead letter waits.", remedy="List them: jobqueue dead-letters list")


def _list_groups(groups: Sequence[dict[str, Any]], *, is_json: bool) -> int:
    if is_json:
        emit({"groups": groups})
    elif groups:
        rows = [group | {"first_at": group["first_at"][:19], "last_at": group["last_at"][:19]} for group in groups]
        headings = {"count": "COUNT", "fingerprint": "REASON", "first_at": "FIRST (UTC)", "last_at": "LAST (UTC)"}
        table(rows, headings, right=("count",))
    else:
        note("No dead letter waits for a decision.")
    return DONE
