"""What follows from an answer, or from a predecessor's crash, for the batch it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from types import NoneType
from typing import Any

from jobqueue.engine.context import JobContext
from jobqueue.engine.crew import Answer
from jobqueue.engine.draft import Draft
from jobqueue.engine.flight import Flight, Step
from jobqueue.engine.masking import masked
from jobqueue.engine.part import HeldPart, Repeat
from jobqueue.handler import Call, Effect, Reading
from jobqueue.model.backoff import ErrorKind
from jobqueue.model.failure import Facts, FailItems, RepeatLater, SplitBatch, consequence
from jobqueue.model.item import Item, ItemError, ItemOutcome, ItemStatus
from jobqueue.model.poison import Verdict, judge
from jobqueue.model.worker import WorkerConfig
from jobqueue.store.checkpoints import UnfinishedBatch


class Aftermath:
    """Turns answers into rows of a draft and into what the part sends next.

    Attributes:
        pause_reason: Set when a person must act before the job can go on.
    """

    def __init__(self, context: JobContext, config: WorkerConfig, random: Random) -> None:
        self.pause_reason = ""
        self._context = context
        self._config = config
        self._random = random
        self._backoff = context.limits.backoff

    def answered(self, part: HeldPart, answer: Answer, call: Call, draft: Draft) -> bool:
        """Judge *answer*; True when its batch is closed, False when its next request follows."""
        flight = answer.flight
        if answer.error is not None:
            self._failed(part, flight, answer.error, draft)
            return True
        try:
            match flight.step:
                case Step.OBSERVE:
                    return self._observed(part, flight, answer.value, call, draft)
                case Step.PROBE:
                    return self._probed(part, flight, answer.value, draft)
                case Step.APPLY:
                    return self._applied(part, flight, answer.value, draft)
        except Exception as error:  # a handler's bug in what it returned, judged like one it raised
            self._failed(part, flight, error, draft)
            return True

    # --- answers ---

    def _observed(self, part: HeldPart, flight: Flight, reading: Reading, call: Call, draft: Draft) -> bool:
        if not isinstance(reading, Reading):
            raise TypeError(f"observe_step returned {type(reading).__name__} and no Reading")
        if reading.states is None:
            _check_storable(reading.carry)
            flight.carry = dict(reading.carry)
            self._repeat(part, flight, draft, due_in_s=0.0)
            return True
        states = _one_each(flight, reading.states, "observe_step", Mapping)
        decisions = _one_each(flight, self._context.handler.decide(call, states), "decide", (Effect, ItemOutcome))
        decided = [(i, d) for i, d in zip(flight.items, decisions, strict=True) if isinstance(d, ItemOutcome)]
        effects = [
            (item, state, decision.after)
            for item, state, decision in zip(flight.items, states, decisions, strict=True)
            if isinstance(decision, Effect)
        ]
        self._outcomes(part, flight, decided, draft)
        if not effects:
            draft.close(flight, "recorded")
            return True
        flight.items = [item for item, _, _ in effects]
        flight.before = {item.seq: before for item, before, _ in effects}
        flight.after = {item.seq: after for item, _, after in effects}
        flight.is_journalled = True
        if not flight.is_paired:
            draft.journal(flight, effects)
            self._repeat(part, flight, draft, due_in_s=0.0)
            return True
        flight.step = Step.APPLY
        draft.turn(flight, effects, deadline_s=self._context.operation.deadline_s)
        return False

    def _probed(self, part: HeldPart, flight: Flight, results: Sequence[ItemOutcome | None], draft: Draft) -> bool:
        results = _one_each(flight, results, "probe", (ItemOutcome, NoneType))
        known = [(item, result) for item, result in zip(flight.items, results, strict=True) if result is not None]
        left = [item for item, result in zip(flight.items, results, strict=True) if result is None]
        self._outcomes(part, flight, known, draft)
        flight.is_effect_in_doubt = False
        if not left:
            draft.close(flight, "recorded")
            return True
        flight.items = left
        if not flight.is_paired:
            self._repeat(part, flight, draft, due_in_s=0.0)
            return True
        flight.step = Step.APPLY
        draft.turn(flight, [], deadline_s=self._context.operation.deadline_s)
        return False

    def _applied(self, part: HeldPart, flight: Flight, results: Sequence[ItemOutcome], draft: Draft) -> bool:
        results = _one_each(flight, results, "apply", ItemOutcome)
        self._outcomes(part, flight, list(zip(flight.items, results, strict=True)), draft)
        draft.close(flight, "recorded")
        return True

    def _outcomes(
        self, part: HeldPart, flight: Flight, results: Sequence[tuple[Item, ItemOutcome]], draft: Draft
    ) -> None:
        terminal = []
        for item, outcome in results:
            if outcome.status is not ItemStatus.RETRYING:
                terminal.append((item, outcome))
                continue
            error = outcome.error or ItemError("retrying", "the provider asked to try again")
            policy = self._backoff.get(ErrorKind.ITEM, self._config.retry)
            delay_s = policy.delay_s(flight.attempt, self._random)
            if delay_s is None:
                words = f"{error.message} (attempt {flight.attempt} of {policy.max_attempts})"
                terminal.append((item, ItemOutcome.failed(error.code, words)))
                continue
            draft.retry(flight, item, error, due_in_s=delay_s)
            part.wait_for(flight, item, time_s=delay_s)
        draft.outcomes(flight, terminal)

    # --- failures ---

    def _failed(self, part: HeldPart, flight: Flight, error: BaseException, draft: Draft) -> None:
        facts = Facts(
            item_count=len(flight.items),
            failures=flight.failures,
            failing_for_s=flight.failing_for_s,
            is_effect=flight.step is Step.APPLY,
            is_idempotent=self._context.operation.is_idempotent,
            is_in_doubt=flight.is_effect_in_doubt,
        )
        words = self._words(error)
        match consequence(error, facts, self._config, self._random, self._backoff):
            case RepeatLater() as later:
                if later.is_failure and flight.failures:
                    flight.failures += 1
                else:
                    flight.failures, flight.failing_for_s = int(later.is_failure), 0.0
                flight.is_effect_in_doubt = flight.is_effect_in_doubt or later.is_in_doubt
                self.pause_reason = self._masked(later.pause_reason) or self.pause_reason
                self._repeat(part, flight, draft, due_in_s=later.due_in_s, error=words)
            case SplitBatch(is_in_doubt=is_in_doubt):
                flight.is_effect_in_doubt = flight.is_effect_in_doubt or is_in_doubt
                self._split(part, flight, draft, is_isolated=flight.is_isolated, error=words)
            case FailItems(error=item_error, is_unconfirmed=is_unconfirmed, is_effect_possible=is_effect_possible):
                if flight.before and not is_effect_possible:
                    draft.unjournal(flight)
                status = ItemStatus.UNCONFIRMED if is_unconfirmed else ItemStatus.FAILED
                outcome = ItemOutcome(status, None, ItemError(item_error.code, self._masked(item_error.message)))
                draft.outcomes(flight, [(item, outcome) for item in flight.items])
                draft.close(flight, "recorded", error=words)

    def _words(self, error: BaseException) -> str:
        return self._masked(f"{type(error).__name__}: {error}")[:500]

    def _masked(self, text: str) -> str:
        return masked(text, secrets=(self._context.endpoint.access_token,))

    def postpone(self, part: HeldPart, flight: Flight, draft: Draft) -> None:
        """*flight*'s intent is committed and its request was not made: it waits to be sent."""
        self._repeat(part, flight, draft, due_in_s=0.0, error="not sent in time")

    def _repeat(self, part: HeldPart, flight: Flight, draft: Draft, *, due_in_s: float, error: str = "") -> None:
        draft.close(flight, "waiting", due_in_s=due_in_s, error=error)
        part.repeat_later(flight, due_in_s)

    def _split(
        self, part: HeldPart, flight: Flight, draft: Draft, *, is_isolated: bool, error: str, is_sent: bool = True
    ) -> None:
        operation = self._context.operation
        if operation.is_ordered and operation.is_observed and flight.before and not flight.is_effect_in_doubt:
            # The first half's effect moves what the second half's before-state speaks of.
            draft.unjournal(flight)
        halves = draft.split(flight, (part.next_no(), part.next_no()), is_isolated=is_isolated)
        if is_sent:
            draft.close(flight, "split", error=error)
        now_s = part.clock()
        part.repeats += [Repeat(half, now_s, now_s) for half in halves]

    # --- crashes ---

    def crashed(self, part: HeldPart, batch: UnfinishedBatch, draft: Draft) -> None:
        """*batch* was in flight when its holder vanished: charge it, and see `jobqueue.model.poison`."""
        crashes = batch.crashes + 1
        verdict = judge(crashes=crashes, is_isolated=batch.is_isolated, item_count=batch.item_count)
        match verdict:
            case Verdict.REPEAT:
                part.repeat_crashed(batch, crashes=crashes, is_isolated=batch.is_isolated)
                return
            case Verdict.ISOLATE:
                part.repeat_crashed(batch, crashes=0, is_isolated=True)
                return
        flight = part.as_flight(batch)
        if flight is None:
            draft.close_row(part.part, batch.no, "recorded")
            return
        if verdict is Verdict.SPLIT and len(flight.items) > 1:
            self._split(part, flight, draft, is_isolated=True, error="", is_sent=False)
            draft.close_row(part.part, batch.no, "split", flight=flight, error="split after a crash")
        elif verdict is Verdict.SPLIT:
            part.repeat_crashed(batch, crashes=0, is_isolated=True)
        else:
            words = f"the worker died {crashes} times with this item alone in flight"
            outcome = ItemOutcome.failed("poison", words)
            draft.outcomes(flight, [(item, outcome) for item in flight.items])
            draft.close_row(part.part, batch.no, "recorded", flight=flight, error=words)


def _one_each(
    flight: Flight, values: Sequence[Any], method: str, kind: type[Any] | tuple[type[Any], ...]
) -> Sequence[Any]:
    """*values*, once it is sure that each of them can be recorded: a draft that was begun cannot be taken back."""
    if len(values) != len(flight.items):
        raise TypeError(f"{method} returned {len(values)} values for {len(flight.items)} items")
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{method} returned {type(value).__name__} among its values")
        match value:
            case ItemOutcome(result=None, error=None) | None:
                pass
            case ItemOutcome(result=result, error=error):
                _check_storable([result, error and [error.code, error.message]])
            case Effect(after=state) | state:
                _check_storable(state)
    return values


def _check_storable(value: Any) -> None:
    json.dumps(value, allow_nan=False)
