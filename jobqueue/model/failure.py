"""What follows from an error a handler raised for a whole request, as a pure function.

Budgets are kept apart: a throttle uses up nothing, an outage only time, a bug its own few tries. Only what the provider
says about an item uses up that item's attempts.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from jobqueue.errors import (
    AuthorizationExpired,
    BatchRejected,
    ItemRejected,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from jobqueue.model.backoff import ErrorKind, RetryPolicy
from jobqueue.model.item import ItemError
from jobqueue.model.worker import WorkerConfig

_TRACEBACK_LINES = 12


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about the request.

    Attributes:
        item_count: Its items.
        failures: Outages and bugs before this one.
        failing_for_s: Since the first of them; waiting for quota or for a person ends the count.
        is_effect: Whether the request was the effect, not a look.
        is_idempotent: Whether repeating it is harmless.
        is_in_doubt: Whether an earlier send of the batch may have taken effect.
    """

    item_count: int
    failures: int
    failing_for_s: float
    is_effect: bool
    is_idempotent: bool
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class RepeatLater:
    """Send the same batch again.

    Attributes:
        due_in_s: Not before; 0 leaves the time to the limiter.
        is_failure: Whether it counts as a failure of the batch.
        is_in_doubt: Whether the effect may have taken place.
        pause_reason: Set when a person must act first: the job pauses.
    """

    due_in_s: float
    is_failure: bool
    is_in_doubt: bool
    pause_reason: str = ""


@dataclass(frozen=True, slots=True)
class SplitBatch:
    """Send it in two halves; *is_in_doubt* when the effect may have taken place."""

    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class FailItems:
    """Its items end here.

    Attributes:
        is_unconfirmed: Whether the effect took place cannot be known, and repeating it would harm.
        is_effect_possible: Whether it may have taken place: then the journal stays, for a rollback to look.
    """

    error: ItemError
    is_unconfirmed: bool = False
    is_effect_possible: bool = False


Consequence = RepeatLater | SplitBatch | FailItems


def consequence(
    error: BaseException,
    facts: Facts,
    config: WorkerConfig,
    random: Random,
    backoff: Mapping[ErrorKind, RetryPolicy] | None = None,
) -> Consequence:
    """What to do after *error*.

    Args:
        config: The worker's ways of repeating and its budgets.
        backoff: The provider's own ways by the kind of failure, in place of the worker's.
    """
    backoff = backoff or {}
    match error:
        case RateLimited():
            return RepeatLater(0.0, is_failure=False, is_in_doubt=False)
        case AuthorizationExpired():
            return RepeatLater(0.0, is_failure=False, is_in_doubt=False, pause_reason=f"needs_authorization: {error}")
        case ProviderUnavailable(is_size_caused=True, was_sent=was_sent) if facts.item_count > 1:
            return SplitBatch(is_in_doubt=was_sent and facts.is_effect)
        case ProviderUnavailable(was_sent=was_sent):
            delay_s = _delay_s(backoff.get(ErrorKind.OUTAGE, config.outage), facts, random)
            return _outage(error, facts, config, delay_s, is_in_doubt=was_sent and facts.is_effect)
        case OutcomeUnknown():
            delay_s = _delay_s(backoff.get(ErrorKind.UNKNOWN_OUTCOME, config.outage), facts, random)
            return _outage(error, facts, config, delay_s, is_in_doubt=facts.is_effect)
        case BatchRejected() | ItemRejected() if facts.item_count > 1:
            return SplitBatch()
        case ItemRejected(code=code):
            return FailItems(ItemError(code, str(error)), is_effect_possible=facts.is_in_doubt)
        case BatchRejected():
            return FailItems(ItemError("rejected", str(error)), is_effect_possible=facts.is_in_doubt)
        case _:
            policy = backoff.get(ErrorKind.BUG)
            tries = config.max_bugs if policy is None else policy.max_attempts
            return _bug(error, facts, tries, _delay_s(policy or config.outage, facts, random))


def _delay_s(policy: RetryPolicy, facts: Facts, random: Random) -> float:
    """The delay before the next try; attempts are bounded elsewhere."""
    return policy.delay_s(facts.failures + 1, random) or policy.cap_s


def _outage(
    error: BaseException, facts: Facts, config: WorkerConfig, delay_s: float, *, is_in_doubt: bool
) -> Consequence:
    if facts.failures and facts.failing_for_s > config.outage_budget_s:
        is_in_doubt = is_in_doubt or facts.is_in_doubt
        words = f"the provider was out for more than {config.outage_budget_s:.0f} s: {error}"
        code = "unconfirmed" if is_in_doubt else "provider_unavailable"
        return FailItems(ItemError(code, words), is_unconfirmed=is_in_doubt, is_effect_possible=is_in_doubt)
    return RepeatLater(delay_s, is_failure=True, is_in_doubt=is_in_doubt)


def _bug(error: BaseException, facts: Facts, tries: int, delay_s: float) -> Consequence:
    if facts.failures + 1 < tries:
        return RepeatLater(delay_s, is_failure=True, is_in_doubt=facts.is_effect)
    if facts.item_count > 1:
        return SplitBatch(is_in_doubt=facts.is_effect)
    # Frames name files and lines; local values, which may hold a secret, are not part of them.
    frames = "".join(traceback.format_tb(error.__traceback__)).splitlines()[-_TRACEBACK_LINES:]
    words = f"{type(error).__name__}: {error}\n" + "\n".join(frames)
    is_possible = facts.is_effect or facts.is_in_doubt
    is_unconfirmed = is_possible and not facts.is_idempotent
    return FailItems(ItemError("handler_error", words), is_unconfirmed=is_unconfirmed, is_effect_possible=is_possible)
