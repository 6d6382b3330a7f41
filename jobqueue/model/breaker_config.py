"""When a circuit breaker opens, and how it closes again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jobqueue.errors import ConfigurationError
from jobqueue.model.call_window import BUCKETS, LARGEST_COUNT, Calls, CallWindow, CountWindow, TimeWindow

DEFAULT_WINDOW_S = 60.0
DEFAULT_SLOW_RATE = 0.5
SLOW_START_STEPS = 5
"""A slow start doubles what may be in flight after each of this many equal parts but the last, which ends it."""

_WHOLE = frozenset({"minimum_calls", "window_calls", "probes"})
_OPTIONAL = frozenset({"window_s", "window_calls", "slow_call_s", "slow_rate"})
_RANGES: Mapping[str, tuple[float, float]] = {
    "failure_rate": (0.001, 1),
    "minimum_calls": (1, 100_000),
    "window_s": (0.01, 86_400),
    "window_calls": (1, LARGEST_COUNT),
    "slow_call_s": (0.001, 3600),
    "slow_rate": (0.001, 1),
    "open_s": (0.001, 3600),
    "open_max_s": (0.001, 3600),
    "jitter": (0, 1),
    "probes": (1, 1000),
    "slow_start_s": (0, 3600),
}


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a breaker opens and how it closes again.

    The rates are taken over one window: the last *window_s* seconds, or the last *window_calls* calls.

    Attributes:
        failure_rate: Share of failed calls, 0.001..1, at which it opens.
        minimum_calls: Calls the window must hold before the rates are looked at, 1..100000.
        window_s: Length of a time-based window, 0.01..86400; 60 unless *window_calls* is given.
        window_calls: Length of a count-based window, 1..1000; None for a time-based one.
        slow_call_s: An answer that took at least this long is slow, 0.001..3600; None to not look at it.
        slow_rate: Share of slow calls, 0.001..1, at which it opens; 0.5 unless given. Only with *slow_call_s*.
        open_s: Open time after the first trip, 0.001..3600; doubles with each failed probe.
        open_max_s: Longest open time, before jitter; *open_s*..3600.
        jitter: Up to this share is added to the open time, 0..1.
        probes: Calls that must succeed in half-open, 1..1000; at most as many are leased at once.
        slow_start_s: How long after closing requests in flight are held back, 0..3600; 0 for no slow start.

    Raises:
        ConfigurationError: A value is of the wrong type, out of range, or does not go with another.

    Source:
        Names and meanings of the rates, minimum calls and windows follow Resilience4j's CircuitBreakerConfig.
    """

    failure_rate: float = 0.5
    minimum_calls: int = 10
    window_s: float | None = None
    window_calls: int | None = None
    slow_call_s: float | None = None
    slow_rate: float | None = None
    open_s: float = 15.0
    open_max_s: float = 600.0
    jitter: float = 0.2
    probes: int = 2
    slow_start_s: float = 10.0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            _check(name, getattr(self, name), least, most)
        if self.window_s is None and self.window_calls is None:
            object.__setattr__(self, "window_s", DEFAULT_WINDOW_S)
        if self.slow_call_s is not None and self.slow_rate is None:
            object.__setattr__(self, "slow_rate", DEFAULT_SLOW_RATE)
        self._check_together()

    def _check_together(self) -> None:
        if self.window_s is not None and self.window_calls is not None:
            raise ConfigurationError(
                f"breaker: window_s {self.window_s} and window_calls {self.window_calls} exclude each other.",
                remedy="Keep one: the window is either a time or a number of calls.",
            )
        if self.window_calls is not None and self.minimum_calls > self.window_calls:
            raise ConfigurationError(
                f"breaker: minimum_calls {self.minimum_calls} never fit into window_calls {self.window_calls}.",
                remedy=f"Set minimum_calls to {self.window_calls} or less, or it would never open.",
            )
        if self.slow_rate is not None and self.slow_call_s is None:
            raise ConfigurationError(
                f"breaker: slow_rate {self.slow_rate} has no slow_call_s.",
                remedy="Say with slow_call_s from how many seconds on a call is slow, or leave slow_rate out.",
            )
        if self.open_s > self.open_max_s:
            raise ConfigurationError(
                f"breaker: open_s {self.open_s} is longer than open_max_s {self.open_max_s}.",
                remedy="Lower open_s or raise open_max_s.",
            )

    @property
    def failure_permille(self) -> int:
        """The failure rate in whole per mille."""
        return round(self.failure_rate * 1000)

    @property
    def slow_permille(self) -> int:
        """The slow-call rate in whole per mille; 0 when it is not looked at."""
        return 0 if self.slow_rate is None else round(self.slow_rate * 1000)

    @property
    def slow_call_us(self) -> int:
        """From which latency on a call is slow; 0 when it is not looked at."""
        return 0 if self.slow_call_s is None else round(self.slow_call_s * 1_000_000)

    @property
    def jitter_permille(self) -> int:
        """The largest jitter in whole per mille."""
        return round(self.jitter * 1000)

    @property
    def bucket_us(self) -> int:
        """Length of one bucket of a time-based window; 0 for a count-based one."""
        return 0 if self.window_s is None else round(self.window_s * 1_000_000) // BUCKETS

    @property
    def slow_start_us(self) -> int:
        """Length of the slow start."""
        return round(self.slow_start_s * 1_000_000)

    def window_after(self, old: CallWindow | None) -> CallWindow:
        """*old*, or an empty window if it was counted for another kind or length."""
        if self.window_calls is not None:
            size = self.window_calls
            return old if isinstance(old, CountWindow) and old.size == size else CountWindow(size)
        length_us = self.bucket_us
        return old if isinstance(old, TimeWindow) and old.bucket_us == length_us else TimeWindow(length_us)

    def is_tripped_by(self, found: Calls) -> bool:
        """Whether what a window holds opens the breaker."""
        if found.calls < self.minimum_calls:
            return False
        is_failing = found.failures * 1000 >= self.failure_permille * found.calls
        return is_failing or (self.slow_call_us > 0 and found.slow * 1000 >= self.slow_permille * found.calls)

    def open_us(self, opens: int, jitter_permille: int) -> int:
        """How long the *opens*-th opening in a row lasts (from 1), *jitter_permille* of the largest jitter added."""
        base_us = min(round(self.open_max_s * 1_000_000), round(self.open_s * 1_000_000) * (1 << min(opens - 1, 20)))
        return base_us + base_us * self.jitter_permille * jitter_permille // 1_000_000


def _check(name: str, value: object, least: float, most: float) -> None:
    if value is None and name in _OPTIONAL:
        return
    kind = "a whole number" if name in _WHOLE else "a number"
    is_number = isinstance(value, int if name in _WHOLE else (int, float)) and not isinstance(value, bool)
    # NaN is in no range.
    if not is_number or not isinstance(value, (int, float)) or not least <= value <= most or math.isinf(value):
        none = " or none" if name in _OPTIONAL else ""
        raise ConfigurationError(
            f"breaker: {name} {value} is out of range.", remedy=f"Use {kind} in {least:g}..{most:g}{none}."
        )
