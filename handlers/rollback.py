"""Rollback: restore what the journal of another job recorded, and nothing that somebody changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.enforcement import EnforcementJobHandler
from handlers.providers.contract import Action
from jobqueue.errors import InvalidInputError
from jobqueue.handler import Call, Decision, Operation
from jobqueue.model.item import State
from jobqueue.model.job import JobRequest, JobType


class RollbackJobHandler(EnforcementJobHandler):
    """Applies the undo operation of the undone job's operation to the `UndoItem` rows its `plan_undo` gave.

    The job's operation is that undo operation, its options are those of the undone job. What it does is observed and
    journalled like any effect, so a rollback can be rolled back: that applies the original operation again.
    """

    job_type = JobType.ROLLBACK

    def read_item(
        self, request: JobRequest, operation: Operation, row: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """Never from a file: the items of a rollback come from the journal.

        Raises:
            InvalidInputError: Always.
        """
        raise InvalidInputError(
            "a rollback takes no items.", remedy="Give the id of the job to roll back.", field="items"
        )

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Skip what is as before, restore what is as the undone effect left it, fail the rest as ``changed_since``."""
        if not isinstance(call.operation, Action):
            raise TypeError(f"{call.operation.name} is no action")
        return call.operation.decide_undo(call, before)
