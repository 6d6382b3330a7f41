"""What follows from an error: each kind of error has a budget of its own."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import (
    AuthorizationExpired,
    BatchRejected,
    HandlerError,
    ItemRejected,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from jobqueue.model.backoff import ErrorKind, Jitter, RetryPolicy
from jobqueue.model.failure import Facts, FailItems, RepeatLater, SplitBatch, consequence
from jobqueue.model.item import ItemError
from jobqueue.model.worker import WorkerConfig

CONFIG = WorkerConfig(outage_budget_s=3600.0, max_bugs=3)
SPENT_S = CONFIG.outage_budget_s + 1

facts = st.builds(
    Facts,
    item_count=st.integers(1, 50),
    failures=st.integers(0, 2000),
    failing_for_s=st.floats(0, 1e6),
    is_effect=st.booleans(),
    is_idempotent=st.booleans(),
    is_in_doubt=st.booleans(),
)
randoms = st.integers(0, 2**32).map(Random)
policies = st.builds(RetryPolicy, st.integers(1, 9), st.floats(0.01, 5), st.floats(5, 900), st.sampled_from(Jitter))
backoffs = st.dictionaries(st.sampled_from(ErrorKind), policies)


def known(**changes: object) -> Facts:
    values: dict[str, object] = {
        "item_count": 1, "failures": 0, "failing_for_s": 0.0, "is_effect": True, "is_idempotent": True,
    }  # fmt: skip
    return Facts(**(values | changes))  # type: ignore[arg-type]


def after(error: BaseException, **changes: object) -> object:
    return consequence(error, known(**changes), CONFIG, Random(1))


@given(facts, randoms, backoffs)
def test_a_throttle_uses_up_no_budget_at_all(now: Facts, random: Random, backoff: dict[ErrorKind, RetryPolicy]) -> None:
    """After any number of failures and any time it is repeated, uncounted, when the limiter lets it."""
    assert consequence(RateLimited("slow down"), now, CONFIG, random, backoff) == RepeatLater(0.0, False, False)


@given(facts, randoms, backoffs, st.sampled_from([ProviderUnavailable("503"), OutcomeUnknown("silence")]))
def test_no_policy_makes_an_outage_end_by_attempts(
    now: Facts, random: Random, backoff: dict[ErrorKind, RetryPolicy], error: HandlerError
) -> None:
    """Only time ends it; the provider's policy for that kind, or else the worker's, says how long to wait."""
    found = consequence(error, now, CONFIG, random, backoff)
    kind = ErrorKind.OUTAGE if isinstance(error, ProviderUnavailable) else ErrorKind.UNKNOWN_OUTCOME
    if now.failures and now.failing_for_s > CONFIG.outage_budget_s:
        assert isinstance(found, FailItems)
    else:
        assert isinstance(found, RepeatLater)
        assert 0 <= found.due_in_s <= backoff.get(kind, CONFIG.outage).cap_s


@given(facts, randoms, policies)
def test_a_bug_is_tried_as_often_as_its_policy_says(now: Facts, random: Random, policy: RetryPolicy) -> None:
    """And waits within its bounds; policies for other kinds of error do not concern it."""
    backoff = {kind: RetryPolicy(1, 1000, 1000) for kind in ErrorKind} | {ErrorKind.BUG: policy}
    found = consequence(ValueError("?"), now, CONFIG, random, backoff)
    assert isinstance(found, RepeatLater) == (now.failures + 1 < policy.max_attempts)
    assert not isinstance(found, RepeatLater) or 0 <= found.due_in_s <= policy.cap_s


@given(facts, randoms)
def test_a_refused_token_pauses_the_job_and_uses_up_no_budget(now: Facts, random: Random) -> None:
    """Only a person can help; the batch waits as it is."""
    found = consequence(AuthorizationExpired("401"), now, CONFIG, random)
    assert found == RepeatLater(0.0, False, False, pause_reason="needs_authorization: 401")


@given(facts, randoms, st.sampled_from([ProviderUnavailable("503"), OutcomeUnknown("silence")]))
def test_an_outage_is_bounded_by_time_and_not_by_attempts(now: Facts, random: Random, error: HandlerError) -> None:
    """Within the budget it repeats after at most the longest delay, however often it failed; beyond it the items end."""
    found = consequence(error, now, CONFIG, random)
    if now.failures and now.failing_for_s > CONFIG.outage_budget_s:
        assert isinstance(found, FailItems)
    else:
        assert isinstance(found, RepeatLater)
        assert found.is_failure
        assert 0 <= found.due_in_s <= CONFIG.outage.cap_s


@pytest.mark.parametrize(
    ("error", "is_effect", "is_in_doubt"),
    [
        (OutcomeUnknown("silence"), True, True),
        (OutcomeUnknown("silence"), False, False),
        (ProviderUnavailable("503", was_sent=True), True, True),
        (ProviderUnavailable("503", was_sent=True), False, False),
        (ProviderUnavailable("refused", was_sent=False), True, False),
    ],
)
def test_only_an_effect_that_may_have_been_sent_is_in_doubt(
    error: HandlerError, is_effect: bool, is_in_doubt: bool
) -> None:
    """A look changes nothing, and a connection that was refused carried nothing."""
    found = after(error, is_effect=is_effect)
    assert isinstance(found, RepeatLater)
    assert found.is_in_doubt is is_in_doubt


@pytest.mark.parametrize(
    ("error", "is_effect", "was_in_doubt", "is_unconfirmed"),
    [
        (OutcomeUnknown("silence"), True, False, True),
        (ProviderUnavailable("503", was_sent=True), True, False, True),
        (ProviderUnavailable("refused"), True, False, False),
        # The effect was sent hours ago; that no look at it ever succeeded says nothing about it.
        (ProviderUnavailable("refused"), True, True, True),
        (ProviderUnavailable("503", was_sent=True), False, True, True),
        (OutcomeUnknown("silence"), False, True, True),
    ],
)
def test_after_the_outage_budget_an_effect_that_may_have_happened_is_unconfirmed_and_not_failed(
    error: HandlerError, is_effect: bool, was_in_doubt: bool, is_unconfirmed: bool
) -> None:
    """A rollback looks at unconfirmed items; a failed one it would leave as it is."""
    found = after(error, is_effect=is_effect, is_in_doubt=was_in_doubt, failures=1, failing_for_s=SPENT_S)
    assert isinstance(found, FailItems)
    assert found.is_unconfirmed is found.is_effect_possible is is_unconfirmed
    assert found.error.code == ("unconfirmed" if is_unconfirmed else "provider_unavailable")


@pytest.mark.parametrize(
    "error", [BatchRejected("one of them"), ItemRejected("no"), ProviderUnavailable("413", is_size_caused=True)]
)
def test_a_refusal_of_several_items_is_split_until_the_culprit_is_alone(error: HandlerError) -> None:
    """Two items are enough to split; one never is."""
    assert after(error, item_count=2) == SplitBatch()
    assert not isinstance(after(error, item_count=1), SplitBatch)


def test_a_refused_item_fails_with_the_providers_words_and_code() -> None:
    """The code groups the dead letters; a refusal after an unanswered send does not undo the doubt."""
    refused = after(BatchRejected("bad id"), is_in_doubt=True)
    assert refused == FailItems(ItemError("rejected", "bad id"), is_effect_possible=True)
    assert after(ItemRejected("no such track", code="gone")) == FailItems(ItemError("gone", "no such track"))
    assert after(BatchRejected("bad id")) == FailItems(ItemError("rejected", "bad id"))


def test_a_batch_that_was_too_large_may_have_had_its_effect_if_it_was_sent() -> None:
    """A timeout of a large batch leaves its halves in doubt; a 413 does not."""
    sent = ProviderUnavailable("timeout", is_size_caused=True, was_sent=True)
    assert after(sent, item_count=2) == SplitBatch(is_in_doubt=True)
    assert after(sent, item_count=2, is_effect=False) == SplitBatch()


def test_a_single_item_too_large_for_the_provider_counts_as_an_outage() -> None:
    """Nothing is left to split; time bounds it."""
    assert isinstance(after(ProviderUnavailable("413", is_size_caused=True)), RepeatLater)


def test_a_bug_is_tried_three_times_then_split_then_quarantined_with_its_traceback() -> None:
    """The traceback names the file and line and no value of a variable."""
    secret = "token-of-the-account"
    try:
        raise RuntimeError("no such column")
    except RuntimeError as error:
        bug = error
    assert secret not in str(bug)
    assert isinstance(after(bug, failures=0, item_count=9), RepeatLater)
    assert isinstance(after(bug, failures=1, item_count=9), RepeatLater)
    assert after(bug, failures=2, item_count=9) == SplitBatch(is_in_doubt=True)
    assert after(bug, failures=2, item_count=9, is_effect=False) == SplitBatch()
    found = after(bug, failures=2, item_count=1)
    assert isinstance(found, FailItems)
    assert found.error.code == "handler_error"
    assert found.error.message.startswith("RuntimeError: no such column\n")
    assert "test_failure_consequences.py" in found.error.message
    assert secret not in found.error.message


@pytest.mark.parametrize(
    ("is_effect", "is_in_doubt", "is_idempotent", "is_unconfirmed"),
    [
        (True, False, False, True),
        (False, True, False, True),
        (True, False, True, False),
        (False, False, False, False),
    ],
)
def test_a_bug_around_an_effect_that_must_not_be_repeated_leaves_it_unconfirmed(
    is_effect: bool, is_in_doubt: bool, is_idempotent: bool, is_unconfirmed: bool
) -> None:
    """Whether the error came before or after the send, nobody can tell."""
    found = after(
        ValueError("?"), failures=2, is_effect=is_effect, is_in_doubt=is_in_doubt, is_idempotent=is_idempotent
    )
    assert isinstance(found, FailItems)
    assert found.is_unconfirmed is is_unconfirmed
