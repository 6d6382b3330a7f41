"""What the demo writes: numbered steps, remarks, checks that hold or not, a job's progress as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobqueue.cli.watching import POLL_S, Display, Lines, Screen
from jobqueue.delivery.queue import JobQueue
from jobqueue.model.progress import JobProgress

STEPS = 7


class Teller:
    """Writes to the terminal, or plain lines to a pipe; remembers whether every check held."""

    def __init__(self) -> None:
        self.has_failed = False
        self._console = Console(highlight=False, soft_wrap=True)
        self._step = 0
        self._started_s = time.monotonic()

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        passed_s = time.monotonic() - self._started_s
        self._say(f"\n{self._step}/{STEPS} {title}", "bold cyan", f"   {passed_s:.0f} s")

    def remark(self, text: str, style: str = "") -> None:
        """Write a line, above the live display if there is one."""
        self._say(f"    {text}", style)

    def command(self, text: str) -> None:
        """Write a command that is about to run."""
        self._say(f"    $ {text}", "bold")

    def check(self, is_held: bool, text: str) -> None:
        """Write a check's result."""
        self.has_failed |= not is_held
        self._say(f"    {'✓' if is_held else '✗ NOT TRUE:'} {text}", "green" if is_held else "bold red")

    def follow(self, queue: JobQueue, job_id: int) -> JobProgress:
        """Show the job's progress, as ``jobqueue watch`` does, until it ends."""
        with self._display() as display:
            while True:
                progress = queue.get_job_status(job_id)
                display.show(progress)
                if progress.job.status.is_terminal:
                    return progress
                time.sleep(POLL_S)

    @contextmanager
    def _display(self) -> Iterator[Display]:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            with Live(
                console=self._console, refresh_per_second=8, redirect_stdout=False, redirect_stderr=False
            ) as live:
                yield Screen(live)
        else:
            yield Lines()

    def _say(self, text: str, style: str = "", after: str = "") -> None:
        # Text, not markup: keys and messages may hold brackets.
        self._console.print(Text.assemble((text, style), (after, "dim")))
        sys.stdout.flush()
