"""Runs jobs through the handlers in the engine's order: observe, decide, journal, apply. No limits, no database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from handlers.enforcement import EnforcementJobHandler
from handlers.rollback import RollbackJobHandler
from jobqueue.errors import ProviderUnavailable
from jobqueue.handler import Call, Effect, Endpoint, Operation, Provider, Reading
from jobqueue.model.item import Item, ItemOutcome, ItemStatus, JournalEntry, State
from jobqueue.model.job import Job, JobRequest, JobStatus, Priority


@dataclass
class Run:
    """What became of one job."""

    operation: Operation
    options: Mapping[str, Any]
    outcomes: dict[str, ItemOutcome] = field(default_factory=dict)
    journal: list[JournalEntry] = field(default_factory=list)
    observe_requests: int = 0
    effect_requests: int = 0

    @property
    def statuses(self) -> set[ItemStatus]:
        return {outcome.status for outcome in self.outcomes.values()}


class Runner:
    """One provider and account; *handler* decides whether it enforces or rolls back."""

    def __init__(self, provider: Provider, endpoint: Endpoint) -> None:
        self.provider = provider
        self.endpoint = endpoint
        self.enforcement = EnforcementJobHandler()
        self.rollback_handler = RollbackJobHandler()
        self._batch_no = 0

    def request(self, name: str, options: Mapping[str, Any]) -> JobRequest:
        return JobRequest("enforcement", self.provider.name, "demo", name, options=options)

    def items(self, name: str, rows: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> list[Item]:
        request = self.request(name, options)
        operation = self.enforcement.operation(request, self.provider)
        read = [self.enforcement.read_item(request, operation, row) for row in rows]
        return [Item(seq, key, payload) for seq, (key, payload) in enumerate(read)]

    def call(self, name: str, items: Sequence[Item], options: Mapping[str, Any], *, deadline_s: float = 5.0) -> Call:
        operation = self.enforcement.operation(self.request(name, options), self.provider)
        text = f"{name}:{self._batch_no}:{[item.key for item in items]}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Call(
            _job(self.provider.name, name, options),
            operation,
            self.provider,
            self.endpoint,
            tuple(items),
            key,
            deadline_s,
        )

    def enforce(self, name: str, rows: Sequence[Mapping[str, str]], options: Mapping[str, Any], **how: Any) -> Run:
        """Run an enforcement job."""
        return self._run(self.enforcement, name, self.items(name, rows, options), options, **how)

    def roll_back(self, run: Run, **how: Any) -> Run:
        """Run the rollback of *run*, from its journal."""
        assert run.operation.undo is not None
        planned = self.enforcement.plan_undo(run.operation, self.provider, reversed(run.journal))
        items = [Item(seq, one.key, one.payload) for seq, one in enumerate(planned)]
        assert len({item.key for item in items}) == len(items), "keys of a rollback must be unique"
        return self._run(self.rollback_handler, run.operation.undo, items, run.options, **how)

    def observe(self, handler: EnforcementJobHandler, call: Call) -> tuple[Sequence[State], int]:
        """All states, and the requests it took."""
        reading, requests = Reading(), 0
        while reading.states is None:
            reading = self._again(lambda carry=reading.carry: handler.observe_step(call, carry))
            requests += 1
        return reading.states, requests

    def prepared(self, name: str, items: Sequence[Item], options: Mapping[str, Any]) -> Call:
        """The effect call of *items*, observed and decided; every item must need the effect."""
        call = self.call(name, items, options)
        before, _ = self.observe(self.enforcement, call)
        decisions = self.enforcement.decide(call, before)
        effects = tuple(one.after for one in decisions if isinstance(one, Effect))
        assert len(effects) == len(items)
        return replace(call, before=tuple(before), after=effects)

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """The effect, repeated while it was certainly not taken."""
        return self._again(lambda: self.enforcement.apply(call))

    def _run(
        self,
        handler: EnforcementJobHandler,
        name: str,
        items: list[Item],
        options: Mapping[str, Any],
        *,
        batch_size: int = 1000,
        is_recorded: bool = True,
    ) -> Run:
        run = Run(self.enforcement.operation(self.request(name, options), self.provider), options)
        while items:
            size = handler.fits(run.operation, items[:batch_size])
            batch, items = items[:size], items[size:]
            self._batch(handler, run, self.call(name, batch, options), is_recorded=is_recorded)
        return run

    def _batch(self, handler: EnforcementJobHandler, run: Run, call: Call, *, is_recorded: bool) -> None:
        self._batch_no += 1
        before, requests = self.observe(handler, call)
        run.observe_requests += requests
        decided = list(zip(call.items, before, handler.decide(call, before), strict=True))
        run.outcomes.update({item.key: one for item, _, one in decided if isinstance(one, ItemOutcome)})
        wanted = [(item, state, one.after) for item, state, one in decided if isinstance(one, Effect)]
        if not wanted:
            return
        chosen, befores, afters = (tuple(column) for column in zip(*wanted, strict=True))
        outcomes = self._again(lambda: handler.apply(replace(call, items=chosen, before=befores, after=afters)))
        run.effect_requests += 1
        for (item, state, after), outcome in zip(wanted, outcomes, strict=True):
            run.outcomes[item.key] = outcome
            status = outcome.status if is_recorded else None
            entry = JournalEntry(
                0, item.seq, item.key, self._batch_no, len(run.journal), state, after, item.payload, status
            )
            run.journal.append(entry)

    @staticmethod
    def _again(action: Any) -> Any:
        """Repeat what was certainly not taken, as the engine does: a server's older form is learned this way."""
        for _ in range(3):
            try:
                return action()
            except ProviderUnavailable as error:
                if error.was_sent:
                    raise
        return action()


def _job(provider: str, operation: str, options: Mapping[str, Any]) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=1,
        type="enforcement",
        provider=provider,
        account="demo",
        operation=operation,
        priority=Priority.DEFAULT,
        options=options,
        status=JobStatus.RUNNING,
        status_reason="",
        item_count=0,
        rollback_of=None,
        created_at=now,
        started_at=now,
        finished_at=None,
        deadline_at=None,
        is_planned=True,
        summary={},
    )
