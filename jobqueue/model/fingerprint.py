"""Failures that mean the same get the same fingerprint."""

from __future__ import annotations

import re

from jobqueue.model.item import ItemError

# Ids, numbers and quoted values differ from item to item; the words around them say what failed.
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\b[\w:-]*\d[\w:-]*\b")
_LONGEST = 120


def fingerprint(error: ItemError) -> str:
    """Code and normalised message, such as ``invalid_id: Invalid base62 id: …``."""
    words = " ".join(_VARIABLE.sub("…", error.message).split())
    return f"{error.code}: {words}"[:_LONGEST]
