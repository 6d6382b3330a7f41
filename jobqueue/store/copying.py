"""Items streamed into their table by COPY, in its text format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jobqueue.store.database import Database

_COPY_BLOCK_BYTES = 1 << 18
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_items(database: Database, job_id: int, rows: Iterable[bytes]) -> None:
    """Stream *rows* into job_items, a quarter of a mebibyte at a time."""
    prefix = b"%d\t" % job_id
    with (
        database.connection.cursor() as cursor,
        cursor.copy("COPY job_items (job_id, part, seq, key, payload) FROM STDIN") as copy,
    ):
        block = bytearray()
        for row in rows:
            block += prefix
            block += row
            if len(block) >= _COPY_BLOCK_BYTES:
                copy.write(bytes(block))
                block.clear()
        if block:
            copy.write(bytes(block))


def copy_text(text: str) -> bytes:
    """*text* as a field of COPY's text format."""
    return text.translate(_ESCAPES).encode()


def copy_fields(key: str, payload: Mapping[str, Any]) -> bytes:
    """Key and payload as two fields of COPY's text format, newline included."""
    tail = b"\\N" if not payload else copy_text(json.dumps(dict(payload), ensure_ascii=False, separators=(",", ":")))
    return copy_text(key) + b"\t" + tail + b"\n"
