"""Commands about providers and their limits."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.cli.command import Group, examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import cell, clean, duration, emit, note, say, table
from jobqueue.cli.parameters import SIZES


@click.group("limits", cls=Group)
def limits() -> None:
    """Show and change what may be sent to a provider."""


@limits.command("show", epilog=examples("jobqueue limits show spotify", "jobqueue limits show spotify --account demo"))
@click.argument("provider")
@click.option("--account", default="", metavar="NAME", help="Show what one account of it may send.")
@json_option
def show_limits(provider: str, account: str, is_json: bool) -> int:
    """Show a provider's limits and how far they are used up."""
    with open_queue() as queue:
        view = queue.limits(provider, account).as_dict()
    if is_json:
        emit(view)
        return DONE
    for level, config in view["configured"].items():
        say(f"{clean(provider)}, each {level}: {_config(config)}")
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
        "jobqueue limits set spotify --batch unsave_tracks=1,20,40",
    ),
)
@click.argument("provider")
@click.option("--windows", metavar="TEXT", help="Requests allowed, such as '10/second; 100/minute'; '' for no limit.")
@click.option("--unit-windows", metavar="TEXT", help="Cost units allowed, such as '10000/day'.")
@click.option("--max-concurrency", type=click.IntRange(min=1), metavar="N", help="Most requests under way at once.")
@click.option("--account-level", is_flag=True, help="Set what holds for each account instead of the whole provider.")
@click.option(
    "--batch", type=SIZES, metavar="OPERATION=MIN,OPTIMAL,MAX", help="Batch sizes of an operation; * stands for all."
)
@json_option
def set_limits(provider: str, is_json: bool, **changes: Any) -> int:
    """Change a provider's limits; what is not given stays. Workers follow with their next slice."""
    with open_queue() as queue:
        before, after = queue.set_limits(provider, **changes)
    if is_json:
        emit({"provider": provider, "before": dict(before), "after": dict(after)})
        return DONE
    changed = [name for name in after if before.get(name) != after[name]]
    if not changed:
        say("nothing changed: it was so already")
    for name in changed:
        old = "not set" if before.get(name) is None else cell(before[name])
        say(f"{name}: {old} → {cell(after[name])}")
    return DONE


@click.group("providers", cls=Group)
def providers() -> None:
    """Show and change where providers are reached."""


@providers.command("list", epilog=examples("jobqueue providers list"))
@json_option
def list_providers(is_json: bool) -> int:
    """List the configured providers."""
    with open_queue() as queue:
        rows = queue.providers()
    if is_json:
        emit({"providers": rows})
    elif rows:
        table(rows, {"name": "PROVIDER", "base_url": "BASE URL", "token_url": "TOKEN URL"})
    else:
        note("No provider is configured.")
    return DONE


@providers.command("set", epilog=examples("jobqueue providers set spotify --base-url http://127.0.0.1:8700"))
@click.argument("name")
@click.option("--base-url", metavar="URL", help="Where its API is.")
@click.option("--token-url", metavar="URL", help="Where its tokens are refreshed.")
@json_option
def set_provider(name: str, base_url: str | None, token_url: str | None, is_json: bool) -> int:
    """Change where a provider is reached, for example to let another server stand in for it."""
    if base_url is None and token_url is None:
        raise click.UsageError("Nothing is to be changed: give --base-url or --token-url.", click.get_current_context())
    with open_queue() as queue:
        row = queue.set_provider(name, base_url=base_url, token_url=token_url)
    if is_json:
        emit(row)
    else:
        say(f"{row['name']}: base URL {cell(row['base_url'])}, token URL {cell(row['token_url'])}")
    return DONE


def _config(config: dict[str, Any]) -> str:
    words = [config["windows"] or "any number of requests"]
    if config["unit_windows"]:
        words.append(f"{config['unit_windows']} units")
    if config["max_concurrency"]:
        words.append(f"{config['max_concurrency']} at once")
    return clean(f"{', '.join(words)} ({config['mode']})")
