"""Reading items from files and Python values: what is taken, and what is said about the rest."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from jobqueue.engine import intake
from jobqueue.engine.intake import LONGEST_FIELD, LONGEST_LINE_BYTES, CsvFile, Row, Rows
from jobqueue.errors import InvalidInputError

COLUMNS = ("track", "position")


def read(path: Path, content: bytes, columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """Write *content* and read it as a CSV file."""
    path.write_bytes(content)
    return list(CsvFile(path).rows(columns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "blocklist.csv"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"track\na\nb\n", [(2, {"track": "a"}), (3, {"track": "b"})]),
        (b"\xef\xbb\xbftrack\r\na\r\n", [(2, {"track": "a"})]),
        (b"track\na", [(2, {"track": "a"})]),
        (b"\n\ntrack\n\na\n\n\nb\n", [(5, {"track": "a"}), (8, {"track": "b"})]),
        (b"position, track\n3,a\n", [(2, {"position": "3", "track": "a"})]),
        (b'track\n"a,""b"\n', [(2, {"track": 'a,"b'})]),
        (
            b'track,position\n"a\nb",1\nc,2\n',
            [(2, {"track": "a\nb", "position": "1"}), (4, {"track": "c", "position": "2"})],
        ),
        ("track\nÄé漢\n".encode(), [(2, {"track": "Äé漢"})]),
    ],
)
def test_rows_come_with_their_line_and_columns(file: Path, content: bytes, expected: list[Row]) -> None:
    """Marks, line ends, blank lines, quotes and the order of columns do not matter; a row has the line it begins on."""
    assert read(file, content) == expected


@pytest.mark.parametrize(
    ("content", "line", "message", "remedy"),
    [
        (b"", None, "is empty.", "The first line must be the header: track,position."),
        (b"\n \n"[:1], None, "is empty.", "The first line must be the header"),
        (b"track\n", None, "has a header and no items.", "one line for each item"),
        (b"track\n\n\n", None, "has a header and no items.", "one line for each item"),
        (
            b"spotify:track:x\ny\n",
            1,
            "'spotify:track:x' is no header.",
            "The first line must be the header: track,position",
        ),
        (b"Track\nx\n", 1, "the column 'track' is missing; found: 'Track'.", "(track is required"),
        (b"position\nx\n", 1, "'position' is no header.", "(track is required"),
        (
            b"trak,position\nx,1\n",
            1,
            "the column 'track' is missing; found: 'trak', 'position'.",
            "header: track,position",
        ),
        (b"track,colour\nx,1\n", 1, "unknown column 'colour'.", "header: track,position"),
        (b"track,\nx,\n", 1, "unknown column ''.", "header: track,position"),
        (b"track,track\nx,y\n", 1, "the column 'track' comes twice.", "header: track,position"),
        (b"track;position\nx;1\n", 1, "not separated by commas", "header: track,position"),
        (b"track\nab\xffc\n", 2, "byte 0xff at byte 8 of the file is not UTF-8", "iconv"),
        (b"\xef\xbb\xbftrack\nok\nab\xe9\n", 3, "byte 0xe9 at byte 14 of the file is not UTF-8", "iconv"),
        (b"\xff\xfet\0r\0", 1, "this is UTF-16 text, not UTF-8", "Save it as CSV"),
        (b"\x1f\x8b\x08\0", 1, "this is a gzip archive", "Save it as CSV"),
        (b"PK\x03\x04rest", 1, "Excel", "Save it as CSV"),
        (b"track\na\nb\0c\n", 3, "a NUL byte at byte 9 of the file", "Save it as CSV"),
        (b'track\n"open\n', 2, "not CSV", "Check the quotes"),
        (b'track\n"a"b\n', 2, "not CSV", "Check the quotes"),
        (b"track\ra\rb\r", 1, "not CSV", "end lines with a newline"),
        (b"track\n" + b"x" * (LONGEST_LINE_BYTES + 1), 2, "the row is longer than 1,048,576 bytes", "quote missing"),
        (b'track\n"' + b"x\n" * LONGEST_LINE_BYTES, None, "field larger than field limit", "Check the quotes"),
        (b'track,position\n"' + b'x\n","' * 300_000, None, "the row is longer than", "quote missing"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(
    file: Path, content: bytes, line: int | None, message: str, remedy: str
) -> None:
    """Each fault of a whole file names the file, the place, what is wrong and what to do."""
    with pytest.raises(InvalidInputError) as caught:
        read(file, content)
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert str(file) in caught.value.message
    assert caught.value.field
    if line is not None:
        assert caught.value.line == line
        assert f"line {line}:" in caught.value.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"a,b,c", "3 columns where the header has 2: 'a,b,c'."),
        (b"a", "1 column where the header has 2: 'a'."),
        (b"x" * (LONGEST_FIELD + 1) + b",1", "has 10,001 characters."),
        (b"a," + b"x" * 12_000, "position 'xxxx"),
    ],
)
def test_a_malformed_row_is_given_back_and_reading_goes_on(file: Path, row: bytes, message: str) -> None:
    """A row that is wrong by itself does not end the reading, so that it can be skipped."""
    first, second = read(file, b"track,position\n" + row + b"\nok,1\n")
    assert first[0] == 2
    assert isinstance(first[1], InvalidInputError)
    assert message in first[1].message
    assert len(first[1].message) < 300
    assert second == (3, {"track": "ok", "position": "1"})


def test_a_field_of_the_greatest_length_is_taken(file: Path) -> None:
    """The bound is on characters, not on bytes."""
    text = "ä" * LONGEST_FIELD
    assert read(file, f"track\n{text}\n".encode()) == [(2, {"track": text})]


def test_the_bound_on_a_row_is_no_bound_on_the_file(file: Path) -> None:
    """A file much longer than the longest row is read to its end."""
    rows = read(file, b"track\n" + b"x" * 999 + b"\n" + (b"y" * 999 + b"\n") * 2500)
    assert len(rows) == 2501
    assert len(rows) * 1000 > 2 * LONGEST_LINE_BYTES


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the message, and standard input is offered."""
    with pytest.raises(InvalidInputError, match=r"there is no file '.*gone\.csv'.*- reads standard input"):
        list(CsvFile(tmp_path / "gone.csv").rows(COLUMNS))


@pytest.mark.parametrize(
    ("path", "message"), [(".", "is a directory"), ("a\0b", "cannot be read"), ("x" * 300, "too long")]
)
def test_a_path_that_is_no_file_is_refused(path: str, message: str) -> None:
    """A directory and impossible names get an error, not a traceback."""
    with pytest.raises(InvalidInputError, match=message):
        list(CsvFile(path).rows(COLUMNS))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_an_unreadable_file_says_so() -> None:
    """An error while reading is told like one while opening."""
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(CsvFile("/proc/self/mem").rows(COLUMNS))


def test_standard_input_is_read_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash stands for standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"track\na\n")))
    source = CsvFile("-")
    assert source.name == "standard input"
    assert list(source.rows(COLUMNS)) == [(2, {"track": "a"})]


def test_python_values_are_rows() -> None:
    """Text is the key, a mapping has columns, whole numbers are written out, None is left out."""
    items = ["a", {"track": "b", "position": 3}, {"track": "c", "position": None}]
    assert list(Rows(items).rows(COLUMNS)) == [
        (1, {"track": "a"}),
        (2, {"track": "b", "position": "3"}),
        (3, {"track": "c"}),
    ]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (17, "'17' is int"),
        ({"position": 1}, "the column 'track' is missing"),
        ({"track": "a", "colour": "red"}, "unknown column 'colour'"),
        ({"track": 1.5}, "track '1.5' is float"),
        ({"track": True}, "track 'True' is bool"),
        ("a\0b", "holds a character that cannot be stored"),
        ("\ud800", "holds a character that cannot be stored"),
        ("x" * (LONGEST_FIELD + 1), "has 10,001 characters"),
    ],
)
def test_a_wrong_python_value_is_given_back(item: object, message: str) -> None:
    """Each wrong value is told of by its number, and the next one is read."""
    first, second = Rows([item, "ok"]).rows(COLUMNS)  # type: ignore[list-item]
    assert first[0] == 1
    assert isinstance(first[1], InvalidInputError)
    assert message in first[1].message
    assert second == (2, {"track": "ok"})


def test_no_python_values_are_refused() -> None:
    """A job without items is a mistake of the caller."""
    with pytest.raises(InvalidInputError, match="there are none"):
        list(Rows([], name="tracks").rows(COLUMNS))


def test_a_value_in_a_message_is_cut() -> None:
    """A message stays readable whatever the input."""
    assert len(intake.shown("x" * 1000)) < 70
