"""Find equal keys among any number of items in bounded memory.

Up to a threshold the digests are kept in memory. Beyond it they go to files by their first byte: equal keys meet in one
file, and one file at a time is read back. A file with too many different digests is divided again by the next byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

DIGEST_BYTES = 16
SPILL_ABOVE = 50_000
"""Different keys held in memory."""

_MODULUS = 1 << (8 * DIGEST_BYTES)
_RECORD = struct.Struct(f">{DIGEST_BYTES}s{DIGEST_BYTES}sQ")
_BUFFER_BYTES = _RECORD.size * 400
_READ_BYTES = _RECORD.size * 4096


class Distinct:
    """Which of a sequence of kept rows repeat an earlier key.

    Args:
        directory: An empty directory of its own for what does not fit into memory.
        spill_above: Different keys held in memory at once.
    """

    def __init__(self, directory: Path, *, spill_above: int = SPILL_ABOVE) -> None:
        self._directory = directory
        self._spill_above = spill_above
        self._seen: dict[bytes, bytes] = {}
        self._buckets: _Buckets | None = None
        self._row_count = 0
        self._duplicates = 0
        self._total = 0
        self._dropped = bytearray()

    @property
    def duplicate_count(self) -> int:
        """Rows that repeat an earlier key; complete after `finish`."""
        return self._duplicates

    def add(self, key_digest: bytes, item_digest: bytes) -> bool:
        """Take the next row in; False when it certainly is a duplicate, which then has no row number."""
        if self._buckets is None:
            if key_digest in self._seen:
                self._duplicates += 1
                return False
            self._seen[key_digest] = item_digest
            if len(self._seen) > self._spill_above:
                self._spill()
        else:
            self._buckets.add(key_digest[0], _RECORD.pack(key_digest, item_digest, self._row_count))
        self._row_count += 1
        return True

    def finish(self) -> tuple[str, bytes]:
        """The digest of the different items, whatever their order, and one bit a row: set where it is to be dropped.

        The digest is the sum of the items' digests and their number.

        Source:
            AdHash: Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing", 1997.
        """
        self._dropped = bytearray(self._row_count // 8 + 1)
        if self._buckets is None:
            self._total = sum(int.from_bytes(digest, "big") for digest in self._seen.values())
            self._seen = {}
        else:
            self._resolve(self._buckets, depth=1)
            self._buckets = None
            self._duplicates += sum(byte.bit_count() for byte in self._dropped)
        kept = self._row_count - sum(byte.bit_count() for byte in self._dropped)
        return f"{self._total % _MODULUS:0{2 * DIGEST_BYTES}x}-{kept}", bytes(self._dropped)

    def _spill(self) -> None:
        """Move what is in memory into files; its rows have the numbers 0, 1, 2 … in the order of insertion."""
        self._buckets = _Buckets(self._directory)
        for row, (key_digest, item_digest) in enumerate(self._seen.items()):
            self._buckets.add(key_digest[0], _RECORD.pack(key_digest, item_digest, row))
        self._seen = {}

    def _resolve(self, buckets: _Buckets, *, depth: int) -> None:
        for path in buckets.close():
            total = self._mark(path)
            if total is None:
                parts = _Buckets(path.with_suffix(".parts"))
                for record in _records(path):
                    parts.add(record[0][depth], _RECORD.pack(*record))
                path.unlink()
                self._resolve(parts, depth=depth + 1)
            else:
                self._total += total
                path.unlink()

    def _mark(self, path: Path) -> int | None:
        """Mark the later of equal keys in *path*; the sum of the others' item digests, or None if they are too many."""
        seen: set[bytes] = set()
        total, dropped, most = 0, self._dropped, self._spill_above
        for key_digest, item_digest, row in _records(path):
            if key_digest in seen:
                dropped[row >> 3] |= 1 << (row & 7)
            else:
                if len(seen) >= most:
                    return None
                seen.add(key_digest)
                total += int.from_bytes(item_digest, "big")
        return total


class _Buckets:
    """Up to 256 files of records. Each is open only while it is written to: many systems allow 256 open files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._paths = [directory / f"{index:02x}" for index in range(256)]
        self._buffers = [bytearray() for _ in range(256)]

    def add(self, index: int, record: bytes) -> None:
        buffer = self._buffers[index]
        buffer += record
        if len(buffer) >= _BUFFER_BYTES:
            self._flush(index)

    def close(self) -> Iterator[Path]:
        """Write what is left and yield the files that there are."""
        for index, buffer in enumerate(self._buffers):
            if buffer:
                self._flush(index)
        self._buffers = []
        yield from (path for path in self._paths if path.exists())

    def _flush(self, index: int) -> None:
        with self._paths[index].open("ab") as file:
            file.write(self._buffers[index])
        self._buffers[index].clear()


def _records(path: Path) -> Iterator[tuple[bytes, bytes, int]]:
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            yield from _RECORD.iter_unpack(block)
