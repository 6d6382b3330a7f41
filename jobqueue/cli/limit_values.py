"""Values of limits on the command line."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.model.backoff import ErrorKind, Jitter
from jobqueue.model.limit_change import OFF


class CapType(click.ParamType):  # type: ignore[type-arg]
    """A whole number from 1, or ``none``."""

    name = "cap"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; 0 for ``none``."""
        text = str(value).strip().lower()
        if text == "none":
            return 0
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:10]) < 2**31):
            self.fail(f"{value!r} is no whole number from 1, nor 'none' for no cap.", param, ctx)
        return int(text)


class BreakerType(click.ParamType):  # type: ignore[type-arg]
    """``FIELD=VALUE,FIELD=VALUE`` or ``off``; which fields and values there are, the model knows."""

    name = "breaker"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str] | str:
        """Values by field, or ``off``."""
        if isinstance(value, dict) or str(value).strip().lower() == OFF:
            return value if isinstance(value, dict) else OFF
        fields = {}
        for pair in str(value).split(","):
            name, equals, text = (word.strip() for word in pair.partition("="))
            if not (name and equals and text) or name in fields:
                self.fail(f"{value!r} is not FIELD=VALUE,…, such as failure_rate=0.5,open_s=15, nor 'off'.", param, ctx)
            fields[name] = text
        return fields


class BackoffType(click.ParamType):  # type: ignore[type-arg]
    """``KIND=JITTER:BASE:CAP[:ATTEMPTS]`` or ``KIND=default``."""

    name = "backoff"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, dict[str, Any] | None]:
        """The kind of error, and its policy's values or None for the default."""
        if isinstance(value, tuple):
            return value
        kind, _, text = (word.strip() for word in str(value).partition("="))
        if kind not in tuple(ErrorKind):
            self.fail(f"{value!r} names no kind of error: {', '.join(ErrorKind)}.", param, ctx)
        if text == "default":
            return kind, None
        words = [word.strip() for word in text.split(":")]
        try:
            jitter, base_s, cap_s, *attempts = words
            policy = {"jitter": str(Jitter(jitter)), "base_s": float(base_s), "cap_s": float(cap_s)}
            if attempts:
                (policy["max_attempts"],) = map(int, attempts)
        except ValueError:
            self.fail(
                f"{value!r} is not KIND=JITTER:BASE:CAP[:ATTEMPTS], such as outage=full:1:300 or item=equal:2:60:5;"
                f" jitter is one of {', '.join(Jitter)}.",
                param,
                ctx,
            )
        return kind, policy


CAP = CapType()
BREAKER = BreakerType()
BACKOFF = BackoffType()
