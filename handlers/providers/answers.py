"""From a provider's answer to the errors of `jobqueue.errors`, with the provider's own words and without secrets."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

from handlers.providers.http import Answer
from jobqueue.errors import (
    AuthorizationExpired,
    BatchRejected,
    HandlerError,
    ItemRejected,
    ProviderUnavailable,
    RateLimited,
)
from jobqueue.model.header_time import parse_retry_after

ITEM_STATUSES = frozenset({400, 404, 409, 422})
_NEVER_TAKEN = frozenset({408, 425})
_TOO_LARGE = frozenset({413, 414, 431})
_CODES = {400: "invalid", 403: "forbidden", 404: "not_found", 409: "conflict", 410: "gone", 422: "invalid"}
_MESSAGE_CHARS = 300


def check(
    answer: Answer, *, item_count: int, secrets: Iterable[str] = (), item_statuses: frozenset[int] = ITEM_STATUSES
) -> None:
    """Return when *answer* is a success, else raise what it means.

    Args:
        answer: The provider's answer.
        item_count: Items in the request; a refusal of several is a `BatchRejected`, to be bisected.
        secrets: Texts that must not appear in a message.
        item_statuses: Statuses that blame something in the batch; every other 4xx blames the request as a whole.

    Raises:
        RateLimited: 429.
        AuthorizationExpired: 401, or 403 for a missing scope.
        ProviderUnavailable: 5xx and 3xx; 408, 413, 414, 425 and 431 with *was_sent* False.
        BatchRejected: One of *item_statuses*, several items.
        ItemRejected: Any other 4xx; it holds for every item of the request.
    """
    if not answer.is_success:
        raise error_of(answer, item_count=item_count, secrets=secrets, item_statuses=item_statuses)


def error_of(
    answer: Answer, *, item_count: int, secrets: Iterable[str] = (), item_statuses: frozenset[int] = ITEM_STATUSES
) -> HandlerError:
    """The error a refusing *answer* means; see `check`."""
    status = answer.status
    words = f"{status}: {masked(provider_message(answer), secrets)[:_MESSAGE_CHARS]}"
    if status == 429:
        return RateLimited(words, retry_after_s=retry_after_s(answer))
    if status == 401 or (status == 403 and "scope" in words.lower()):
        return AuthorizationExpired(words)
    if status in _TOO_LARGE:
        return ProviderUnavailable(words, is_size_caused=True)
    if status in _NEVER_TAKEN:
        return ProviderUnavailable(words)
    if status < 400:
        return ProviderUnavailable(f"{words} (redirects are not followed; check the provider's base URL)")
    if status >= 500:
        # A large batch that fails this way may pass in halves; a gateway's timeout says so most plainly.
        return ProviderUnavailable(words, was_sent=True, is_size_caused=status == 504 and item_count > 1)
    if status in item_statuses and item_count > 1:
        return BatchRejected(words)
    return ItemRejected(words, code=_CODES.get(status, f"http_{status}"))


def retry_after_s(answer: Answer, *, now_s: Callable[[], float] = time.time) -> float | None:
    """The pause *answer* asks for; None when it names none that can be read. See `parse_retry_after`."""
    return parse_retry_after(answer.headers, now_s=now_s).retry_after_s


def provider_message(answer: Answer) -> str:
    """The provider's own words, from the error shapes in use; else the body. Neither cut nor masked."""
    text = answer.body.decode("utf-8", "replace")
    try:
        found = _words(json.loads(text))
    except ValueError:
        found = ""
    return " ".join((found or text or "no message").split())


def _words(body: Any) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return _words(body[0]) if body else ""
    if not isinstance(body, dict):
        return ""
    for name in ("error_description", "message", "detail", "title", "error", "errors"):
        if found := _words(body.get(name)):
            return found
    return ""


def masked(text: str, secrets: Iterable[str]) -> str:
    """*text* with every secret, also URL- and base64-encoded, replaced by ``***``."""
    for secret in secrets:
        if not secret:
            continue
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in (secret, quote(secret, safe=""), quote_plus(secret), encoded):
            text = text.replace(form, "***")
    return text


def read_json(answer: Answer) -> Any:
    """The body of a success as JSON.

    Raises:
        ProviderUnavailable: It is not JSON; *was_sent* is True.
    """
    try:
        return json.loads(answer.body)
    except ValueError:
        pass
    raise unexpected(answer, "it is not JSON")


def unexpected(answer: Answer, why: str) -> ProviderUnavailable:
    """The error for a success nobody can read; the body stays out, it may hold anything."""
    kind = answer.headers.get("content-type", "no content type")
    return ProviderUnavailable(
        f"unexpected answer {answer.status} ({kind}, {len(answer.body):,} bytes): {why}.", was_sent=True
    )
