"""Read what the provider recorded, and judge by it.

The file is JSON lines of four kinds: ``start`` (a sandbox process began), ``arrival`` (a request came and its answer is
delayed), ``request`` (its decision, effect and status; written and fsynced before the answer) and ``control`` (the
state was changed by hand). The functions take any iterable of `Entry`, so callers filter first: by account, by time, by
operation.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from handlers.sandbox.clock import NS_PER_S

MUTATING_METHODS = frozenset({"PUT", "POST", "DELETE", "PATCH"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One request the provider saw.

    `decision` is ``served`` (a route answered, whatever the status), ``refused`` (429 by the limit), ``fault`` (an
    injected answer or cut) or ``unfinished`` (the sandbox died before it decided). `is_applied` says whether the effect
    took place; `changes` what it changed, item by item, and is empty for a repetition that found nothing to change.
    """

    seq: int
    at_ns: int
    mono_ns: int
    method: str
    path: str
    account: str
    operation: str
    items: tuple[str, ...]
    idempotency_key: str
    request_id: str
    digest: str
    is_counted: bool
    decision: str
    status: int
    fault: str
    is_applied: bool
    changes: tuple[dict[str, Any], ...]

    @property
    def is_mutation(self) -> bool:
        """True when the method may change something."""
        return self.method in MUTATING_METHODS


@dataclass(frozen=True, slots=True)
class Effect:
    """One applied request as seen by one item; `is_changed` is False when the item was already as wanted."""

    entry: Entry
    is_changed: bool


@dataclass(frozen=True, slots=True)
class RepeatedCall:
    """Calls that were the same: equal idempotency keys or, without a key, equal contents."""

    key: str
    entries: tuple[Entry, ...]

    @property
    def extra(self) -> int:
        """How many calls beyond the first."""
        return len(self.entries) - 1

    @property
    def is_verbatim(self) -> bool:
        """True when method, path, query and body were the same each time."""
        return len({entry.digest for entry in self.entries}) == 1


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every complete line as a JSON object; a last line still being written is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def to_entry(line: dict[str, Any]) -> Entry:
    """Make an entry of an ``arrival`` or ``request`` line."""
    values = {field.name: line[field.name] for field in fields(Entry)}
    return Entry(**{**values, "items": tuple(values["items"]), "changes": tuple(values["changes"])})


def read_ledger(path: Path | str) -> Iterator[Entry]:
    """Yield every request the sandbox saw, in the order of decisions.

    Requests that arrived and were never decided come out as ``unfinished``: those of a killed process at the next
    ``start``, those of the running one at the end.

    Args:
        path: The ledger file of a running or a finished sandbox.
    """
    open_by_seq: dict[int, dict[str, Any]] = {}
    for line in read_lines(Path(path)):
        kind = line["kind"]
        if kind == "arrival":
            open_by_seq[line["seq"]] = line
        elif kind == "request":
            open_by_seq.pop(line["seq"], None)
            yield to_entry(line)
        elif kind == "start":
            yield from map(to_entry, open_by_seq.values())
            open_by_seq.clear()
    yield from map(to_entry, open_by_seq.values())


def effects_by_item(entries: Iterable[Entry]) -> dict[str, list[Effect]]:
    """Group the applied mutations by item, in the order of the ledger.

    Returns:
        Item (for Spotify its URI) to its effects; an item whose request changed nothing for it is there with
        `is_changed` False.
    """
    effects: defaultdict[str, list[Effect]] = defaultdict(list)
    for entry in entries:
        if not entry.is_applied or not entry.is_mutation:
            continue
        changed = {change.get("item") for change in entry.changes}
        for item in dict.fromkeys(entry.items):
            effects[item].append(Effect(entry, item in changed))
    return dict(effects)


def max_in_any_window(entries: Iterable[Entry], window_s: float) -> int:
    """Return the largest number of arrivals in any half-open window of *window_s* seconds.

    Arrivals that no limit counts (token refreshes) are left out; leave out 429s first to get what was served.

    Source:
        Two pointers over the sorted arrival times, in ledger time, which no step of the wall clock moves.
    """
    window_ns = round(window_s * NS_PER_S)
    times_ns = sorted(entry.mono_ns for entry in entries if entry.is_counted)
    largest, first = 0, 0
    for last, at_ns in enumerate(times_ns):
        while at_ns - times_ns[first] >= window_ns:
            first += 1
        largest = max(largest, last - first + 1)
    return largest


def max_in_fixed_windows(entries: Iterable[Entry], window_s: float) -> int:
    """Return the largest number of arrivals in one window that begins at a multiple of its length."""
    window_ns = round(window_s * NS_PER_S)
    counts: defaultdict[int, int] = defaultdict(int)
    for entry in entries:
        if entry.is_counted:
            counts[entry.mono_ns // window_ns] += 1
    return max(counts.values(), default=0)


def repeated_calls(entries: Iterable[Entry], *, include_reads: bool = False) -> list[RepeatedCall]:
    """Find calls the provider got more than once.

    Refused ones (429) do not count: they reached the limit, not the service. Without a key two calls are the same when
    account, method, path, query and body are; a job that is rolled back and run again repeats itself by that measure,
    so filter by time.

    Args:
        entries: What to look at.
        include_reads: Also report repeated GETs.
    """
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.decision != "refused" and (include_reads or entry.is_mutation):
            groups[entry.idempotency_key or f"{entry.account} {entry.digest}"].append(entry)
    return [RepeatedCall(key, tuple(group)) for key, group in groups.items() if len(group) > 1]
