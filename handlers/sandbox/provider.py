"""What a provider is to the sandbox: a route table and the shape of its errors. Adding one is one such module."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from handlers.sandbox.state import Change, State


class Refusal(Exception):
    """An answer of 4xx, with the provider's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """A request as a route sees it: decoded, with its account. `body` is None when there is none or it is no JSON."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    is_malformed: bool
    params: Mapping[str, str]
    account: str
    at_epoch_ns: int
    digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send, and what it changes. `body` None is an empty body."""

    status: int
    body: Any = None
    changes: tuple[Change, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.

    Args:
        method: HTTP method.
        pattern: Path with ``{name}`` for one segment.
        operation: Its name in the ledger.
        handle: Decides, under the state's lock, without changing anything itself.
        items: Names the items of a call, however malformed it is.
        is_counted: Whether the rate limit counts it.
        needs_token: Whether it wants a Bearer token.
    """

    method: str
    pattern: str
    operation: str
    handle: Callable[[Call, State], Answer]
    items: Callable[[Call], list[str]] = lambda _call: []
    is_counted: bool = True
    needs_token: bool = True

    def match(self, path: str) -> dict[str, str] | None:
        """Return the path's parameters, or None when it is another endpoint's."""
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.pattern), path)
        return None if found is None else found.groupdict()


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What accounts start with; recorded in the ledger, because replaying onto another seed would be wrong."""

    accounts: tuple[str, ...]
    library: int
    artists: int
    playlists: int
    playlist_items: int


class Provider(Protocol):
    """A provider as the core uses it."""

    @property
    def name(self) -> str:
        """Its name, such as ``spotify``."""

    @property
    def base_path(self) -> str:
        """The path its API lies under."""

    @property
    def token_path(self) -> str:
        """The path of its token endpoint."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """All its endpoints."""

    def seed(self, state: State, options: SeedOptions) -> None:
        """Give the accounts what they start with, the same each time."""

    def account_of(self, headers: Mapping[str, str], body: Any) -> str:
        """Name the account a request claims to be from, by its token, unchecked; empty when it claims none."""

    def authenticate(self, headers: Mapping[str, str], state: State) -> None:
        """Check the token.

        Raises:
            Refusal: 401, with the provider's words.
        """

    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Shape an error as the provider does."""

    def throttled(self, retry_after: str) -> Answer:
        """Shape a 429."""

    def expire_token(self, account: str, state: State, *, also_refresh: bool) -> Change:
        """Describe all access tokens of *account* expiring; with *also_refresh* its refresh token is revoked."""


def digest_of(method: str, path: str, query: str, body: bytes) -> str:
    """Name the contents of a request; equal for a verbatim repetition, 32 hexadecimal digits."""
    whole = b"\n".join([method.encode(), path.encode(), query.encode(), body])
    return hashlib.sha256(whole).hexdigest()[:32]


def decode_body(content_type: str, body: bytes) -> tuple[Any, bool]:
    """Decode a form or JSON body; returns the value and whether it was malformed."""
    if not body:
        return None, False
    try:
        if content_type.startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True)), False
        return json.loads(body), False
    except ValueError:
        return None, True
