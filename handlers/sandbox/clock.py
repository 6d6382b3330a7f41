"""Ledger time: the monotonic clock, carried over restarts of the machine.

Linux and macOS count monotonic time from boot, so two runs of the sandbox on one boot share the clock and a rate-limit
window may span a restart. After a reboot the count starts again; the offset below keeps it rising.
"""

from __future__ import annotations

import time
from pathlib import Path

NS_PER_S = 1_000_000_000


def boot_id() -> str:
    """Name this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class LedgerClock:
    """Monotonic nanoseconds that never fall below what the ledger already holds."""

    def __init__(self) -> None:
        self._offset_ns = 0

    def now_ns(self) -> int:
        """Return ledger time in nanoseconds."""
        return time.monotonic_ns() + self._offset_ns

    def continue_from(self, *, last_ns: int, last_epoch_ns: int, same_boot: bool) -> None:
        """Place now after the last recorded instant.

        Args:
            last_ns: Ledger time of the last line.
            last_epoch_ns: Wall-clock time of the last line, nanoseconds since 1970.
            same_boot: True when the last line was written since this machine started.
        """
        raw_ns = time.monotonic_ns()
        if same_boot and last_ns <= raw_ns:
            return
        elapsed_ns = max(0, time.time_ns() - last_epoch_ns)
        self._offset_ns = last_ns + elapsed_ns - raw_ns


def iso_seconds(epoch_ns: int) -> str:
    """Format nanoseconds since 1970 as ``YYYY-MM-DDTHH:MM:SSZ``, the form Spotify and TIDAL use."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_ns // NS_PER_S))
