"""What all commands share: groups that know what was meant, ``--json``, a job's id, the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import click

from jobqueue.delivery.queue import JobQueue
from jobqueue.settings import Settings

C = TypeVar("C", bound=Callable[..., Any])

MOST_AT_ONCE = 1000


@dataclass
class Invocation:
    """One run of the program.

    Attributes:
        is_debug: Whether errors are shown with their traceback.
    """

    is_debug: bool = False


class Group(click.Group):
    """A group that names the command that was probably meant and keeps the order of definition."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Help in place of an error would not say what was wrong.
        super().__init__(*args, **({"no_args_is_help": False} | settings))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first of *args* names.

        Raises:
            click.UsageError: There is none.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, self.commands, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(self.commands)}."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of definition."""
        return list(self.commands)


def open_queue() -> JobQueue:
    """The queue that the environment, or the local stack here, names."""
    return JobQueue(Settings.from_environ())


def debug_option(command: C) -> C:
    """Add ``--debug``, which is also ``JOBQUEUE_DEBUG=1``."""

    def note(ctx: click.Context, param: click.Parameter, is_debug: bool) -> None:
        if is_debug:
            ctx.ensure_object(Invocation).is_debug = True

    option = click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        envvar="JOBQUEUE_DEBUG",
        callback=note,
        help="Show where an error came from; or JOBQUEUE_DEBUG=1.",
    )
    return option(command)


def json_option(command: C) -> C:
    """Add ``--json``, given as *is_json*, and ``--debug``."""
    option = click.option("--json", "is_json", is_flag=True, help="One JSON document on standard output, nothing else.")
    return option(debug_option(command))


def job_argument(command: C) -> C:
    """Add the argument JOB_ID."""
    return click.argument("job_id", metavar="JOB_ID", type=click.IntRange(min=1, max=2**63 - 1))(command)


def count_option(default: int) -> Callable[[C], C]:
    """Add ``--count``."""
    return click.option(
        "--count",
        type=click.IntRange(1, MOST_AT_ONCE),
        default=default,
        show_default=True,
        help="Most rows to show.",
    )


def examples(*lines: str) -> str:
    """An epilog that keeps its line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
