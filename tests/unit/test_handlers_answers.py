"""From an answer to the error tree."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from handlers.providers.answers import check, error_of, provider_message, retry_after_s
from handlers.providers.http import Answer
from jobqueue.errors import (
    AuthorizationExpired,
    BatchRejected,
    ItemRejected,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("0", 1),
        ("0.2", 1),
        ("2.01", 3),
        ("86399", 86399),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 1),
        ("-3", 1),
        ("soon", None),
        ("", None),
        ("1e999", None),
        ("nan", None),
    ],
)
def test_retry_after_is_read_and_rounded_up(text: str, expected: float | None) -> None:
    """Seconds, or a date against the answer's own Date; never less than told, never zero."""
    assert retry_after_s(Answer(429, {"retry-after": text, "date": DATE})) == expected


def test_a_retry_date_without_a_date_header_is_read_against_the_clock() -> None:
    """The given clock stands in for the missing header."""
    answer = Answer(429, {"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"})
    assert retry_after_s(answer, now_s=lambda: 784_111_777 + 58.5) == 2


@pytest.mark.parametrize(
    ("status", "count", "kind", "facts"),
    [
        (429, 5, RateLimited, {"retry_after_s": None}),
        (401, 5, AuthorizationExpired, {}),
        (500, 5, ProviderUnavailable, {"was_sent": True, "is_size_caused": False}),
        (504, 5, ProviderUnavailable, {"was_sent": True, "is_size_caused": True}),
        (504, 1, ProviderUnavailable, {"was_sent": True, "is_size_caused": False}),
        (413, 5, ProviderUnavailable, {"was_sent": False, "is_size_caused": True}),
        (414, 5, ProviderUnavailable, {"was_sent": False, "is_size_caused": True}),
        (408, 5, ProviderUnavailable, {"was_sent": False}),
        (302, 5, ProviderUnavailable, {"was_sent": False}),
        (400, 5, BatchRejected, {}),
        (422, 2, BatchRejected, {}),
        (400, 1, ItemRejected, {"code": "invalid"}),
        (404, 1, ItemRejected, {"code": "not_found"}),
        (403, 5, ItemRejected, {"code": "forbidden"}),
        (418, 5, ItemRejected, {"code": "http_418"}),
    ],
)
def test_each_status_means_one_error(status: int, count: int, kind: type, facts: dict) -> None:
    """The table of DESIGN: what the engine does follows from the type and its facts alone."""
    error = error_of(Answer(status, {}, b'{"error":{"message":"No"}}'), item_count=count)

    assert type(error) is kind
    assert str(error).startswith(f"{status}: No")
    assert {name: getattr(error, name) for name in facts} == facts


def test_a_provider_may_say_which_statuses_blame_an_item() -> None:
    """A playlist's 404 is about the playlist: no bisection."""
    error = error_of(Answer(404, {}), item_count=9, item_statuses=frozenset({400}))
    assert isinstance(error, ItemRejected)


def test_a_success_raises_nothing() -> None:
    """All of 2xx."""
    for status in (200, 201, 202, 204):
        check(Answer(status, {}), item_count=1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"status": 400, "message": "invalid id"}}, "invalid id"),
        ({"error": "invalid_grant", "error_description": "Refresh token revoked"}, "Refresh token revoked"),
        ({"errors": [{"title": "Bad", "detail": "Not found"}]}, "Not found"),
        ({"error": {"errors": [{"reason": "quotaExceeded", "message": "Quota"}], "code": 403}}, "Quota"),
        ({"error": "nope"}, "nope"),
        ({"odd": 1}, '{"odd": 1}'),
        ([], "[]"),
    ],
)
def test_the_providers_own_words_are_found(body: object, words: str) -> None:
    """In the error shapes of all four providers; else the body as it is."""
    assert provider_message(Answer(400, {}, json.dumps(body).encode())) == words


def test_a_body_that_is_no_text_makes_a_message_too() -> None:
    """Not even the bytes of a picture break the report."""
    assert str(error_of(Answer(500, {}, b"\xff\xfe\x00<html>"), item_count=1)).startswith("500: ")
    assert str(error_of(Answer(500, {}), item_count=1)) == "500: no message"


def test_secrets_are_masked_before_the_message_is_cut() -> None:
    """Raw, URL-encoded and base64; a secret across the cut leaves no first half."""
    secret = "s3cr3t/+canary=="
    forms = [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()]
    for form in forms:
        for padding in (0, 290):
            body = json.dumps({"message": "x" * padding + form + " tail"}).encode()
            text = str(error_of(Answer(400, {}, body), item_count=1, secrets=[secret]))
            assert form not in text
            assert form[:8] not in text


def test_no_answer_maps_to_unknown() -> None:
    """An answer is always knowledge: OutcomeUnknown comes from a missing one only."""
    kinds = {type(error_of(Answer(status, {}), item_count=2)) for status in range(300, 600)}
    assert OutcomeUnknown not in kinds
