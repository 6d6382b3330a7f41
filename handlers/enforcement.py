"""Enforcement: bring items at a provider into a wanted state, and know how to undo it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handlers.providers.contract import Action
from jobqueue.errors import InvalidInputError
from jobqueue.handler import Call, Decision, Operation, Provider, Reading, UndoItem, find_operation
from jobqueue.model.item import Item, ItemOutcome, JournalEntry, State
from jobqueue.model.job import JobRequest, JobType


class EnforcementJobHandler:
    """Drives the provider's `Action`; holds nothing, so one instance serves all threads."""

    job_type: str = JobType.ENFORCEMENT

    def operation(self, request: JobRequest, provider: Provider) -> Operation:
        """The provider's action that *request* names, its options checked.

        Raises:
            InvalidInputError: Unknown operation, missing or wrong option, or a provider that cannot be enforced.
        """
        operation = find_operation(request, provider)
        if not isinstance(operation, Action):
            raise InvalidInputError(
                f"provider {provider.name!r} offers {operation.name}, but not to {self.job_type} jobs.",
                remedy="Use another provider or job type.",
                field="provider",
            )
        operation.check_options(request.options)
        return operation

    def read_item(
        self, request: JobRequest, operation: Operation, row: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """The action's canonical key and payload; columns after the first may be missing."""
        return _action(operation).read_item(row)

    def fits(self, operation: Operation, items: Sequence[Item]) -> int:
        """How many leading *items* one request carries."""
        return _action(operation).fits(items)

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """One request of an observation that may take several, each to be reserved by itself."""
        return _action(call.operation).observe_step(call, carry)

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Items that are as wanted are skipped."""
        return _action(call.operation).decide(call, before)

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """ONE request."""
        return _action(call.operation).apply(call)

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """Look whether an unanswered request took effect; ONE request."""
        return _action(call.operation).probe(call)

    def plan_undo(
        self, operation: Operation, provider: Provider, entries: Iterable[JournalEntry]
    ) -> Iterable[UndoItem]:
        """The items of the rollback job, for the operation that `Operation.undo` names."""
        return _action(operation).plan_undo(entries)


def _action(operation: Operation) -> Action:
    if not isinstance(operation, Action):
        raise TypeError(f"{operation.name} is no action")
    return operation
