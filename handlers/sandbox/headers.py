"""Rate-limit headers on every answer, in the family one asks for, true to the sandbox's own limiter.

    draft10      RateLimit-Policy: "l0";q=100;w=60      RateLimit: "l0";r=50;t=30         every limit
    draft07      RateLimit-Policy: 100;w=60             RateLimit: limit=100, remaining=50, reset=30
    draft06      RateLimit-Policy: 100;w=60             RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset
    draft02      RateLimit-Limit: 100, 100;w=60         RateLimit-Remaining, RateLimit-Reset
    x_ratelimit  X-RateLimit-Limit, -Remaining, -Reset
    x_window     X-RateLimit-Limit-Minute, X-RateLimit-Remaining-Minute, for limits of a second, minute, hour or day
    malformed    fields that mean nothing
    none         nothing

Families that speak of one limit only speak of the one that is closest to being reached. Written for the sandbox alone:
nothing here is shared with what reads them.

Source:
    draft-ietf-httpapi-ratelimit-headers-02, -06, -07 and -10.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from email.utils import formatdate
from typing import Any

from handlers.sandbox.clock import NS_PER_S
from handlers.sandbox.limiter import Standing

FAMILIES = ("none", "draft10", "draft07", "draft06", "draft02", "x_ratelimit", "x_window", "malformed")
RESETS = (
    "delta_seconds",
    "delta_milliseconds",
    "epoch_seconds",
    "epoch_milliseconds",
    "http_date",
    "iso8601",
    "duration",
)
RETRY_AFTERS = ("seconds", "http_date", "milliseconds", "none", "malformed")
_WINDOW_NAMES: dict[float, str] = {1: "Second", 60: "Minute", 3600: "Hour", 86_400: "Day"}
_MALFORMED = {"RateLimit": '"l0";r=many', "RateLimit-Policy": '"l0";q=-1', "X-RateLimit-Remaining": "plenty"}


@dataclass(frozen=True, slots=True)
class HeaderPlan:
    """What to send.

    Args:
        family: One of `FAMILIES`.
        reset: How ``RateLimit-Reset`` and ``X-RateLimit-Reset`` are written; one of `RESETS`. The structured fields
            know only seconds.
        retry_after: How a 429's Retry-After is written; one of `RETRY_AFTERS`.
        date_offset_s: How far the server's idea of the date is ahead of this machine's.
    """

    family: str = "none"
    reset: str = "delta_seconds"
    retry_after: str = "seconds"
    date_offset_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("family", self.family, FAMILIES),
            ("reset", self.reset, RESETS),
            ("retry_after", self.retry_after, RETRY_AFTERS),
        ):
            if value not in known:
                raise ValueError(f"headers: {name} {value!r} is not one of {list(known)}")

    def changed(self, values: Mapping[str, Any]) -> HeaderPlan:
        """The plan with some fields replaced.

        Raises:
            ValueError: A field is unknown or its value is not possible; the message names both.
        """
        unknown = sorted(set(values) - {one.name for one in fields(self)})
        if unknown:
            raise ValueError(f"headers: unknown field {unknown}")
        plan = replace(self, **values)
        return replace(plan, date_offset_s=float(plan.date_offset_s))

    def dress(self, headers: Mapping[str, str], standings: Sequence[Standing], now_ns: int) -> dict[str, str]:
        """An answer's *headers* with its date, its Retry-After as planned, and what is left of the limits.

        Args:
            headers: Those of the answer.
            standings: The limits right after the request was counted; empty for a request that no limit counts.
            now_ns: Ledger time.
        """
        # Whole seconds, so that Date and what is counted from it never lie on two sides of a tick.
        date_s = int(time.time() + self.date_offset_s)
        dressed = {**headers, "Date": formatdate(date_s, usegmt=True)}
        if "Retry-After" in dressed:
            dressed.update(self._pause(dressed.pop("Retry-After"), date_s))
        return {**dressed, **(self._quota(standings, now_ns, date_s) if standings else {})}

    def _pause(self, text: str, date_s: int) -> dict[str, str]:
        if self.retry_after == "none":
            return {}
        if self.retry_after == "malformed":
            return {"Retry-After": "soon"}
        if self.retry_after == "milliseconds" and text.isdigit():
            return {"Retry-After-Ms": str(int(text) * 1000)}
        if self.retry_after == "http_date" and text.isdigit():
            return {"Retry-After": formatdate(date_s + int(text), usegmt=True)}
        return {"Retry-After": text}

    def _quota(self, standings: Sequence[Standing], now_ns: int, date_s: int) -> dict[str, str]:
        if self.family == "malformed":
            return dict(_MALFORMED)
        tightest = min(standings, key=lambda one: (one.remaining / one.quota, -one.resets_at_ns))
        reset_s = _wait_s(tightest, now_ns)
        # What goes by the name of policy holds the limit that is in force, also while it is scaled.
        policies = ", ".join(f"{one.quota}{_window(one)}" for one in standings)
        match self.family:
            case "draft10":
                return {
                    "RateLimit-Policy": ", ".join(
                        f'"l{at}";q={one.quota}{_window(one)}' for at, one in enumerate(standings)
                    ),
                    "RateLimit": ", ".join(
                        f'"l{at}";r={one.remaining};t={_wait_s(one, now_ns)}' for at, one in enumerate(standings)
                    ),
                }
            case "draft07":
                told = f"limit={tightest.quota}, remaining={tightest.remaining}, reset={reset_s}"
                return {"RateLimit-Policy": policies, "RateLimit": told}
            case "draft06":
                return {"RateLimit-Policy": policies, **self._three("RateLimit", tightest, reset_s, date_s)}
            case "draft02":
                three = self._three("RateLimit", tightest, reset_s, date_s)
                return {**three, "RateLimit-Limit": f"{tightest.quota}, {policies}"}
            case "x_ratelimit":
                return self._three("X-RateLimit", tightest, reset_s, date_s)
            case "x_window":
                named = [(_WINDOW_NAMES[one.window_s], one) for one in standings if one.window_s in _WINDOW_NAMES]
                return {
                    **{f"X-RateLimit-Limit-{name}": str(one.quota) for name, one in named},
                    **{f"X-RateLimit-Remaining-{name}": str(one.remaining) for name, one in named},
                }
            case _:
                return {}

    def _three(self, prefix: str, one: Standing, reset_s: int, date_s: int) -> dict[str, str]:
        return {
            f"{prefix}-Limit": str(one.quota),
            f"{prefix}-Remaining": str(one.remaining),
            f"{prefix}-Reset": _reset(self.reset, reset_s, date_s),
        }


def _wait_s(one: Standing, now_ns: int) -> int:
    """Whole seconds, rounded up, as the drafts want them."""
    return max(0, -((now_ns - one.resets_at_ns) // NS_PER_S))


def _window(one: Standing) -> str:
    """The parameter that names the window, which must be whole seconds."""
    return f";w={int(one.window_s)}" if one.window_s == int(one.window_s) else ""


def _reset(form: str, reset_s: int, date_s: int) -> str:
    at_s = date_s + reset_s
    match form:
        case "delta_milliseconds":
            return str(reset_s * 1000)
        case "epoch_seconds":
            return str(at_s)
        case "epoch_milliseconds":
            return str(at_s * 1000)
        case "http_date":
            return formatdate(at_s, usegmt=True)
        case "iso8601":
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
        case "duration":
            return f"{reset_s // 60}m{reset_s % 60}s" if reset_s >= 60 else f"{reset_s}s"
        case _:
            return str(reset_s)
