"""``jobqueue enqueue``, which is also ``scripts/enqueue.py``."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from difflib import get_close_matches
from typing import Any

import click

from jobqueue.cli import preflight_view
from jobqueue.cli.command import examples, json_option, open_queue
from jobqueue.cli.failure import DONE, TOO_LATE
from jobqueue.cli.output import clean, counted, emit, note, say
from jobqueue.cli.parameters import CONCURRENCY, DEADLINE, DURATION, PRIORITY, read_options
from jobqueue.cli.progress_view import exit_code
from jobqueue.cli.watching import follow
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine import registry
from jobqueue.engine.enqueue import Enqueued
from jobqueue.engine.intake import CsvFile
from jobqueue.errors import InvalidInputError
from jobqueue.model.job import JobRequest, JobType, Priority
from jobqueue.model.label import ConcurrencyLimit
from jobqueue.settings import Settings

_SKIPPED_SHOWN = 10
_OPTION_NAMES = {
    "option_pairs": "option",
    "batch_size": "batch-size",
    "is_unique": "unique",
    "skip_invalid": "skip-invalid",
    "concurrency_max_sleep": "concurrency-max-sleep",
}
_FOR_ITEMS_ONLY = (
    "provider",
    "account",
    "operation",
    "items",
    "option_pairs",
    "batch_size",
    "is_unique",
    "skip_invalid",
    "concurrency",
    "concurrency_max_sleep",
)


@click.command(
    epilog=examples(
        "jobqueue enqueue enforcement --provider spotify --account demo \\",
        "    --operation unsave_tracks --items blocklist.csv --priority high --follow",
        "generate-items | jobqueue enqueue noop --provider noop --items -",
        "jobqueue enqueue enforcement --provider spotify --account demo --operation unsave_tracks \\",
        "    --items blocklist.csv --concurrency 'library:{account}=1' --concurrency-max-sleep 10m",
        "jobqueue enqueue rollback 42 --follow",
    )
)
@click.argument("job_type", metavar="TYPE")
@click.argument("undone", metavar="[JOB_ID]", required=False)
@click.option("--provider", metavar="NAME", help="Whose API is called; see: jobqueue providers list")
@click.option("--account", metavar="NAME", help="Whose data is worked on; limits are kept for each account too.")
@click.option("--operation", metavar="NAME", help="What is done to each item.")
@click.option("--items", metavar="FILE", help="CSV file with a header, UTF-8; - is standard input.")
@click.option("--priority", type=PRIORITY, help="Default: default; for a rollback, that of the job undone.")
@click.option(
    "--option", "option_pairs", metavar="NAME=VALUE", multiple=True, help="An option of the operation; may be repeated."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Items in a request, instead of what the limits suggest.",
)
@click.option("--owner", metavar="NAME", help="Whose idempotency keys these are.")
@click.option("--idempotency-key", metavar="TEXT", help="The same key gives the same job again.")
@click.option("--unique", "is_unique", is_flag=True, help="Refuse it while an equal job is active.")
@click.option("--max-run", type=DURATION, metavar="DURATION", help="Longest time the job may take, such as 2h.")
@click.option(
    "--concurrency",
    type=CONCURRENCY,
    metavar="LABEL=N",
    help="At most N slices at once with that label, such as 'rechunk:{account}=1'; in place of the job type's own.",
)
@click.option(
    "--concurrency-max-sleep",
    type=DURATION,
    metavar="DURATION",
    help="Longest wait for the label without any turn, then the job fails. Default: as long as it takes.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=DEADLINE,
    metavar="WHEN",
    help="Refuse the job if it would be done later: 2h, or 2026-12-24T18:00.",
)
@click.option("--skip-invalid", is_flag=True, help="Leave invalid rows out and report them.")
@click.option("--follow", "is_followed", is_flag=True, help="Show progress until the job ends.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Store nothing: say what the job would take.")
@json_option
def enqueue(job_type: str, undone: str | None, is_followed: bool, is_dry_run: bool, is_json: bool, **given: Any) -> int:
    """Enqueue a job of TYPE for the items of a file; or roll back the job JOB_ID, when TYPE is rollback.

    Nothing is stored unless everything is right: type, provider, operation, options and every row.

    Exit code: 0 accepted (with --follow: everything succeeded), 1 the job failed or has failed items, 2 bad input, 3 a
    server cannot be reached, 4 it cannot meet its --deadline (nothing was stored), 130 interrupted.
    """
    if is_dry_run:
        if is_followed:
            raise InvalidInputError(
                "--follow does not go with --dry-run.",
                remedy="A dry run starts nothing: leave one out.",
                field="follow",
            )
        return dry_run(job_type, undone, given, is_json=is_json)
    is_rollback = job_type == JobType.ROLLBACK
    if is_rollback:
        undone_id = _undone_id(undone, given)
    else:
        source = _source(job_type, undone, given)
        request = _request(job_type, given)
    settings = Settings.from_environ()
    owner = given["owner"] if given["owner"] is not None else settings.owner
    with JobQueue(settings) as queue:
        if is_rollback:
            accepted = queue.rollback_job(
                undone_id,
                priority=given["priority"],
                owner=owner,
                idempotency_key=given["idempotency_key"],
                max_run_s=given["max_run"],
                deadline_s=given["deadline_s"],
            )
        else:
            accepted = queue.enqueue_job(
                replace(request, owner=owner),
                source,
                skip_invalid=given["skip_invalid"],
                deadline_s=given["deadline_s"],
            )
        if not is_json:
            _tell(accepted, is_followed=is_followed)
        if not is_followed:
            if is_json:
                emit(asdict(accepted))
            return DONE
        progress = follow(queue, accepted.job_id, is_json=is_json)
        if is_json:
            emit(asdict(accepted) | {"progress": progress.as_dict()})
        return exit_code(progress)


def dry_run(job_type: str, undone: str | None, given: dict[str, Any], *, is_json: bool) -> int:
    """Check everything as `enqueue` does, store and send nothing, and say what the job would take.

    Returns:
        0, or 4 when it cannot meet its deadline.
    """
    with open_queue() as queue:
        if job_type == JobType.ROLLBACK:
            undone_id = _undone_id(undone, given)
            found = queue.preflight_rollback(undone_id, priority=given["priority"], deadline_s=given["deadline_s"])
        else:
            source = _source(job_type, undone, given)
            request = _request(job_type, given)
            found = queue.preflight_job(
                request, source, skip_invalid=given["skip_invalid"], deadline_s=given["deadline_s"]
            )
    if is_json:
        emit(found.as_dict())
    else:
        for line in preflight_view.lines(found):
            say(line)
    return DONE if found.verdict is None or found.verdict.can_meet else TOO_LATE


def _undone_id(undone: str | None, given: dict[str, Any]) -> int:
    """The job to roll back.

    Raises:
        InvalidInputError: None is named, or what only a job with items has is given too.
    """
    for name in _FOR_ITEMS_ONLY:
        if given[name]:
            raise InvalidInputError(
                f"--{_OPTION_NAMES.get(name, name)} does not go with a rollback.",
                remedy="A rollback takes everything from the job it undoes: enqueue rollback JOB_ID",
                field=name,
            )
    if undone is None or not (undone.isascii() and undone.isdecimal() and 0 < int(undone[:20]) < 2**63):
        raise InvalidInputError(
            "the job to roll back is missing." if undone is None else f"{undone!r} is no job id.",
            remedy="Name it: enqueue rollback JOB_ID (see: jobqueue list)",
            field="job_id",
        )
    return int(undone)


def _source(job_type: str, undone: str | None, given: dict[str, Any]) -> CsvFile:
    """Where the items are.

    Raises:
        InvalidInputError: The type is unknown, the file is not named, or something else is.
    """
    registry.handler(job_type)
    if undone is not None:
        raise InvalidInputError(
            f"{undone!r} is one argument too many.", remedy=f"Items come from a file: --items {undone}", field="items"
        )
    if not given["provider"]:
        raise InvalidInputError(
            "--provider is missing.",
            remedy=f"Installed: {', '.join(registry.provider_names())}.",
            field="provider",
        )
    if not given["items"]:
        raise InvalidInputError(
            "--items is missing.", remedy="Name a CSV file, or - for standard input.", field="items"
        )
    if given["items"] == "-" and sys.stdin is not None and sys.stdin.isatty():
        note("Reading items from the terminal, the header first; end with Ctrl-D.")
    return CsvFile(given["items"])


def _request(job_type: str, given: dict[str, Any]) -> JobRequest:
    options = read_options(given["option_pairs"])
    if given["batch_size"] is not None:
        options["batch_size"] = given["batch_size"]
    return JobRequest(
        type=job_type,
        provider=given["provider"],
        account=given["account"] or "",
        operation=_operation(given["provider"], given["operation"]),
        priority=Priority.DEFAULT if given["priority"] is None else given["priority"],
        options=options,
        idempotency_key=given["idempotency_key"],
        is_unique=given["is_unique"],
        max_run_s=given["max_run"],
        concurrency=_concurrency(given),
    )


def _concurrency(given: dict[str, Any]) -> ConcurrencyLimit | None:
    limit: ConcurrencyLimit | None = given["concurrency"]
    max_sleep_s = given["concurrency_max_sleep"]
    if max_sleep_s is None or limit is None:
        if max_sleep_s is not None:
            raise InvalidInputError(
                "--concurrency-max-sleep needs --concurrency.",
                remedy="Name the label: --concurrency 'rechunk:{account}=1'",
                field="concurrency_max_sleep",
            )
        return limit
    return replace(limit, max_sleep_s=max_sleep_s)


def _operation(provider: str, name: str | None) -> str:
    """The operation named, or the only one the provider has.

    Raises:
        InvalidInputError: The provider has no such operation, or several and none is named.
    """
    names = sorted(registry.provider(provider).operations)
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return str(name)
    near = get_close_matches(name or "", names, n=1)
    raise InvalidInputError(
        "--operation is missing." if name is None else f"operation {name!r} is unknown at {provider}.",
        remedy=(f"Did you mean {near[0]!r}? " if near else "") + f"It offers: {', '.join(names)}.",
        field="operation",
    )


def _tell(accepted: Enqueued, *, is_followed: bool) -> None:
    verb = "enqueued" if accepted.is_new else "was enqueued before with this idempotency key"
    say(f"job {accepted.job_id} {verb}: {clean(accepted.description)}")
    if accepted.duplicate_count:
        say(f"  {counted(accepted.duplicate_count, 'duplicate')} collapsed")
    if accepted.skipped_count:
        say(f"  {counted(accepted.skipped_count, 'invalid row')} left out")
        for row in accepted.skipped[:_SKIPPED_SHOWN]:
            say(f"    {row.line}: {clean(row.message)}")
        more = accepted.skipped_count - min(len(accepted.skipped), _SKIPPED_SHOWN)
        if more:
            say(f"    and {more:,} more (--json names the first {len(accepted.skipped)})")
    if not is_followed:
        say(f"  watch it: jobqueue watch {accepted.job_id}")
