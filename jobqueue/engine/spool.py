"""Take a job's items in: read once, check each, collapse duplicates, keep them in a temporary file ready for COPY."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

from jobqueue.engine.distinct import DIGEST_BYTES, Distinct
from jobqueue.engine.intake import RowSource
from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.handler import JobHandler, Operation
from jobqueue.model.job import JobRequest
from jobqueue.store.copying import copy_fields

SKIPPED_KEPT = 100
"""Skipped rows told of one by one; the rest is only counted."""

_PROGRESS_ROWS = 10_000
_BUFFER_BYTES = 1 << 18
_LONGEST_VALUE = 200


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row left out because it is wrong.

    Attributes:
        line: Its line or item number, counted from 1.
        value: What its key column held, cut when long.
        message: What is wrong with it.
    """

    line: int
    value: str
    message: str


class Spooled:
    """A job's items, checked and different, in a temporary file that goes with the context.

    Attributes:
        item_count: How many there are.
        duplicate_count: Rows left out because an earlier one had the same key.
        skipped_count: Rows left out because they are wrong.
        skipped: The first hundred of those.
        items_digest: The same for the same items, whatever their order.
    """

    def __init__(self, directory: Path) -> None:
        self.item_count = 0
        self.duplicate_count = 0
        self.skipped_count = 0
        self.skipped: list[SkippedRow] = []
        self.items_digest = ""
        self._directory = directory
        self._path = directory / "items"
        self._dropped = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file; `rows` works no more."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def rows(self, part_size: int) -> Iterator[bytes]:
        """Lines for `jobqueue.store.jobs.create`, as often as wanted.

        Args:
            part_size: Items in each part but the last.

        Yields:
            ``part TAB seq TAB key TAB payload NEWLINE``, seq counted from 0 over all parts.
        """
        for seq, fields in enumerate(self._fields()):
            yield b"%d\t%d\t%b" % (seq // part_size, seq, fields)

    def _fields(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=_BUFFER_BYTES) as file:
            if not any(self._dropped):
                yield from file
                return
            dropped = self._dropped
            for row, fields in enumerate(file):
                if not dropped[row >> 3] >> (row & 7) & 1:
                    yield fields

    def _fill(self, reader: _Reader, on_progress: Callable[[int], None] | None) -> None:
        distinct, row_count = Distinct(self._directory / "digests"), 0
        add = distinct.add
        # An OSError of the source is the caller's own and passes; only ours is about the temporary files.
        with self._path.open("wb", buffering=_BUFFER_BYTES) as file:
            for key, fields, has_payload in reader.items():
                row_count += 1
                key_digest = blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()
                item_digest = blake2b(fields, digest_size=DIGEST_BYTES).digest() if has_payload else key_digest
                try:
                    if add(key_digest, item_digest):
                        file.write(fields)
                except OSError as error:
                    raise _no_room(error) from None
                if on_progress is not None and row_count % _PROGRESS_ROWS == 0:
                    on_progress(reader.read_count)
            try:
                file.flush()
                self.items_digest, self._dropped = distinct.finish()
            except OSError as error:
                raise _no_room(error) from None
        self.duplicate_count = distinct.duplicate_count
        self.item_count = row_count - self.duplicate_count


def take_in(
    source: RowSource,
    *,
    handler: JobHandler,
    request: JobRequest,
    operation: Operation,
    skip_invalid: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Spooled:
    """Read *source* once and spool its items; memory does not grow with their number (one bit a row aside).

    Args:
        source: Where the rows come from.
        handler: Its `read_item` checks a row and gives its key; of equal keys the first row counts.
        request: What the rows are for.
        operation: The operation *request* means.
        skip_invalid: Leave wrong rows out instead of refusing the whole source.
        on_progress: Called with the number of rows read, every ten thousand.

    Returns:
        The items; use it as a context manager, so that the temporary file is removed.

    Raises:
        InvalidInputError: A row is wrong (it names the first), or none is right, or the source cannot be read.
        ConfigurationError: There is no room for the temporary file.
    """
    try:
        spooled = Spooled(Path(tempfile.mkdtemp(prefix="jobqueue-items-")))
    except OSError as error:
        raise _no_room(error) from None
    try:
        reader = _Reader(source, handler, request, operation, spooled if skip_invalid else None)
        spooled._fill(reader, on_progress)
    except BaseException:
        spooled.close()
        raise
    if not spooled.item_count:
        spooled.close()
        first = spooled.skipped[0]
        raise InvalidInputError(
            f"{source.name}: none of {spooled.skipped_count:,} rows is right; the first, "
            f"{source.place} {first.line}: {first.message}",
            remedy="Correct the rows.",
            field="items",
            line=first.line,
        )
    return spooled


class _Reader:
    """Key and payload of each right row."""

    def __init__(
        self, source: RowSource, handler: JobHandler, request: JobRequest, operation: Operation, into: Spooled | None
    ) -> None:
        self.read_count = 0
        self._source = source
        self._handler = handler
        self._request = request
        self._operation = operation
        self._into = into

    def items(self) -> Iterator[tuple[str, bytes, bool]]:
        """Key, COPY fields and whether there is a payload."""
        read_item, request, operation = self._handler.read_item, self._request, self._operation
        for line, row in self._source.rows(operation.columns):
            self.read_count += 1
            try:
                if isinstance(row, InvalidInputError):
                    raise row
                key, payload = read_item(request, operation, row)
                if not key:
                    raise InvalidInputError(f"{operation.columns[0]} is empty.", field=operation.columns[0])
            except InvalidInputError as error:
                self._refuse(line, row, error)
                continue
            yield key, copy_fields(key, payload), bool(payload)

    def _refuse(self, line: int, row: dict[str, str] | InvalidInputError, error: InvalidInputError) -> None:
        """Note the row as skipped.

        Raises:
            InvalidInputError: Rows are not to be skipped.
        """
        if self._into is None:
            raise InvalidInputError(
                f"{self._source.name}, {self._source.place} {line}: {error.message}",
                remedy=f"{error.remedy} Or leave such rows out: --skip-invalid".lstrip(),
                field=error.field,
                line=line,
            ) from None
        self._into.skipped_count += 1
        if len(self._into.skipped) < SKIPPED_KEPT:
            value = row.get(self._operation.columns[0], "") if isinstance(row, dict) else ""
            self._into.skipped.append(SkippedRow(line, value[:_LONGEST_VALUE], error.message))


def _no_room(error: OSError) -> ConfigurationError:
    """A full or missing temporary directory in words that say what to do."""
    return ConfigurationError(
        f"the items cannot be kept in a temporary file while they are read: {error.strerror or error}.",
        remedy="Make room, or set TMPDIR to a directory that has some.",
    )
