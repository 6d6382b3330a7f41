"""A change of limits: only what is given changes, all of it is checked before it is stored, the difference shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.backoff import ErrorKind, RetryPolicy
from jobqueue.model.breaker import BreakerConfig
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, ScopeKind
from jobqueue.model.window import WindowMode

OFF = "off"
"""Stands for no breaker."""


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """What is to become of the limits of one level; None leaves a value as it is.

    Attributes:
        kind: The level.
        name: The account, site or operation; empty for the default of the kind.
        windows: Requests, such as ``10/second; 100/minute``; the empty string for no limit.
        unit_windows: Cost units, such as ``10000/day``; the empty string for no limit.
        mode: ``auto``, ``strict`` or ``eager``.
        max_concurrency: Most requests in flight at once; 0 for no cap.
        cooldown_s: Pause after a throttle that names no time.
        breaker: Fields of `BreakerConfig` by name, or `OFF`.
        learned_floor: Requests a window never falls below by learning.
        backoff: Fields of `RetryPolicy` by kind of error; None in place of them returns to the worker's own policy.
    """

    kind: ScopeKind = ScopeKind.PROVIDER
    name: str = ""
    windows: str | None = None
    unit_windows: str | None = None
    mode: str | None = None
    max_concurrency: int | None = None
    cooldown_s: float | None = None
    breaker: Mapping[str, Any] | str | None = None
    learned_floor: int | None = None
    backoff: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given."""
        return all(getattr(self, f.name) in (None, {}) for f in fields(self) if f.name not in ("kind", "name"))

    def base(self, limits: ProviderLimits) -> RateLimitConfig:
        """What it starts from: what the level has, or what holds for it until now."""
        own = limits.config(self.kind, self.name)
        if own is not None:
            return own
        # What was never limited starts without a limit; the provider's own still holds beside it.
        default = limits.config(self.kind) or RateLimitConfig(self.kind, scope_name=self.name)
        return replace(default, scope_name=self.name)

    def applied(self, limits: ProviderLimits) -> RateLimitConfig:
        """The configuration of the level after the change.

        Raises:
            ConfigurationError: A value is out of range or cannot be read; the message names it.
        """
        base = self.base(limits)
        given: dict[str, Any] = {
            "windows": self.windows,
            "unit_windows": self.unit_windows,
            "mode": None if self.mode is None else read_mode(self.mode),
            "cooldown_default_s": self.cooldown_s,
            "learned_floor": self.learned_floor,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.max_concurrency is not None:
            given["max_concurrency"] = self.max_concurrency or None
        if self.breaker is not None:
            given["breaker"] = None if self.breaker == OFF else read_breaker(self.breaker, base.breaker)
        if self.backoff:
            given["backoff"] = _backoff(self.backoff, base.backoff)
        return replace(base, **given)


def read_mode(text: str) -> WindowMode:
    """The mode of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return WindowMode(text)
    except ValueError:
        raise ConfigurationError(f"mode {text!r} is unknown.", remedy=f"Use one of: {', '.join(WindowMode)}.") from None


def read_breaker(values: Mapping[str, Any] | str, base: BreakerConfig | None) -> BreakerConfig:
    """*base* with *values* in place of its own; texts are read as numbers where numbers belong.

    Raises:
        ConfigurationError: A name is unknown, or a value is none or out of range.
    """
    base = base or BreakerConfig()
    if isinstance(values, str):
        raise ConfigurationError(f"breaker {values!r} cannot be read.", remedy=f"Give its fields, or {OFF!r}.")
    known = {f.name: getattr(base, f.name) for f in fields(BreakerConfig)}
    given = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"breaker: {name} is unknown.", remedy=f"{hint}There are: {', '.join(known)}.")
        given[name] = _like(value, known[name], name)
    return replace(base, **given)


def _like(value: Any, model: Any, name: str) -> Any:
    """*value* as what *model* is."""
    kind = float if model is None else type(model)
    try:
        if kind is bool:
            return {"yes": True, "true": True, "no": False, "false": False}[str(value).lower()]
        if kind is int and not isinstance(value, str):
            if int(value) != value:
                raise ValueError
            return int(value)
        return kind(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        words = f"one of: {', '.join(map(str, type(model)))}" if isinstance(model, StrEnum) else "a number"
        words = {int: "a whole number", bool: "yes or no"}.get(kind, words)
        raise ConfigurationError(f"breaker: {name} {value!r} cannot be read.", remedy=f"Use {words}.") from None


def _backoff(
    changes: Mapping[str, Mapping[str, Any] | None], base: Mapping[ErrorKind, RetryPolicy]
) -> Mapping[ErrorKind, RetryPolicy]:
    after = dict(base)
    for name, values in changes.items():
        try:
            kind = ErrorKind(name)
        except ValueError:
            raise ConfigurationError(
                f"backoff {name!r} is no kind of error.", remedy=f"There are: {', '.join(ErrorKind)}."
            ) from None
        if values is None:
            after.pop(kind, None)
        else:
            after[kind] = RetryPolicy.of_kind(kind, values)
    return after


def describe(config: RateLimitConfig) -> dict[str, Any]:
    """*config* as JSON, by the names its values are set by."""
    breaker = config.breaker
    return {
        "windows": config.windows,
        "unit_windows": config.unit_windows,
        "mode": str(config.mode),
        "max_concurrency": config.max_concurrency,
        "cooldown_s": config.cooldown_default_s,
        "learned_floor": config.learned_floor,
        "breaker": None if breaker is None else {f.name: getattr(breaker, f.name) for f in fields(breaker)},
        "backoff": {str(kind): policy.as_dict(kind) for kind, policy in sorted(config.backoff.items())},
    }


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two descriptions, by dotted name, such as ``breaker.open_s``: before and after."""
    old, new = dict(_flat(before)), dict(_flat(after))
    if new.get("breaker") == OFF:
        old = {name: value for name, value in old.items() if not name.startswith("breaker.")}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: (old.get(name), new.get(name)) for name in names}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name == "breaker":
            yield name, OFF if value is None else "on"
        if name in ("breaker", "backoff"):
            yield from ((f"{name}.{inner}", of_inner) for inner, of_inner in (value or {}).items())
        else:
            yield name, value


def check_operation(name: str, known: Mapping[str, Any], provider: str) -> None:
    """Make sure that *provider* has the operation that a limit names.

    Raises:
        InvalidInputError: It has none of that name.
    """
    if known and name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidInputError(
            f"operation {name!r} is unknown to {provider}.",
            remedy=f"{hint}There are: {', '.join(sorted(known))}.",
            field="operation",
        )


def check_costs(config: RateLimitConfig, costs: Mapping[str, int]) -> None:
    """Make sure that one request fits each window on units that it must pass.

    Args:
        config: The limits.
        costs: What the dearest request of an operation costs, by operation.

    Raises:
        ConfigurationError: One never fits, so that its jobs would fail.
    """
    for operation, cost_units in costs.items():
        if config.scope_kind is ScopeKind.OPERATION and operation != config.scope_name:
            continue
        for window in config.parsed_windows():
            if window.is_weighted and cost_units > window.limit:
                raise ConfigurationError(
                    f"unit_windows {config.unit_windows!r}: one request of {operation} costs {cost_units} units and"
                    f" never fits {window.text}.",
                    remedy=f"Allow at least {cost_units}.",
                )


def level_named(account: str = "", operation: str = "", account_level: bool = False) -> tuple[ScopeKind, str]:
    """The level that is meant: an account's, an operation's, the default for accounts, or else the provider's.

    Raises:
        InvalidInputError: More than one is named.
    """
    if bool(account) + bool(operation) + account_level > 1:
        raise InvalidInputError(
            "limits of one level are changed at a time.",
            remedy="Give an account, an operation, or the default for accounts.",
            field="operation" if operation else "account",
        )
    if operation:
        return ScopeKind.OPERATION, operation
    return ScopeKind.ACCOUNT if account or account_level else ScopeKind.PROVIDER, account
