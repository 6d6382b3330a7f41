"""Spotify's library: saved tracks and followed artists."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from handlers.providers.answers import error_of, read_json, unexpected
from handlers.providers.contract import Action
from handlers.providers.http import Answer
from handlers.providers.spotify_ids import id_of, read_uri
from jobqueue.errors import AuthorizationExpired, ProviderUnavailable
from jobqueue.handler import Call, Decision, Effect
from jobqueue.model.item import SUCCEEDED, ItemOutcome, State

_MAX_URIS = 40


class Form(StrEnum):
    """The two ways Spotify takes a follow."""

    LIBRARY = "library"  # /me/library?uris=
    FOLLOWING = "following"  # /me/following?type=artist&ids=, deprecated


class LearnedForms:
    """Which form each server takes, learned from its refusals; shared by the threads of a process.

    The newer form is tried first. A 400 of it may mean "not for artists" or "a bad id": the older form then tells
    which, and where that one is gone, the 400 of the newer one counts.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], set[Form]] = {}
        self._lock = threading.Lock()

    def choose(self, base_url: str, use: str) -> Form:
        """The form to send now for *use* (``read`` or ``write``)."""
        with self._lock:
            refused = self._refused.get((base_url, use), set())
            return Form.FOLLOWING if refused == {Form.LIBRARY} else Form.LIBRARY

    def refuse(self, base_url: str, use: str, form: Form) -> bool:
        """Learn that *form* was refused; True when the other one is to be sent instead."""
        with self._lock:
            self._refused.setdefault((base_url, use), set()).add(form)
        return self.choose(base_url, use) is not form

    def forget(self) -> None:
        """Start anew, as a fresh process does."""
        with self._lock:
            self._refused.clear()


FORMS = LearnedForms()


@dataclass(frozen=True)
class LibraryAction(Action):
    """Put items into the user's library, or take them out.

    Attributes:
        kind: ``track`` or ``artist``.
        is_saving: Whether the items are in the library afterwards.
    """

    item_statuses: ClassVar[frozenset[int]] = frozenset({400})

    kind: str = "track"
    is_saving: bool = False

    def read_key(self, text: str) -> str:
        """A track's or artist's URI."""
        return read_uri(text, kinds=(self.kind,), field=self.columns[0])

    def observe(self, call: Call) -> Sequence[State]:
        """``{"saved": bool}`` for each item."""
        answer = self._send(call, "GET", "/contains", use="read")
        flags = read_json(answer)
        if not isinstance(flags, list) or len(flags) != len(call.items) or not all(type(f) is bool for f in flags):
            raise unexpected(answer, f"one true or false for each of {len(call.items)} items was expected")
        return [{"saved": flag} for flag in flags]

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Items that are as wanted are skipped."""
        place = "in the library" if self.kind == "track" else "followed"
        done = ItemOutcome.skipped(f"already {place}" if self.is_saving else f"not {place}")
        return [done if state["saved"] is self.is_saving else Effect({"saved": self.is_saving}) for state in before]

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Save or remove all items; both may be repeated without harm."""
        self._send(call, "PUT" if self.is_saving else "DELETE", "", use="write")
        return [SUCCEEDED] * len(call.items)

    def _send(self, call: Call, method: str, suffix: str, *, use: str) -> Answer:
        base_url = call.endpoint.base_url
        form = FORMS.choose(base_url, use) if self.kind == "artist" else Form.LIBRARY
        path, params = _target(form, suffix, call)
        answer = self.ask(call, method, path, params=params, is_effect=use == "write")
        if self.kind == "artist" and _is_refused(form, answer) and FORMS.refuse(base_url, use, form):
            # The other form would be a second request, which nobody has reserved: the engine sends this one again.
            raise ProviderUnavailable(
                f"{answer.status}: this server takes no artists at /me/{form}; trying the other form."
            )
        self.accept(call, answer)
        return answer


def _target(form: Form, suffix: str, call: Call) -> tuple[str, dict[str, str]]:
    uris = [item.key for item in call.items]
    if form is Form.LIBRARY:
        return f"/me/library{suffix}", {"uris": ",".join(uris)}
    return f"/me/following{suffix}", {"type": "artist", "ids": ",".join(map(id_of, uris))}


def _is_refused(form: Form, answer: Answer) -> bool:
    """A 400 of the newer form may be about artists as such; the older one is gone where not found or forbidden."""
    if form is Form.LIBRARY:
        return answer.status == 400
    return answer.status in {403, 404, 405, 410} and not isinstance(
        error_of(answer, item_count=1), AuthorizationExpired
    )


def library_action(name: str, *, kind: str, undo: str, is_saving: bool) -> LibraryAction:
    """One of the four library operations."""
    return LibraryAction(
        name=name, columns=(kind,), max_size=_MAX_URIS, undo=undo, kind=kind, is_saving=is_saving, deadline_s=12.0
    )
