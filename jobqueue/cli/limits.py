"""Commands about the limits of providers."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.cli.command import Group, examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.limit_control import hold_breaker, reset_limits
from jobqueue.cli.limit_values import BACKOFF, BREAKER, CAP, level_options
from jobqueue.cli.limit_view import backoff_words, describe_configured, describe_state
from jobqueue.cli.output import cell, clean, emit, say
from jobqueue.cli.parameters import DURATION, SIZES
from jobqueue.engine.limits import LimitsChanged
from jobqueue.model.limit import WindowMode


@click.group("limits", cls=Group)
def limits() -> None:
    """Show and change what may be sent to a provider."""


@limits.command("show", epilog=examples("jobqueue limits show spotify", "jobqueue limits show spotify --account demo"))
@click.argument("provider")
@level_options("Show also what is left for")
@json_option
def show_limits(provider: str, account: str, operation: str, is_json: bool) -> int:
    """Show a provider's limits and where they stand: used, in flight, left, learned, paused, and who waits.

    Lines without news are left out; --json has everything. Who waits is listed in the order of the line.
    """
    with open_queue() as queue:
        view = queue.limits(provider, account, operation).as_dict()
    if is_json:
        emit(view)
        return DONE
    describe_configured(provider, view)
    describe_state(view)
    return DONE


@limits.command(
    "set",
    epilog=examples(
        "jobqueue limits set spotify --windows '10/second; 100/minute'",
        "jobqueue limits set spotify --account-level --windows '30/minute'",
        "jobqueue limits set spotify --account team-7 --windows '300/minute' --dry-run",
        "jobqueue limits set youtube_music --operation add_to_playlist --unit-windows '5000/day'",
        "jobqueue limits set spotify --breaker failure_rate=0.5,open_s=15 --backoff outage=full:1:300",
        "jobqueue limits set spotify --batch unsave_tracks=1,20,40",
    ),
)
@click.argument("provider")
@level_options("Give limits of its own to")
@click.option("--account-level", is_flag=True, help="Set what holds for each account instead of the whole provider.")
@click.option("--windows", metavar="TEXT", help="Requests allowed, such as '10/second; 100/minute'; '' for no limit.")
@click.option("--unit-windows", metavar="TEXT", help="Cost units allowed, such as '10000/day'.")
@click.option("--mode", type=click.Choice([str(mode) for mode in WindowMode]), help="When a request stops counting.")
@click.option("--max-concurrency", type=CAP, metavar="N|none", help="Most requests under way at once.")
@click.option(
    "--cooldown",
    "cooldown_s",
    type=DURATION,
    metavar="TIME",
    help="Pause after a throttle without a time, such as 30s.",
)
@click.option(
    "--breaker",
    type=BREAKER,
    metavar="FIELD=VALUE,…|off",
    help="When it opens and closes, such as failure_rate=0.5,open_s=15.",
)
@click.option(
    "--floor",
    "learned_floor",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests a window keeps, however little is learned.",
)
@click.option(
    "--backoff",
    type=BACKOFF,
    multiple=True,
    metavar="KIND=JITTER:BASE:CAP[:ATTEMPTS]",
    help="How outage, unknown_outcome, item or bug is tried again, in seconds; KIND=default for the workers' own way.",
)
@click.option(
    "--batch", type=SIZES, metavar="OPERATION=MIN,OPTIMAL,MAX", help="Batch sizes of an operation; * stands for all."
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Check and show the difference, change nothing.")
@json_option
def set_limits(provider: str, is_json: bool, backoff: tuple[tuple[str, Any], ...], **changes: Any) -> int:
    """Change a provider's limits; what is not given stays. Workers follow with their next request.

    Limits of one account, site or operation begin as what held for it until then. An account's are in place of the
    default for accounts; an operation's are beside all others.
    """
    if len(dict(backoff)) < len(backoff):
        raise click.UsageError("--backoff names one kind of error twice.", click.get_current_context())
    with open_queue() as queue:
        changed = queue.set_limits(provider, backoff=dict(backoff), **changes)
    _tell(provider, changed, is_json=is_json, is_dry_run=changes["is_dry_run"])
    return DONE


@limits.command(
    "remove",
    epilog=examples(
        "jobqueue limits remove spotify --account team-7",
        "jobqueue limits remove youtube_music --operation add_to_playlist",
    ),
)
@click.argument("provider")
@level_options("Drop the limits of")
@json_option
def remove_limits(provider: str, account: str, operation: str, is_json: bool) -> int:
    """Drop the limits that an account, a site or an operation has of its own; the default holds again."""
    with open_queue() as queue:
        removed = queue.remove_limits(provider, account=account, operation=operation)
    _tell(provider, removed, is_json=is_json)
    return DONE


limits.add_command(reset_limits)
limits.add_command(hold_breaker)


def _tell(provider: str, changed: LimitsChanged, *, is_json: bool, is_dry_run: bool = False) -> None:
    if is_json:
        emit({"provider": provider, "is_dry_run": is_dry_run} | changed.as_dict())
        return
    if changed.version is None and not (is_dry_run and changed.changed):
        say("nothing changed: it was so already" if not is_dry_run else "nothing would change: it is so already")
        return
    if changed.level != provider:
        say(f"{clean(changed.level)}:")
    if not changed.changed:
        say("as before, and from now on whatever the default becomes")
    for name, (old, new) in changed.changed.items():
        say(f"{clean(name)}: {_value(name, old)} → {_value(name, new)}")
    if is_dry_run:
        say("nothing was stored: --dry-run")


def _value(name: str, value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"  # a table's one decimal would hide what changed
    return backoff_words(value) if name.startswith("backoff.") else cell(value)
