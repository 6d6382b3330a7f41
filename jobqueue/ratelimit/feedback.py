"""From an answer to what the limiter must know of it."""

from __future__ import annotations

from jobqueue.errors import OutcomeUnknown, ProviderUnavailable, RateLimited
from jobqueue.model.limit import ScopeKind, Slot, SlotResult, SlotUse, Throttle


def result_of(
    slot: Slot,
    error: BaseException | None = None,
    *,
    latency_s: float | None = None,
    operation: str = "",
    throttle_kind: ScopeKind = ScopeKind.PROVIDER,
) -> SlotResult:
    """What became of the request sent with *slot*.

    A throttle is a pause and nothing else. Outages and unanswered requests count as failures of the provider. Any other
    error is an answer: a refused item or an expired token says nothing about the provider's health.

    Args:
        slot: The slot it was sent with.
        error: What the handler raised; None for success.
        latency_s: From sending to the whole answer.
        operation: The provider's operation, for batch health; empty to leave it alone.
        throttle_kind: Whether a throttle pauses the provider or the account.
    """
    if isinstance(error, RateLimited):
        throttle = Throttle(error.retry_after_s, throttle_kind)
        return SlotResult(slot, SlotUse.THROTTLED, latency_s, throttle, operation)
    if isinstance(error, ProviderUnavailable | OutcomeUnknown):
        is_size_caused = isinstance(error, ProviderUnavailable) and error.is_size_caused
        return SlotResult(slot, SlotUse.FAILURE, latency_s, None, operation, is_size_caused)
    # A batch that was refused for its content neither grew nor shrank the trust in its size.
    return SlotResult(slot, SlotUse.OK, latency_s, None, operation if error is None else "")
