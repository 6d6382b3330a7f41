"""Pauses and resets, against the answer's own clock."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobqueue.model.header_time import answered_at_s, parse_retry_after, reset_in_s
from jobqueue.model.quota import PauseReading, ResetFormat

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_S = 784_111_777.0
FAR = "Sun, 06 Nov 1994 08:49:37 +99999999999999999999"
NEVER = "Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own zone is eleven hours off."""
    monkeypatch.setenv("TZ", "XYZ+11")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def pause(clock_s: float = DATE_S + 3600, **headers: str) -> PauseReading:
    """The pause of an answer with a Date, read by a clock an hour ahead."""
    named = {"date": DATE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return parse_retry_after(named, now_s=lambda: clock_s)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("86400", 86_400),
        (" 7 ", 7),
        ("2.01", 3),
        ("0", 1),
        ("-3", 1),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 86_400),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 1),
    ],
)
def test_a_pause_is_as_long_as_the_provider_means(text: str, expected: float, far_from_greenwich: None) -> None:
    """Seconds, or a date against the answer's own Date: neither this machine's clock nor its zone matters."""
    assert pause(retry_after=text) == PauseReading(expected)


@pytest.mark.parametrize(
    "text", ["soon", "1e3", "nan", "inf", "9" * 19, "99999999999", NEVER, "1 2", "\u0663", "12 GMT", FAR]
)
def test_a_malformed_pause_is_none_and_counted(text: str) -> None:
    """What means nothing, or the end of the world, is no hint."""
    assert pause(retry_after=text) == PauseReading(None, 1)


def test_no_hint_is_no_mistake() -> None:
    """A 429 without Retry-After."""
    assert pause() == pause(retry_after="  ") == PauseReading(None, 0)


def test_milliseconds_are_more_exact_and_go_first() -> None:
    """As OpenAI and Cosmos DB send them; a malformed one leaves the word to Retry-After."""
    assert pause(retry_after_ms="250.5", retry_after="1") == PauseReading(0.251)
    assert pause(x_ms_retry_after_ms="1500", retry_after="9") == PauseReading(1.5)
    assert pause(retry_after_ms="0") == PauseReading(0.001)
    assert pause(retry_after_ms="x", retry_after="9") == PauseReading(9, 1)


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_without_a_date_the_clock_stands_in(date: str) -> None:
    """RFC 9110 lets a server without a clock leave Date out."""
    assert pause(DATE_S + 58.5, date=date, retry_after="Sun, 06 Nov 1994 08:50:37 GMT").retry_after_s == 2
    assert answered_at_s({"date": date}, lambda: 5.0) == 5.0
    assert answered_at_s({"date": DATE}, lambda: 5.0) == DATE_S


FORMS = {
    ResetFormat.DELTA_SECONDS: "90",
    ResetFormat.DELTA_MILLISECONDS: "90000",
    ResetFormat.EPOCH_SECONDS: str(int(DATE_S) + 90),
    ResetFormat.HTTP_DATE: "Sun, 06 Nov 1994 08:51:07 GMT",
    ResetFormat.ISO8601: "1994-11-06T08:51:07Z",
    ResetFormat.DURATION: "1m30s",
    ResetFormat.EPOCH_MILLISECONDS: str((int(DATE_S) + 90) * 1000),
}


@pytest.mark.parametrize(("form", "text"), FORMS.items())
def test_each_form_of_reset_is_read(form: ResetFormat, text: str, far_from_greenwich: None) -> None:
    """Ninety seconds, however they are written; in another form they are refused, never misread unnoticed."""
    assert reset_in_s(f" {text} ", form, DATE_S) == 90
    for other in set(ResetFormat) - {ResetFormat.AUTO, form}:
        try:
            assert reset_in_s(text, other, DATE_S) != 90
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90.5", 90.5),
        ("-1", None),
        (str(int(1e9 + 90)), 90),
        ("1000000090.25", 90.25),
        (str(int((1e9 + 90) * 1000)), 90),
        ("999999999", "malformed"),
        ("Sun, 09 Sep 2001 01:48:10 GMT", 90),
        ("2001-09-09T01:48:10.5+00:00", 90.5),
        ("2001-09-09T01:48:10", 90),
        ("2001-09-09T01:46:00Z", 0),
        ("1m30s", 90),
        ("12ms", 0.012),
        ("1h0m0.5s", 3600.5),
        ("1d", 86_400),
        ("6m 0s", "malformed"),
        ("9" * 18 + "d", "malformed"),
        ("0001-01-01T00:00:00+14:00", 0),
        ("soon", "malformed"),
        ("", "malformed"),
    ],
)
def test_a_form_nobody_named_is_told_by_the_value(text: str, expected: float | str | None) -> None:
    """Large numbers are points in time, the largest in milliseconds; a negative delay says nothing."""
    if expected == "malformed":
        with pytest.raises(ValueError, match=r"\w"):
            reset_in_s(text, ResetFormat.AUTO, 1e9)
    else:
        assert reset_in_s(text, ResetFormat.AUTO, 1e9) == pytest.approx(expected)


def test_a_point_in_time_before_1970_says_nothing() -> None:
    """-1 of a provider that counts from 1970."""
    assert reset_in_s("-1", ResetFormat.EPOCH_SECONDS, DATE_S) is None
    assert reset_in_s("-1", ResetFormat.EPOCH_MILLISECONDS, DATE_S) is None
