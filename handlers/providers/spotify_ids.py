"""Spotify's names of things: bare ids, URIs and links, all read into the URI."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from handlers.providers.contract import shown
from jobqueue.errors import InvalidInputError

_ID = re.compile(r"[0-9A-Za-z]{22}")
_LOCALE = re.compile(r"intl-[A-Za-z-]{2,10}")
_HOSTS = frozenset({"open.spotify.com", "play.spotify.com"})


def read_uri(text: str, *, kinds: tuple[str, ...], field: str) -> str:
    """The URI that *text* means, such as ``spotify:track:4iV5W9uYEdYUVa79Axb7Rh``.

    Args:
        text: A 22-character id, a URI, or a link to open.spotify.com.
        kinds: What it may name, such as ``("track",)``; a bare id names the first.
        field: The column or option it stands in, for the message.

    Raises:
        InvalidInputError: It is none of these, or names another kind of thing.
    """
    kind, found = _parts(text.strip(), kinds[0])
    if kind in kinds and _ID.fullmatch(found):
        return f"spotify:{kind}:{found}"
    what = f"a Spotify {kind}, not a {kinds[0]}" if _ID.fullmatch(found) else f"no Spotify {kinds[0]}"
    raise InvalidInputError(
        f"{field} {shown(text)} is {what}.",
        remedy=f"Give a 22-character id, spotify:{kinds[0]}:ID or https://open.spotify.com/{kinds[0]}/ID.",
        field=field,
    )


def id_of(uri: str) -> str:
    """The bare id of a URI."""
    return uri.rsplit(":", 1)[1]


def _parts(text: str, default_kind: str) -> tuple[str, str]:
    """Kind and id of *text*; both empty when it has another form."""
    if text.startswith("spotify:"):
        # An older URI of a playlist names its owner first: spotify:user:NAME:playlist:ID.
        words = text.split(":")
        return (words[-2], words[-1]) if len(words) in {3, 5} else ("", "")
    if "/" not in text:
        return default_kind, text
    try:
        link = urlsplit(text if "://" in text else f"https://{text}")
        host = (link.hostname or "").lower()
    except ValueError:
        return "", ""
    path = [part for part in link.path.split("/") if part]
    if path and _LOCALE.fullmatch(path[0]):
        path = path[1:]
    is_link = host in _HOSTS and link.scheme in {"http", "https"} and len(path) in {2, 4}
    return (path[-2], path[-1]) if is_link else ("", "")
