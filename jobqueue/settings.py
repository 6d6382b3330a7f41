"""What the environment says, read once; nothing else in the project reads it.

``REDIS_URL`` and ``DATABASE_URL`` come first. What is missing comes from the local stack (`jobqueue.local`) running in
this directory or one above it, found through its ``.jobqueue/stack.json``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from jobqueue.bounds import LEASE_MARGIN_S, LONGEST_EFFECT_S, LONGEST_SLICE_S, MOST_IN_FLIGHT
from jobqueue.dsn import MASK, mask_url, postgres_dsn, redis_dsn
from jobqueue.errors import ConfigurationError

__all__ = ["ProviderOverride", "Settings", "child_environment", "mask_url", "process_start_id"]

STACK_FILE = Path(".jobqueue") / "stack.json"
PREFIX = "JOBQUEUE_"
ADDRESSES: tuple[str, ...] = ("REDIS_URL", "DATABASE_URL")
_OVERRIDE = re.compile(r"JOBQUEUE_(\w+?)_(BASE_URL|TOKEN_URL|ACCESS_TOKEN|ACCOUNT)")


@dataclass(frozen=True)
class ProviderOverride:
    """Where a provider is reached and with what token, when the environment says so.

    Args:
        base_url: Replaces the provider's API address.
        token_url: Replaces the address that refreshes tokens.
        access_token: Replaces the account's token; a secret.
        account: The account that the token belongs to; None lets it stand for every account.
    """

    base_url: str | None = None
    token_url: str | None = None
    access_token: str | None = None
    account: str | None = None

    def __repr__(self) -> str:
        token = MASK if self.access_token else None
        return (
            f"ProviderOverride(base_url={self.base_url!r}, token_url={self.token_url!r}, access_token={token!r},"
            f" account={self.account!r})"
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything configurable from outside.

    Args:
        redis_url: Where Redis or Valkey is; may hold a password.
        database_url: Where Postgres is, as an address or a libpq keyword string; may hold a password.
        source: Whence the two came: ``environment``, or ``local stack`` if that supplied at least one.
        in_flight: Requests a slice keeps open; None for the job type's own default.
        slice_s: How long one RQ execution works before it yields.
        lease_s: How long a claimed part belongs to its holder without a heartbeat.
        heartbeat_s: How often a holder renews its lease.
        sweep_s: How often the sweeper looks for due parts that nobody was told of.
        log_level: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        log_format: ``console`` or ``json``.
        owner: Whose idempotency keys these are.
        retention_h: Hours a finished job is kept.
        overrides: By provider, upper case.
    """

    redis_url: str
    database_url: str
    source: str = "environment"
    in_flight: int | None = None
    slice_s: float = 20.0
    lease_s: float = 20.0
    heartbeat_s: float = 5.0
    sweep_s: float = 2.0
    log_level: str = "INFO"
    log_format: str = "console"
    owner: str = ""
    retention_h: float = 24.0
    overrides: tuple[tuple[str, ProviderOverride], ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, *, cwd: Path | None = None) -> Settings:
        """Read the settings.

        Args:
            environ: The environment; the process's own if None.
            cwd: Where to look for a local stack; the working directory if None.

        Raises:
            ConfigurationError: A variable is missing, misspelt or wrong.
        """
        everything = os.environ if environ is None else environ
        # An empty variable is how many tools say "not set".
        given = {name: text.strip() for name, text in everything.items() if text.strip()}
        _refuse_near_misses(given)
        values = {field: read(name, given[name]) for name, (field, read) in _VARIABLES.items() if name in given}
        addresses = {name: given[name] for name in ADDRESSES if name in given}
        missing = [name for name in ADDRESSES if name not in given]
        source = "environment"
        if missing:
            source = "local stack"
            addresses = _local_stack(cwd or Path.cwd(), missing=missing) | addresses
        settings = cls(
            redis_url=redis_dsn(addresses["REDIS_URL"]),
            database_url=postgres_dsn(addresses["DATABASE_URL"]),
            source=source,
            overrides=_overrides(given),
            **values,
        )
        _check_lease(settings)
        return settings

    def provider_override(self, name: str) -> ProviderOverride:
        """Return what the environment says about the provider *name*; all None if nothing."""
        return dict(self.overrides).get(re.sub(r"\W", "_", name).upper(), ProviderOverride())

    def child_environment(self) -> dict[str, str]:
        """Return the environment for a process that shall use these servers, with the names RQ's own programs know."""
        redis = {"REDIS_URL": self.redis_url, "RQ_REDIS_URL": self.redis_url, "RQ_DASHBOARD_REDIS_URL": self.redis_url}
        return child_environment(**redis, DATABASE_URL=self.database_url)

    def __repr__(self) -> str:
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown |= {"redis_url": mask_url(self.redis_url), "database_url": mask_url(self.database_url)}
        return f"Settings({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with *changes*, the programs installed beside this Python first on its path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, **changes}


def process_start_id(pid: int) -> str | None:
    """Return what tells this process from another of the same id, or None if none runs (a zombie does not).

    Source:
        proc_pid_stat(5), field 22: clock ticks since boot, which no change of the wall clock moves.
    """
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    else:  # noqa: RET505 — mypy takes what follows a return on this platform for a mistake
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.Error:
            return None


def _local_stack(cwd: Path, *, missing: list[str]) -> dict[str, str]:
    """Return the addresses of the running local stack nearest to *cwd*."""
    why = ""
    for directory in (cwd.resolve(), *cwd.resolve().parents):
        file = directory / STACK_FILE
        try:
            # Another user's file could send our jobs to their servers.
            if file.stat().st_uid not in (os.geteuid(), 0):
                why = f" {file} belongs to another user and is not used."
                continue
            content = json.loads(file.read_text())
            pid, start_id = int(content["pid"]), str(content["start_id"])
            addresses = {"REDIS_URL": str(content["redis_url"]), "DATABASE_URL": str(content["database_url"])}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            why = f" {file} may not be read by this user."
            continue
        except (OSError, ValueError, KeyError, TypeError):
            why = f" {file} is damaged."
            continue
        if process_start_id(pid) == start_id:
            return addresses
        why = f" The local stack of {directory} is not running any more."
    names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
    raise ConfigurationError(
        f"{names} {verb} not set and no local stack runs here.{why}",
        remedy="Start one with 'jobqueue up', or set REDIS_URL=redis://host:6379/0 and DATABASE_URL=postgresql://user:password@host:5432/database.",
    )


def _check_lease(settings: Settings) -> None:
    """A lease must outlast a late heartbeat, and a heartbeat with the longest request after it."""
    lease_s, heartbeat_s = settings.lease_s, settings.heartbeat_s
    if heartbeat_s * 2 > lease_s:
        raise ConfigurationError(
            f"JOBQUEUE_HEARTBEAT_S ({heartbeat_s:g}) is over half JOBQUEUE_LEASE_S ({lease_s:g}).",
            remedy="One late heartbeat would lose the lease: make it at most half.",
        )
    shortest_s = heartbeat_s + LONGEST_EFFECT_S + LEASE_MARGIN_S
    if lease_s < shortest_s:
        raise ConfigurationError(
            f"JOBQUEUE_LEASE_S ({lease_s:g}) is too short for JOBQUEUE_HEARTBEAT_S ({heartbeat_s:g}).",
            remedy=f"A request may take {LONGEST_EFFECT_S:g} s: make the lease at least {shortest_s:g}.",
        )


def _overrides(given: Mapping[str, str]) -> tuple[tuple[str, ProviderOverride], ...]:
    found: dict[str, dict[str, str]] = {}
    for variable, value in sorted(given.items()):
        if match := _OVERRIDE.fullmatch(variable):
            provider, field = match[1].upper(), match[2].lower()
            if field.endswith("_url"):
                _check_web_address(variable, value)
            found.setdefault(provider, {})[field] = value
    return tuple((provider, ProviderOverride(**fields)) for provider, fields in found.items())


def _check_web_address(variable: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigurationError(
            f"{variable} is {mask_url(value)!r}, not a web address.",
            remedy="Write http://host[:port][/path] or https://….",
        )


def _refuse_near_misses(given: Mapping[str, str]) -> None:
    """Refuse a name that is almost one of ours; any other may belong to somebody's own handler."""
    for variable in given:
        if not variable.startswith(PREFIX) or variable in _VARIABLES or _OVERRIDE.fullmatch(variable):
            continue
        words = variable.removeprefix(PREFIX).split("_")
        providers = {"_".join(words[:length]) for length in range(1, len(words))}
        endings = ("BASE_URL", "TOKEN_URL", "ACCESS_TOKEN", "ACCOUNT")
        known = [*_VARIABLES, *(f"{PREFIX}{provider}_{ending}" for provider in providers for ending in endings)]
        if near := difflib.get_close_matches(variable, known, 1, cutoff=0.88):
            raise ConfigurationError(f"{variable} is not a setting.", remedy=f"Did you mean {near[0]}?")


def _number(*, above: float, at_most: float) -> Callable[[str, str], float]:
    def read(variable: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value <= at_most:
            raise ConfigurationError(
                f"{variable} is {text!r}.", remedy=f"Give a number above {above:g}, at most {at_most:g}."
            )
        return value

    return read


def _count(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MOST_IN_FLIGHT):
        raise ConfigurationError(f"{variable} is {text!r}.", remedy=f"Give a whole number from 1 to {MOST_IN_FLIGHT}.")
    return int(text)


def _choice(*allowed: str) -> Callable[[str, str], str]:
    def read(variable: str, text: str) -> str:
        for choice in allowed:
            if text.lower() == choice.lower():
                return choice
        raise ConfigurationError(f"{variable} is {text!r}.", remedy=f"Give one of {', '.join(allowed)}.")

    return read


_VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "JOBQUEUE_IN_FLIGHT": ("in_flight", _count),
    "JOBQUEUE_SLICE_S": ("slice_s", _number(above=0, at_most=LONGEST_SLICE_S)),
    "JOBQUEUE_LEASE_S": ("lease_s", _number(above=0, at_most=3600)),
    "JOBQUEUE_HEARTBEAT_S": ("heartbeat_s", _number(above=0, at_most=1800)),
    "JOBQUEUE_SWEEP_S": ("sweep_s", _number(above=0, at_most=3600)),
    "JOBQUEUE_LOG_LEVEL": ("log_level", _choice("DEBUG", "INFO", "WARNING", "ERROR")),
    "JOBQUEUE_LOG_FORMAT": ("log_format", _choice("console", "json")),
    "JOBQUEUE_OWNER": ("owner", lambda _, text: text),
    "JOBQUEUE_RETENTION_H": ("retention_h", _number(above=0, at_most=24 * 366 * 10)),
}
