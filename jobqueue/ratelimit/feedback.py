"""From an answer to what the limiter must know of it."""

from __future__ import annotations

from dataclasses import replace

from jobqueue.errors import OutcomeUnknown, ProviderUnavailable, RateLimited
from jobqueue.model.limit import ScopeKind, Slot, SlotResult, SlotUse, Throttle
from jobqueue.model.quota import QuotaReport
from jobqueue.notes import AnswerNotes


def result_of(
    slot: Slot,
    error: BaseException | None = None,
    *,
    latency_s: float | None = None,
    operation: str = "",
    throttle_kind: ScopeKind = ScopeKind.PROVIDER,
    reports: tuple[QuotaReport, ...] = (),
    malformed_headers: int = 0,
    answered_at_s: float | None = None,
) -> SlotResult:
    """What became of the request sent with *slot*.

    A throttle is a pause and nothing else. Outages and unanswered requests count as failures of the provider. Any other
    error is an answer: a refused item or an expired token says nothing about the provider's health.

    Args:
        slot: The slot it was sent with.
        error: What the handler raised; None for success.
        latency_s: From sending to the whole answer.
        operation: The provider's operation, for batch health; empty to leave it alone.
        throttle_kind: Whether a throttle pauses the provider or the account, where *error* does not say.
        reports: What the answer's headers said; a refusal carries them as well as a success.
        malformed_headers: How many of them meant nothing.
        answered_at_s: When the answer came, on `time.monotonic`'s clock; None for now.
    """
    use, throttle, is_size_caused = SlotUse.OK, None, False
    if isinstance(error, RateLimited):
        kind = ScopeKind.ACCOUNT if error.is_of_account else throttle_kind
        use, throttle = SlotUse.THROTTLED, Throttle(error.retry_after_s, kind)
    elif isinstance(error, ProviderUnavailable | OutcomeUnknown):
        use, is_size_caused = SlotUse.FAILURE, isinstance(error, ProviderUnavailable) and error.is_size_caused
    elif error is not None:
        # A batch that was refused for its content neither grew nor shrank the trust in its size.
        operation = ""
    return SlotResult(
        slot, use, latency_s, throttle, operation, is_size_caused, reports, malformed_headers, answered_at_s
    )


def answer_of(
    slot: Slot,
    error: BaseException | None,
    *,
    latency_s: float | None,
    notes: AnswerNotes | None,
    throttle_kind: ScopeKind = ScopeKind.PROVIDER,
) -> SlotResult:
    """`result_of` for a slot whose scope names its operation, and with what the answer's headers say.

    A throttle that names no pause takes that of *notes*.
    """
    reports, malformed = (notes.reports, notes.malformed) if notes else ((), 0)
    result = result_of(
        slot,
        error,
        latency_s=latency_s,
        operation=slot.scope.operation,
        throttle_kind=throttle_kind,
        reports=reports,
        malformed_headers=malformed,
    )
    if notes and result.throttle and result.throttle.retry_after_s is None:
        return replace(result, throttle=replace(result.throttle, retry_after_s=notes.retry_after_s))
    return result
