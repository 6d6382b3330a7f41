"""The part of the public face about providers: where they are reached, and what may be sent to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobqueue.delivery.connected import Connected
from jobqueue.engine import registry
from jobqueue.engine.limits import (
    LimitsChanged,
    LimitsView,
    adjust_limits,
    change_limits,
    level_scope,
    remove_limits,
    view_limits,
)
from jobqueue.errors import InvalidInputError
from jobqueue.model.limit import Adjustment, Scope
from jobqueue.model.limit_change import LimitsChange, level_named
from jobqueue.store import limits


class Limiting(Connected):
    """What `JobQueue` does with providers and their limits."""

    def limits(self, provider: str, account: str = "", operation: str = "") -> LimitsView:
        """Configured limits of a provider and how far they are used up, by all or also by one account or operation."""
        self._check_migrated()
        limits.endpoint(self._database, provider)
        return view_limits(self._database, self._limiter(provider), Scope(provider, account, operation))

    def set_limits(
        self,
        provider: str,
        *,
        account: str = "",
        operation: str = "",
        account_level: bool = False,
        windows: str | None = None,
        unit_windows: str | None = None,
        mode: str | None = None,
        max_concurrency: int | None = None,
        cooldown_s: float | None = None,
        breaker: Mapping[str, Any] | str | None = None,
        learned_floor: int | None = None,
        backoff: Mapping[str, Mapping[str, Any] | None] | None = None,
        batch: tuple[str, int, int, int] | None = None,
        is_dry_run: bool = False,
    ) -> LimitsChanged:
        """Change limits; what is not given stays. Workers follow within their next request, parked parts at once.

        Args:
            account: An account, or a site, to get limits of its own; they begin as the default for accounts.
            operation: An operation to get limits of its own, beside those of the provider.
            account_level: Change the default for accounts. Without any of the three the provider's limits are changed.
            windows: See `LimitsChange` for this and what follows.
            batch: Operation (``*`` for all), smallest, optimal and largest batch size.
            is_dry_run: Check and compare, store nothing.

        Raises:
            ConfigurationError: A value is out of range or cannot be read; nothing was stored.
            InvalidInputError: Nothing is to be changed, a name is unknown, or more than one level is named.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        kind, name = level_named(account, operation, account_level)
        change = LimitsChange(
            kind,
            name,
            windows=windows,
            unit_windows=unit_windows,
            mode=mode,
            max_concurrency=max_concurrency,
            cooldown_s=cooldown_s,
            breaker=breaker,
            learned_floor=learned_floor,
            backoff=backoff or {},
        )
        changed = change_limits(self._database, provider, change, batch=batch, is_dry_run=is_dry_run)
        if changed.version is not None:
            self._tell()
        return changed

    def remove_limits(self, provider: str, *, account: str = "", operation: str = "") -> LimitsChanged:
        """Drop the limits that an account or an operation has of its own; workers follow as with `set_limits`.

        Raises:
            NotFoundError: It has none.
            InvalidInputError: Neither is named, or both are.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        kind, name = level_named(account, operation)
        removed = remove_limits(self._database, provider, kind, name)
        self._tell()
        return removed

    def adjust_limits(
        self, provider: str, adjustments: Sequence[Adjustment], *, account: str = "", operation: str = ""
    ) -> LimitsView:
        """Lift a pause, forget what was learned, hold a breaker: of a provider, or of a level below it.

        Raises:
            InvalidInputError: The account or operation has no limits of its own, or the level no breaker.
            ServerUnavailableError: Redis or Postgres cannot be reached.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        scope = level_scope(provider, *level_named(account, operation))
        adjust_limits(self._database, self._limiter(provider), scope, adjustments)
        self._tell()
        return view_limits(self._database, self._limiter(provider), scope)

    def providers(self) -> list[dict[str, Any]]:
        """Configured providers: name, base_url, token_url."""
        self._check_migrated()
        return limits.list_providers(self._database)

    def set_provider(self, name: str, *, base_url: str | None = None, token_url: str | None = None) -> dict[str, Any]:
        """Change where a provider is reached; adds one that a package brought and nobody configured yet.

        Raises:
            InvalidInputError: No installed package brings it, or an address is none.
            NotFoundError: It is new and *base_url* is None.
        """
        self._check_migrated()
        if name not in {row["name"] for row in self.providers()}:
            registry.provider(name)
        for field, url in (("base_url", base_url), ("token_url", token_url)):
            if url is not None and not url.startswith(("http://", "https://")):
                raise InvalidInputError(
                    f"{field} {url!r} is no web address.", remedy="Use http://… or https://….", field=field
                )
        endpoint = limits.set_endpoint(self._database, name, base_url=base_url, token_url=token_url)
        return {"name": name, "base_url": endpoint.base_url, "token_url": endpoint.token_url}
