"""``jobqueue enqueue``, which is also ``scripts/enqueue.py``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import click

from jobqueue.cli.command import examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import clean, counted, emit, note, say
from jobqueue.cli.parameters import DURATION, PRIORITY, read_options
from jobqueue.cli.progress_view import exit_code
from jobqueue.cli.watching import detached, follow
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine import registry
from jobqueue.engine.enqueue import Enqueued
from jobqueue.engine.intake import CsvFile
from jobqueue.errors import InvalidInputError
from jobqueue.model.job import JobRequest, JobType, Priority
from jobqueue.settings import Settings

_SKIPPED_SHOWN = 10
_FOR_ITEMS_ONLY = ("provider", "account", "operation", "items", "option_pairs", "batch_size", "is_unique", "skip_invalid")


@click.command(
    epilog=examples(
        "jobqueue enqueue enforcement --provider spotify --account demo \\",
        "    --operation unsave_tracks --items blocklist.csv --priority high --follow",
        "generate-urls | jobqueue enqueue scrape --provider web --items -",
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
@click.option("--option", "option_pairs", metavar="NAME=VALUE", multiple=True, help="An option of the operation; may be repeated.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Items in a request, instead of what the limits suggest.")
@click.option("--owner", metavar="NAME", help="Whose idempotency keys these are.")
@click.option("--idempotency-key", metavar="TEXT", help="The same key gives the same job again.")
@click.option("--unique", "is_unique", is_flag=True, help="Refuse it while an equal job is active.")
@click.option("--max-run", type=DURATION, metavar="DURATION", help="Longest time the job may take, such as 2h.")
@click.option("--skip-invalid", is_flag=True, help="Leave invalid rows out and report them.")
@click.option("--follow", "is_followed", is_flag=True, help="Show progress until the job ends.")
@json_option
def enqueue(job_type: str, undone: str | None, is_followed: bool, is_json: bool, **given: Any) -> int:
    """Enqueue a job of TYPE for the items of a file; or roll back the job JOB_ID, when TYPE is rollback.

    Nothing is stored unless everything is right: type, provider, operation, options and every row.

    Exit code: 0 accepted (with --follow: everything succeeded), 1 the job failed or has failed items, 2 bad input, 3 a
    server cannot be reached, 130 interrupted.
    """
    with _queue_for(job_type, undone, given) as (queue, settings):
        if job_type == JobType.ROLLBACK:
            accepted = _rollback(queue, settings, undone, given)
        else:
            accepted = _items(queue, settings, job_type, given)
        if not is_json:
            _tell(accepted, is_followed=is_followed)
        if not is_followed:
            if is_json:
                emit(_document(accepted))
            return DONE
        try:
            progress = follow(queue, accepted.job_id, is_json=is_json)
        except KeyboardInterrupt:
            if is_json:
                raise
            return detached(accepted.job_id)
        if is_json:
            emit(_document(accepted) | {"progress": progress.as_dict()})
        return exit_code(progress)
