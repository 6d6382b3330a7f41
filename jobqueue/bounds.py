"""Bounds that the environment's settings and a worker's configuration share."""

from __future__ import annotations

MOST_IN_FLIGHT = 64

LONGEST_SLICE_S = 30.0
"""RQ ends a horse after 90 s: room for a slice, its last requests, and as much again as the timer."""

LONGEST_EFFECT_S = 12.0
"""A request with effects must fit into a lease, renewals and all."""

LEASE_MARGIN_S = 2.0
"""A call only starts when its part is ours for its deadline and this much longer."""
