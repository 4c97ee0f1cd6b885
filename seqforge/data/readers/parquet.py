"""One column of a Parquet file, batch by batch, through pyarrow."""

import tempfile
from collections.abc import Iterator
from typing import Any

from seqforge.data.readers.document import OVERLONG, Document, Flaw, Found, bomb, check_text, invalid_utf8, overlong
from seqforge.data.readers.files import blocks, is_gzip, room
from seqforge.data.readers.tables import pick_column

ROWS = 1024


def read_parquet(found: Found, column: str | None) -> Document:
    """Raises ValueError where pyarrow is missing, and for whatever it cannot read."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as e:
        raise ValueError(f"{found.path}: Parquet needs pyarrow: pip install 'seqforge[parquet]'") from e
    with tempfile.TemporaryFile() if is_gzip(found.path) else open(found.path, "rb") as file:
        if is_gzip(found.path):
            file.writelines(blocks(found.path))
            file.seek(0)
        values = _values(found, parquet, file, column)
        for number, value in enumerate(_guarded(found.path, values), 1):
            _take(found, number, value)
            if found.full:
                break
    return found.document("parquet")


def _guarded(path: str, values: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """What pyarrow raises for a damaged file is of no fixed kind: all of it means that the file cannot be read."""
    try:
        yield from values
    except _Told as e:
        raise ValueError(str(e)) from e
    except Exception as e:
        raise ValueError(f"{path}: not a Parquet file that can be read ({str(e)[:200]}); write it again") from e


class _Told(Exception):
    """An error of ours with its whole message."""


def _values(found: Found, parquet: Any, file: Any, column: str | None) -> Iterator[bytes | None]:
    import pyarrow

    table = parquet.ParquetFile(file)
    names = list(table.schema_arrow.names)
    try:
        position = pick_column(found.path, names, None if column is None else column)
    except ValueError as e:
        raise _Told(str(e)) from e
    kind = table.schema_arrow.field(position).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or kind == pyarrow.string_view()):
        listed = ", ".join(repr(name[:40]) for name in names[:20])
        raise _Told(
            f"{found.path}: column {names[position]!r} holds {kind}, not text; pass --data.column; there are {listed}"
        )
    _check_size(found.path, table.metadata, names[position])
    for batch in table.iter_batches(ROWS, columns=[names[position]], use_threads=False):
        yield from batch.column(0).cast(kind).cast(pyarrow.large_binary()).to_pylist()


def _check_size(path: str, metadata: Any, name: str) -> None:
    """A part of the column that claims to be larger than any honest packing of this file is not unpacked."""
    limit = room(path)
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        parts = (group.column(i) for i in range(group.num_columns))
        if any(p.path_in_schema == name and p.total_uncompressed_size > limit for p in parts):
            raise _Told(f"{path}: {bomb(limit)}")


def _take(found: Found, number: int, value: bytes | None) -> None:
    try:
        if value is None:
            raise Flaw("field missing", "no value in the column")
        if len(value) > 4 * OVERLONG:
            raise overlong()
        try:
            text = check_text(value.decode())
        except UnicodeDecodeError as e:
            raise invalid_utf8(value[e.start], None) from None
    except Flaw as flaw:
        found.refuse(found.place(number), flaw)
    else:
        found.add(text, number)
