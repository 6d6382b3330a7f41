"""Jobs without any I/O, to measure and test everything around a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobqueue.handler import BaseHandler, Call, Operation
from jobqueue.model.item import SUCCEEDED, ItemOutcome


class NoopProvider:
    """The entry point ``noop``."""

    name = "noop"
    operations: Mapping[str, Operation] = {
        "noop": Operation(name="noop", columns=("item",), max_size=1000, is_observed=False),
    }


class NoopJobHandler(BaseHandler):
    """Every item succeeds at once."""

    job_type = "noop"

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Nothing is sent."""
        return [SUCCEEDED] * len(call.items)
