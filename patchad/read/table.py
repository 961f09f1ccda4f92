"""Tables from users: CSV as editors and Excel write it, Excel workbooks, Parquet.

All of them become rows of text. Their size is checked before they are read.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from patchad.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".parquet")  # .txt: Excel's Unicode text
_MOST_BYTES = 2**26  # of a file of text
_MOST_UNPACKED = 2**28  # bytes of an unpacked workbook or Parquet file
_MOST_ROWS, _MOST_COLUMNS = 2**20, 1000  # as many rows as Excel has
_MOST_CHARACTERS = 2**15  # of a cell, as in Excel
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Table:
    """A table: its columns, and its rows that aren't empty, with their numbers in a spreadsheet.

    The header is row 1. ``decimal_comma``: a comma in a number is a decimal point, as in tables
    whose columns are separated by something else.
    """

    path: Path
    columns: tuple[str, ...]
    records: tuple[tuple[int, dict[str, str]], ...]
    decimal_comma: bool = False

    def number(self, text: str) -> float:
        """A cell as a number, NaN if it is none."""
        if self.decimal_comma and text.count(",") == 1 and "." not in text:
            text = text.replace(",", ".")
        try:
            return float(text)
        except ValueError:
            return float("nan")


def read_table(path: Path) -> Table:
    """Read a table by the suffix of its name.

    CSV: UTF-8, or UTF-16 with its mark; columns are separated by commas, semicolons or tabs,
    whichever gives the header most columns. Workbooks: the first sheet. Parquet: its columns.

    Raises:
        RequestError: it can't be read, is too large, or has no rows.
    """
    comma = False
    try:
        match path.suffix.lower():
            case ".parquet":
                cells = _parquet(path)
            case ".xlsx" | ".xlsm":
                cells, comma = _workbook(path), True
            case ".xls" | ".ods":
                raise RequestError(f"{path} is not read: save it as .xlsx or CSV UTF-8")
            case _:
                cells, comma = _text(path)
        rows = _limited(path, cells)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    return _table(path, rows, comma)


def _table(path: Path, rows: list[list[str]], comma: bool) -> Table:
    if not rows or not any(rows[0]):
        raise RequestError(f"{path} is empty: its first row must name the columns")
    columns = rows[0]
    while not columns[-1]:  # columns that were cleared in a spreadsheet
        columns.pop()
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise RequestError(f"{path}, row 1 names {_named(twice)} twice: rename the others")
    records = []
    for number, row in enumerate(rows[1:], start=2):
        if any(row[len(columns) :]):
            raise RequestError(
                f"{path}, row {number} has more cells than row 1 names columns ({len(columns)}): "
                "put text that holds a separator between quotation marks"
            )
        if any(row):
            filled = [*row, *[""] * (len(columns) - len(row))]
            records.append((number, dict(zip(columns, filled, strict=False))))
    if not records:
        raise RequestError(f"{path} has no rows below its header: there is nothing to read")
    return Table(path, tuple(columns), tuple(records), comma)


def _limited(path: Path, rows: Iterator[list[str]]) -> list[list[str]]:
    taken: list[list[str]] = []
    for row in rows:
        if len(taken) > _MOST_ROWS or len(row) > _MOST_COLUMNS:
            raise RequestError(
                f"{path} has more than {_MOST_ROWS:,} rows or {_MOST_COLUMNS:,} columns: split it, "
                "or remove what isn't needed"
            )
        taken.append([cell.strip() for cell in row])
    return taken


def _text(path: Path) -> tuple[Iterator[list[str]], bool]:
    """The rows of a text file, and whether its numbers may have a decimal comma."""
    if path.stat().st_size > _MOST_BYTES:
        raise _too_large(path, _MOST_BYTES)
    content = path.read_bytes()
    encoding = next((e for mark, e in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from None
    if "\0" in text:
        raise RequestError(f"{path} is not a table of text: save it as CSV UTF-8")
    declared = re.match(r"sep=(.)\r?\n", text)  # a line that Excel understands and writes
    if declared:
        text = text[declared.end() :]
    separator = declared[1] if declared else _separator(path, text)
    return _records(path, text, separator), separator != ","


def _separator(path: Path, text: str) -> str:
    """The separator that gives the header most columns; a comma if none does."""
    line = io.StringIO(text, newline="").readline()
    return max(",;\t", key=lambda separator: len(next(_records(path, line, separator), [])))


def _records(path: Path, text: str, separator: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise RequestError(
            f"{path} is not a table that can be read: line {reader.line_num}: {error}"
        ) from None


def _workbook(path: Path) -> Iterator[list[str]]:
    from openpyxl import load_workbook  # type: ignore[import-untyped]

    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(part.file_size for part in packed.infolist())
        if unpacked > _MOST_UNPACKED:
            raise _too_large(path, _MOST_UNPACKED)
        book = load_workbook(path, read_only=True, data_only=True, keep_links=False)
        try:
            for row in book.worksheets[0].iter_rows(values_only=True):
                yield [_cell(cell) for cell in row]
        finally:
            book.close()
    except (OSError, RequestError):
        raise
    except Exception:  # openpyxl may raise anything on a damaged workbook
        raise RequestError(
            f"{path} is not a workbook that can be read: save it as .xlsx or CSV UTF-8"
        ) from None


def _parquet(path: Path) -> Iterator[list[str]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _too_large(path, _MOST_BYTES)
        content = pa.py_buffer(path.read_bytes())  # pyarrow can't open paths that aren't UTF-8
        with parquet.ParquetFile(content) as file:
            found, schema = file.metadata, file.schema_arrow
            groups = [found.row_group(n) for n in range(found.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups)
            if unpacked > _MOST_UNPACKED or found.num_rows > _MOST_ROWS:
                raise _too_large(path, _MOST_UNPACKED)
            if len(schema.names) > _MOST_COLUMNS:
                raise RequestError(f"{path} has more than {_MOST_COLUMNS:,} columns: remove some")
        # Text stays in dictionaries, so that a long repeated cell takes memory once.
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        with parquet.ParquetFile(content, read_dictionary=texts) as file:
            table = file.read()
        # the stored index of pandas is no column
        table = table.drop_columns([n for n in table.column_names if n.startswith("__index_")])
        if table.nbytes > _MOST_UNPACKED:
            raise _too_large(path, _MOST_UNPACKED)
        columns = [_column(column) for column in table.columns]
    except (OSError, RequestError):
        raise
    except Exception as error:  # pyarrow has many, some of them ValueErrors
        reason = " ".join(str(error).split())
        raise RequestError(f"{path} is not a table that can be read: {reason}") from None
    yield [*table.column_names]
    yield from ([*row] for row in zip(*columns, strict=True))


def _column(column: "pa.ChunkedArray") -> list[str]:
    """A column's cells as text; equal text is one object."""
    import pyarrow as pa

    cells: list[str] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            words = [_cell(word) for word in chunk.dictionary.to_pylist()]
            cells += ["" if n is None else words[n] for n in chunk.indices.to_pylist()]
        else:
            cells += [_cell(value) for value in chunk.to_pylist()]
    return cells


def _cell(value: object) -> str:
    """A cell as text: missing is empty, and 4.0 (an integer column with gaps) is 4."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time.min:
        value = value.date()  # spreadsheets store dates this way
    if isinstance(value, date):
        return value.isoformat()
    text = str(value)
    if len(text) > _MOST_CHARACTERS:
        raise RequestError(
            f"a cell has {len(text):,} characters, more than {_MOST_CHARACTERS:,}: is this a "
            "manifest or a table of regions?"
        )
    return text


def _too_large(path: Path, most: int) -> RequestError:
    return RequestError(
        f"{path} is too large for a table (more than {most:,} bytes or {_MOST_ROWS:,} rows once it "
        "is unpacked): split it, or remove what isn't needed"
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(name or "(empty)" for name in names)
