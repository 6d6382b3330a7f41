"""From an answer's rate-limit headers to `QuotaReport`s. Pure.

Four families, tried in this order; where a provider sends several, the first that says something is taken:

    draft 08–10   RateLimit: "default";r=50;t=30       RateLimit-Policy: "default";q=100;w=60
    draft 07      RateLimit: limit=100, remaining=50, reset=30                RateLimit-Policy: 100;w=60
    draft 00–06   RateLimit-Limit: 100, 100;w=60   RateLimit-Remaining: 50   RateLimit-Reset: 30
    X-RateLimit-* and X-Rate-Limit-*, the same three, with a reset that each provider writes its own way

Besides, fields of one quota each: ``X-RateLimit-Remaining-Minute``, ``x-ratelimit-remaining-requests``,
``anthropic-ratelimit-requests-remaining``. A malformed field is ignored and counted; nothing raises.

Source:
    draft-ietf-httpapi-ratelimit-headers-02, -06, -07 and -10; RFC 9651 for structured fields. ``Burst-Capacity`` and
    ``Replenish-Rate`` are a token bucket's, as Spring Cloud Gateway and TIDAL send them; ``Reset-After`` is Discord's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import http_sf

from jobqueue.model.header_time import answered_at_s, reset_in_s
from jobqueue.model.quota import HeaderFormat, QuotaReading, QuotaReport, QuotaUnit, ResetFormat

T = TypeVar("T")

MOST_REPORTS = 16
"""An answer that names more quotas is cut: each is looked at by every settle."""
_MOST_MEMBERS = 64
"""Of one field; policies are matched with limits one by one."""
_NAME_CHARS = 64
_NAME = re.compile(r"(?:(?P<vendor>[a-z0-9]+)-)?rate-?limit-(?P<rest>[a-z0-9-]+)", re.ASCII)
_KEPT = re.compile(r"(?:[a-z0-9]+-)?rate-?limit(?:-[a-z0-9-]+)?|date|retry-after|(?:x-ms-)?retry-after-ms", re.ASCII)
_WORDED = {"reset-after": "reset_after", "burst-capacity": "capacity", "replenish-rate": "rate"}
_ROLES = frozenset({"limit", "remaining", "reset"})
_WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_LENGTHS = frozenset({*_WINDOWS_S, "week", "month"})
_DEFAULT_FORMAT = HeaderFormat()


@dataclass(frozen=True, slots=True)
class _Policy:
    quota: int
    window_s: int | None
    name: str = ""
    partition: bytes = b""
    unit: QuotaUnit | None = None


def rate_limit_headers(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Of *headers* those that this module and `header_time` read, by lower-case name; repeated ones joined.

    Source:
        RFC 9110 section 5.3 for joining.
    """
    kept: dict[str, str] = {}
    for name, value in headers:
        key = str(name).lower()
        if _KEPT.fullmatch(key):
            kept[key] = f"{kept[key]}, {value}" if key in kept else str(value)
    return kept


def parse_quota(
    headers: Mapping[str, str], form: HeaderFormat = _DEFAULT_FORMAT, *, now_s: Callable[[], float]
) -> QuotaReading:
    """What is left of each quota, at most `MOST_REPORTS` of them.

    Args:
        headers: By lower-case name, as `rate_limit_headers` gives them.
        form: What the provider's headers leave open.
        now_s: This machine's clock, for points in time in an answer without a ``Date``.
    """
    reader = _Reader(headers, form, now_s)
    reports = list(reader.structured())
    told = {""} if reports else set()
    for (_, suffix), fields in reader.groups():
        if suffix not in told and (found := reader.quota(suffix, fields)):
            told.add(suffix)
            reports += found
    return QuotaReading(tuple(reports[:MOST_REPORTS]), reader.malformed)


class _Reader:
    """Reads one answer's fields and counts those that mean nothing."""

    def __init__(self, headers: Mapping[str, str], form: HeaderFormat, now_s: Callable[[], float]) -> None:
        self.malformed = 0
        self._headers = headers
        self._form = form
        self._now_s = now_s
        text = headers.get("ratelimit-policy") or headers.get("x-ratelimit-policy")
        self._policies = self._checked(_policies, text) or []

    def structured(self) -> list[QuotaReport]:
        """What the one field ``RateLimit`` says."""
        return self._checked(self._service_limits, self._headers.get("ratelimit")) or []

    def groups(self) -> list[tuple[tuple[str, str], dict[str, str]]]:
        """The fields of each quota that is told by several, the standard's own names first."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for name, text in self._headers.items():
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            role, suffix = _role(match["rest"])
            if role:
                found.setdefault((match["vendor"] or "", suffix), {})[role] = text
        return sorted(found.items(), key=lambda one: (one[0][0] != "", one[0][0] != "x", one[0]))

    def quota(self, suffix: str, fields: Mapping[str, str]) -> list[QuotaReport]:
        """The quota, seldom several, that *fields* by role tell; empty without what remains."""
        remaining = self._checked(_counts, fields.get("remaining"))
        limits, policies = self._checked(_limits, fields.get("limit")) or ([], [])
        if not remaining:
            return []
        words = [word for word in suffix.split("-") if word]
        window_s = next((_WINDOWS_S[word] for word in words if word in _WINDOWS_S), None)
        unit = _unit_of({word for word in words if word not in _LENGTHS}, self._form.unit)
        resets = self._resets(fields, len(remaining))
        reports = []
        for index, left in enumerate(remaining):
            limit = limits[index] if limits and len(remaining) in (1, len(limits)) else None
            limit, window = self._window(limit, [*policies, *self._policies], is_alone=len(remaining) == 1)
            report = QuotaReport(left, limit, window_s or window, resets[index], unit, suffix[:_NAME_CHARS])
            reports.append(self._bucket(report, fields) if limit is None else report)
        return reports

    def _resets(self, fields: Mapping[str, str], count: int) -> list[float | None]:
        form = ResetFormat.DELTA_SECONDS if "reset_after" in fields else self._form.reset
        at_s = answered_at_s(self._headers, self._now_s)

        def read(text: str) -> list[float | None]:
            # A date holds a comma of its own.
            texts = [text] if count == 1 else text.split(",")
            if len(texts) != count:
                raise ValueError("not one reset for each quota")
            return [reset_in_s(one, form, at_s) for one in texts]

        return self._checked(read, fields.get("reset_after", fields.get("reset"))) or [None] * count

    def _bucket(self, report: QuotaReport, fields: Mapping[str, str]) -> QuotaReport:
        """*report* with what a token bucket says of its size and of how fast it fills."""
        capacity = self._checked(_counts, fields.get("capacity"))
        rate = self._checked(_counts, fields.get("rate"))
        if not capacity or not rate or not rate[0]:
            return report
        missing = max(0, capacity[0] - report.remaining)
        return QuotaReport(
            report.remaining,
            capacity[0],
            max(1, math.ceil(capacity[0] / rate[0])),
            missing / rate[0] if report.reset_in_s is None else report.reset_in_s,
            report.unit,
            report.policy,
        )

    def _service_limits(self, text: str) -> list[QuotaReport]:
        try:
            members = _list(text)
        except ValueError:
            return self._expiring_limit(_parsed(text, "dictionary"))
        return [self._service_limit(value, params) for value, params in members]

    def _service_limit(self, value: Any, params: Mapping[str, Any]) -> QuotaReport:
        name, partition = _name(value), params.get("pk")
        named = [one for one in self._policies if one.name == name]
        policy = next((one for one in named if one.partition == partition), named[0] if named else None)
        reset_s = float(_count(params["t"])) if "t" in params else None
        left = _count(params.get("r"))
        if policy is None:
            return QuotaReport(left, None, None, reset_s, self._form.unit, name)
        return QuotaReport(left, policy.quota, policy.window_s, reset_s, policy.unit or self._form.unit, name)

    def _expiring_limit(self, members: Mapping[str, Any]) -> list[QuotaReport]:
        told = {name: _count(_item(members[name])[0]) for name in sorted(_ROLES) if name in members}
        if not told:
            raise ValueError("none of its keys")
        if "remaining" not in told:
            return []
        limit, window_s = self._window(told.get("limit"), self._policies, is_alone=True)
        reset_s = float(told["reset"]) if "reset" in told else None
        return [QuotaReport(told["remaining"], limit, window_s, reset_s, self._form.unit)]

    def _window(self, limit: int | None, policies: list[_Policy], *, is_alone: bool) -> tuple[int | None, int | None]:
        """The limit and its window: a policy of the same quota says how long that is, or the only one there is."""
        if limit is None and is_alone and len(policies) == 1:
            return policies[0].quota, policies[0].window_s
        windows = {one.window_s for one in policies if one.quota == limit}
        return limit, windows.pop() if len(windows) == 1 else None

    def _checked(self, read: Callable[[str], T], text: str | None) -> T | None:
        if text is None:
            return None
        try:
            return read(text)
        except ValueError:
            self.malformed += 1
            return None


def _role(rest: str) -> tuple[str, str]:
    """What a field says and of which quota; ``-`` separated words in either order."""
    if rest in _WORDED:
        return _WORDED[rest], ""
    words = [word for word in rest.split("-") if word]
    roles = [word for word in words if word in _ROLES]
    return (roles[0], "-".join(word for word in words if word not in _ROLES)) if len(roles) == 1 else ("", "")


def _unit_of(words: set[str], unit: QuotaUnit) -> QuotaUnit:
    if not words:
        return unit
    if words <= {"request", "requests"}:
        return QuotaUnit.REQUESTS
    return QuotaUnit.UNITS if words == {"units"} else QuotaUnit.OTHER


def _policies(text: str) -> list[_Policy]:
    return [_policy(value, params) for value, params in _list(text)]


def _policy(value: Any, params: Mapping[str, Any]) -> _Policy:
    window_s = _count(params["w"]) if "w" in params else None
    if window_s == 0:
        raise ValueError("a window of no length")
    if isinstance(value, int):
        return _Policy(_count(value), window_s)
    unit = None
    if "qu" in params:
        unit = next((one for one in QuotaUnit if one == str(params["qu"])), QuotaUnit.OTHER)
    return _Policy(_count(params.get("q")), window_s, _name(value), params.get("pk") or b"", unit)


def _limits(text: str) -> tuple[list[int], list[_Policy]]:
    """Limits, and the policies that follow them since draft 01; policies alone name the limit too."""
    members = _list(text)
    policies = [_policy(value, params) for value, params in members if "w" in params]
    limits = [_count(value) for value, params in members if "w" not in params]
    return limits or [one.quota for one in policies], policies


def _counts(text: str) -> list[int]:
    return [_count(value) for value, _ in _list(text)]


def _count(value: Any) -> int:
    """A number that is not negative; decimals, which some send, rounded down."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        raise ValueError("no count")
    return int(value)


def _name(value: Any) -> str:
    if not isinstance(value, str | http_sf.Token):
        raise ValueError("no name")
    return str(value)[:_NAME_CHARS]


def _list(text: str) -> list[tuple[Any, Mapping[str, Any]]]:
    members = _parsed(text, "list")
    if not members:
        raise ValueError("an empty list")
    return [_item(member) for member in members[:_MOST_MEMBERS]]


def _item(member: Any) -> tuple[Any, Mapping[str, Any]]:
    value, params = member if isinstance(member, tuple) else (member, {})
    if isinstance(value, list):
        raise ValueError("an inner list")
    return value, params


def _parsed(text: str, kind: str) -> Any:
    # Latin-1 is what header bytes are decoded as; whatever else stands here is no structured field either.
    return http_sf.parse(text.encode("latin-1"), tltype=kind)
