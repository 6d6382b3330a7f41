"""The program ``jobqueue``: all commands, and what becomes of their errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from jobqueue.cli import dead_letters, enqueue, jobs, limits, preflight, providers, servers, up, why
from jobqueue.cli.command import Group, Invocation, debug_option, examples
from jobqueue.cli.failure import BAD_USAGE, DONE, OUTPUT_CLOSED, report
from jobqueue.cli.output import OutputClosedError
from jobqueue.version import VERSION

_COMMANDS = (
    up.up,
    enqueue.enqueue,
    preflight.preflight,
    jobs.status,
    jobs.watch,
    why.why,
    jobs.list_jobs,
    jobs.items,
    jobs.pause,
    jobs.resume,
    jobs.cancel,
    jobs.retry,
    dead_letters.dead_letters,
    limits.limits,
    providers.providers,
    servers.workers,
    servers.scheduler,
    servers.migrate,
    servers.cleanup,
    servers.env,
    servers.version,
)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
    epilog=examples(
        "jobqueue up",
        "jobqueue enqueue enforcement --provider spotify --account demo \\",
        "    --operation unsave_tracks --items blocklist.csv --follow",
        "jobqueue enqueue rollback 42 --follow",
    ),
)
@click.version_option(VERSION, prog_name="jobqueue", message="%(prog)s %(version)s")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Run a million calls against somebody else's API: within its limits, resumable, reversible.

    Every command takes --json. Exit codes: 0 done, 1 the job failed or has failed items, 2 bad usage or input,
    3 a server cannot be reached, 4 a deadline cannot be met, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return BAD_USAGE
    return DONE


for _command in _COMMANDS:
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None, *, program: str = "jobqueue", command: click.Command = cli) -> int:
    """Run the program and return its exit code.

    Args:
        argv: The arguments; those of the process if None.
        program: What help and errors call it.
        command: Another command than the whole group.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    invocation = Invocation()
    try:
        code = command.main(arguments, prog_name=program, standalone_mode=False, obj=invocation)
        return code if isinstance(code, int) else DONE
    except OutputClosedError:
        return OUTPUT_CLOSED
    except (Exception, KeyboardInterrupt) as error:
        if invocation.is_debug:
            traceback.print_exc()
        try:
            return report(error, is_json="--json" in arguments)
        except OutputClosedError:
            return OUTPUT_CLOSED


if __name__ == "__main__":
    sys.exit(main())
