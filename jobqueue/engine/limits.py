"""Limits shown and changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jobqueue.engine import registry
from jobqueue.engine.context import as_request
from jobqueue.engine.enqueue import check_name
from jobqueue.errors import InvalidInputError, ServerUnavailableError, UsageError
from jobqueue.handler import Operation
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import Job
from jobqueue.model.limit import Adjustment, ProviderLimits, RateLimitState, Scope, ScopeKind
from jobqueue.model.limit_change import LimitsChange, check_costs, check_operation, describe, difference
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import due, limits
from jobqueue.store.database import Database


@dataclass(frozen=True, slots=True)
class LimitsView:
    """What is configured for a provider and how far it is used up."""

    configured: ProviderLimits
    state: RateLimitState

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "provider": self.configured.provider,
            "version": self.configured.version,
            "configured": {
                str(config.scope_kind): describe(config) for config in self.configured.configs if not config.scope_name
            },
            "overrides": [
                {
                    "level": level_scope(self.configured.provider, config.scope_kind, config.scope_name).name,
                    "kind": str(config.scope_kind),
                    "name": config.scope_name,
                    "limits": describe(config),
                }
                for config in self.configured.configs
                if config.scope_name
            ],
        } | self.state.as_dict()


def view_limits(database: Database, limiter: Limiter, scope: Scope) -> LimitsView:
    """Where the limits of *scope* stand, those of its provider included.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    return LimitsView(limits.provider_limits(database, scope.provider), limiter.snapshot(scope))


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """What a change made of the limits of one level.

    Attributes:
        level: The provider's name, or with a ``:operation`` or ``/account`` whose limits these are.
        before: What held for the level until now, as `describe` gives it.
        after: What holds now.
        version: The version of the provider's limits since; None when nothing was stored.
    """

    level: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    version: int | None

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """The values that differ, by dotted name."""
        return difference(self.before, self.after)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "level": self.level,
            "before": dict(self.before),
            "after": dict(self.after),
            "changed": {name: {"before": old, "after": new} for name, (old, new) in self.changed.items()},
            "version": self.version,
        }


def change_limits(
    database: Database,
    provider: str,
    change: LimitsChange,
    *,
    batch: tuple[str, int, int, int] | None = None,
    is_dry_run: bool = False,
) -> LimitsChanged:
    """Store what *change* gives and leave the rest; all of it is checked first, and all is stored or nothing.

    Parts that wait for a limit of the provider fall due, and running slices end, so that all go on under the new ones.

    Args:
        batch: Operation (``*`` for all), smallest, optimal and largest batch size.
        is_dry_run: Check and compare, store nothing.

    Raises:
        ConfigurationError: A value is out of range or cannot be read.
        InvalidInputError: Nothing is to be changed, or a name is none.
    """
    if change.is_empty and batch is None:
        raise InvalidInputError("nothing is to be changed.", remedy='Give for example --windows "100/minute".')
    level = level_scope(provider, change.kind, change.name)
    operations = _operations(provider)
    if change.kind is ScopeKind.OPERATION:
        check_operation(change.name, operations, provider)
    sizes = None if batch is None else BatchConfig(*batch[1:])
    version = None
    with limits.changing(database, provider):
        stored = limits.provider_limits(database, provider)
        config = change.applied(stored)
        check_costs(config, {name: _dearest(operation) for name, operation in operations.items()})
        before, after = describe(change.base(stored)), describe(config)
        if batch is not None:
            before["batch"] = _sizes(limits.stored_batch_config(database, provider, batch[0]))
            after["batch"] = _sizes(sizes)
        # An override that says the same as its default is a change: it stays when the default moves.
        is_new = not change.is_empty and stored.config(change.kind, change.name) is None
        if not is_dry_run and (is_new or before != after):
            if not change.is_empty:
                version = limits.set_limits(database, config, provider)
            if batch is not None and sizes is not None:
                version = limits.set_batch_config(database, provider, batch[0], sizes)
    if version is not None:
        due.wake_parked(database, provider)
    return LimitsChanged(_level_name(level, change.kind), before, after, version)


def remove_limits(database: Database, provider: str, kind: ScopeKind, name: str) -> LimitsChanged:
    """Drop the override of an account, site or operation; what holds instead is the default, or no limit.

    Raises:
        NotFoundError: It has none.
        InvalidInputError: *name* is empty: defaults are changed, not dropped.
    """
    level = level_scope(provider, kind, name)
    if not name:
        raise InvalidInputError(
            "only the limits of an account or an operation can be removed.",
            remedy="Give --account NAME or --operation NAME.",
            field="name",
        )
    with limits.changing(database, provider):
        before = limits.provider_limits(database, provider).config(kind, name)
        version = limits.remove_limits(database, provider, kind, name)
        after = limits.provider_limits(database, provider).config(kind)
    due.wake_parked(database, provider)
    shown = {} if before is None else describe(before)
    return LimitsChanged(_level_name(level, kind), shown, {} if after is None else describe(after), version)


def adjust_limits(database: Database, limiter: Limiter, scope: Scope, adjustments: Sequence[Adjustment]) -> None:
    """Change by hand where the limits of *scope* stand; what waits for them falls due.

    Raises:
        InvalidInputError: It has no limits of its own, or no breaker that could be changed.
        ServerUnavailableError: Redis or Postgres cannot be reached; what was not done yet is done by another call.
    """
    innermost = limits.provider_limits(database, scope.provider).limits_for(scope)[-1].scope
    if innermost != scope:
        raise InvalidInputError(
            f"{scope.name} has no limits of its own.",
            remedy=f"Change those of {innermost.name}, or give it some: jobqueue limits set {scope.provider} …",
            field="operation" if scope.operation else "account",
        )
    for adjustment in adjustments:
        settled = limiter.adjust(scope, adjustment)
        # Redis first: what a worker stores after that is newer than this.
        if adjustment is Adjustment.LIFT_COOLDOWN:
            limits.lift_cooldown(database, scope.name)
        limits.save_breakers(database, scope.provider, settled.breakers)
        limits.save_learned(database, scope.provider, settled.learned)
    due.wake_parked(database, scope.provider)


def leave_line(database: Database, limiter: Limiter, scope: Scope, job_id: int) -> None:
    """The job sends nothing more: who waits behind it in a line may ask now. Without Redis there is no line."""
    with suppress(ServerUnavailableError):
        wake_called(database, scope.provider, limiter.leave(scope, str(job_id)))


def scope_of(job: Job) -> Scope:
    """What the requests of *job* are counted under; without the operation where its type is not installed here."""
    try:
        operation = registry.handler(job.type).operation(as_request(job), registry.provider(job.provider)).name
    except UsageError:
        operation = ""
    return Scope(job.provider, job.account, operation)


def wake_called(database: Database, provider: str, owners: Iterable[str]) -> None:
    """Let the parked parts of *owners* fall due whose turn came early. Others than jobs may wait in the same line."""
    job_ids = [int(owner) for owner in owners if owner.isascii() and owner.isdecimal() and len(owner) < 19]
    due.wake_parked(database, provider, job_ids=job_ids)


def level_scope(provider: str, kind: ScopeKind, name: str) -> Scope:
    """What limits of that kind and name are counted under; the provider where they are a default.

    Raises:
        InvalidInputError: *name* is too long or holds what it may not.
    """
    check_name(str(kind), name)
    return Scope(
        provider, account=name if kind is ScopeKind.ACCOUNT else "", operation=name * (kind is ScopeKind.OPERATION)
    )


def _level_name(level: Scope, kind: ScopeKind) -> str:
    return f"{level.name}/*" if kind is ScopeKind.ACCOUNT and not level.account else level.name


def _operations(provider: str) -> Mapping[str, Operation]:
    try:
        return registry.provider(provider).operations
    except UsageError:  # the package that brings it is installed with the workers, not here
        return {}


def _dearest(operation: Operation) -> int:
    return max(operation.cost_units, operation.observe_cost_units if operation.is_observed else 0)


def _sizes(config: BatchConfig | None) -> dict[str, int] | None:
    return None if config is None else {"min": config.min_size, "optimal": config.optimal_size, "max": config.max_size}
