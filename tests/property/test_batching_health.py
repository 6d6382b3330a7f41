"""The health kept in Redis follows the pure functions."""

from __future__ import annotations

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobqueue.errors import BatchRejected, ProviderUnavailable, RateLimited
from jobqueue.model.batching import FULL_HEALTH_PERMILLE, grown, halved
from jobqueue.model.limit import RateLimitConfig
from jobqueue.ratelimit.service import RateLimitService

OPERATIONS = ("save", "follow")
ANSWERS = {
    "success": None,
    "too large": ProviderUnavailable("413", is_size_caused=True),
    "outage": ProviderUnavailable("503"),
    "throttle": RateLimited("429", retry_after_s=0.001),
    "refusal": BatchRejected("400"),
}
CHANGES = {"success": grown, "too large": halved}
steps = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(sorted(ANSWERS))), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_the_shared_health_is_that_of_the_pure_functions(redis_url, told):
    """Told by two services in turn: size-caused failures halve it, successes add to it, nothing else touches it."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    limits = {"spotify": RateLimitConfig(windows="100000/day", breaker=None, learned_floor=1000)}
    expected = dict.fromkeys(OPERATIONS, FULL_HEALTH_PERMILLE)
    with RateLimitService.from_url(redis_url, limits) as one, RateLimitService.from_url(redis_url, limits) as other:
        for number, (operation, answer) in enumerate(told):
            service = (one, other)[number % 2]
            slot = service.wait_for_rate_limit("spotify", operation=operation)
            error = ANSWERS[answer]
            if error is None:
                service.record_success(slot)
            else:
                service.record_failure(slot, error)
            expected[operation] = CHANGES.get(answer, lambda health: health)(expected[operation])
        found = one.status("spotify").batch_health
    assert {name: round(found.get(name, 1.0) * FULL_HEALTH_PERMILLE) for name in OPERATIONS} == expected
