"""Whatever a provider sends, reading it never fails and never says what cannot be; what is well-formed is read back."""

from __future__ import annotations

import math

import http_sf
from hypothesis import example, given
from hypothesis import strategies as st

from jobqueue.model.header_time import LEAST_PAUSE_S, LONGEST_S, parse_retry_after
from jobqueue.model.headers import MOST_REPORTS, parse_quota, rate_limit_headers
from jobqueue.model.quota import HeaderFormat, QuotaReport, QuotaUnit, ResetFormat
from jobqueue.notes import AnswerNotes

NAMES = [
    "Date",
    "Retry-After",
    "Retry-After-Ms",
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Policy",
    "X-RateLimit-Reset-After",
    "X-RateLimit-Burst-Capacity",
    "X-RateLimit-Replenish-Rate",
    *(f"{a}-{b}" for a in ("RateLimit", "X-RateLimit", "x-rate-limit") for b in ("Limit", "Remaining", "Reset")),
    *(f"X-RateLimit-{a}-{b}" for a in ("Limit", "Remaining", "Reset") for b in ("Minute", "Tokens", "Requests-Day")),
]
PIECES = st.sampled_from(
    [
        *'";=,:()?@%* -+.0123456789e/²',
        *("q=", "w=", "r=", "t=", "pk=:", "qu=", "limit=", "remaining=", "reset="),
        *('"a"', "100;w=60", '"a";q=5;w=60', '"a";r=5;t=3', "99999999999", "9" * 400, "1" * 5000, "1e999", "nan"),
        *("Sun, 09 Sep 2001", "01:46:40", "GMT", "Sep", "-0000", "2001-09-09T", "Z", "+14:00", "1m", "ms"),
        *("\x00", "\xff", "\u2028"),
    ]
)
VALUES = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")),
    st.integers().map(str),
)
FORMATS = st.builds(HeaderFormat, st.sampled_from(ResetFormat), st.sampled_from(QuotaUnit))


@given(headers=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=12), form=FORMATS, clock_s=st.floats(0, 4e9))
@example(headers={"Retry-After": "Mon, 1 Jan 0 00:00:00 +9999", "Date": "x"}, form=HeaderFormat(), clock_s=0.0)
@example(headers={"Date": "1 Jan 99999999999999999999 00:00:00 +0000"}, form=HeaderFormat(), clock_s=0.0)
def test_no_headers_break_the_reader(headers: dict[str, str], form: HeaderFormat, clock_s: float) -> None:
    """Any soup gives reports within bounds, and no more malformed fields than fields."""
    notes = AnswerNotes(form, now_s=lambda: clock_s)
    notes.headers(headers)

    assert 0 <= notes.malformed <= len(headers)
    assert len(notes.reports) <= MOST_REPORTS
    for one in notes.reports:
        assert 0 <= one.remaining < 10**15
        assert one.limit is None or 0 <= one.limit < 10**15
        assert one.window_s is None or 0 < one.window_s < 10**15
        assert one.reset_in_s is None or 0 <= one.reset_in_s < 10**15
        assert len(one.policy) <= 64
    assert notes.retry_after_s is None or 0.001 <= notes.retry_after_s <= LONGEST_S


@given(text=VALUES)
def test_a_pause_is_read_or_counted_never_both(text: str) -> None:
    """A field with something in it is a pause or a mistake."""
    reading = parse_retry_after({"retry-after": text}, now_s=lambda: 1e9)
    assert (reading.retry_after_s is None) == (reading.malformed == 1 or not text.strip())


@given(seconds=st.integers(0, int(LONGEST_S) - 1), part=st.floats(0, 0.999))
def test_a_pause_is_never_cut_short(seconds: int, part: float) -> None:
    """Not by rounding and not by any cap: of a day, a month, years."""
    wait_s = round(seconds + part, 6)
    got = parse_retry_after({"retry-after": f"{wait_s:f}"}, now_s=lambda: 0.0).retry_after_s
    assert got == max(LEAST_PAUSE_S, math.ceil(wait_s))


REPORTS = st.builds(
    QuotaReport,
    remaining=st.integers(0, 10**15 - 1),
    limit=st.integers(0, 10**15 - 1),
    window_s=st.none() | st.integers(1, 10**9),
    reset_in_s=st.none() | st.integers(0, int(LONGEST_S)).map(float),
    unit=st.sampled_from([QuotaUnit.REQUESTS, QuotaUnit.CONTENT_BYTES, QuotaUnit.CONCURRENT_REQUESTS]),
    policy=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64),
)


@given(reports=st.lists(REPORTS, min_size=1, max_size=MOST_REPORTS, unique_by=lambda one: one.policy))
def test_what_draft_10_can_say_is_read_back(reports: list[QuotaReport]) -> None:
    """Names with quotes and backslashes, units, no window, no reset; written by the structured-field library."""
    policies, limits = [], []
    for one in reports:
        window = {} if one.window_s is None else {"w": one.window_s}
        policies.append((one.policy, {"q": one.limit, "qu": str(one.unit), **window}))
        limits.append(
            (one.policy, {"r": one.remaining, **({} if one.reset_in_s is None else {"t": int(one.reset_in_s)})})
        )
    kept = rate_limit_headers({"RateLimit": http_sf.ser(limits), "RateLimit-Policy": http_sf.ser(policies)}.items())

    reading = parse_quota(kept, now_s=lambda: 0.0)

    assert (list(reading.reports), reading.malformed) == (reports, 0)
