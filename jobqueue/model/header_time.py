"""Times in an answer's headers, as seconds from the answer. Pure: a clock is needed only where the answer has no Date.

What is a point in time is read against the answer's own ``Date``, so this machine's clock does not matter.

Source:
    RFC 9110 sections 5.6.7 (HTTP-date), 6.6.1 (Date), 10.2.3 (Retry-After). ``Retry-After-Ms`` is what OpenAI's servers
    send and its client reads, ``x-ms-retry-after-ms`` what Azure Cosmos DB documents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from jobqueue.model.quota import PauseReading, ResetFormat

LEAST_PAUSE_S = 1.0
"""What ``Retry-After: 0`` and dates gone by mean: the field counts whole seconds, so nobody knows which part of one."""
LONGEST_S = 10 * 366 * 86_400.0
"""No pause and no reset is further away than this; a value that says so is a mistake or an attack."""
_EPOCH_FROM_S = 1e9
"""AUTO: numbers from here on, a delay of 31 years, are points in time; they have been since 2001."""
_EPOCH_FROM_MS = 1e11
_EXACT = ("retry-after-ms", "x-ms-retry-after-ms")
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{1,18})?", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,18}(?:\.\d{1,18})?(?:ms|us|µs|ns|d|h|m|s))+", re.ASCII)
_STEP = re.compile(r"([\d.]+)([a-zµ]+)", re.ASCII)
_STEP_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def answered_at_s(headers: Mapping[str, str], now_s: Callable[[], float]) -> float:
    """When the answer was made, in seconds since 1970: by its own ``Date``, else by *now_s*.

    Args:
        headers: By lower-case name.
        now_s: This machine's clock.
    """
    try:
        return _http_date_s(headers.get("date", ""))
    except ValueError:
        return now_s()


def parse_retry_after(headers: Mapping[str, str], *, now_s: Callable[[], float]) -> PauseReading:
    """The pause an answer asks for, rounded up to whole seconds and never below `LEAST_PAUSE_S`, never cut short.

    A field in milliseconds is more exact and goes before ``Retry-After``. Malformed fields are ignored and counted.

    Args:
        headers: By lower-case name.
        now_s: This machine's clock, for a date in an answer without a ``Date``.
    """
    malformed = 0
    for name in (*_EXACT, "retry-after"):
        text = headers.get(name, "").strip()
        if not text:
            continue
        try:
            if name in _EXACT:
                return PauseReading(max(0.001, _within(math.ceil(_number(text)) / 1000)), malformed)
            wait_s = _number(text) if _NUMBER.fullmatch(text) else _http_date_s(text) - answered_at_s(headers, now_s)
            return PauseReading(max(LEAST_PAUSE_S, math.ceil(_within(wait_s))), malformed)
        except ValueError:
            malformed += 1
    return PauseReading(None, malformed)


def reset_in_s(text: str, form: ResetFormat, answered_at_s: float) -> float | None:
    """Seconds from the answer to the reset that *text* names, 0 for one gone by; None for a negative delay.

    AUTO takes words for what they are; of numbers, those too large for a delay are points in time, the largest in
    milliseconds, and all others are seconds. A delay in milliseconds cannot be told from one in seconds: a provider
    that sends it must say so.

    Args:
        text: The field's value.
        form: How the provider writes it.
        answered_at_s: When the answer was made, in seconds since 1970.

    Raises:
        ValueError: It is not of that form, or further away than `LONGEST_S`.
    """
    text = text.strip()
    match _form_of(text) if form is ResetFormat.AUTO else form:
        case ResetFormat.DELTA_SECONDS:
            wait_s = _number(text)
        case ResetFormat.DELTA_MILLISECONDS:
            wait_s = _number(text) / 1000
        case ResetFormat.DURATION:
            wait_s = _duration_s(text)
        case ResetFormat.EPOCH_SECONDS:
            return max(0.0, _within(_number(text) - answered_at_s)) if _number(text) >= 0 else None
        case ResetFormat.EPOCH_MILLISECONDS:
            return max(0.0, _within(_number(text) / 1000 - answered_at_s)) if _number(text) >= 0 else None
        case ResetFormat.HTTP_DATE:
            return max(0.0, _within(_http_date_s(text) - answered_at_s))
        case _:
            return max(0.0, _within(_iso_s(text) - answered_at_s))
    return _within(wait_s) if wait_s >= 0 else None


def _form_of(text: str) -> ResetFormat:
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH_FROM_MS:
            return ResetFormat.EPOCH_MILLISECONDS
        return ResetFormat.EPOCH_SECONDS if number >= _EPOCH_FROM_S else ResetFormat.DELTA_SECONDS
    if _DURATION.fullmatch(text):
        return ResetFormat.DURATION
    return ResetFormat.ISO8601 if text[:4].isdigit() else ResetFormat.HTTP_DATE


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("no number")
    return float(text)


def _within(seconds: float) -> float:
    if seconds > LONGEST_S:
        raise ValueError("too far away")
    return seconds


def _duration_s(text: str) -> float:
    if not _DURATION.fullmatch(text):
        raise ValueError("no duration")
    return math.fsum(float(number) * _STEP_S[unit] for number, unit in _STEP.findall(text))


def _http_date_s(text: str) -> float:
    try:
        at = parsedate_to_datetime(text)
        # Without a zone (asctime, or -0000) it is GMT like every HTTP-date, not this machine's zone.
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, IndexError, OverflowError):  # early 3.11 releases index past the end of odd texts
        raise ValueError("no HTTP-date") from None


def _iso_s(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
