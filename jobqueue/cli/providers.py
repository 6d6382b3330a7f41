"""Commands about where providers are reached."""

from __future__ import annotations

import click

from jobqueue.cli.command import Group, examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.output import cell, emit, note, say, table


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
