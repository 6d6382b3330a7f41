"""``jobqueue preflight``, which is also ``jobqueue enqueue … --dry-run``."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.cli.command import examples
from jobqueue.cli.enqueue import dry_run, enqueue

_OF_ENQUEUE_ONLY = ("is_followed", "is_dry_run")


def _run(job_type: str, undone: str | None, is_json: bool, **given: Any) -> int:
    return dry_run(job_type, undone, given, is_json=is_json)


preflight = click.Command(
    "preflight",
    callback=_run,
    params=[param for param in enqueue.params if param.name not in _OF_ENQUEUE_ONLY],
    help="""Say what a job would take: requests, cost, when it would be done; nothing is stored or sent.

    Takes the arguments of enqueue, and checks them and every row as enqueue does. P50: half of such jobs are done by
    then; P90: nine of ten. P90 decides whether --deadline can be met.

    Exit code: 0, 2 bad input, 3 a server cannot be reached, 4 the deadline cannot be met.
    """,
    epilog=examples(
        "jobqueue preflight enforcement --provider spotify --account demo \\",
        "    --operation unsave_tracks --items blocklist.csv --deadline 2h",
        "jobqueue preflight rollback 42 --json | jq .p90_s",
    ),
)
