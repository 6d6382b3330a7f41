"""Where items come from: a CSV file, standard input, or Python values, read as a stream in bounded memory."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from jobqueue.errors import InvalidInputError

LONGEST_FIELD = 10_000
"""Characters of one field."""

LONGEST_LINE_BYTES = 1 << 20
"""Of one line, and of one row that spans several."""

_SHOWN = 60
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL and lone surrogates
_BOM = b"\xef\xbb\xbf"
_SIGNATURES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"%PDF": "a PDF",
}

Row = tuple[int, dict[str, str] | InvalidInputError]
"""A line (or item) number counted from 1, and the row's columns, or what is wrong with this row alone."""


class RowSource(Protocol):
    """Rows to be read once, in order.

    Attributes:
        name: What messages call it, such as ``blocklist.csv``.
        place: What its numbers count: ``line`` or ``item``.
    """

    name: str
    place: str

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """The rows; *columns* are the names allowed, the key column first, which every row has.

        Raises:
            InvalidInputError: The source as a whole cannot be read.
        """


class CsvFile:
    """A CSV file, UTF-8 with or without a byte order mark, its first line the header.

    Args:
        path: The file; ``-`` is standard input.
    """

    place = "line"

    def __init__(self, path: str | Path) -> None:
        self._is_stdin = str(path) == "-"
        self._path = Path(path)
        self.name = "standard input" if self._is_stdin else str(path)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """See `RowSource.rows`.

        Raises:
            InvalidInputError: The file cannot be opened, is empty, not UTF-8, no CSV, or has another header.
        """
        if self._is_stdin:
            yield from self._read(sys.stdin.buffer, columns)
            return
        try:
            file = self._path.open("rb")
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        with file:
            yield from self._read(file, columns)

    def _read(self, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
        lines = _Lines(file, self)
        reader = csv.reader(lines, strict=True)
        try:
            header = self._header(next(filter(None, reader), None), reader.line_num, columns)
            width, ends_at, count = len(header), reader.line_num, 0
            for fields in reader:
                number, ends_at = ends_at + 1, reader.line_num
                row_bytes, lines.row_bytes = lines.row_bytes, 0
                if not fields:
                    continue
                count += 1
                # A short row cannot hold a long field: that saves looking at each.
                if len(fields) == width and (row_bytes <= LONGEST_FIELD or max(map(len, fields)) <= LONGEST_FIELD):
                    yield number, dict(zip(header, fields, strict=False))
                else:
                    yield number, _malformed(header, fields)
        except csv.Error as error:
            raise InvalidInputError(
                f"{self.name}, line {max(1, reader.line_num)}: not CSV ({error}).",
                remedy="Check the quotes there; write a quote within quotes twice, and end lines with a newline.",
                field="items",
                line=max(1, reader.line_num),
            ) from None
        except OSError as error:
            raise self._unreadable(error) from None
        if not count:
            raise InvalidInputError(
                f"{self.name} has a header and no items.", remedy="Add one line for each item.", field="items"
            )

    def _header(self, fields: list[str] | None, line: int, columns: Sequence[str]) -> list[str]:
        """The names in the first line that is not blank.

        Raises:
            InvalidInputError: They are not those of the operation.
        """
        wanted = ",".join(columns)
        if fields is None:
            raise InvalidInputError(
                f"{self.name} is empty.",
                remedy=f"The first line must be the header: {wanted}. Then one line for each item.",
                field="items",
            )
        header = [name.strip() for name in fields]
        problem = _header_problem(header, columns)
        if problem:
            raise InvalidInputError(
                f"{self.name}, line {line}: {problem}",
                remedy=f"The first line must be the header: {wanted}"
                + (f" ({columns[0]} is required, the others may be missing)." if len(columns) > 1 else "."),
                field=columns[0],
                line=line,
            )
        return header

    def _unreadable(self, error: Exception) -> InvalidInputError:
        if isinstance(error, FileNotFoundError):
            return InvalidInputError(
                f"there is no file {self.name!r}.", remedy="Check the path; - reads standard input.", field="items"
            )
        if isinstance(error, IsADirectoryError):
            return InvalidInputError(f"{self.name!r} is a directory.", remedy="Name a CSV file in it.", field="items")
        reason = getattr(error, "strerror", None) or str(error)
        return InvalidInputError(
            f"{self.name!r} cannot be read: {reason}.", remedy="Check the path and its permissions.", field="items"
        )


class Rows:
    """Items given as Python values.

    Args:
        items: Each a key, or a mapping of the operation's columns; numbers are written as decimal text.
        name: What messages call them.
    """

    place = "item"

    def __init__(self, items: Iterable[str | Mapping[str, object]], name: str = "items") -> None:
        self._items = items
        self.name = name

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """See `RowSource.rows`.

        Raises:
            InvalidInputError: There are no items.
        """
        number = 0
        for number, item in enumerate(self._items, 1):
            try:
                yield number, _row_of(item, columns)
            except InvalidInputError as error:
                yield number, error
        if not number:
            raise InvalidInputError(f"{self.name}: there are none.", remedy="Give at least one item.", field="items")


class _Lines:
    """Decoded lines of *file*, each bounded, with errors that say where."""

    def __init__(self, file: IO[bytes], source: CsvFile) -> None:
        self.row_bytes = 0
        self._lines = iter(partial(file.readline, LONGEST_LINE_BYTES), b"")
        self._name = source.name
        self._number = 0
        self._offset = 0

    def __iter__(self) -> Iterator[str]:
        for raw in self._lines:
            self._number += 1
            self.row_bytes += len(raw)
            if self.row_bytes >= LONGEST_LINE_BYTES:
                raise self._error(f"the row is longer than {LONGEST_LINE_BYTES:,} bytes", "Is a quote missing?")
            if self._number == 1:
                raw = self._first(raw)
            if b"\0" in raw:
                at = self._offset + raw.index(b"\0")
                raise self._error(f"a NUL byte at byte {at:,} of the file", "Save it as CSV, in UTF-8.")
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise self._error(
                    f"byte 0x{raw[error.start]:02x} at byte {self._offset + error.start:,} of the file is not UTF-8",
                    "Save it as UTF-8, for example with: iconv -f ISO-8859-1 -t UTF-8",
                ) from None
            self._offset += len(raw)
            yield text

    def _first(self, raw: bytes) -> bytes:
        for signature, what in _SIGNATURES.items():
            if raw.startswith(signature):
                raise self._error(f"this is {what}, not UTF-8 text", "Save it as CSV, in UTF-8.")
        if raw.startswith(_BOM):
            self._offset = len(_BOM)
            return raw[len(_BOM) :]
        return raw

    def _error(self, problem: str, remedy: str) -> InvalidInputError:
        message = f"{self._name}, line {self._number}: {problem}."
        return InvalidInputError(message, remedy=remedy, field="items", line=self._number)


def shown(text: str) -> str:
    """*text* quoted for a message, cut when long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _header_problem(header: list[str], columns: Sequence[str]) -> str:
    """What is wrong with *header*, in words; empty when nothing is."""
    key = columns[0]
    names = ", ".join(shown(name) for name in header[:20])
    if key not in header:
        if len(header) == 1 and key in [word.strip() for word in re.split("[;\t]", header[0])]:
            return f"the columns of {names} are not separated by commas."
        near = get_close_matches(key, [name.lower() for name in header], n=1, cutoff=0.6)
        if len(header) == 1 and not near:
            return f"{names} is no header."
        return f"the column {key!r} is missing; found: {names}."
    extra = [name for name in header if name not in columns]
    if extra:
        return f"unknown column{'s' * (len(extra) > 1)} {', '.join(shown(name) for name in extra[:20])}."
    double = sorted({name for name in header if header.count(name) > 1})
    return f"the column {double[0]!r} comes twice." if double else ""


def _malformed(header: Sequence[str], fields: Sequence[str]) -> InvalidInputError:
    for name, value in zip(header, fields, strict=False):
        if len(value) > LONGEST_FIELD:
            return _too_long(name, value)
    plural = "" if len(fields) == 1 else "s"
    return InvalidInputError(
        f"{len(fields)} column{plural} where the header has {len(header)}: {shown(','.join(fields))}.",
        remedy="Put a value with a comma in double quotes.",
        field=header[0],
    )


def _too_long(name: str, value: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} {shown(value)} has {len(value):,} characters.", remedy=f"At most {LONGEST_FIELD:,} fit.", field=name
    )


def _row_of(item: str | Mapping[str, object], columns: Sequence[str]) -> dict[str, str]:
    if isinstance(item, str):
        item = {columns[0]: item}
    if not isinstance(item, Mapping):
        raise InvalidInputError(
            f"{shown(str(item))} is {type(item).__name__}.", remedy="Give text or a mapping of columns.", field="items"
        )
    unknown = [name for name in item if name not in columns]
    if unknown or columns[0] not in item:
        problem = f"unknown column {unknown[0]!r}" if unknown else f"the column {columns[0]!r} is missing"
        raise InvalidInputError(f"{problem}.", remedy=f"Columns: {', '.join(columns)}.", field=columns[0])
    return {name: _text_of(name, value) for name, value in item.items() if value is not None}


def _text_of(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InvalidInputError(
            f"{name} {shown(str(value))} is {type(value).__name__}.", remedy="Give text or a whole number.", field=name
        )
    if len(value) > LONGEST_FIELD:
        raise _too_long(name, value)
    if _UNSTORABLE.search(value):
        raise InvalidInputError(
            f"{name} {shown(value)} holds a character that cannot be stored.",
            remedy="Leave out NUL and lone surrogates.",
            field=name,
        )
    return value
