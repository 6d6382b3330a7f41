"""Planning a rollback: wait until the undone job has let go, then turn its journal, latest effect first, into items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import structlog

from jobqueue.engine import registry
from jobqueue.engine.context import JobContext, as_request
from jobqueue.handler import UndoItem
from jobqueue.model.job import TERMINAL
from jobqueue.model.parting import part_ranges, part_size
from jobqueue.store import copying, due, jobs, rollbacks
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.rollback")

_FIRST_PART = 1  # part 0 is the plan
_ASK_AGAIN_S = 1.0


def plan(database: Database, context: JobContext, *, part: int, fence: int) -> float | None:
    """Plan the rollback job of *context*; None when it is planned, else the seconds to wait before trying again.

    Nothing of the undone job may be under way any more: neither a lease nor a request before its deadline.
    """
    source_id = context.job.rollback_of
    if source_id is None:
        raise ValueError(f"job {context.job.id} rolls nothing back")
    leases, _ = due.live_leases(database, source_id)
    if leases:
        return _ASK_AGAIN_S
    flying_s = due.flights_until_s(database, source_id)
    if flying_s > 0:
        return flying_s
    source = jobs.get(database, source_id)
    handler = registry.handler(source.type)
    provider = registry.provider(source.provider)
    operation = handler.operation(as_request(source), provider)
    expected = sum(rollbacks.undo_counts(database, source_id)[1:])
    size = part_size(expected, optimal_size=context.sizes.optimal_size, is_ordered=context.operation.is_ordered)
    with Database(database.url, name="jobqueue-plan") as reader, database.transaction():
        if jobs.hold_state(database, source_id) not in TERMINAL:
            return _ASK_AGAIN_S
        entries = rollbacks.journal_backwards(reader, source_id)
        rows = _Rows(handler.plan_undo(operation, provider, entries), None if context.operation.is_ordered else size)
        copying.copy_items(database, context.job.id, rows)
        ranges = list(part_ranges(rows.count, rows.size or max(1, rows.count), first_part=_FIRST_PART))
        jobs.create_parts(database, context.job.id, context.job.priority, ranges)
        summary = _summary(database, source_id, rows.count)
        is_mine = rollbacks.finish_plan(
            database, context.job.id, part=part, fence=fence, item_count=rows.count, summary=summary
        )
        if not is_mine:
            raise LostPlanError(f"the lease on the plan of job {context.job.id} was lost")
    log.info("planned", job=context.job.id, rollback_of=source_id, items=rows.count)
    jobs.finish(database, context.job.id)
    return None


class LostPlanError(Exception):
    """Somebody else plans the rollback now; this transaction is undone."""


@dataclass(slots=True)
class _Rows:
    """The items to undo as COPY lines; counts them on the way. Without a *size* they are one part."""

    items: Iterable[UndoItem]
    size: int | None
    count: int = 0

    def __iter__(self) -> Iterator[bytes]:
        for item in self.items:
            part = _FIRST_PART + (self.count // self.size if self.size else 0)
            yield b"%d\t%d\t" % (part, self.count) + copying.copy_fields(item.key, item.payload)
            self.count += 1


def _summary(database: Database, source_id: int, item_count: int) -> dict[str, object]:
    succeeded, journalled, unknown = rollbacks.undo_counts(database, source_id)
    cannot = succeeded - journalled
    return {"undoes": item_count, "cannot_be_undone": cannot, "effect_unknown": unknown}
