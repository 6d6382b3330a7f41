"""Keeps secrets out of what is written down."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUERY = re.compile(r"(?i)\b((?:access_token|refresh_token|token|api_?key|secret|password|signature)=)[^&\s\"']+")
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
MASK = "***"


def masked(text: str, *, secrets: Iterable[str] = ()) -> str:
    """*text* without the given secrets, credentials in addresses' queries and authorization headers."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return _HEADER.sub(rf"\1 {MASK}", _QUERY.sub(rf"\1{MASK}", text))
