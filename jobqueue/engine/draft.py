"""Gathers what is to be written together: intents, journal, outcomes, retries, letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from jobqueue.engine.flight import Flight, idempotency_key
from jobqueue.model.fingerprint import fingerprint
from jobqueue.model.item import Item, ItemError, ItemOutcome, ItemStatus, State
from jobqueue.store.checkpoints import Record, UnfinishedBatch


class Draft:
    """One `Record` being gathered, with the sums each part's checkpoint gets."""

    def __init__(self, job_id: int) -> None:
        self.record = Record()
        self.opened: list[Flight] = []
        self.turned: list[Flight] = []
        self._job_id = job_id
        self._sums: dict[int, Counter[str]] = {}
        self._cursors: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._touched: dict[int, None] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._touched

    @property
    def is_followed_by_repeats(self) -> bool:
        """Whether it makes batches wait to be sent again: one statement cannot also tell that they are."""
        return bool(self.record.split) or any(row["status"] == "waiting" for row in self.record.closed)

    @property
    def parts(self) -> list[int]:
        """The parts it is about."""
        return list(self._touched)

    def open(self, flight: Flight, *, cost_units: int, requests: int, deadline_s: float, cursor: int) -> None:
        """The intent of *flight*'s first request; *requests* counts all it may make."""
        self._touch(flight.part, flight.no)
        self._cursors[flight.part] = cursor
        self.opened.append(flight)
        row = flight.range_columns() | {
            "part": flight.part,
            "no": flight.no,
            "status": "sent" if flight.step.value == "apply" else "observing",
            "idempotency_key": flight.idempotency_key,
            "cost_units": cost_units,
            "requests": requests,
            "attempt": flight.attempt,
            "failures": flight.failures,
            "crashes": flight.crashes,
            "is_isolated": flight.is_isolated,
            "has_effect": flight.is_effect_in_doubt or flight.step.value == "apply",
            "failing_for_s": flight.failing_for_s,
            "deadline_s": deadline_s,
        }
        self.record.opened.append(row)
        if flight.replaces is not None:
            self.close_row(flight.part, flight.replaces, "repeated", flight=flight, requests=None)

    def turn(self, flight: Flight, journal: Iterable[tuple[Item, State, State]], *, deadline_s: float) -> None:
        """The observed batch's effect comes next: its before- and after-states."""
        self._touch(flight.part)
        self.turned.append(flight)
        self.record.turned.append({"part": flight.part, "no": flight.no, "deadline_s": deadline_s})
        self.journal(flight, journal)

    def journal(self, flight: Flight, journal: Iterable[tuple[Item, State, State]]) -> None:
        """Before- and after-states of items whose effect will be sent."""
        self._touch(flight.part)
        for item, before, after in journal:
            self.record.journal.append(
                {"part": flight.part, "seq": item.seq, "batch_no": flight.no, "before": before, "after": after}
            )

    def close(self, flight: Flight, status: str, *, due_in_s: float | None = None, error: str = "") -> None:
        """The flight's row ends as *status*: recorded, waiting or split."""
        self._sum(flight.part)["requests"] += flight.requests
        self.close_row(
            flight.part, flight.no, status, flight=flight, requests=flight.requests, due_in_s=due_in_s, error=error
        )

    def close_row(
        self,
        part: int,
        no: int,
        status: str,
        *,
        flight: Flight | None = None,
        requests: int | None = None,
        due_in_s: float | None = None,
        error: str = "",
    ) -> None:
        """Row *no* ends as *status*; *requests* None leaves its count of requests as it was."""
        self._touch(part)
        self.record.closed.append(
            {
                "part": part,
                "no": no,
                "status": status,
                "due_in_s": due_in_s,
                "failures": flight.failures if flight else 0,
                "failing_for_s": flight.failing_for_s if flight else 0.0,
                "requests": requests,
                "has_effect": flight.is_effect_in_doubt if flight else False,
                "carry": flight.carry if flight and status == "waiting" else None,
                "error": error or None,
            }
        )

    def split(self, flight: Flight, numbers: tuple[int, int], *, is_isolated: bool) -> list[UnfinishedBatch]:
        """Two halves of *flight* as rows that wait to be sent."""
        middle = (len(flight.items) + 1) // 2
        halves = []
        for no, items in zip(numbers, (flight.items[:middle], flight.items[middle:]), strict=True):
            self._touch(flight.part, no)
            half = Flight(
                part=flight.part,
                no=no,
                items=items,
                idempotency_key=idempotency_key(
                    self._job_id, [item.seq for item in items], flight.attempt, flight.tries
                ),
                attempt=flight.attempt,
                failures=flight.failures,
                is_isolated=is_isolated,
                is_effect_in_doubt=flight.is_effect_in_doubt,
            )
            self.record.split.append(
                half.range_columns()
                | {
                    "part": half.part,
                    "no": no,
                    "idempotency_key": half.idempotency_key,
                    "attempt": half.attempt,
                    "failures": half.failures,
                    "is_isolated": is_isolated,
                    "has_effect": half.is_effect_in_doubt,
                    "due_in_s": 0.0,
                }
            )
            halves.append(half.as_waiting(no))
        return halves

    def unjournal(self, flight: Flight) -> None:
        """The effect of *flight* certainly did not take place: its before-state is to be looked at again."""
        self._touch(flight.part)
        self.record.unjournalled += [{"part": flight.part, "seq": item.seq} for item in flight.items]

    def outcomes(self, flight: Flight, results: Iterable[tuple[Item, ItemOutcome]]) -> None:
        """Terminal outcomes of some of the flight's items."""
        self._touch(flight.part)
        sums = self._sum(flight.part)
        ranges = self.record.ranges
        for item, outcome in results:
            sums[outcome.status] += 1
            if outcome.result is None and outcome.error is None:
                last = ranges[-1] if ranges else None
                key = (flight.part, item.seq - 1, str(outcome.status), flight.attempt)
                if last and (last["part"], last["last_seq"], last["status"], last["attempts"]) == key:
                    last["last_seq"] = item.seq
                else:
                    ranges.append(
                        {
                            "part": flight.part,
                            "first_seq": item.seq,
                            "last_seq": item.seq,
                            "status": str(outcome.status),
                            "attempts": flight.attempt,
                        }
                    )
                continue
            self._single(flight, item, outcome)

    def _single(self, flight: Flight, item: Item, outcome: ItemOutcome) -> None:
        error = outcome.error
        self.record.singles.append(
            {
                "part": flight.part,
                "seq": item.seq,
                "status": str(outcome.status),
                "attempts": flight.attempt,
                "result": outcome.result,
                "error": None if error is None else {"code": error.code, "message": error.message},
            }
        )
        if outcome.status is ItemStatus.FAILED and error is not None:
            self.record.dead.append(
                {
                    "part": flight.part,
                    "seq": item.seq,
                    "fingerprint": fingerprint(error),
                    "reason": error.message,
                    "event": event(flight, error),
                }
            )

    def retry(self, flight: Flight, item: Item, error: ItemError, *, due_in_s: float) -> None:
        """The item waits for its next attempt."""
        self._touch(flight.part)
        self.record.retries.append(
            {
                "part": flight.part,
                "seq": item.seq,
                "attempts": flight.attempt,
                "due_in_s": due_in_s,
                "event": event(flight, error),
            }
        )

    def finish(self, fences: dict[int, int], numbers: dict[int, int]) -> Record:
        """The record, with one row for each part it is about."""
        with_intents = {flight.part for flight in self.opened}
        for part in self._touched:
            sums = self._sums.get(part, Counter())
            has_outcomes = any(sums[status] for status in ("succeeded", "skipped", "failed", "unconfirmed"))
            self.record.parts.append(
                {
                    "part": part,
                    "fence": fences.get(part, -1),  # a part that was lost: its row matches nothing
                    "cursor": self._cursors.get(part),
                    "batch_no": max(self._numbers.get(part, 0), numbers.get(part, 0)),
                    "has_intents": part in with_intents,
                    "has_outcomes": has_outcomes,
                    "succeeded": sums["succeeded"],
                    "skipped": sums["skipped"],
                    "failed": sums["failed"],
                    "unconfirmed": sums["unconfirmed"],
                    "requests": sums["requests"],
                }
            )
        return self.record

    def _sum(self, part: int) -> Counter[str]:
        return self._sums.setdefault(part, Counter())

    def _touch(self, part: int, no: int = 0) -> None:
        self._touched[part] = None
        self._numbers[part] = max(no, self._numbers.get(part, 0))


def event(flight: Flight, error: ItemError) -> dict[str, Any]:
    """One line of an item's history."""
    return {
        "attempt": flight.attempt,
        "batch": flight.no,
        "code": error.code,
        "message": error.message,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
