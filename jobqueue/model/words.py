"""Numbers as a person says them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 min 13 s``, ``1 h 4 min``, ``3 d 2 h``."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    for unit, length, smaller, smaller_length in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // smaller_length
            return f"{whole // length:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def counted(count: int, noun: str) -> str:
    """``1 item``, ``2,500 items``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
