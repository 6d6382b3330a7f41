"""What accounts have at the provider, changed only by applying changes that are plain data.

A change is a JSON object, kept in the ledger, so state = seed + replayed ledger by construction:

    {"item": i, "set": collection, "id": x, "was": {...} | null, "now": {...} | null}
    {"item": i, "list": list_id, "insert" | "remove": position, "entry": {...}}
    {"account": name, "token": {"generation": n, "oldest_valid": n, "is_revoked": bool}}
"""

from __future__ import annotations

import base64
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Change = dict[str, Any]
Value = dict[str, Any]
_Key = tuple[str, int, str]


class Collection:
    """Things an account has at most once each: ordered by ``added_at`` where they have one, else by id."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._keys: dict[str, _Key] = {}
        self._order: list[_Key] = []
        self._rank = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, thing_id: str) -> bool:
        return thing_id in self._values

    def get(self, thing_id: str) -> Value | None:
        """Return what is kept for *thing_id*, or None."""
        return self._values.get(thing_id)

    def set(self, thing_id: str, value: Value | None) -> None:
        """Keep *value*, or drop the thing when it is None."""
        key = self._keys.pop(thing_id, None)
        if key is not None:
            del self._values[thing_id]
            del self._order[bisect_left(self._order, key)]
        if value is None:
            return
        added_at = value.get("added_at", "")
        if added_at:
            self._rank += 1
        key = (added_at, self._rank if added_at else 0, thing_id)
        self._keys[thing_id] = key
        self._values[thing_id] = value
        insort(self._order, key)

    def newest_first(self, offset: int = 0, limit: int | None = None) -> list[tuple[str, Value]]:
        """Return a page of ids and values, the latest ``added_at`` first."""
        end = max(0, len(self._order) - offset)
        start = 0 if limit is None else max(0, end - limit)
        return [(key[2], self._values[key[2]]) for key in reversed(self._order[start:end])]

    def after(self, thing_id: str, limit: int) -> list[str]:
        """Return up to *limit* ids beyond *thing_id*, in the order of ids; for collections without dates."""
        start = bisect_right(self._order, ("", 0, thing_id)) if thing_id else 0
        return [key[2] for key in self._order[start : start + limit]]

    def __iter__(self) -> Iterator[str]:
        return (key[2] for key in self._order)


@dataclass(slots=True)
class ItemList:
    """A playlist: entries by position, and a version that every change moves."""

    list_id: str
    owner: str
    name: str
    entries: list[Value] = field(default_factory=list)
    version: int = 1

    def snapshot_id(self, changes_ahead: int = 0) -> str:
        """Name the version that *changes_ahead* more changes lead to."""
        return base64.urlsafe_b64encode(f"{self.version + changes_ahead},{self.list_id}".encode()).decode()

    def knows_snapshot(self, snapshot_id: str) -> bool:
        """True when *snapshot_id* names this list's version, present or past."""
        try:
            version, _, list_id = base64.urlsafe_b64decode(snapshot_id.encode()).decode().partition(",")
            return list_id == self.list_id and 1 <= int(version) <= self.version
        except ValueError:
            return False


@dataclass(slots=True)
class Token:
    """Access tokens of an account by generation; those below `oldest_valid` have expired."""

    generation: int = 1
    oldest_valid: int = 1
    is_revoked: bool = False


@dataclass(slots=True)
class Account:
    """One user at the provider."""

    name: str
    collections: dict[str, Collection] = field(default_factory=dict)
    token: Token = field(default_factory=Token)

    def collection(self, name: str) -> Collection:
        """Return the collection *name*, made when new."""
        return self.collections.setdefault(name, Collection())


class State:
    """All accounts and lists. Whoever reads or applies holds `lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.accounts: dict[str, Account] = {}
        self.lists: dict[str, ItemList] = {}

    def apply(self, account: str, change: Change) -> None:
        """Make one change; the only way state ever moves after seeding."""
        if "set" in change:
            self.accounts[account].collection(change["set"]).set(change["id"], change["now"])
        elif "token" in change:
            self.accounts[change["account"]].token = Token(**change["token"])
        else:
            target = self.lists[change["list"]]
            if "insert" in change:
                target.entries.insert(change["insert"], change["entry"])
            else:
                del target.entries[change["remove"]]
            target.version += 1

    def dump(self, account: str) -> dict[str, Any]:
        """Return everything *account* has, as JSON values: collections newest first, then its playlists."""
        has = self.accounts[account]
        dumped: dict[str, Any] = {"account": account}
        for name, collection in sorted(has.collections.items()):
            dumped[name] = [{"id": thing_id, **value} for thing_id, value in collection.newest_first()]
        dumped["playlists"] = [
            {
                "id": one.list_id,
                "name": one.name,
                "owner": one.owner,
                "snapshot_id": one.snapshot_id(),
                "items": one.entries,
            }
            for one in self.lists.values()
            if one.owner == account
        ]
        return dumped


def set_change(item: str, collection: str, thing_id: str, *, was: Value | None, now: Value | None) -> Change:
    """Describe a thing entering (*was* None), leaving (*now* None) or changing in a collection."""
    return {"item": item, "set": collection, "id": thing_id, "was": was, "now": now}
