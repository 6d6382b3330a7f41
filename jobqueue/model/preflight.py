"""When a job would be done: a pure estimate, made by walking through its windows.

The walk sends batches in order as the service would: at each instant as many as every meter has room for, none before.
The meters are the windows of every scope (a request counts from its sending until its answer and then for one length
more; in a calendar window until the next boundary) and the lanes, the requests that may be under way at once. What the
windows hold already leaves them as `WindowLoad` says. The size of the batches follows the quota left, by the very
function the service uses, looked up as seldom as the service does. Where the work is long, the walk stops once two
periods of the slowest meter brought the same number of items, leaps over whole periods, and walks the rest.

P50 walks with the mean latency and the mean share of requests that must be repeated. P90 walks with values that nine of
ten jobs like this stay below, from the measured spread: for the mean latency of a lane's m requests, given n measured
ones with mean μ and standard deviation σ, it is μ + 1.2816 σ √(1/m + 1/n), and for a share p of repeats among N
requests p + 1.2816 √(p (1 − p) (1/N + 1/n)), with p taken from one more and two more than were counted (no repeat among
few requests proves little). P90 also lets what the windows hold leave them as late as it may, makes each part's
last batch half empty where sizes vary, and adds the longest row of repeats that one batch must expect. Both add the
pauses that throttles bring, at the mean and the late share.

Source: the prediction interval of a mean in Hahn and Meeker, "Statistical Intervals", 1991; for the added counts
Agresti and Coull, "Approximate is better than exact for interval estimation of binomial proportions", 1998.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jobqueue.model.backoff import exponential_s
from jobqueue.model.plan import Plan, WindowLoad
from jobqueue.model.walk import LANES, Meter, Walked, calendar_meter, lane_meter, rolling_meter, walk

Z_90 = 1.2816
"""The standard normal's 90th percentile."""


@dataclass(frozen=True, slots=True)
class WindowNeed:
    """What the job takes of a window.

    Attributes:
        needs: Requests or units the whole job takes of it, repeats included.
        windows: How many whole windows that fills.
    """

    window: WindowLoad
    needs: int
    windows: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job would be done. Durations count from now.

    Attributes:
        batches: Batches sent, repeats included; *requests* and *cost_units* are theirs.
        p50_s: Half of such jobs are done by then; *p90_s*: nine of ten.
        binding: The constraint without which the job would be done soonest, in words.
        binding_kind: ``window``, ``concurrency``, ``workers``, ``order`` or ``latency``.
        waits_s: How long the walk waited for each constraint.
    """

    items: int
    batches: int
    requests: int
    cost_units: int
    batch_size: float
    p50_s: float
    p90_s: float
    binding: str
    binding_kind: str
    needs: tuple[WindowNeed, ...]
    waits_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a deadline can be met; P90 decides.

    Attributes:
        margin_s: From P90 to the deadline; negative when it comes too late.
        is_likely: Whether at least P50 meets it.
    """

    deadline_s: float
    margin_s: float
    is_likely: bool

    @property
    def can_meet(self) -> bool:
        """Whether nine of ten such jobs meet it."""
        return self.margin_s >= 0


def estimate(plan: Plan) -> Estimate:
    """Requests, cost and finish of *plan*, as the module's text describes.

    A job of n requests through one window of limit L and length W, unused and without latency, takes exactly
    (⌈n/L⌉ − 1) W; no estimate is ever below that for any of its windows.
    """
    measured = plan.measured
    share = measured.repeats / measured.count if measured.count else 0.0
    likely = _walked(plan, latency_s=measured.latency_s, repeat_share=share, is_late=False)
    late = _late_values(plan, likely)
    slow = _walked(plan, latency_s=late.latency_s, repeat_share=late.share, is_late=True)
    p50_s = likely.finish_s + _pauses_s(plan, likely.batches, measured.throttles, measured.count)
    p90_s = slow.finish_s + _pauses_s(plan, slow.batches, late.throttles, late.count) + late.tail_s
    requests = likely.batches * plan.requests_a_batch
    kind, words = _binding(plan, likely, share)
    return Estimate(
        items=plan.items,
        batches=likely.batches,
        requests=requests,
        cost_units=likely.batches * plan.units_a_batch,
        batch_size=plan.items / max(1, likely.batches),
        p50_s=p50_s,
        p90_s=max(p50_s, p90_s),
        binding=words,
        binding_kind=kind,
        needs=tuple(_need(window, plan, likely.batches) for window in plan.windows),
        waits_s=dict(likely.waits_s),
    )


def judge(found: Estimate, deadline_s: float) -> Verdict:
    """Whether the job meets a deadline *deadline_s* from now."""
    return Verdict(deadline_s, deadline_s - found.p90_s, found.p50_s <= deadline_s)


# --- the walk ---


def _walked(plan: Plan, *, latency_s: float, repeat_share: float, is_late: bool, without: str = "") -> Walked:
    """The walk of *plan* with these values, and without the meter of that name.

    Args:
        is_late: What the windows hold leaves them as late as it may.
    """
    windows = [window for window in plan.windows if window.name != without]
    is_paired = _has_room_for_pairs(plan)
    steps = 1 if is_paired else plan.requests_a_batch  # requests that never fit together go one after the other
    requests = plan.requests_a_batch // steps
    units = -(-plan.units_a_batch // steps)
    flight_s = latency_s * requests
    meters: list[Meter] = []
    for window in windows:
        weight = min(window.limit, units if window.is_weighted else requests)
        if weight == 0:
            continue
        if window.is_calendar:
            meters.append(
                calendar_meter(window.name, window.limit, weight, window.length_s, window.used, window.resets_in_s)
            )
            continue
        held_s = flight_s if window.counts_from_send_s is None else window.counts_from_send_s
        frees_s = window.resets_in_s if is_late else window.frees_in_s
        meters.append(
            rolling_meter(
                window.name, window.limit, weight, held_s + window.length_s, window.used, frees_s, window.resets_in_s
            )
        )
    if flight_s > 0 and without != LANES:
        meters.append(lane_meter(plan.lanes, flight_s))
    # A short batch, and a repeat, is a request for fewer items than it could be: as if there were more of them.
    extra = plan.left_over
    if is_late and plan.sizes.max_size > plan.sizes.optimal_size:
        extra = max(extra, max(0, plan.parts - 1) * plan.sizes.max_size // 2)
    items = math.ceil((plan.items + extra) / max(0.05, 1.0 - repeat_share)) * steps
    found = walk(items, plan.sizes, meters, flight_s=flight_s, health=plan.health)
    batches = -(-found.batches // steps)
    finish_s = max(found.finish_s, *(_least_s(window, plan, batches) for window in windows), 0.0)
    return replace(found, batches=batches, finish_s=plan.starts_in_s + finish_s)


def _has_room_for_pairs(plan: Plan) -> bool:
    return all(
        window.limit >= (plan.units_a_batch if window.is_weighted else plan.requests_a_batch) for window in plan.windows
    ) and (plan.max_concurrency is None or plan.max_concurrency >= plan.requests_a_batch)


def _least_s(window: WindowLoad, plan: Plan, batches: int) -> float:
    """What *batches* take at least through *window* alone, had it never been used."""
    weight = plan.units_a_batch if window.is_weighted else plan.requests_a_batch
    if window.is_calendar:
        return 0.0 if batches * weight <= window.limit else window.resets_in_s
    return (math.ceil(batches * weight / window.limit) - 1) * window.length_s


# --- the late values ---


@dataclass(frozen=True, slots=True)
class _Late:
    latency_s: float
    share: float
    throttles: float
    count: float
    tail_s: float


def _late_values(plan: Plan, likely: Walked) -> _Late:
    """The values that nine of ten jobs stay below; see the module's text."""
    measured = plan.measured
    known = max(1, measured.count)
    in_a_lane = max(1, -(-likely.batches * plan.requests_a_batch // plan.lanes))
    latency_s = measured.latency_s + Z_90 * measured.spread_s * math.sqrt(1 / in_a_lane + 1 / known)
    share = _late_share(measured.repeats, measured.count, likely.batches)
    throttles = _late_share(measured.throttles, measured.count, likely.batches) if measured.throttles else 0.0
    return _Late(latency_s, share, throttles, 1.0, _tail_s(share, likely.batches) if measured.repeats else 0.0)


def _late_share(hits: int, count: int, coming: int) -> float:
    if count == 0:
        return 0.0
    share = (hits + 1) / (count + 2)
    return min(0.95, share + Z_90 * math.sqrt(share * (1 - share) * (1 / max(1, coming) + 1 / count)))


def _tail_s(share: float, batches: int) -> float:
    """The mean delays of the longest row of repeats that, at nine of ten, none of *batches* exceeds."""
    row = math.ceil(math.log(0.1 / max(1, batches)) / math.log(max(1e-9, share)))
    return sum(exponential_s(attempt, base_s=1.0, cap_s=60.0) / 2 for attempt in range(1, min(row, 50) + 1))


def _pauses_s(plan: Plan, batches: int, throttles: float, count: float) -> float:
    """How long throttles stop everything: one pause hits all that is under way."""
    return batches * (throttles / count) / plan.lanes * plan.throttle_pause_s if count else 0.0


# --- words ---


def _binding(plan: Plan, likely: Walked, share: float) -> tuple[str, str]:
    """Of the meters that were waited for, the one without which the job would be done soonest."""
    waited = sorted((name for name, s in likely.waits_s.items() if s > 0), key=lambda name: -likely.waits_s[name])

    def without_s(name: str) -> float:
        found = _walked(plan, latency_s=plan.measured.latency_s, repeat_share=share, is_late=False, without=name)
        return found.finish_s

    name = min(waited, key=without_s, default="")
    if name and name != LANES:
        return "window", name
    if not name:
        return "latency", "the answer of the last request"
    if plan.is_ordered:
        return "order", "one request after the other, because their order matters"
    cap = None if plan.max_concurrency is None else plan.max_concurrency // plan.requests_a_batch
    if cap is not None and cap <= min(plan.workers, plan.parts) * plan.in_flight:
        return "concurrency", f"latency × {plan.max_concurrency} requests at once"
    noun = "worker" if plan.workers == 1 else "workers"
    return "workers", f"latency × {plan.workers} {noun} with {plan.in_flight} requests each"


def _need(window: WindowLoad, plan: Plan, batches: int) -> WindowNeed:
    needs = batches * (plan.units_a_batch if window.is_weighted else plan.requests_a_batch)
    return WindowNeed(window, needs, needs / window.limit)
