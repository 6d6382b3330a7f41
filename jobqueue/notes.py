"""Where a handler leaves what the provider's answer says about its quotas, for the limiter to hear of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from jobqueue.model.header_time import parse_retry_after
from jobqueue.model.headers import parse_quota, rate_limit_headers
from jobqueue.model.quota import HeaderFormat, QuotaReport


class AnswerNotes:
    """Takes the headers of one request's answer. Of a header that is not about rate limits nothing is kept.

    Args:
        header_format: What the provider's headers leave open.
        now_s: This machine's clock, for points in time in an answer without a ``Date``.

    Attributes:
        reports: What is left of the provider's quotas.
        retry_after_s: The pause the answer asks for, rounded up and positive; None when it names none.
        malformed: Rate-limit fields that meant nothing and were ignored.
    """

    def __init__(self, header_format: HeaderFormat | None = None, *, now_s: Callable[[], float] = time.time) -> None:
        self._format = header_format or HeaderFormat()
        self._now_s = now_s
        self.reports: tuple[QuotaReport, ...] = ()
        self.retry_after_s: float | None = None
        self.malformed = 0

    def headers(self, headers: Mapping[str, str]) -> None:
        """Note an answer's headers, whatever its status; of several answers the last one counts.

        Args:
            headers: As `requests` and others give them; the case of names is ignored. Never fails for what is in them.
        """
        kept = rate_limit_headers(headers.items())
        quota = parse_quota(kept, self._format, now_s=self._now_s)
        pause = parse_retry_after(kept, now_s=self._now_s)
        self.reports = quota.reports
        self.retry_after_s = pause.retry_after_s
        self.malformed = quota.malformed + pause.malformed
