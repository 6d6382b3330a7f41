"""Spotify's endpoints as one route table.

Source:
    Spotify's Web API reference, by the OpenAPI description of sonallux/spotify-web-api (2026.5.31); the token endpoint
    by the Authorization guide. Where the reference is silent (the words of a refusal) the answer is this sandbox's own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from handlers.sandbox import seed as seed_library
from handlers.sandbox.provider import Answer, Call, Refusal, Route, SeedOptions
from handlers.sandbox.spotify_library import (
    change_following,
    change_library,
    following_contains,
    library_contains,
    list_following,
    list_tracks,
    remove_tracks,
    save_tracks,
    tracks_contain,
)
from handlers.sandbox.spotify_playlists import add_items, get_playlist, list_items, list_playlists, remove_items
from handlers.sandbox.spotify_wire import items_by_id, items_by_uri
from handlers.sandbox.state import Change, State, Token

# Ways in which a real app may differ from the default.
QUIRKS = frozenset({"no-library-artists", "development-mode"})
TOKEN_LIFETIME_S = 3600

_ACCESS = re.compile(r"sandbox-([A-Za-z0-9_-]+)(?:\.([1-9][0-9]{0,8}))?")
_REFRESH = re.compile(r"refresh-([A-Za-z0-9_-]+)")
_TRACKS, _ARTISTS = items_by_id("track"), items_by_id("artist")


def _me(call: Call, _state: State) -> Answer:
    return Answer(
        200, {"id": call.account, "display_name": call.account, "type": "user", "uri": f"spotify:user:{call.account}"}
    )


def _removed(_call: Call, _state: State) -> Answer:
    raise Refusal(403, "Forbidden")


def _refresh(call: Call, state: State) -> Answer:
    """Answer the refresh_token grant; like Spotify's it may leave the refresh token out: the old one stays."""
    form = call.body if isinstance(call.body, dict) else {}
    if form.get("grant_type") != "refresh_token":
        return _token_error("unsupported_grant_type", "grant_type parameter is missing or not supported")
    if not (_has_client_secret(call.headers) or form.get("client_id")):
        return _token_error("invalid_client", "Invalid client")
    if not form.get("refresh_token"):
        return _token_error("invalid_request", "refresh_token must be supplied")
    found = _REFRESH.fullmatch(str(form["refresh_token"]))
    account = state.accounts.get(found[1]) if found else None
    if account is None:
        return _token_error("invalid_grant", "Invalid refresh token")
    if account.token.is_revoked:
        return _token_error("invalid_grant", "Refresh token revoked")
    token = account.token
    fresh = Token(max(token.generation + 1, token.oldest_valid), token.oldest_valid, token.is_revoked)
    body = {
        "access_token": f"sandbox-{account.name}.{fresh.generation}",
        "token_type": "Bearer",
        "expires_in": TOKEN_LIFETIME_S,
        "scope": "user-library-read user-library-modify user-follow-read user-follow-modify playlist-modify-private",
    }
    return Answer(200, body, ({"account": account.name, "token": asdict(fresh)},))


def _token_error(code: str, description: str) -> Answer:
    return Answer(400, {"error": code, "error_description": description})


def _has_client_secret(headers: Mapping[str, str]) -> bool:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return False
    return bool(client_id and colon and secret)


def _routes(quirks: frozenset[str]) -> tuple[Route, ...]:
    takes_artists = "no-library-artists" not in quirks

    def older(handle: Callable[[Call, State], Answer]) -> Callable[[Call, State], Answer]:
        return _removed if "development-mode" in quirks else handle

    save_library = change_library(is_saved=True, takes_artists=takes_artists)
    remove_library = change_library(is_saved=False, takes_artists=takes_artists)
    follow, unfollow = older(change_following(is_saved=True)), older(change_following(is_saved=False))
    list_100, remove_older = older(list_items(largest=100)), older(remove_items(key="tracks"))
    return (
        Route("POST", "/api/token", "refresh_token", _refresh, is_counted=False, needs_token=False),
        Route("GET", "/v1/me", "get_profile", _me),
        Route("PUT", "/v1/me/library", "save_library", save_library, items_by_uri),
        Route("DELETE", "/v1/me/library", "remove_library", remove_library, items_by_uri),
        Route("GET", "/v1/me/library/contains", "library_contains", library_contains, items_by_uri),
        Route("GET", "/v1/me/tracks", "list_tracks", list_tracks),
        Route("PUT", "/v1/me/tracks", "save_tracks", older(save_tracks), _TRACKS),
        Route("DELETE", "/v1/me/tracks", "remove_tracks", older(remove_tracks), _TRACKS),
        Route("GET", "/v1/me/tracks/contains", "tracks_contain", older(tracks_contain), _TRACKS),
        Route("GET", "/v1/me/following", "list_following", list_following),
        Route("PUT", "/v1/me/following", "follow_artists", follow, _ARTISTS),
        Route("DELETE", "/v1/me/following", "unfollow_artists", unfollow, _ARTISTS),
        Route("GET", "/v1/me/following/contains", "following_contains", older(following_contains), _ARTISTS),
        Route("GET", "/v1/me/playlists", "list_playlists", list_playlists),
        Route("GET", "/v1/playlists/{playlist_id}", "get_playlist", get_playlist),
        Route("GET", "/v1/playlists/{playlist_id}/items", "list_playlist_items", list_items(largest=50)),
        Route("POST", "/v1/playlists/{playlist_id}/items", "add_playlist_items", add_items, items_by_uri),
        Route(
            "DELETE",
            "/v1/playlists/{playlist_id}/items",
            "remove_playlist_items",
            remove_items(key="items"),
            items_by_uri,
        ),
        Route("GET", "/v1/playlists/{playlist_id}/tracks", "list_playlist_tracks", list_100),
        Route("POST", "/v1/playlists/{playlist_id}/tracks", "add_playlist_tracks", older(add_items), items_by_uri),
        Route("DELETE", "/v1/playlists/{playlist_id}/tracks", "remove_playlist_tracks", remove_older, items_by_uri),
    )


@dataclass(frozen=True, slots=True)
class Spotify:
    """Spotify as the sandbox's core uses it; tokens are ``sandbox-<account>`` and ``refresh-<account>``."""

    routes: tuple[Route, ...]
    name: str = "spotify"
    base_path: str = "/v1"
    token_path: str = "/api/token"  # noqa: S105 - a path

    def seed(self, state: State, options: SeedOptions) -> None:
        """Give every account the seed library."""
        seed_library.seed(state, options)

    def account_of(self, headers: Mapping[str, str], body: Any) -> str:
        """Name the account of a Bearer token or of a refresh token in the form."""
        found = _ACCESS.fullmatch(_bearer(headers))
        if found is None and isinstance(body, dict):
            found = _REFRESH.fullmatch(str(body.get("refresh_token")))
        return found[1] if found else ""

    def authenticate(self, headers: Mapping[str, str], state: State) -> None:
        """Refuse with 401 a token that is missing, unknown or expired."""
        text = _bearer(headers)
        if not text:
            raise Refusal(401, "No token provided")
        found = _ACCESS.fullmatch(text)
        account = state.accounts.get(found[1]) if found else None
        generation = int(found[2] or 1) if found else 0
        if account is None or generation > account.token.generation:
            raise Refusal(401, "Invalid access token")
        if generation < account.token.oldest_valid:
            raise Refusal(401, "The access token expired")

    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Shape an error as Spotify's ErrorObject."""
        return Answer(status, {"error": {"status": status, "message": message}}, headers=headers or {})

    def throttled(self, retry_after: str) -> Answer:
        """Shape a 429 with Retry-After."""
        return self.error(429, "API rate limit exceeded", {"Retry-After": retry_after})

    def expire_token(self, account: str, state: State, *, also_refresh: bool) -> Change:
        """Expire every access token minted so far."""
        generation = state.accounts[account].token.generation
        return {"account": account, "token": asdict(Token(generation, generation + 1, also_refresh))}


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def create(quirks: frozenset[str] = frozenset()) -> Spotify:
    """Make the provider.

    Args:
        quirks: ``no-library-artists``: ``/me/library`` refuses artists with 400, as the letter of the reference has it;
            ``development-mode``: the older endpoints answer 403.

    Raises:
        ValueError: A quirk is unknown.
    """
    unknown = quirks - QUIRKS
    if unknown:
        raise ValueError(f"spotify quirk {sorted(unknown)[0]!r} is not one of {sorted(QUIRKS)}")
    return Spotify(_routes(quirks))
