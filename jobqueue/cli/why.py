"""``jobqueue why``: what holds a job up, and when that lifts."""

from __future__ import annotations

from collections.abc import Iterable

import click

from jobqueue.cli import progress_view as view
from jobqueue.cli.command import examples, job_argument, json_option, open_queue
from jobqueue.cli.output import clean, duration, emit, say
from jobqueue.model.progress import JobProgress
from jobqueue.model.reason import Constraint, Reason
from jobqueue.model.standstill import Facts
from jobqueue.model.why import Explanation, explain

_MOST_OTHERS = 3


@click.command(epilog=examples("jobqueue why 42", "jobqueue why 42 --json | jq '.binding, .lifts_in_s'"))
@job_argument
@json_option
def why(job_id: int, is_json: bool) -> int:
    """Say why a job does not move, or that it does: the binding constraint, when it lifts, and what to do.

    Exit code 1 if it ended and not everything succeeded.
    """
    with open_queue() as queue:
        facts = queue.job_facts(job_id)
    found = explain(facts)
    if is_json:
        emit(found.as_dict())
    else:
        for line in lines(facts, found):
            say(line)
    return view.exit_code(facts.progress)


def lines(facts: Facts, found: Explanation) -> list[str]:
    """Three to eight lines: the job, where it stands, what binds, what else there is, and what to do next."""
    progress = facts.progress
    shown = [view.headline(progress), f"  {_standing(facts)}"]
    if found.binding.kind is Constraint.PICKUP:
        shown.append(f"  nothing holds it up: {clean(found.binding.detail)}")
    elif found.is_moving or found.binding.kind is Constraint.ENDED:
        shown.append(f"  {clean(found.binding.detail)}")
    else:
        shown.append(f"  held up by: {_words(found.binding)}")
    shown += [f"  also: {_words(reason)}" for reason in found.others[:_MOST_OTHERS]]
    if found.evidence:
        shown.append(f"  seen: {clean(' · '.join(found.evidence))}")
    shown.append(f"  next: {_next(found, progress)}")
    return shown


def _standing(facts: Facts) -> str:
    progress = facts.progress
    words = [str(progress.job.status).replace("_", " "), view.amount(progress), view.outcomes(progress)]
    if facts.ended_ago_s is not None:
        words[0] += f" {duration(facts.ended_ago_s)} ago"
    if progress.eta_s is not None and progress.remaining:
        words.append(f"ETA {duration(progress.eta_s)}")
    return " · ".join(words)


def _words(reason: Reason) -> str:
    lifts = "" if reason.lifts_in_s is None else f", lifts in {duration(max(0.1, reason.lifts_in_s))}"
    return f"{clean(reason.detail)}{lifts} ({reason.kind})"


def _next(found: Explanation, progress: JobProgress) -> str:
    remedies: Iterable[str] = (found.binding.remedy, *(reason.remedy for reason in found.others))
    chosen = next((clean(remedy) for remedy in remedies if remedy), "")
    if found.binding.remedy or progress.job.status.is_terminal:
        return chosen
    watch = f"it goes on by itself; watch it: jobqueue watch {progress.job.id}"
    return f"{watch}. {chosen}" if chosen else watch
