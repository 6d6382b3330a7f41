"""Waiting before another attempt, as pure functions of the attempt and a source of randomness.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from jobqueue.errors import ConfigurationError

_LARGEST_EXPONENT = 60  # 2.0 ** 60 s is longer than any cap; larger ones overflow
_LONGEST_CHAIN = 50  # by then a chain of decorrelated delays has forgotten where it began
_UNBOUNDED = 1_000_000
_LONGEST_DELAY_S = 86_400.0


class ErrorKind(StrEnum):
    """What failed, as far as the way of repeating it goes.

    A throttle is none of them: the limiter alone says when to go on.
    """

    OUTAGE = "outage"
    """The provider is out (`ProviderUnavailable`). Bounded by time, never by attempts."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """No answer came to what was sent (`OutcomeUnknown`). Bounded by time, never by attempts."""
    ITEM = "item"
    """The provider asked to try an item again; the only failure that uses up the item's attempts."""
    BUG = "bug"
    """Anything unexpected; after the last attempt the batch is split, and in the end the item fails."""

    @property
    def is_counted(self) -> bool:
        """Whether attempts bound it."""
        return self in (ErrorKind.ITEM, ErrorKind.BUG)


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


def nth_decorrelated_s(attempt: int, *, base_s: float, cap_s: float, random: Random) -> float:
    """The delay after *attempt* (from 1) of a chain of decorrelated ones, drawn anew from its beginning.

    For callers that keep no delays: another process may repeat what this one tried. It is distributed like the
    *attempt*-th delay of a chain that was kept.
    """
    delay_s = base_s
    for _ in range(min(attempt, _LONGEST_CHAIN)):
        delay_s = decorrelated_jitter_s(delay_s, base_s=base_s, cap_s=cap_s, random=random)
    return delay_s


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
        if not 0 < self.base_s <= self.cap_s <= _LONGEST_DELAY_S:
            raise ConfigurationError(
                f"base_s {self.base_s} and cap_s {self.cap_s} do not fit.",
                remedy=f"Use 0 < base_s <= cap_s <= {_LONGEST_DELAY_S:.0f}.",
            )

    @classmethod
    def of_kind(cls, kind: ErrorKind, values: Mapping[str, Any]) -> RetryPolicy:
        """The policy that *values* describe, as they are stored: ``base_s``, ``cap_s``, ``jitter``, ``max_attempts``.

        Raises:
            ConfigurationError: A value is out of range or unknown, or attempts are to bound what time bounds.
        """
        unknown = set(values) - {"max_attempts", "base_s", "cap_s", "jitter"}
        if unknown:
            raise ConfigurationError(
                f"backoff {kind}: {', '.join(sorted(unknown))} is unknown.",
                remedy="There are max_attempts, base_s, cap_s and jitter.",
            )
        if "max_attempts" in values and not kind.is_counted:
            raise ConfigurationError(
                f"backoff {kind}: max_attempts {values['max_attempts']} cannot be set.",
                remedy="It is bounded by time (WorkerConfig.outage_budget_s) and uses up no attempts.",
            )
        given = dict(values)
        for name, types in (("max_attempts", int), ("base_s", (int, float)), ("cap_s", (int, float))):
            if name in given and (isinstance(given[name], bool) or not isinstance(given[name], types)):
                raise ConfigurationError(
                    f"backoff {kind}: {name} {given[name]!r} is no number.", remedy="Use a number."
                )
        try:
            given["jitter"] = Jitter(given.get("jitter", Jitter.FULL))
        except ValueError:
            raise ConfigurationError(
                f"backoff {kind}: jitter {given['jitter']!r} is unknown.", remedy=f"Use one of: {', '.join(Jitter)}."
            ) from None
        return cls(**({} if kind.is_counted else {"max_attempts": _UNBOUNDED}) | given)

    def as_dict(self, kind: ErrorKind) -> dict[str, Any]:
        """What `of_kind` reads."""
        attempts = {"max_attempts": self.max_attempts} if kind.is_counted else {}
        return attempts | {"base_s": self.base_s, "cap_s": self.cap_s, "jitter": str(self.jitter)}

    def delay_s(self, attempt: int, random: Random, *, previous_s: float | None = None) -> float | None:
        """Seconds to wait after failed *attempt* (from 1), or None when no attempt is left.

        Args:
            attempt: The attempt that failed.
            random: The source of the jitter.
            previous_s: The delay before this one; only decorrelated jitter looks at it. None if it is not known.
        """
        if attempt >= self.max_attempts:
            return None
        if self.jitter is Jitter.DECORRELATED:
            if previous_s is None:
                return nth_decorrelated_s(attempt, base_s=self.base_s, cap_s=self.cap_s, random=random)
            return decorrelated_jitter_s(previous_s, base_s=self.base_s, cap_s=self.cap_s, random=random)
        spread = full_jitter_s if self.jitter is Jitter.FULL else equal_jitter_s
        return spread(attempt, base_s=self.base_s, cap_s=self.cap_s, random=random)
