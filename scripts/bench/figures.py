"""What a ledger says about how well a quota was used. Pure arithmetic over its entries; times are ledger time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from case import Case, Limit

from handlers.sandbox.ledger import Entry, max_in_any_window, max_in_fixed_windows

NS_PER_S = 1_000_000_000
RECOVERED = 0.95


@dataclass(frozen=True, slots=True)
class Shortage:
    """Another client, or the provider itself, took a part of the quota from *start_ns* to *end_ns*.

    Attributes:
        share: What was gone of each window.
        taken_ns: When the other client took its slots; None when the limit itself was lowered.
    """

    start_ns: int
    end_ns: int
    share: float
    taken_ns: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window's length of time. *index* 0 begins with the first arrival or, if there is one, with the shortage.

    Attributes:
        available: What the limit left to us in it, in requests.
        used: served ÷ available.
    """

    index: int
    arrivals: int
    served: int
    refused: int
    available: float
    used: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contender did.

    Attributes:
        calls: Requests that were served.
        refused: 429s.
        elapsed_s: First to last arrival.
        quota_used: (⌈calls ÷ limit⌉ − 1) windows ÷ elapsed, of the tightest limit; what a shortage took counts as used.
        most_arrivals: By limit, the most arrivals in any window of it, 429s included.
        rows: Only with a shortage.
        recovery_windows: From the shortage's end to the first window's length that is 95 % used; None without one.
    """

    calls: int
    refused: int
    elapsed_s: float
    quota_used: float
    most_arrivals: dict[str, int]
    rows: tuple[WindowRow, ...] = ()
    recovery_windows: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def figures(entries: Sequence[Entry], case: Case, kind: str, shortage: Shortage | None = None) -> Figures:
    """Judge by the ledger.

    Args:
        entries: All of the run; those no limit counts are left out.
        case: The limits that held.
        kind: ``rolling`` or ``fixed``, how the provider's windows lie.
        shortage: What was taken from us.
    """
    counted = sorted((entry for entry in entries if entry.is_counted), key=lambda entry: entry.mono_ns)
    served = [entry.mono_ns for entry in counted if entry.decision != "refused"]
    limit = case.tightest
    elapsed_s = (counted[-1].mono_ns - counted[0].mono_ns) / NS_PER_S if counted else 0.0
    windows = math.ceil(len(served) / limit.requests) - 1 + _lost_windows(limit, shortage)
    scan = max_in_any_window if kind == "rolling" else max_in_fixed_windows
    return Figures(
        calls=len(served),
        refused=len(counted) - len(served),
        elapsed_s=round(elapsed_s, 3),
        quota_used=windows * limit.window_s / elapsed_s if elapsed_s else 0.0,
        most_arrivals={str(one): scan(counted, one.window_s) for one in case.limits},
        rows=_rows(counted, limit, kind, shortage) if shortage else (),
        recovery_windows=_recovery(served, limit, kind, shortage.end_ns) if shortage else None,
    )


def _lost_windows(limit: Limit, shortage: Shortage | None) -> float:
    if shortage is None:
        return 0.0
    if shortage.taken_ns is not None:
        return len(shortage.taken_ns) / limit.requests
    return shortage.share * (shortage.end_ns - shortage.start_ns) / NS_PER_S / limit.window_s


def _rows(counted: Sequence[Entry], limit: Limit, kind: str, shortage: Shortage) -> tuple[WindowRow, ...]:
    """One row for each window's length before, in and after the shortage."""
    window_ns = limit.window_s * NS_PER_S
    zero_ns = shortage.start_ns - (shortage.start_ns % window_ns if kind == "fixed" else 0)
    rows = []
    first, last = ((entry.mono_ns - zero_ns) // window_ns for entry in (counted[0], counted[-1]))
    for index in range(first, last + 1):
        opens_ns = zero_ns + index * window_ns
        inside = [entry for entry in counted if opens_ns <= entry.mono_ns < opens_ns + window_ns]
        refused = sum(entry.decision == "refused" for entry in inside)
        available = limit.requests - _gone(limit, shortage, opens_ns, window_ns)
        served = len(inside) - refused
        rows.append(WindowRow(index, len(inside), served, refused, available, served / available if available else 0.0))
    return tuple(rows)


def _gone(limit: Limit, shortage: Shortage, opens_ns: int, window_ns: int) -> float:
    closes_ns = opens_ns + window_ns
    if shortage.taken_ns is not None:
        return bisect_left(shortage.taken_ns, closes_ns) - bisect_left(shortage.taken_ns, opens_ns)
    overlap_ns = max(0, min(closes_ns, shortage.end_ns) - max(opens_ns, shortage.start_ns))
    return limit.requests * shortage.share * overlap_ns / window_ns


def _recovery(served: Sequence[int], limit: Limit, kind: str, end_ns: int) -> float | None:
    """In windows. A fixed window is judged when it closes, a rolling one at every request that ends it."""
    window_ns = limit.window_s * NS_PER_S
    enough = math.ceil(RECOVERED * limit.requests)
    if kind == "fixed":
        closes = range(end_ns - end_ns % window_ns + window_ns, (served or [0])[-1] + 1, window_ns)
        ends = [close for close in closes if _count(served, close - window_ns, close) >= enough]
    else:
        ends = [at for at in served if at >= end_ns and _count(served, at - window_ns + 1, at + 1) >= enough]
    return round((ends[0] - end_ns) / window_ns, 2) if ends else None


def _count(times: Sequence[int], from_ns: int, to_ns: int) -> int:
    return bisect_left(times, to_ns) - bisect_left(times, from_ns)
