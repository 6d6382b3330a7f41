"""Sample what the workers and their horses occupy while a job runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 0.1
MB = 1024 * 1024


@dataclass
class Memory(threading.Thread):
    """Samples the largest resident set, in bytes, of workers and of horses.

    Args:
        pids: The workers' process ids by name, asked anew each time.
        share: How much of the job is done, 0..1.
    """

    pids: Callable[[], Mapping[str, int]]
    share: Callable[[], float]
    worker_peak: int = 0
    horse_peak: int = 0
    samples: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(name="memory", daemon=True)
        self._stop_wanted = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_wanted.set()
        self.join()

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._stop_wanted.wait(EVERY_S):
            largest = 0
            for name, pid in self.pids().items():
                with suppress(psutil.Error):
                    worker = psutil.Process(pid)
                    if name.startswith("worker"):
                        self.worker_peak = max(self.worker_peak, worker.memory_info().rss)
                        largest = max([largest, *(horse.memory_info().rss for horse in worker.children())])
            if largest:
                self.horse_peak = max(self.horse_peak, largest)
                self.samples.append((self.share(), largest))

    def growth(self) -> float | None:
        """How much larger the largest horse was around 90 % of the job than around 10 %, in bytes.

        None for a job too short to have been sampled there.
        """
        early = [rss for share, rss in self.samples if 0.10 <= share <= 0.20]
        late = [rss for share, rss in self.samples if 0.80 <= share <= 0.90]
        return max(late) - max(early) if early and late else None

    __hash__ = threading.Thread.__hash__
