"""Tables of text by column: CSV and TSV. The first row names the columns, unless the column is given by number."""

import csv
from collections import deque
from collections.abc import Iterator

from seqforge.data.readers.document import OVERLONG, Document, Flaw, Found, check_text
from seqforge.data.readers.files import decoded, raw_lines

COLUMNS = ("text", "sentence", "s", "content")
Row = tuple[int, list[str]]  # the line it begins at, its cells


def pick_column(path: str, names: list[str], column: str | None) -> int:
    """Position of the column: by name, by number from 0, one with a usual name, or the only one. Raises ValueError."""
    listed = ", ".join(repr(name[:40]) for name in names[:20])
    if column is not None and column.isascii() and column.isdigit():
        if int(column[:9]) >= len(names):
            raise ValueError(f"{path}: no column {column}; there are {len(names)}, and --data.column counts from 0")
        return int(column[:9])
    if column is not None and column not in names:
        raise ValueError(f"{path}: no column {column[:40]!r}; pass one of these by --data.column: {listed}")
    if column is None and len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        remedy = "separate columns by commas, or pass --data.column 0 if they are none"
        raise ValueError(f"{path}: one column, {listed}, and another separator in its name; {remedy}")
    usual = [column] if column is not None else [*(c for c in COLUMNS if c in names), *names[: len(names) == 1]]
    if not usual:
        raise ValueError(f"{path}: which column holds the text? pass one of these by --data.column: {listed}")
    return names.index(usual[0])


def read_csv(found: Found, column: str | None) -> Document:
    """Comma-separated, quoted by `"`. A cell may run over several lines, up to a million characters."""
    limit = csv.field_size_limit(8 * OVERLONG)  # the records are bounded by ours, with a message of ours
    try:
        return _read_table(found, _csv_rows(found), column, "csv")
    finally:
        csv.field_size_limit(limit)


def read_tsv(found: Found, column: str | None) -> Document:
    """Tab-separated, a row a line. A cell within quotes loses them; a quote elsewhere is a character like any other."""
    rows = ((number, [_unquoted(cell) for cell in text.split("\t")]) for number, text in _unstripped(found))
    return _read_table(found, rows, column, "tsv")


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if quoted else cell


def _unstripped(found: Found) -> Iterator[tuple[int, str]]:
    """Lines as they are: the first or the last cell of a row may be empty."""
    for number, raw in raw_lines(found.path):
        try:
            yield number, decoded(raw)
        except Flaw as flaw:
            found.refuse(found.place(number), flaw)


def _read_table(found: Found, rows: Iterator[Row], column: str | None, format: str) -> Document:
    position, width = -1, 0
    for number, cells in rows:
        if len(cells) < 2 and not "".join(cells).strip():
            found.blank(number)
            continue
        if position < 0:
            names = [cell.strip() for cell in cells]
            position, width = pick_column(f"{found.path}:{number}", names, column), len(cells)
            if column is None or not column.isdigit():
                continue
        _take(found, number, cells, position, width)
        if found.full:
            break
    return found.document(format)


def _take(found: Found, number: int, cells: list[str], position: int, width: int) -> None:
    try:
        if len(cells) != width:
            what = f"{len(cells)} cells, but the first row has {width}"
            remedy = "put text with separators within quotes, or pass --data.format lines for text without columns"
            raise Flaw("wrong number of cells", what, remedy)
        text = check_text(cells[position])
    except Flaw as flaw:
        found.refuse(found.place(number), flaw)
    else:
        found.add(text, number)


class _Lines:
    """Lines for the csv module; `row` has those of the row being read, `cut` says that it asked in vain for more."""

    def __init__(self, path: str):
        self.source, self.again = raw_lines(path), deque[tuple[int, bytes | None]]()
        self.row: list[tuple[int, bytes | None]] = []
        self.size, self.cut = 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.cut = True
        if self.size > OVERLONG:
            raise csv.Error("the row does not end")
        number, raw = self.again.popleft() if self.again else next(self.source)
        self.row.append((number, raw))
        if raw is None:
            raise csv.Error("overlong")
        self.size += len(raw)
        self.cut = False
        return raw.decode(errors="surrogateescape") + "\n"

    def start(self) -> None:
        self.row, self.size, self.cut = [], 0, False

    def give_back(self, kept: int) -> None:
        """Only the first lines belong to the row; the others are read again."""
        self.again.extendleft(reversed(self.row[kept:]))
        del self.row[kept:]


def _csv_rows(found: Found) -> Iterator[Row]:
    source = _Lines(found.path)
    reader = csv.reader(source, strict=True, skipinitialspace=True)
    while True:
        source.start()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            bad = _why(source, str(e))
        else:
            bad = _bad_line(source.row)
            if not bad:
                yield source.row[0][0], cells
        if bad:
            found.refuse(found.place(bad[0]), bad[1])


def _bad_line(row: list[tuple[int, bytes | None]]) -> tuple[int, Flaw] | None:
    """The first line that is no text, and why."""
    for number, raw in row:
        try:
            decoded(raw)
        except Flaw as flaw:
            return number, flaw
    return None


def _why(source: _Lines, said: str) -> tuple[int, Flaw]:
    """The line of a row that cannot be read, and what is wrong. Lines after a quote left open are read again."""
    texts = [(raw or b"").decode(errors="surrogateescape") for _, raw in source.row]
    opened = _open_quote(texts if source.cut else texts[:-1])
    last = source.row[-1][0]
    if opened is None:
        bad = Flaw("bad quoting", f"not a CSV row ({said})", 'write a quote within quotes twice ("")')
        return _bad_line(source.row) or (last, bad)
    source.give_back(opened + 1)
    end = "not closed" if source.cut else f"closed within a cell, in line {last}"
    remedy = 'close it, write a quote within quotes twice (""), or pass --data.format lines for text without columns'
    return source.row[opened][0], Flaw("unclosed quote", f'a quote (") is opened here and {end}', remedy)


def _open_quote(texts: list[str]) -> int | None:
    """Index of the line where a quote opens that is still open at the end. A quote within a bare cell opens nothing."""
    opened = closed = None
    for i, text in enumerate(texts):
        fresh = opened is None
        for c in text:
            if c == '"' and opened is not None:
                opened, closed = None, opened
            elif c == '"' and closed is not None:  # doubled: it was no end
                opened, closed = closed, None
            else:
                opened = i if c == '"' and fresh and opened is None else opened
                closed = None
            fresh = opened is None and (c == "," or (fresh and c == " "))
        closed = None
    return opened
