"""The threads that wait for a provider's answers. They touch neither Postgres nor Redis."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from jobqueue.engine.flight import Flight, Step
from jobqueue.handler import Call, JobHandler
from jobqueue.model.quota import QuotaReport


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: a value, or the error the handler raised.

    Attributes:
        reports: What the answer said of the provider's quotas.
        malformed_headers: Its rate-limit fields that meant nothing.
        answered_at_s: When it was there, on `time.monotonic`'s clock: the main thread may look later.
    """

    flight: Flight
    value: Any
    error: BaseException | None
    latency_s: float
    reports: tuple[QuotaReport, ...] = ()
    malformed_headers: int = 0
    answered_at_s: float | None = None


class Crew:
    """Up to *size* requests at once; answers are collected by the main thread."""

    def __init__(self, handler: JobHandler, size: int) -> None:
        self._handler = handler
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="call")
        self._answers: SimpleQueue[Answer] = SimpleQueue()

    def start(self, flight: Flight, call: Call) -> None:
        """Make *flight*'s next request."""
        self._pool.submit(self._make, flight, call)

    def _make(self, flight: Flight, call: Call) -> None:
        started_s = time.monotonic()
        value: Any = None
        failure: BaseException | None = None
        try:
            match flight.step:
                case Step.PROBE:
                    value = self._handler.probe(call)
                case Step.OBSERVE:
                    value = self._handler.observe_step(call, flight.carry or {})
                case Step.APPLY:
                    value = self._handler.apply(call)
        except BaseException as error:
            failure = error
        ended_s = time.monotonic()
        notes = call.notes
        self._answers.put(Answer(flight, value, failure, ended_s - started_s, notes.reports, notes.malformed, ended_s))

    def answers(self, timeout_s: float) -> list[Answer]:
        """All answers that are there; waits up to *timeout_s* for the first."""
        found: list[Answer] = []
        try:
            found.append(self._answers.get(timeout=timeout_s) if timeout_s > 0 else self._answers.get_nowait())
            while True:
                found.append(self._answers.get_nowait())
        except Empty:
            return found

    def close(self) -> None:
        """Let idle threads end; a thread that hangs is left to the end of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
