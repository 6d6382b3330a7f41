"""A provider whose every item is one request and nothing else; installed by its entry point alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handlers.providers.contract import Action, by_name
from jobqueue.handler import Call
from jobqueue.model.item import SUCCEEDED, ItemOutcome


class Look(Action):
    """The sandbox's cheapest endpoint, once for each item."""

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """ONE request."""
        self.exchange(call, "GET", "/me")
        return [SUCCEEDED] * len(call.items)


class BenchProvider:
    """The entry point ``bench``."""

    name = "bench"
    operations: Mapping[str, Action] = by_name(
        Look(name="look", columns=("item",), max_size=1, is_observed=False, deadline_s=12.0)
    )
