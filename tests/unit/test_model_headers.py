"""From rate-limit headers to reports: every family, and fields that mean nothing."""

from __future__ import annotations

import pytest

from jobqueue.model.headers import MOST_REPORTS, parse_quota, rate_limit_headers
from jobqueue.model.quota import HeaderFormat, QuotaReading, QuotaReport, QuotaUnit, ResetFormat

DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
DATE_S = 1_000_000_000
OTHER_CLOCK_S = DATE_S + 7200.0


def read(headers: dict[str, str], form: HeaderFormat | None = None) -> QuotaReading:
    """The headers with a Date, read by a machine whose clock is two hours ahead."""
    kept = rate_limit_headers({"Date": DATE, **headers}.items())
    return parse_quota(kept, form or HeaderFormat(), now_s=lambda: OTHER_CLOCK_S)


def three(prefix: str, *values: str) -> dict[str, str]:
    """Limit, remaining and, when given, reset."""
    return {f"{prefix}-{name}": value for name, value in zip(("Limit", "Remaining", "Reset"), values, strict=False)}


FAMILIES = {
    "draft-10": (
        {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'},
        [QuotaReport(50, 100, 60, 30.0, policy="default")],
    ),
    "draft-10, several policies and units": (
        {
            "RateLimit": '"burst";r=9, "daily";r=70;t=3600;acme-note="x"',
            "RateLimit-Policy": '"daily";q=1000;w=86400;qu="content-bytes", "burst";q=10;w=1;qu="concurrent-requests"',
        },
        [
            QuotaReport(9, 10, 1, None, QuotaUnit.CONCURRENT_REQUESTS, "burst"),
            QuotaReport(70, 1000, 86_400, 3600.0, QuotaUnit.CONTENT_BYTES, "daily"),
        ],
    ),
    "draft-10, a unit registered later": (
        {"RateLimit": '"a";r=1', "RateLimit-Policy": '"a";q=2;qu="tokens"'},
        [QuotaReport(1, 2, None, None, QuotaUnit.OTHER, "a")],
    ),
    "draft-10, partition keys": (
        {"RateLimit": '"u";r=1;pk=:Yg==:', "RateLimit-Policy": '"u";q=5;w=1;pk=:YQ==:, "u";q=7;w=1;pk=:Yg==:'},
        [QuotaReport(1, 7, 1, None, policy="u")],
    ),
    "draft-10 without a policy": (
        {"RateLimit": '"default";r=0;t=0'},
        [QuotaReport(0, reset_in_s=0.0, policy="default")],
    ),
    "draft-08 with a token for a name": (
        {"RateLimit": "default;r=3;t=4"},
        [QuotaReport(3, None, None, 4.0, policy="default")],
    ),
    "draft-07": (
        {"RateLimit": "limit=100, remaining=50, reset=30", "RateLimit-Policy": "10;w=1, 100;w=60;burst=9"},
        [QuotaReport(50, 100, 60, 30.0)],
    ),
    "draft-07 without a limit": (
        {"RateLimit": "remaining=50", "RateLimit-Policy": "100;w=60"},
        [QuotaReport(50, 100, 60)],
    ),
    "draft-06": (
        {**three("RateLimit", "100", "50", "30"), "RateLimit-Policy": "10;w=1, 100;w=60"},
        [QuotaReport(50, 100, 60, 30.0)],
    ),
    "draft-02": (three("RateLimit", "10, 10;w=1, 50;w=60", "5", "1"), [QuotaReport(5, 10, 1, 1.0)]),
    "two policies of one quota leave the window open": (
        {**three("RateLimit", "10", "5"), "RateLimit-Policy": "10;w=1, 10;w=60"},
        [QuotaReport(5, 10)],
    ),
    "X-RateLimit": (three("X-RateLimit", "100", "50", str(DATE_S + 30)), [QuotaReport(50, 100, None, 30.0)]),
    "X-Rate-Limit": (three("X-Rate-Limit", "100", "50", "30"), [QuotaReport(50, 100, None, 30.0)]),
    "several quotas in each field": (
        {**three("X-RateLimit", "1, 15000", "0, 14523", "1, 1419704"), "X-RateLimit-Policy": "1;w=1, 15000;w=2592000"},
        [QuotaReport(0, 1, 1, 1.0), QuotaReport(14_523, 15_000, 2_592_000, 1_419_704.0)],
    ),
    "a field for each window": (
        {**{f"X-RateLimit-{what}-Minute": "9" for what in ("Limit", "Remaining")}, "X-RateLimit-Remaining-Day": "70"},
        [QuotaReport(70, None, 86_400, policy="day"), QuotaReport(9, 9, 60, policy="minute")],
    ),
    "requests and tokens": (
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "6m0s",
            "x-ratelimit-remaining-tokens": "149984",
        },
        [
            QuotaReport(59, 60, None, 360.0, policy="requests"),
            QuotaReport(149_984, unit=QuotaUnit.OTHER, policy="tokens"),
        ],
    ),
    "a vendor's name in front": (
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2001-09-09T01:46:50Z",
        },
        [QuotaReport(49, 50, None, 10.0, policy="requests")],
    ),
    "a reset told twice: the delay is the more exact one": (
        {**three("X-RateLimit", "5", "1", str(DATE_S + 60)), "X-RateLimit-Reset-After": "64.57"},
        [QuotaReport(1, 5, None, 64.57)],
    ),
    "decimals are rounded down": (three("X-Ratelimit", "600.0", "598.9"), [QuotaReport(598, 600)]),
    "an unlimited reset": (three("X-RateLimit", "600", "598", "-1"), [QuotaReport(598, 600)]),
    "a limit alone": ({"X-RateLimit-Limit": "100", "RateLimit-Policy": "100;w=60"}, []),
    "draft-07 without what remains": ({"RateLimit": "limit=100, reset=5"}, []),
    "not about limits": ({"X-RateLimit-Bucket": "abcd", "X-Request-Id": "1"}, []),
}


@pytest.mark.parametrize(("headers", "expected"), FAMILIES.values(), ids=FAMILIES)
def test_each_family_is_read(headers: dict[str, str], expected: list[QuotaReport]) -> None:
    """What is left, of how much, of which window, until when; whatever the case of the names."""
    for fold in (str, str.lower, str.upper):
        reading = read({fold(name): value for name, value in headers.items()})
        assert (list(reading.reports), reading.malformed) == (expected, 0)


def test_a_token_bucket_tells_its_window_by_how_fast_it_fills() -> None:
    """TIDAL's fields count tokens, of which one request may cost several: the provider says so."""
    headers = {"X-RateLimit-Remaining": "15", "X-RateLimit-Burst-Capacity": "20", "X-RateLimit-Replenish-Rate": "10"}
    expected = QuotaReport(15, 20, 2, 0.5, QuotaUnit.UNITS)
    assert read(headers, HeaderFormat(unit=QuotaUnit.UNITS)).reports == (expected,)


def test_the_first_family_that_says_something_is_taken() -> None:
    """One quota told twice is one report; a malformed field leaves the word to the next family."""
    older = three("X-RateLimit", "100", "40", "20")
    newer = {"RateLimit": '"d";r=50'}
    assert [one.remaining for one in read({**older, **newer}).reports] == [50]
    assert [one.remaining for one in read({**older, **three("RateLimit", "100", "60", "20")}).reports] == [60]
    reading = read({**older, "RateLimit": '"d";r=lots'})
    assert ([one.remaining for one in reading.reports], reading.malformed) == ([40], 1)


@pytest.mark.parametrize(
    ("headers", "malformed", "left"),
    [
        ({"RateLimit": '"d";t=5'}, 1, None),
        ({"RateLimit": '"d";r=-1'}, 1, None),
        ({"RateLimit": '"d";r=1;t=-5'}, 1, None),
        ({"RateLimit": '"d";r=1.5e3'}, 1, None),
        ({"RateLimit": '"d";r=?1'}, 1, None),
        ({"RateLimit": "5;r=1"}, 1, None),
        ({"RateLimit": '("d");r=1'}, 1, None),
        ({"RateLimit": ""}, 1, None),
        ({"RateLimit": '"d";r=4, '}, 1, None),
        ({"RateLimit": "limit=100, remaining=-1"}, 1, None),
        ({"RateLimit": "remaining=9999999999999999"}, 1, None),
        ({"RateLimit": "left=5"}, 1, None),
        ({"RateLimit": '"d";r=4', "RateLimit-Policy": '"d";q=-1;w=60'}, 1, 4),
        ({"RateLimit": '"d";r=4', "RateLimit-Policy": '"d";w=60'}, 1, 4),
        ({"RateLimit": '"d";r=4', "RateLimit-Policy": '"d";q=5;w=0'}, 1, 4),
        ({"RateLimit": '"d";r=4', "RateLimit-Policy": "1.5;w=60"}, 1, 4),
        (three("X-RateLimit", "100", "plenty", "30"), 1, None),
        (three("X-RateLimit", "100", "-1", "30"), 1, None),
        (three("X-RateLimit", "hundred", "4", "soon"), 2, 4),
        (three("X-RateLimit", "100", "4", "9" * 18), 1, 4),
        (three("X-RateLimit", "100", "4", "1, 2"), 1, 4),
        (three("X-RateLimit", "\u0663", "\u0663"), 2, None),
        ({"X-RateLimit-Remaining": "9" * 5000}, 1, None),
        ({"X-RateLimit-Remaining": "4", "X-RateLimit-Burst-Capacity": "x", "X-RateLimit-Replenish-Rate": "0"}, 1, 4),
    ],
)
def test_a_malformed_field_is_ignored_and_counted(headers: dict[str, str], malformed: int, left: int | None) -> None:
    """Its neighbours hold; a policy or a reset that means nothing does not cost what remains."""
    reading = read(headers)
    assert reading.malformed == malformed
    assert [one.remaining for one in reading.reports] == ([] if left is None else [left])
    assert all(one.limit is None or one.limit >= 0 for one in reading.reports)
    assert all(one.reset_in_s is None for one in reading.reports)


def test_resets_that_do_not_fit_their_quotas_are_left_out() -> None:
    """One reset for two quotas could be either's."""
    reading = read(three("X-RateLimit", "10, 20", "1, 2", "5"))
    assert reading == QuotaReading((QuotaReport(1, 10), QuotaReport(2, 20)), 1)


def test_a_provider_may_say_how_it_writes_its_reset() -> None:
    """Milliseconds to wait look like seconds: only the provider knows."""
    headers = three("X-RateLimit", "100", "50", "30000")
    assert read(headers).reports[0].reset_in_s == 30_000
    assert read(headers, HeaderFormat(reset=ResetFormat.DELTA_MILLISECONDS)).reports[0].reset_in_s == 30
    assert (
        read({"RateLimit": '"d";r=1;t=30'}, HeaderFormat(reset=ResetFormat.EPOCH_SECONDS)).reports[0].reset_in_s == 30
    )


def test_an_answer_cannot_flood_the_limiter() -> None:
    """A hundred policies with names of a kilobyte are cut."""
    many = ", ".join(f'"{n:0>1000}";r={n}' for n in range(100))
    reports = read({"RateLimit": many}).reports
    assert len(reports) == MOST_REPORTS
    assert {len(one.policy) for one in reports} == {64}


def test_nothing_but_rate_limit_headers_is_kept() -> None:
    """No cookie and no token; what comes twice is joined."""
    pairs = [
        ("Set-Cookie", "s=1"),
        ("X-RateLimit-Limit", "1"),
        ("x-ratelimit-limit", "2"),
        ("Authorization", "Bearer x"),
    ]
    assert rate_limit_headers(pairs) == {"x-ratelimit-limit": "1, 2"}
