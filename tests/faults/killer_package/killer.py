"""A handler some of whose items kill the process that sends them; installed by its entry points alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

from jobqueue.handler import BaseHandler, Call, Operation
from jobqueue.model.item import SUCCEEDED, ItemOutcome


class KillerProvider:
    """One operation, not observed."""

    name = "killer"
    operations: Mapping[str, Operation] = {
        "touch": Operation(name="touch", columns=("item",), max_size=20, is_observed=False)
    }


class KillerHandler(BaseHandler):
    """SIGKILLs its own process when a batch holds a killer."""

    job_type = "killer"

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Every item succeeds, if the process lives to say so."""
        if any(item.key.startswith("kill-") for item in call.items):
            os.kill(os.getpid(), signal.SIGKILL)
        return [SUCCEEDED] * len(call.items)
