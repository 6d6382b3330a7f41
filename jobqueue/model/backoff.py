"""Waiting before another attempt, as pure functions of the attempt and a source of randomness.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from jobqueue.errors import ConfigurationError

_LARGEST_EXPONENT = 60  # 2.0 ** 60 s is longer than any cap; larger ones overflow


class Jitter(StrEnum):
    """How a delay is spread."""

    FULL = "full"
    EQUAL = "equal"
    DECORRELATED = "decorrelated"


def exponential_s(attempt: int, *, base_s: float, cap_s: float) -> float:
    """The delay before jitter after failed *attempt* (from 1): ``base_s``, twice it, four times it, up to ``cap_s``."""
    return min(cap_s, base_s * 2.0 ** min(attempt - 1, _LARGEST_EXPONENT))


def full_jitter_s(attempt: int, *, base_s: float, cap_s: float, random: Random) -> float:
    """Anything from 0 to the exponential delay: spreads callers widest."""
    return random.uniform(0.0, exponential_s(attempt, base_s=base_s, cap_s=cap_s))


def equal_jitter_s(attempt: int, *, base_s: float, cap_s: float, random: Random) -> float:
    """Half the exponential delay plus anything up to the other half: never nearly nothing."""
    half_s = exponential_s(attempt, base_s=base_s, cap_s=cap_s) / 2.0
    return half_s + random.uniform(0.0, half_s)


def decorrelated_jitter_s(previous_s: float, *, base_s: float, cap_s: float, random: Random) -> float:
    """Anything from ``base_s`` to three times the delay before; give 0 as *previous_s* for the first."""
    return min(cap_s, random.uniform(base_s, max(base_s, previous_s * 3.0)))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something is tried and how long to wait in between.

    Attributes:
        max_attempts: Tries in all, the first included.
        base_s: Delay after the first failure, before jitter.
        cap_s: Longest delay.
        jitter: How delays are spread.

    Raises:
        ConfigurationError: A value is out of range.
    """

    max_attempts: int = 5
    base_s: float = 1.0
    cap_s: float = 300.0
    jitter: Jitter = Jitter.FULL

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts {self.max_attempts} would never try.", remedy="Use at least 1.")
        if not 0 < self.base_s <= self.cap_s:
            raise ConfigurationError(
                f"base_s {self.base_s} and cap_s {self.cap_s} do not fit.", remedy="Use 0 < base_s <= cap_s."
            )

    def delay_s(self, attempt: int, random: Random, *, previous_s: float = 0.0) -> float | None:
        """Seconds to wait after failed *attempt* (from 1), or None when no attempt is left.

        Args:
            attempt: The attempt that failed.
            random: The source of the jitter.
            previous_s: The delay before this one; only decorrelated jitter looks at it.
        """
        if attempt >= self.max_attempts:
            return None
        if self.jitter is Jitter.DECORRELATED:
            return decorrelated_jitter_s(previous_s, base_s=self.base_s, cap_s=self.cap_s, random=random)
        spread = full_jitter_s if self.jitter is Jitter.FULL else equal_jitter_s
        return spread(attempt, base_s=self.base_s, cap_s=self.cap_s, random=random)
