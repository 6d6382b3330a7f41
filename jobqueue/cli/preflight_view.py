"""A preflight in words."""

from __future__ import annotations

from datetime import datetime

from jobqueue.cli.output import clean, counted, duration
from jobqueue.engine.preflight import Preflight
from jobqueue.model.job import JobType
from jobqueue.model.preflight import WindowNeed


def lines(found: Preflight) -> list[str]:
    """What the job would take, when it would be done, what sets the pace, and whether its deadline can be met."""
    shown = [_headline(found), f"  {'requests':<10}{_requests(found)}"]
    shown.append(f"  {'done in':<10}{_finish(found)}")
    shown.append(f"  {'pace':<10}{clean(found.estimate.binding)}")
    shown += [f"  {'window':<10}{clean(_window(need))}" for need in found.estimate.needs]
    if found.plan.measured.count:
        shown.append(f"  {'measured':<10}{_measured(found)}")
    shown += [f"  {'note':<10}{clean(note)}" for note in found.notes]
    if found.verdict is not None:
        shown.append(f"  {'deadline':<10}{_deadline(found)}")
    shown.append("nothing was stored or sent")
    return shown


def _headline(found: Preflight) -> str:
    work = found.work
    words = [work.request.type, work.request.provider, work.request.account, work.operation.name]
    words.append(counted(work.item_count, "item"))
    if work.duplicate_count:
        words.append(f"{counted(work.duplicate_count, 'duplicate')} collapsed")
    if work.skipped_count:
        words.append(f"{counted(work.skipped_count, 'invalid row')} left out")
    if work.request.type == JobType.ROLLBACK:
        words.append("as the journal stands now")
    return " · ".join(clean(word) for word in words if word)


def _requests(found: Preflight) -> str:
    estimate = found.estimate
    batches = "1 batch" if estimate.batches == 1 else f"{estimate.batches:,} batches"
    words = f"{estimate.requests:,} in {batches} of {estimate.batch_size:,.1f} items"
    if found.plan.requests_a_batch > 1:
        words += ", each with a look before its effect"
    if any(need.window.is_weighted for need in estimate.needs):
        words += f" · {estimate.cost_units:,} cost units"
    return words


def _finish(found: Preflight) -> str:
    estimate = found.estimate
    return " · ".join(
        f"{duration(seconds)} ({name}, {_clock(found.at_time(seconds), found.at)})"
        for name, seconds in (("P50", estimate.p50_s), ("P90", estimate.p90_s))
    )


def _clock(at: datetime, now: datetime) -> str:
    """The local time, with its date unless that is today's."""
    local, today = at.astimezone(), now.astimezone()
    return f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"


def _window(need: WindowNeed) -> str:
    unit = "units" if need.window.is_weighted else "requests"
    used = f", {need.window.used:,} used now" if need.window.used else ""
    return f"{need.window.name}: {need.needs:,} {unit} fill it {need.windows:,.1f} times{used}"


def _measured(found: Preflight) -> str:
    measured = found.plan.measured
    words = [
        f"{counted(measured.count, 'request')} of late: {measured.latency_s:.2f} s ± {measured.spread_s:.2f} s",
        f"{measured.repeats / measured.count:.1%} sent again",
    ]
    words += [f"{counted(measured.throttles, 'throttle')}"] if measured.throttles else []
    words += [f"{counted(measured.outages, 'outage')}"] if measured.outages else []
    return ", ".join(words)


def _deadline(found: Preflight) -> str:
    verdict = found.verdict
    assert verdict is not None, "asked for by the caller"  # noqa: S101 - `lines` looked
    allowed = duration(verdict.deadline_s)
    if verdict.can_meet:
        return f"{allowed}: can be met, with {duration(verdict.margin_s)} to spare by P90"
    likely = " (P50 would meet it)" if verdict.is_likely else ""
    return f"cannot meet --deadline {allowed}: P90 is {duration(-verdict.margin_s)} too late{likely}"
