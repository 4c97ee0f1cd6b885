"""The format of a file, from its first block and its name. Where they disagree the content decides."""

import json
import re
from itertools import pairwise
from pathlib import PurePath

from seqforge.data.readers.files import BLOCK, BOM

SUFFIXES = {
    **{".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"},
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"},
}
MAGIC = {
    **{b"\x89PNG": "a PNG picture", b"GIF87a": "a GIF picture", b"GIF89a": "a GIF picture", b"\xff\xd8\xff": "a JPEG"},
    **{b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"\x1f\x8b": "gzip within gzip"},
    **{b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bzip2", b"%PDF-1.": "a PDF"},
    **{b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle"},
    **{b"\x7fELF": "a program", b"\x93NUMPY": "a NumPy array", b"\x89HDF": "HDF5", b"ARROW1\0\0": "an Arrow file"},
    **{b"SQLite format 3\0": "an SQLite database", b"MThd\0\0\0\x06": "a MIDI file"},
}
PARQUET = b"PAR1\x15"  # the magic number and the first byte after it: text might well begin with PAR1
CONTROL = bytes({*range(9), *range(14, 27), *range(28, 32), 127})
LOOKED_AT = 1000  # lines


def stem_and_format(name: str) -> tuple[str, str | None]:
    """The name of a file up to its first dot, and the format that its ending promises: `train.json.gz` -> train, json.

    The format is "lines" for .txt and for no ending at all, None for an ending that is not one of a format.
    """
    ends = [s.lower() for s in PurePath(name).suffixes]
    ends = ends[:-1] if ends[-1:] == [".gz"] else ends
    last = ends[-1] if ends else ".txt"
    return PurePath(name).name.split(".")[0], "lines" if last == ".txt" else SUFFIXES.get(last)


def find_format(path: str, head: bytes) -> str:
    """The format of a file that begins with these bytes (gzip undone).

    In this order: Parquet by its magic number; json when it begins with `[` and `{`; jsonl when every line looked at
    begins like an object and the first is one; what the name's ending says; ids when nine lines of ten are nothing but
    numbers, two or more a line on average (the tenth is then an error that is named); paragraphs when there are at
    least three blank lines between others and one follows at least a third of these; else lines.
    """
    promised = stem_and_format(path)[1]
    if head.startswith(PARQUET):
        return "parquet"
    if re.match(rb"\s*\[\s*\{", head):
        return "json"
    looked_at = _lines(head)
    if _is_jsonl(looked_at):
        return "jsonl"
    if promised not in (None, "lines"):
        return promised
    if _is_ids(looked_at):
        return "ids"
    return "paragraphs" if _has_paragraphs(looked_at) else "lines"


def _lines(head: bytes) -> list[bytes]:
    """The first lines, without the end of the last one where the block may have cut it."""
    lines = head.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    cut = len(head) >= BLOCK - len(BOM) and len(lines) > 1
    return [line.strip() for line in lines[: len(lines) - cut][:LOOKED_AT]]


def _is_jsonl(lines: list[bytes]) -> bool:
    full = [line for line in lines if line]
    if not full or not all(line.startswith(b"{") for line in full):
        return False
    try:
        return isinstance(json.loads(full[0].decode(errors="replace"), parse_int=float), dict)
    except (ValueError, RecursionError):
        return False


def _is_ids(lines: list[bytes]) -> bool:
    full = [line for line in lines if line]
    numbers = [words for words in map(bytes.split, full) if all(w.isdigit() for w in words)]
    return bool(full) and len(numbers) >= 0.9 * len(full) and sum(map(len, numbers)) >= 2 * len(numbers)


def _has_paragraphs(lines: list[bytes]) -> bool:
    full = [bool(line) for line in lines]
    while full and not full[-1]:  # blank lines at the end of a file separate nothing
        full.pop()
    ends = sum(line and not following for line, following in pairwise(full))
    return ends >= 3 and 3 * ends >= sum(full)


def refuse_binary(path: str, head: bytes) -> None:
    """Raises ValueError when what should be text begins with a known magic number or is full of control bytes."""
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    kind = "a tar archive" if head[257:262] == b"ustar" else kind
    if kind:
        raise ValueError(f"{path}: byte 0: this is {kind}, not text; unpack or convert it to text first")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}: byte 0: this is UTF-16 text; convert it (iconv -f utf-16 -t utf-8)")
    bad = len(head) - len(head.translate(None, CONTROL))
    if bad >= 16 and bad > len(head) / 10:
        at = next(i for i, b in enumerate(head) if b in CONTROL)
        line = head.count(b"\n", 0, at) + 1
        what = f"byte {at} (line {line}) is 0x{head[at]:02x}: binary content, not text"
        raise ValueError(f"{path}: {what}; convert it to UTF-8 text, or name its kind with --data.format")
