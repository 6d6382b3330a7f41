"""What a provider's throttles and successes say about a limit it does not tell.

The first throttle says that somebody takes a share, or that the limit is less than thought: from then on half of it is
sent, and what passes beyond is tried. Later ones tell more: the requests answered well in the window so far are all
that fit, and that many are *known* to pass. Where no limit is configured the first tells that too. For one window after
a throttle no more are sent. Then one more is tried; as long as it succeeds five are tried one by one, then two and four
at once (a sixteenth of what is known, where that is more), and from the second window on the limit grows with time
alone, by a cubic curve. So while somebody else holds a share of the quota about one request a window is throttled, and
once he is gone the whole quota is found again within two.

``lua/window.lua`` and ``lua/settle.lua`` compute the same on the shared state; a property test drives both. Times are
whole microseconds, counts whole requests.

Source: CUBIC (RFC 9438, section 4.2), as botocore's adaptive retries apply it to a send rate; here the measured level
limits the multiplicative decrease.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobqueue.model.window import UNLIMITED

FORGOTTEN_AFTER_WINDOWS = 6
SINGLE_PROOFS = 5
LEAST_STEP = 4
_SCALE = 10_000_000
_MOST_BASE = 1_000_000
_LEAST_BASE = 10
_LEAST_THOUGHT = 20


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one window.

    Attributes:
        known: Requests seen to pass in one window.
        base: Half of what the limit was thought to be before the throttle: never less is sent.
        at_us: When the latest throttle was answered; 0: nothing is learned.
        proofs: How often more than was known has passed since.
    """

    known: int = 0
    base: int = 0
    at_us: int = 0
    proofs: int = 0

    @property
    def sure(self) -> int:
        """What is sent without trying anything.

        A sixteenth less than was seen to pass, for it passed while others were still on their way; more only once that
        was tried.
        """
        return max(self.base, self.known - (self.known // 16 if self.proofs == 0 else 0))


def learned_limit(learned: Learned, now_us: int, *, limit: int, window_us: int, floor: int) -> int:
    """How many requests the window takes at *now_us*, as far as is known; at most *limit*."""
    if learned.at_us == 0:
        return limit
    quiet_us = now_us - learned.at_us - window_us
    if quiet_us >= (FORGOTTEN_AFTER_WINDOWS - 1) * window_us:
        return limit
    more = 0
    if quiet_us >= 0:
        t = max(0, quiet_us - window_us) * 100 // window_us
        cubic = min(_MOST_BASE, max(_LEAST_BASE, learned.sure)) * 4 * t**3 // _SCALE
        doubled = 2 ** min(20, learned.proofs - SINGLE_PROOFS + 1) if learned.proofs >= SINGLE_PROOFS else 1
        proved = min(doubled, max(LEAST_STEP, learned.sure // 16))
        more = max(1, cubic, proved)
    return min(limit, max(floor, learned.sure + more))


def after_throttle(
    learned: Learned, *, level: int, answered_us: int, limit: int, window_us: int, floor: int
) -> Learned:
    """*learned* after a throttle answered at *answered_us*, when *level* requests of the window had been answered well.

    To be called once for each burst: throttles of requests sent before the latest one came say nothing new. The level
    counts what lies in the provider's window: with the pause it names one knows when that began.
    """
    most = learned_limit(learned, answered_us, limit=limit, window_us=window_us, floor=floor)
    if most >= UNLIMITED:
        most = max(_LEAST_THOUGHT, level)
    elif learned.at_us == 0:
        # Whoever takes his share now may not have taken all of it yet: what passed until then says little.
        level = min(level, most // 2)
    return Learned(min(level, most), most // 2, answered_us)


def after_success(learned: Learned, *, level: int, sent_us: int, now_us: int, limit: int, window_us: int) -> Learned:
    """*learned* after a request sent at *sent_us* succeeded and the window held *level* answered ones."""
    if learned.at_us == 0:
        return learned
    if now_us - learned.at_us >= FORGOTTEN_AFTER_WINDOWS * window_us:
        return Learned()
    if sent_us <= learned.at_us:
        # It was let through before the throttle, and only its answer came later. What was thought then did not hold.
        if learned.known > learned.base:
            learned = replace(learned, known=min(learned.known + 1, 2 * learned.base))
    elif level > learned.sure:
        learned = replace(learned, known=level, proofs=learned.proofs + 1)
    return Learned() if learned.sure >= limit else learned
