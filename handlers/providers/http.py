"""One HTTP exchange, bounded in time and bytes, whose failures say whether the request was sent.

Under the engine nothing may happen that it did not reserve: no retry, no redirect, one request a call. Whether a failed
exchange may have had its effect is not guessed from the exception's type: the connection itself notes the moment before
the first byte of the request is handed to the socket. So a kept-alive connection that the server closes just then
counts as sent.
"""

from __future__ import annotations

import http.client
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3

from handlers.providers.wire import ACTIVE, Adapter, Exchange
from jobqueue.errors import HandlerError, OutcomeUnknown, ProviderUnavailable

MAX_BYTES = 8 * 1024 * 1024
CONNECT_S = 5.0
USER_AGENT = "jobqueue"
_CHUNK_BYTES = 64 * 1024
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LOGIN = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any status, headers by lower-case name, the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a provider.

    Attributes:
        deadline_s: Seconds for everything together: connection, request, headers and body.
        token: Sent as ``Authorization: Bearer``; kept out of `repr`.
        max_bytes: Largest body, decoded, that is read.
        is_effect: Whether it may change something; reads have nothing to be unknown about.
    """

    method: str
    url: str
    deadline_s: float
    token: str = field(default="", repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    max_bytes: int = MAX_BYTES
    is_effect: bool = True


class _Bearer(requests.auth.AuthBase):
    """Sets the header itself: without an auth object `requests` would put a ``.netrc`` password over it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _session() -> requests.Session:
    """This thread's session; a forked child never writes to its parent's sockets."""
    held = getattr(ACTIVE, "session", None)
    if held is not None and held[0] == os.getpid():
        return cast(requests.Session, held[1])
    session = requests.Session()
    adapter = Adapter(max_retries=0, pool_connections=4, pool_maxsize=2)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = USER_AGENT
    ACTIVE.session = (os.getpid(), session)
    return session


def close_session() -> None:
    """Close this thread's pooled connections; the next request opens new ones."""
    held = getattr(ACTIVE, "session", None)
    if held is not None and held[0] == os.getpid():
        held[1].close()
    ACTIVE.session = None


def send(request: Request) -> Answer:
    """Send *request* once and read the whole answer, whatever its status.

    Raises:
        ProviderUnavailable: Nothing was sent (refused, no such host, no connection in time), or a read has no answer.
        OutcomeUnknown: A request with an effect was sent, or begun, and no complete answer came within the deadline.

    Source:
        RFC 9110 section 9.2.2 for what may be repeated; name resolution is bounded by the resolver's own timeout only.
    """
    exchange = Exchange()
    watchdog = threading.Timer(request.deadline_s, exchange.expire)
    watchdog.daemon = True
    ACTIVE.exchange = exchange
    watchdog.start()
    failure: HandlerError
    try:
        return _exchange(request, exchange)
    except _TooLarge as error:
        failure = _unanswered(request, exchange, str(error))
    except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
        failure = _unanswered(request, exchange, _reason(error))
    finally:
        exchange.end()
        watchdog.cancel()
        ACTIVE.exchange = None
    # Raised out here so that no library exception, which holds the request's headers, hangs on to it.
    raise failure


class _TooLarge(Exception):
    pass


def _exchange(request: Request, exchange: Exchange) -> Answer:
    headers = {"Accept": "application/json", **request.headers}
    if request.idempotency_key:
        headers["Idempotency-Key"] = request.idempotency_key
    try:
        is_local = urlsplit(request.url).hostname in _LOOPBACK
    except ValueError as error:
        raise requests.exceptions.InvalidURL(str(error)) from None
    response = _session().request(
        request.method,
        request.url,
        params=request.params or None,
        json=request.json,
        headers=headers,
        auth=_Bearer(request.token),
        # The watchdog ends the exchange; the reads' own timeout is its backstop.
        timeout=(min(CONNECT_S, request.deadline_s), request.deadline_s + CONNECT_S),
        allow_redirects=False,
        stream=True,
        # A proxy of the environment cannot reach this machine's own servers.
        proxies={"http": None, "https": None, "all": None} if is_local else None,  # type: ignore[dict-item]
    )
    with response:
        body = bytearray()
        for chunk in response.iter_content(_CHUNK_BYTES):
            body += chunk
            if len(body) > request.max_bytes:
                raise _TooLarge(f"the answer is larger than {request.max_bytes:,} bytes")
        if exchange.is_expired:
            raise TimeoutError
        return Answer(
            response.status_code, {name.lower(): value for name, value in response.headers.items()}, bytes(body)
        )


def _unanswered(request: Request, exchange: Exchange, reason: str) -> HandlerError:
    where = _without_login(f"{request.method} {request.url.partition('?')[0]}")
    if exchange.is_expired:
        reason = f"no complete answer within {request.deadline_s:g} s"
    if not exchange.was_sent:
        return ProviderUnavailable(f"{where} was not sent: {reason}.")
    if not request.is_effect:
        return ProviderUnavailable(f"{where}: {reason}.")
    return OutcomeUnknown(f"{where} was sent, but its answer is unknown: {reason}.")


def _reason(error: Exception) -> str:
    """The innermost cause in a few words; the outer ones repeat the URL."""
    cause: BaseException = error
    for _ in range(8):
        inner = next((part for part in cause.args if isinstance(part, BaseException)), None)
        inner = inner or getattr(cause, "reason", None) or cause.__cause__
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return _without_login(str(cause).strip() or type(cause).__name__)[:200]


def _without_login(text: str) -> str:
    return _LOGIN.sub("//", text)
