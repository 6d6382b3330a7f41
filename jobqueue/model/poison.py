"""What to do with a batch whose process died: repeat it, isolate it, split it, quarantine it.

A crash is charged to the batches in flight, not to the part. Two crashes make a batch suspect; a suspect runs alone in
its process, so that the next crash is its own. Alone it is halved at every crash until a single item crashes alone
twice. An innocent neighbour ends its suspicion by its first recorded answer.
"""

from __future__ import annotations

from enum import Enum

SUSPECT_AFTER = 2
QUARANTINE_AFTER = 2


class Verdict(Enum):
    """What to do next with a batch that was in flight at a crash."""

    REPEAT = "repeat"
    ISOLATE = "isolate"
    SPLIT = "split"
    QUARANTINE = "quarantine"


def judge(*, crashes: int, is_isolated: bool, item_count: int) -> Verdict:
    """The verdict on a batch.

    Args:
        crashes: Crashes with this batch in flight since it was formed or isolated.
        is_isolated: Whether it was alone in its process.
        item_count: Its items, at least 1.
    """
    if is_isolated:
        if item_count > 1:
            return Verdict.SPLIT if crashes >= 1 else Verdict.REPEAT
        return Verdict.QUARANTINE if crashes >= QUARANTINE_AFTER else Verdict.REPEAT
    if crashes < SUSPECT_AFTER:
        return Verdict.REPEAT
    return Verdict.SPLIT if item_count > 1 else Verdict.ISOLATE
