"""Commands about the limits of providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from jobqueue.cli.command import Group, examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.limit_values import BACKOFF, BREAKER, CAP
from jobqueue.cli.output import cell, clean, counted, duration, emit, say, table
from jobqueue.cli.parameters import DURATION, SIZES
from jobqueue.engine.limits import LimitsChanged
from jobqueue.model.limit import WindowMode

_MOST_OVERRIDES = 20


def level_options(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--account`` (also ``--site``) and ``--operation``, which name one level below a provider."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        account = click.option(
            "--account", "--site", "account", default="", metavar="NAME", help=f"{what} one account, or site."
        )
        operation = click.option(
            "--operation", default="", metavar="NAME", help=f"{what} one operation, by all accounts."
        )
        return account(operation(command))

    return add


@click.group("limits", cls=Group)
def limits() -> None:
    """Show and change what may be sent to a provider."""


@limits.command("show", epilog=examples("jobqueue limits show spotify", "jobqueue limits show spotify --account demo"))
@click.argument("provider")
@level_options("Show also what is left for")
@json_option
def show_limits(provider: str, account: str, operation: str, is_json: bool) -> int:
    """Show a provider's limits and how far they are used up."""
    with open_queue() as queue:
        view = queue.limits(provider, account, operation).as_dict()
    if is_json:
        emit(view)
        return DONE
    for level, config in view["configured"].items():
        say(f"{clean(provider)}, each {level}: {_config(config)}")
    for override in view["overrides"][:_MOST_OVERRIDES]:
        say(f"{clean(override['level'])}: {_config(override['limits'])}")
    if len(view["overrides"]) > _MOST_OVERRIDES:
        say(f"and {counted(len(view['overrides']) - _MOST_OVERRIDES, 'more override')}: --json lists them all")
    for kind, policy in view["configured"].get("provider", {}).get("backoff", {}).items():
        say(f"backoff after {kind}: {_backoff(policy)}")
    if not view["configured"]:
        say(f"{clean(provider)}: no limits")
    if view["windows"]:
        table(
            [row | {"resets": duration(row["resets_in_s"]) if row["resets_in_s"] else "-"} for row in view["windows"]],
            {
                "scope": "SCOPE",
                "window": "WINDOW",
                "used": "USED",
                "in_flight": "IN FLIGHT",
                "remaining": "LEFT",
                "resets": "ALL FREE IN",
            },
            right=("used", "in_flight", "remaining"),
        )
    for breaker in view["breakers"]:
        probes = f", probes in {duration(breaker['open_remaining_s'])}" if breaker["open_remaining_s"] else ""
        say(f"breaker of {clean(breaker['scope'])}: {breaker['state'].replace('_', '-')}{probes}")
    for pause in view["cooldowns"]:
        say(f"pause of {clean(pause['scope'])}: {clean(pause['reason'])}, lifts in {duration(pause['remaining_s'])}")
    for operation, health in view["batch_health"].items():
        if health < 1:
            say(f"batches of {clean(operation)} are cut to {health:.0%} because large ones failed")
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
    return _backoff(value) if name.startswith("backoff.") else cell(value)


def _backoff(policy: dict[str, Any]) -> str:
    tries = f", {policy['max_attempts']} tries" if "max_attempts" in policy else ""
    return f"{policy['jitter']} jitter from {duration(policy['base_s'])} up to {duration(policy['cap_s'])}{tries}"


def _config(config: dict[str, Any]) -> str:
    words = [config["windows"] or "any number of requests"]
    if config["unit_windows"]:
        words.append(f"{config['unit_windows']} units")
    if config["max_concurrency"]:
        words.append(f"{config['max_concurrency']} at once")
    return clean(f"{', '.join(words)} ({config['mode']})")
