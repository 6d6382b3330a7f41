"""Shift this process's wall clock by BENCH_CLOCK_SKEW_S seconds, for Python code, before any other module is loaded.

Python imports it by its name at start. Forked children keep the shift; the monotonic clock is left alone.
"""

from __future__ import annotations

import os
import time

import time_machine

SKEW_S = float(os.environ.get("BENCH_CLOCK_SKEW_S", "0"))

if SKEW_S:
    time_machine.travel(time.time() + SKEW_S, tick=True).start()
