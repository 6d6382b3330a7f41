"""Follow a job until it ends: live on a terminal, line by line in a pipe, silently for JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobqueue.cli import progress_view as view
from jobqueue.cli.failure import DetachedError
from jobqueue.cli.output import note, say
from jobqueue.delivery.queue import JobQueue
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.job import JobStatus
from jobqueue.model.progress import JobProgress

POLL_S = 0.25
LINE_EVERY_S = 1.0
PATIENCE_S = 60.0
"""How long an unreachable server is waited for."""

_COLOURS = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.COMPLETED_WITH_FAILURES: "yellow",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.PAUSED: "yellow",
}


class Display(Protocol):
    """Shows progress as it comes."""

    def show(self, progress: JobProgress) -> None:
        """Show where the job stands now."""

    def show_trouble(self, message: str) -> None:
        """Show that the progress cannot be read at the moment."""


class Quiet:
    """Shows nothing: the caller writes one document in the end."""

    def show(self, progress: JobProgress) -> None:
        """Nothing."""

    def show_trouble(self, message: str) -> None:
        """Nothing."""


class Lines:
    """A line for each change, at most one a second.

    Args:
        monotonic_s: The clock.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._mark: tuple[object, ...] = ()
        self._said_at_s = float("-inf")

    def show(self, progress: JobProgress) -> None:
        """Write a line if it tells something new; always for an ended job."""
        mark = view.change_mark(progress)
        is_early = self._monotonic_s() - self._said_at_s < LINE_EVERY_S
        if mark == self._mark or (is_early and not progress.job.status.is_terminal):
            return
        self._mark, self._said_at_s = mark, self._monotonic_s()
        say(view.plain_line(progress))

    def show_trouble(self, message: str) -> None:
        """Write it once."""
        if self._mark != (message,):
            self._mark = (message,)
            note(message)


class Screen:
    """A live display."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._last: JobProgress | None = None

    def show(self, progress: JobProgress) -> None:
        """Draw it anew."""
        self._last = progress
        self._live.update(draw(progress))

    def show_trouble(self, message: str) -> None:
        """Keep the last picture, with the trouble below."""
        trouble = Text(message, style="red")
        self._live.update(trouble if self._last is None else Group(draw(self._last), trouble))


def draw(progress: JobProgress) -> RenderableType:
    """The live picture of a job: title, bar, pace, quota, outcomes, what it waits for."""
    status = progress.job.status
    title = Text(view.headline(progress), style="bold", no_wrap=True, overflow="ellipsis")
    colour = _COLOURS.get(status, "cyan")
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_column(no_wrap=True)
    is_pulsing = not progress.total and not status.is_terminal
    bar.add_row(
        ProgressBar(
            total=None if is_pulsing else max(1, progress.total),
            completed=progress.done if progress.total else view.share(progress),
            pulse=is_pulsing,
            complete_style=colour,
            finished_style=colour,
        ),
        view.amount(progress),
        Text(str(status).replace("_", " "), style=colour),
    )
    lines = [view.pace(progress), f"quota {view.quota(progress)}" if progress.quota else "", view.outcomes(progress)]
    reason = view.waiting(progress)
    return Group(
        title, bar, *(Text(f"  {line}") for line in lines if line), *([Text(f"  {reason}", "yellow")] if reason else [])
    )


def follow(queue: JobQueue, job_id: int, *, is_json: bool) -> JobProgress:
    """Show the job's progress until it ends.

    Returns:
        The job as it ended.

    Raises:
        DetachedError: The person wants to see no more; the job goes on.
        NotFoundError: There is no such job.
        ServerUnavailableError: A server stayed away for a minute.
    """
    try:
        with _display(is_json=is_json) as display:
            for progress in _readings(queue, job_id, display):
                display.show(progress)
                if progress.job.status.is_terminal:
                    break
    except KeyboardInterrupt:
        raise DetachedError(job_id) from None
    if not is_json:
        for line in view.summary_lines(progress, queue.dead_letter_groups(job_id)):
            say(line)
    return progress


def _readings(queue: JobQueue, job_id: int, display: Display) -> Iterator[JobProgress]:
    """The progress, four times a second; a server that is away is waited for, once the job was seen."""
    seen_at_s: float | None = None
    while True:
        try:
            progress = queue.get_job_status(job_id)
        except ServerUnavailableError as error:
            if seen_at_s is None or time.monotonic() - seen_at_s > PATIENCE_S:
                raise
            display.show_trouble(f"{error.message} Trying again; the job itself is safe.")
        else:
            seen_at_s = time.monotonic()
            yield progress
        time.sleep(POLL_S)


@contextmanager
def _display(*, is_json: bool) -> Iterator[Display]:
    console = Console()
    if is_json:
        yield Quiet()
    elif sys.stdout.isatty() and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=8, redirect_stdout=False, redirect_stderr=False) as live:
            yield Screen(live)
    else:
        yield Lines()
