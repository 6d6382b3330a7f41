"""Says, before anything is stored or sent, what a job would cost and when it would be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jobqueue.engine.workers import worker_config
from jobqueue.errors import CannotMeetDeadlineError, ServerUnavailableError
from jobqueue.handler import Operation
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import JobRequest
from jobqueue.model.limit import CostExceedsLimitError, RateLimitState, Scope, ScopeLimits, Window, WindowState
from jobqueue.model.parting import part_size
from jobqueue.model.plan import Measured, Plan, WindowLoad
from jobqueue.model.preflight import Estimate, Verdict, estimate, judge
from jobqueue.model.words import duration
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import explaining, limits
from jobqueue.store.database import Database

_SAMPLE = 2000
_SAMPLE_AGE_S = 7 * 86_400.0
_FEWEST_MEASURED = 5


@dataclass(frozen=True, slots=True)
class Work:
    """What would be enqueued.

    Attributes:
        sizes: Batch sizes of its operation.
    """

    request: JobRequest
    operation: Operation
    sizes: BatchConfig
    item_count: int
    duplicate_count: int = 0
    skipped_count: int = 0


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a job would take.

    Attributes:
        plan: What the estimate stands on.
        notes: What it does not know, or assumes, in words.
        at: When it was made, aware UTC.
        verdict: None without a deadline.
    """

    work: Work
    plan: Plan
    estimate: Estimate
    notes: tuple[str, ...]
    at: datetime
    verdict: Verdict | None = None

    def at_time(self, in_s: float) -> datetime:
        """The instant *in_s* after the preflight; that of the year 9999 for what lies beyond."""
        try:
            return self.at + timedelta(seconds=in_s)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        work, found, measured = self.work, self.estimate, self.plan.measured
        return {
            "type": work.request.type,
            "provider": work.request.provider,
            "account": work.request.account,
            "operation": work.operation.name,
            "items": work.item_count,
            "duplicates": work.duplicate_count,
            "skipped": work.skipped_count,
            "requests": found.requests,
            "batches": found.batches,
            "batch_size": round(found.batch_size, 2),
            "cost_units": found.cost_units,
            "p50_s": round(found.p50_s, 3),
            "p90_s": round(found.p90_s, 3),
            "p50_at": self.at_time(found.p50_s).isoformat(),
            "p90_at": self.at_time(found.p90_s).isoformat(),
            "binding": found.binding,
            "binding_kind": found.binding_kind,
            "windows": [
                {
                    "scope": need.window.scope_name,
                    "window": need.window.text,
                    "limit": need.window.limit,
                    "used": need.window.used,
                    "needs": need.needs,
                    "windows": round(need.windows, 3),
                    "is_weighted": need.window.is_weighted,
                }
                for need in found.needs
            ],
            "workers": self.plan.workers,
            "lanes": self.plan.lanes,
            "measured": {
                "requests": measured.count,
                "latency_s": round(measured.latency_s, 4),
                "spread_s": round(measured.spread_s, 4),
                "repeats": measured.repeats,
                "throttles": measured.throttles,
                "outages": measured.outages,
            },
            "deadline": _deadline(self.verdict),
            "notes": list(self.notes),
        }


def _deadline(verdict: Verdict | None) -> Mapping[str, Any] | None:
    if verdict is None:
        return None
    return {
        "deadline_s": round(verdict.deadline_s, 3),
        "can_meet": verdict.can_meet,
        "is_likely": verdict.is_likely,
        "margin_s": round(verdict.margin_s, 3),
        "measure": "p90",
    }


def preflight(
    database: Database,
    limiter: Limiter,
    settings: Settings,
    work: Work,
    *,
    workers: int | None,
    deadline_s: float | None = None,
) -> Preflight:
    """What *work* would take, from the limits, what they hold now, and what the provider did of late.

    Args:
        workers: Live workers on the job's queue; None when Redis is away.

    Raises:
        CostExceedsLimitError: One request costs more than a whole window allows.
        ServerUnavailableError: Postgres cannot be reached.
    """
    request, operation = work.request, work.operation
    scope = Scope(request.provider, request.account, operation.name)
    levels = limits.provider_limits(database, request.provider).limits_for(scope)
    _check_cost(levels, operation)
    notes: list[str] = []
    measured = _measured(database, scope, notes)
    state = _state(limiter, scope, notes)
    size = part_size(work.item_count, optimal_size=work.sizes.optimal_size, is_ordered=operation.is_ordered)
    chosen = request.options.get("batch_size")
    plan = Plan(
        items=work.item_count,
        sizes=BatchConfig(1, chosen, chosen) if isinstance(chosen, int) else work.sizes,
        windows=tuple(_loads(levels, state, measured)),
        requests_a_batch=2 if operation.is_observed else 1,
        units_a_batch=operation.cost_units + (operation.observe_cost_units if operation.is_observed else 0),
        is_ordered=operation.is_ordered,
        parts=-(-work.item_count // size),
        part_items=size,
        workers=_workers(workers, request, notes),
        in_flight=worker_config(settings).in_flight,
        max_concurrency=min((level.max_concurrency for level in levels if level.max_concurrency), default=None),
        health=1.0 if state is None else state.batch_health.get(operation.name, 1.0),
        starts_in_s=_starts_in_s(state, notes),
        throttle_pause_s=max((level.cooldown_default_s for level in levels), default=0.0),
        measured=measured,
    )
    jobs, items = explaining.rivals(database, request.provider)
    if jobs:
        verb = "is" if jobs == 1 else "are"
        noun = "other job" if jobs == 1 else "other jobs"
        notes.append(
            f"{jobs} {noun} of {request.provider} {verb} active with {items:,} items left and not counted in:"
            " the quota is shared"
        )
    found = estimate(plan)
    verdict = None if deadline_s is None else judge(found, deadline_s)
    return Preflight(work, plan, found, tuple(notes), datetime.now(UTC), verdict)


def require_deadline(found: Preflight) -> None:
    """Refuse a job that would come too late.

    Raises:
        CannotMeetDeadlineError: Its P90 lies beyond the deadline.
    """
    verdict = found.verdict
    if verdict is None or verdict.can_meet:
        return
    late = f"P90 is {duration(found.estimate.p90_s)}, {duration(-verdict.margin_s)} too late"
    likely = "; P50 would meet it" if verdict.is_likely else ""
    raise CannotMeetDeadlineError(
        f"cannot meet --deadline {duration(verdict.deadline_s)}: {late}{likely}. Nothing was stored."
        f" What sets the pace: {found.estimate.binding}.",
        remedy=f"{_faster(found.estimate)} Or allow more time, or enqueue it without --deadline.",
    )


def _faster(found: Estimate) -> str:
    return {
        "window": "Raise the limit if the provider allows more (jobqueue limits set), or take fewer items.",
        "workers": "Start more workers (rq worker high default low), or take fewer items.",
        "concurrency": "Raise max_concurrency (jobqueue limits set), or take fewer items.",
    }.get(found.binding_kind, "Take fewer items.")


def _check_cost(levels: tuple[ScopeLimits, ...], operation: Operation) -> None:
    dearest = max(operation.cost_units, operation.observe_cost_units if operation.is_observed else 0)
    for level in levels:
        for window in level.windows:
            if window.is_weighted and dearest > window.limit:
                raise CostExceedsLimitError(
                    f"a request of {operation.name} costs {dearest} units: it can never fit {level.scope.name}:"
                    f" {window.text}.",
                    remedy=f"Raise the limit: jobqueue limits set {level.scope.provider} --unit-windows …",
                    field="cost_units",
                )


def _measured(database: Database, scope: Scope, notes: list[str]) -> Measured:
    """The latest requests of this operation for this account, or else for none in particular."""
    for each in dict.fromkeys((scope, replace(scope, account=""))):
        row = explaining.recent_sends(database, each.name, count=_SAMPLE, since_s=_SAMPLE_AGE_S)
        if row["count"] >= _FEWEST_MEASURED and row["latency_s"] is not None:
            return Measured(**row)
    assumed = Measured()
    notes.append(
        f"too few requests of {scope.operation} were sent yet to go by: assumed is {assumed.latency_s:g} s"
        f" ± {assumed.spread_s:g} s for an answer, and no failures"
    )
    return assumed


def _state(limiter: Limiter, scope: Scope, notes: list[str]) -> RateLimitState | None:
    try:
        state = limiter.snapshot(scope)
    except ServerUnavailableError as error:
        notes.append(f"what the windows hold now is not known ({error.message})")
        return None
    if state.epoch == 0:
        notes.append("what the windows hold now is being counted again, and taken for nothing")
    return state


def _loads(levels: tuple[ScopeLimits, ...], state: RateLimitState | None, measured: Measured) -> list[WindowLoad]:
    held = {} if state is None else {(window.scope_name, window.text): window for window in state.windows}
    return [
        _load(level, window, held.get((level.scope.name, window.text)), measured)
        for level in levels
        for window in level.windows
    ]


def _load(level: ScopeLimits, window: Window, held: WindowState | None, measured: Measured) -> WindowLoad:
    empty = WindowLoad(
        window.text, level.scope.name, window.limit, float(window.length_s), is_weighted=window.is_weighted
    )
    if held is None:
        return empty
    # What is under way counts for a window more after its answer.
    under_way_s = measured.latency_s + window.length_s if held.in_flight else 0.0
    return replace(
        empty,
        used=held.used + held.in_flight,
        frees_in_s=held.frees_in_s if held.used else under_way_s,
        resets_in_s=max(held.resets_in_s, under_way_s),
    )


def _workers(workers: int | None, request: JobRequest, notes: list[str]) -> int:
    queue = request.priority.queue
    if workers is None:
        notes.append("how many workers there are is not known while Redis is away: assumed is one")
    elif workers == 0:
        notes.append(f"no worker listens to {queue} now: assumed is one (rq worker high default low)")
    return workers or 1


def _starts_in_s(state: RateLimitState | None, notes: list[str]) -> float:
    if state is None:
        return 0.0
    waits = {f"pause of {pause.scope_name} ({pause.reason})": pause.remaining_s for pause in state.cooldowns}
    waits |= {f"open breaker of {breaker.scope_name}": breaker.open_remaining_s for breaker in state.breakers}
    name = max(waits, key=lambda each: waits[each], default="")
    if not name or waits[name] <= 0:
        return 0.0
    notes.append(f"nothing is sent before the {name} lifts in {duration(waits[name])}")
    return waits[name]
