"""Readers of user data: text, ids, JSON, JSONL, CSV, TSV, Parquet, gzip of each, and datasets of the hub.

Format by content and name (`sniff.find_format` has the rule), always overridable. A bad record is a ValueError with
file, line, value and remedy, or is left out and counted. Time and memory stay in proportion to the size of the file.
"""

import os
from pathlib import Path
from typing import get_args

from seqforge.data.readers.document import BY_RECORD, Document, Format, Found, OnError
from seqforge.data.readers.files import blocks, check_file, is_gzip, room
from seqforge.data.readers.hub import PREFIX, read_hub
from seqforge.data.readers.parquet import read_parquet
from seqforge.data.readers.records import read_json, read_jsonl
from seqforge.data.readers.sniff import find_format, refuse_binary, stem_and_format
from seqforge.data.readers.tables import read_csv, read_tsv
from seqforge.data.readers.text import read_ids, read_lines, read_paragraphs

__all__ = ["SPLITS", "Document", "Format", "OnError", "folder_files", "read"]

PLAIN = {"lines": read_lines, "paragraphs": read_paragraphs, "ids": read_ids}
FIELDS = {"json": read_json, "jsonl": read_jsonl, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet}
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}


def read(
    path: str | Path,
    format: Format = "auto",
    column: str | None = None,
    on_error: OnError = "stop",
    most: int | None = None,
) -> Document:
    """The sequences of a file, or of a dataset `hf:NAME[:CONFIG][@SPLIT]`. At most `most` of them, where it is given.

    column: the field of json, jsonl and hf; the column of csv, tsv and parquet, by name or, from 0, by number (then the
    first row of csv and tsv is data like the others). Raises ValueError, always with the path in its message.
    """
    name = os.fspath(path)
    if format not in get_args(Format):
        raise ValueError(
            f"{name}: unknown format {format!r}; pass --data.format, one of: {', '.join(get_args(Format))}"
        )
    if format == "midi":
        raise ValueError(f"{name}: MIDI is read as a folder of tunes, not as text; give it as --data")
    if format == "hf" or (format == "auto" and name.startswith(PREFIX)):
        return read_hub(Found(name, on_error, most, by_record=True), column)
    check_file(name)
    head = next(blocks(name), b"")
    if not head:
        raise ValueError(f"{name}: the file is empty; give one with at least one sequence")
    kind = find_format(name, head) if format == "auto" else format
    packed = kind == "parquet" or is_gzip(name)
    found = Found(name, on_error, most, room(name) if packed else None, kind in BY_RECORD)
    if kind != "parquet":
        refuse_binary(name, head)
    if kind in FIELDS:
        return FIELDS[kind](found, column)
    if column is not None:
        what = f"--data.column {column} was given, but the file is read as {kind}, which has no columns"
        raise ValueError(f"{name}: {what}; leave it out or pass another --data.format")
    return PLAIN[kind](found)


def has_columns(path: str | Path, format: Format = "auto") -> bool:
    """Whether a file would be read by a column or field; False of what cannot be read."""
    name = os.fspath(path)
    if format == "hf" or (format == "auto" and name.startswith(PREFIX)):
        return True
    if format != "auto":
        return format in FIELDS
    head = next(blocks(name), b"") if Path(name).is_file() else b""
    return bool(head) and find_format(name, head) in FIELDS


def folder_files(folder: Path) -> dict[str, Path]:
    """The train, valid, test and glove files of a folder (ScratchGAN's data_dir), those that are there.

    `train.json`, `valid.txt`, `test.csv.gz`, ...; `validation`, `val` and `dev` mean valid; a name that begins with
    glove is the GloVe file. Raises ValueError for no train file, for two files of one kind, for what is no folder.
    """
    try:
        paths = sorted(p for p in Path(folder).iterdir() if p.is_file())
    except (OSError, ValueError) as e:
        raise ValueError(f"{folder}: not a folder that can be read ({e}); give one with a train file in it") from e
    files: dict[str, Path] = {}
    for path in paths:
        stem, format = stem_and_format(path.name)
        split = "glove" if stem.lower().startswith("glove") else SPLITS.get(stem.lower()) if format else None
        if split in files:
            raise ValueError(f"{folder}: two {split} files, {files[split].name} and {path.name}; leave only one in it")
        if split:
            files[split] = path
    if "train" not in files:
        expected = "train.txt, .json, .jsonl, .csv, .tsv or .parquet (each also with .gz), beside it valid.* and test.*"
        raise ValueError(f"{folder}: no train file in it; expected {expected}")
    return files
