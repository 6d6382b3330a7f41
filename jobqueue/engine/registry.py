"""Handlers and providers, found by entry point, so that any installed package may add one."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import cast

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.handler import JobHandler, Provider

HANDLER_GROUP = "jobqueue.handlers"
PROVIDER_GROUP = "jobqueue.providers"


def handler_names() -> list[str]:
    """The job types installed here."""
    return sorted({entry.name for entry in entry_points(group=HANDLER_GROUP)})


def provider_names() -> list[str]:
    """The providers installed here."""
    return sorted({entry.name for entry in entry_points(group=PROVIDER_GROUP)})


def handler(job_type: str) -> JobHandler:
    """The handler of *job_type*.

    Raises:
        InvalidInputError: No installed package brings that job type.
        ConfigurationError: Its entry point cannot be loaded.
    """
    return cast(JobHandler, _load(HANDLER_GROUP, job_type, "type"))


def provider(name: str) -> Provider:
    """The provider of that name.

    Raises:
        InvalidInputError: No installed package brings that provider.
        ConfigurationError: Its entry point cannot be loaded.
    """
    return cast(Provider, _load(PROVIDER_GROUP, name, "provider"))


def preload() -> None:
    """Load everything now: in a worker before it forks, so that its horses need not."""
    for name in handler_names():
        handler(name)
    for name in provider_names():
        provider(name)


@cache
def _load(group: str, name: str, what: str) -> object:
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidInputError(
            f"{what} {name!r} is unknown.", remedy=f"{hint}Installed: {', '.join(sorted(found))}.", field=what
        )
    try:
        return found[name].load()()
    except Exception as error:
        raise ConfigurationError(
            f"{what} {name!r} ({found[name].value}) cannot be loaded: {type(error).__name__}: {error}",
            remedy="Reinstall the package that brings it.",
        ) from error
