"""Commands about what runs: workers, the schema, cleanup, the scheduler, addresses, the version."""

from __future__ import annotations

import platform
import shlex

import click

from jobqueue.cli.command import examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import counted, emit, note, say, table
from jobqueue.cli.parameters import DURATION
from jobqueue.delivery import scheduler as delivery_scheduler
from jobqueue.settings import Settings
from jobqueue.version import VERSION


@click.command(epilog=examples("jobqueue workers"))
@json_option
def workers(is_json: bool) -> int:
    """List the RQ workers that are alive and what they do."""
    with open_queue() as queue:
        rows = queue.workers()
    if is_json:
        emit({"workers": rows})
    elif rows:
        shown = [
            row | {"queues": " ".join(row["queues"]), "name": str(row["name"])[:12], "pid": str(row["pid"])}
            for row in rows
        ]
        headings = {"name": "WORKER", "host": "HOST", "pid": "PID", "queues": "QUEUES", "state": "STATE", "job": "DOES"}
        table(shown, headings, right=("pid",))
    else:
        note("No worker is alive. Start one: rq worker high default low")
    return DONE


@click.command(epilog=examples("jobqueue migrate"))
@json_option
def migrate(is_json: bool) -> int:
    """Bring the database's schema up to date; safe to run at any time and from many places."""
    with open_queue() as queue:
        applied = queue.migrate()
    if is_json:
        emit({"applied": applied})
    else:
        for name in applied:
            say(f"applied {name}")
        if not applied:
            say("the schema is up to date")
    return DONE


@click.command(epilog=examples("jobqueue cleanup", "jobqueue cleanup --older-than 7d"))
@click.option("--older-than", type=DURATION, metavar="DURATION", help="Ended longer ago than this; default: 24h.")
@json_option
def cleanup(older_than: float | None, is_json: bool) -> int:
    """Delete jobs that ended some time ago; dead letters stay until somebody decides on them.

    A job stays as long as a limit of its provider still counts its requests, whatever --older-than says.
    """
    with open_queue() as queue:
        deleted = queue.cleanup_jobs(older_than_h=None if older_than is None else older_than / 3600)
    if is_json:
        emit({"deleted_jobs": deleted})
    else:
        say(f"{counted(len(deleted), 'job')} deleted")
    return DONE


@click.command(epilog=examples("jobqueue scheduler", "JOBQUEUE_LOG_FORMAT=json jobqueue scheduler"))
@json_option
def scheduler(is_json: bool) -> int:
    """Run the scheduler until it is told to stop; several may run, one leads. It logs to standard error."""
    code = delivery_scheduler.run(Settings.from_environ())
    if is_json:
        emit({"exit_code": code})
    return code


@click.command(epilog=examples('eval "$(jobqueue env)" && rq worker high default low', "jobqueue env --json"))
@json_option
def env(is_json: bool) -> int:
    """Print the servers' addresses for another shell, passwords included."""
    settings = Settings.from_environ()
    names = ("REDIS_URL", "RQ_REDIS_URL", "RQ_DASHBOARD_REDIS_URL", "DATABASE_URL")
    whole = settings.child_environment()
    addresses = {name: whole[name] for name in names}
    if is_json:
        emit(addresses)
    else:
        say("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in addresses.items()))
    return DONE


@click.command(epilog=examples("jobqueue version"))
@json_option
def version(is_json: bool) -> int:
    """Print the version."""
    if is_json:
        emit({"version": VERSION, "python": platform.python_version()})
    else:
        say(f"jobqueue {VERSION}")
    return DONE
