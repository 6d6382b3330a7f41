"""Errors as a person or a program reads them, and the exit code of each."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.cli.output import clean, emit, note
from jobqueue.errors import DuplicateJobError, InvalidInputError, JobQueueError

DONE = 0
JOB_FAILED = 1
BAD_USAGE = 2
TOO_LATE = 4
"""The job cannot meet its deadline; 3 is a server that cannot be reached."""
INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""128 + SIGPIPE, as a shell reports a program that wrote to nobody."""


class DetachedError(Exception):
    """The person stopped watching a job that goes on.

    Args:
        job_id: The job.
    """

    def __init__(self, job_id: int) -> None:
        super().__init__(f"No longer watching; job {job_id} goes on.")
        self.job_id = job_id


def report(error: BaseException, *, is_json: bool) -> int:
    """Tell of *error* and return the exit code it stands for."""
    document = _document(error)
    if is_json:
        emit({"error": document})
    else:
        title = "" if isinstance(error, DetachedError) else click.style("Error: ", fg="red", bold=True)
        note(f"{title}{_lines(document['message'])}")
        if document["remedy"]:
            note(f"  {_lines(document['remedy'])}")
    code: int = document["exit_code"]
    return code


def _document(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "remedy": "", "exit_code": 1}
    if isinstance(error, JobQueueError):
        found |= {"message": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
        if isinstance(error, InvalidInputError):
            found |= {"field": error.field or None, "line": error.line}
        if isinstance(error, DuplicateJobError):
            found |= {"job_id": error.job_id}
    elif isinstance(error, DetachedError):
        again = f"Watch it again: jobqueue watch {error.job_id}"
        found |= {"type": "Detached", "remedy": again, "exit_code": INTERRUPTED, "job_id": error.job_id}
    elif isinstance(error, click.ClickException):
        found |= {"type": "UsageError", "message": error.format_message(), "exit_code": BAD_USAGE}
        context = getattr(error, "ctx", None)
        if context is not None:
            found["remedy"] = f"See: {context.command_path} --help"
    elif isinstance(error, click.Abort | KeyboardInterrupt):
        found |= {"type": "Interrupted", "message": "interrupted.", "exit_code": INTERRUPTED}
    else:
        found |= {
            "message": f"unexpected {type(error).__name__}: {error}",
            "remedy": "This is a bug. With JOBQUEUE_DEBUG=1 the same command shows where it happened.",
        }
    return found


def _lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.splitlines())
