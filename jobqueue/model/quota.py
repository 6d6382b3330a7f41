"""What an answer's rate-limit headers say, and how a provider writes them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class QuotaUnit(StrEnum):
    """What a reported quota counts."""

    REQUESTS = "requests"
    UNITS = "units"  # the provider's own units, those of `Operation.cost_units`
    CONCURRENT_REQUESTS = "concurrent-requests"
    CONTENT_BYTES = "content-bytes"
    OTHER = "other"  # anything we keep no count of, such as tokens of a text


class ResetFormat(StrEnum):
    """How a provider writes the reset of its quota; providers do not agree on one."""

    AUTO = "auto"  # told apart by the value: see `header_time.reset_in_s`
    DELTA_SECONDS = "delta_seconds"
    DELTA_MILLISECONDS = "delta_milliseconds"
    EPOCH_SECONDS = "epoch_seconds"
    EPOCH_MILLISECONDS = "epoch_milliseconds"
    HTTP_DATE = "http_date"
    ISO8601 = "iso8601"
    DURATION = "duration"  # 6m0s, 12ms


@dataclass(frozen=True, slots=True)
class HeaderFormat:
    """What a provider's rate-limit headers leave open; a provider gives its own as ``quota_headers``.

    Attributes:
        reset: How the reset is written in ``RateLimit-Reset`` and ``X-RateLimit-Reset``. The structured fields of the
            drafts 07 and later always say seconds.
        unit: What is counted where the header does not say.
    """

    reset: ResetFormat = ResetFormat.AUTO
    unit: QuotaUnit = QuotaUnit.REQUESTS


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """What is left of one quota, as the provider counts it.

    Attributes:
        remaining: What may still be spent, at least 0, after the answered request; requests that reached the provider
            later are not in it, answers of others may say less already.
        limit: The whole quota; None when not told.
        window_s: Length of its window; None when not told.
        reset_in_s: From the answer's own date until more becomes available, at least 0; None when not told.
        unit: What *remaining* and *limit* count.
        policy: The provider's name of the quota; empty when it has none.
    """

    remaining: int
    limit: int | None = None
    window_s: int | None = None
    reset_in_s: float | None = None
    unit: QuotaUnit = QuotaUnit.REQUESTS
    policy: str = ""


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """The reports of one answer, and how many of its rate-limit fields were ignored as malformed."""

    reports: tuple[QuotaReport, ...] = ()
    malformed: int = 0


@dataclass(frozen=True, slots=True)
class PauseReading:
    """The pause an answer asks for in seconds, None when it asks for none that can be read; malformed fields."""

    retry_after_s: float | None = None
    malformed: int = 0
