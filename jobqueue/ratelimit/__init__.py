"""Permission to send: `Limiter` grants and settles slots exactly; `RateLimitService` is its face for use by itself.

What is decided in Redis is decided in ``lua/``: one script each to reserve, to settle and to rebuild.
"""
