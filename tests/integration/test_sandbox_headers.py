"""The sandbox's rate-limit headers on the wire, letter by letter: what reads them elsewhere must not be what proves them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from jobqueue.errors import ConfigurationError

AN_HOUR_S = 3600


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    """Two limits, of which the minute's is closer."""
    with start_sandbox(tmp_path, limit="40/60,1000/3600", latency_ms=0, seed_library=3) as process:
        yield process


def look(sandbox: SandboxProcess) -> requests.Response:
    """One request that is counted."""
    headers = {"Authorization": "Bearer sandbox-demo"}
    return requests.get(f"{sandbox.base_url}/me/tracks", headers=headers, timeout=10)


def quota_of(answer: requests.Response) -> dict[str, str]:
    """The headers about limits; the digits of what depends on time are written as N."""
    found = {name: value for name, value in answer.headers.items() if "limit" in name.lower()}
    return {
        name: re.sub(r"\b(t=|reset=)\d+", r"\1N", "N" if name.endswith("-Reset") and value.isdigit() else value)
        for name, value in found.items()
    }


POLICY = "40;w=60, 1000;w=3600"


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("none", {}),
        (
            "draft10",
            {
                "RateLimit-Policy": '"l0";q=40;w=60, "l1";q=1000;w=3600',
                "RateLimit": '"l0";r=39;t=N, "l1";r=999;t=N',
            },
        ),
        ("draft07", {"RateLimit-Policy": POLICY, "RateLimit": "limit=40, remaining=39, reset=N"}),
        (
            "draft06",
            {
                "RateLimit-Policy": POLICY,
                "RateLimit-Limit": "40",
                "RateLimit-Remaining": "39",
                "RateLimit-Reset": "N",
            },
        ),
        ("draft02", {"RateLimit-Limit": f"40, {POLICY}", "RateLimit-Remaining": "39", "RateLimit-Reset": "N"}),
        ("x_ratelimit", {"X-RateLimit-Limit": "40", "X-RateLimit-Remaining": "39", "X-RateLimit-Reset": "N"}),
        (
            "x_window",
            {
                "X-RateLimit-Limit-Minute": "40",
                "X-RateLimit-Limit-Hour": "1000",
                "X-RateLimit-Remaining-Minute": "39",
                "X-RateLimit-Remaining-Hour": "999",
            },
        ),
    ],
)
def test_each_family_is_written_as_its_draft_has_it(
    sandbox: SandboxProcess, family: str, expected: dict[str, str]
) -> None:
    """Names, punctuation and numbers."""
    sandbox.control("headers", {"family": family})
    assert quota_of(look(sandbox)) == expected


@pytest.mark.parametrize(
    ("reset", "pattern"),
    [
        ("delta_seconds", r"\d\d"),
        ("delta_milliseconds", r"\d{5}"),
        ("epoch_seconds", r"\d{10}"),
        ("epoch_milliseconds", r"\d{13}"),
        ("http_date", r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
        ("iso8601", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
        ("duration", r"(?:1m0s|\d\ds)"),
    ],
)
def test_each_reset_is_written_in_its_form(sandbox: SandboxProcess, reset: str, pattern: str) -> None:
    """A full minute lies ahead."""
    sandbox.control("headers", {"family": "x_ratelimit", "reset": reset})
    assert re.fullmatch(pattern, look(sandbox).headers["X-RateLimit-Reset"])


def test_the_servers_clock_may_be_wrong(sandbox: SandboxProcess) -> None:
    """Its Date and its dates move together; the seconds between them stay."""
    sandbox.control("headers", {"date_offset_s": AN_HOUR_S, "retry_after": "http_date"})
    sandbox.control("faults", {"kind": "throttle", "retry_after": "100", "times": 1})

    answer = look(sandbox)

    sent_at = parsedate_to_datetime(answer.headers["Date"])
    assert AN_HOUR_S - 60 < sent_at.timestamp() - time.time() < AN_HOUR_S + 60
    assert (parsedate_to_datetime(answer.headers["Retry-After"]) - sent_at).total_seconds() == 100


def test_every_answer_has_one_date(sandbox: SandboxProcess) -> None:
    """The control API's too."""
    for url in (f"{sandbox.control_url}/stats", f"{sandbox.base_url}/nowhere"):
        assert "," not in requests.get(url, timeout=10).headers["Date"][5:]


def test_requests_that_no_limit_counts_say_nothing_of_limits(sandbox: SandboxProcess) -> None:
    """A token refresh is not counted."""
    sandbox.control("headers", {"family": "draft10"})
    answer = requests.post(sandbox.token_url, data={"grant_type": "refresh_token"}, timeout=10)
    assert quota_of(answer) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"family": "draft99"}, "family 'draft99'"),
        ({"reset": "soon"}, "reset 'soon'"),
        ({"retry_after": "never"}, "retry_after 'never'"),
        ({"famly": "draft10"}, "famly"),
        ({"date_offset_s": "late"}, "late"),
    ],
)
def test_a_wrong_plan_is_refused_and_changes_nothing(sandbox: SandboxProcess, body: dict, words: str) -> None:
    """With the field and its value."""
    sandbox.control("headers", {"family": "draft07"})
    with pytest.raises(ConfigurationError, match=words):
        sandbox.control("headers", body)
    assert "RateLimit" in look(sandbox).headers
