"""What a provider's module offers: operations that know how to carry themselves out.

A provider is a class with a ``name`` and ``operations``; each operation is an `Action`. The enforcement and rollback
handlers drive every provider through these methods alone, so a new provider is one new module and one entry point.

An action sends at most ONE request per `observe_step`, `apply` and `probe`: that is what the engine has reserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from handlers.providers.answers import ITEM_STATUSES, check
from handlers.providers.http import Answer, Request, send
from jobqueue.errors import InvalidInputError
from jobqueue.handler import Call, Decision, Effect, Operation, Reading, UndoItem
from jobqueue.model.item import SUCCEEDED, Item, ItemOutcome, ItemStatus, JournalEntry, State

CHANGED_SINCE = "changed_since"
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Action(Operation):
    """An operation with its code; subclasses say what is read, sent and undone.

    Attributes:
        item_statuses: 4xx statuses that blame something in the batch, and not the request as a whole.
    """

    item_statuses: ClassVar[frozenset[int]] = ITEM_STATUSES

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check the values of a job's options; that required ones exist is known already.

        Raises:
            InvalidInputError: A value is wrong.
        """

    def read_key(self, text: str) -> str:
        """The canonical key that *text*, the key column's value, means.

        Raises:
            InvalidInputError: It means none.
        """
        key = text.strip()
        if not key:
            raise InvalidInputError(
                f"{self.columns[0]} is empty.", remedy="Give one in each row.", field=self.columns[0]
            )
        return key

    def read_item(self, row: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """Canonical key and payload of an input row; columns after the first may be missing or empty."""
        first, *rest = self.columns
        return self.read_key(row.get(first) or ""), {name: row[name] for name in rest if row.get(name)}

    def fits(self, items: Sequence[Item]) -> int:
        """How many leading *items* one request carries, at least 1."""
        return min(len(items), self.max_size)

    def observe(self, call: Call) -> Sequence[State]:
        """The items' states by ONE request; for actions that need no more. Override this or `observe_step`."""
        raise NotImplementedError(self.name)

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """Send one request of an observation; *carry* is what the step before returned, empty at first."""
        return Reading(tuple(self.observe(call)))

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """For each item its `Effect`, or the outcome it has without one. Pure."""
        raise NotImplementedError(self.name)

    def decide_undo(self, call: Call, now: Sequence[State]) -> Sequence[Decision]:
        """The same for items of a rollback, whose payload holds the undone effect's ``before`` and ``after``. Pure."""
        return [restore(item, state) for item, state in zip(call.items, now, strict=True)]

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Carry out the effect with ONE request."""
        raise NotImplementedError(self.name)

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """By ONE request: which items show the effect (outcome), and which certainly do not (None)."""
        reading = self.observe_step(call, {})
        if reading.states is None:
            unknown = ItemOutcome.unconfirmed("sent, and no answer came; looking would take more than one request")
            return [unknown] * len(call.items)
        return [
            seen(before, after, now) for before, after, now in zip(call.before, call.after, reading.states, strict=True)
        ]

    def plan_undo(self, entries: Iterable[JournalEntry]) -> Iterable[UndoItem]:
        """What undoes *entries*, which come latest effect first.

        Every entry that may have had its effect is planned; observing tells those apart that had none.
        """
        for entry in may_have_happened(entries):
            yield UndoItem(entry.key, {"before": dict(entry.before), "after": dict(entry.after)})

    def exchange(
        self,
        call: Call,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        is_effect: bool = False,
    ) -> Answer:
        """Send one request of *call* and return the success.

        Raises:
            HandlerError: What the answer, or its absence, means; see `answers.check` and `http.send`.
        """
        answer = self.ask(call, method, path, params=params, json=json, is_effect=is_effect)
        self.accept(call, answer)
        return answer

    def ask(
        self,
        call: Call,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        is_effect: bool = False,
    ) -> Answer:
        """Send one request of *call*, note what its answer says of quotas, and return it, whatever it is."""
        answer = send(
            Request(
                method=method,
                url=call.endpoint.base_url.rstrip("/") + path,
                deadline_s=call.deadline_s,
                token=call.endpoint.access_token,
                params=params or {},
                json=json,
                idempotency_key=call.idempotency_key if is_effect else "",
                is_effect=is_effect,
            )
        )
        call.notes.headers(answer.headers)
        return answer

    def accept(self, call: Call, answer: Answer) -> None:
        """Raise what a refusing *answer* means; see `answers.check`."""
        check(
            answer,
            item_count=len(call.items),
            secrets=(call.endpoint.access_token,),
            item_statuses=self.item_statuses,
        )


def by_name(*actions: Action) -> Mapping[str, Action]:
    """Operations of a provider, keyed by name."""
    return {action.name: action for action in actions}


def restore(item: Item, now: State) -> Decision:
    """Whether *item* of a rollback needs its effect: not when it is as before, never when somebody changed it since."""
    before, after = item.payload["before"], item.payload["after"]
    if now == before:
        return ItemOutcome.skipped("already as before")
    if now == after:
        return Effect(before)
    return changed_since(f"it was {before} before and {after} after the effect, but is {now} now")


def changed_since(words: str) -> ItemOutcome:
    """The outcome of an item that somebody changed after the effect that is to be undone."""
    return ItemOutcome.failed(CHANGED_SINCE, f"changed since, so it is left as it is: {words}.")


def seen(before: State, after: State, now: State) -> ItemOutcome | None:
    """What a look at the state *now* says about an effect whose answer was lost."""
    if now == after:
        return SUCCEEDED
    if now == before:
        return None
    return ItemOutcome.unconfirmed(f"sent, and no answer came; it was {before} before and is {now} now")


def may_have_happened(entries: Iterable[JournalEntry]) -> Iterable[JournalEntry]:
    """All entries but those of skipped items: an answer that was lost, or a refusal, may have had its effect."""
    return (entry for entry in entries if entry.status is not ItemStatus.SKIPPED)


def shown(text: str) -> str:
    """*text* quoted for a message, cut to a readable length."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
