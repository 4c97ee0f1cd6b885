"""Files as blocks of bytes and as lines, unpacked on the way, never more than a few megabytes of them in memory."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator

from seqforge.data.readers.document import OVERHEAD, OVERLONG, Flaw, Found, bomb, invalid_utf8, overlong

BLOCK = 1 << 18  # bytes read at once
ROOM = 256 << 20  # bytes any packed file may grow to; a large one to GROWTH times its size
GROWTH = 100
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


def check_file(path: str) -> None:
    """Raises ValueError unless the path is a regular file: a pipe or a device might never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the name") from None
    except (OSError, ValueError) as e:
        raise ValueError(f"{path}: cannot be read ({e})") from e
    if stat.S_ISDIR(mode):
        what = "is a folder, not a file; name a file in it, or give it as --data with train, valid and test files in it"
        raise ValueError(f"{path}: {what}")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: is not a regular file; copy what it gives into a file first")


def is_gzip(path: str) -> bool:
    """By its first two bytes, whatever the name says."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == GZIP
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror}); check its permissions") from e


def room(path: str) -> int:
    """Bytes that what a packed file holds may take."""
    return max(ROOM, GROWTH * os.path.getsize(path))


def blocks(path: str) -> Iterator[bytes]:
    """The content of a regular file, gzip undone, without a byte order mark.

    Raises ValueError for a file that cannot be read, for a broken gzip and for one that grows beyond all measure.
    """
    zipped, limit, grown = is_gzip(path), room(path), 0
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
            while block := file.read(BLOCK):
                yield block if grown else block.removeprefix(BOM)
                grown += len(block) + OVERHEAD * (block.count(b"\n") + block.count(b"\r"))  # lines cost time too
                if zipped and grown > limit:
                    raise ValueError(f"{path}: {bomb(limit)}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ValueError(f"{path}: broken gzip ({e}); fetch or pack it again (gzip -t tests it)") from e
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e})") from e


def _unix(source: Iterator[bytes]) -> Iterator[bytes]:
    """Every line end as \\n, also one cut in two by the end of a block."""
    held = b""
    for block in source:
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""
        block = block[: len(block) - len(held)]
        yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
    if held:
        yield b"\n"


def raw_lines(path: str) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, the line without its end: \\n, \\r\\n or \\r); None for a line that is far too long."""
    number, rest, long = 0, b"", False
    most = 4 * OVERLONG  # bytes of that many characters
    for block in _unix(blocks(path)):
        *whole, tail = block.split(b"\n")
        for line in whole:
            number += 1
            if rest or long:
                line, rest = rest + line, b""
            yield number, None if long or len(line) > most else line
            long = False
        rest += tail
        if len(rest) > most:
            rest, long = b"", True
    if rest or long:
        yield number + 1, None if long else rest


def decoded(raw: bytes | None) -> str:
    """A line as text. Raises Flaw: overlong, not UTF-8, NUL bytes."""
    try:
        text = raw.decode() if raw is not None else None
    except UnicodeDecodeError as e:
        raise invalid_utf8(e.object[e.start], e.start + 1) from None
    if text is None or len(text) > OVERLONG:
        raise overlong()
    if "\0" in text:
        raise Flaw("NUL byte", f"NUL byte at character {text.index(chr(0)) + 1}", "remove it (tr -d '\\000')")
    return text


def lines(found: Found, keep_blank: bool = False) -> Iterator[tuple[int, str]]:
    """(number, text) of the good lines, stripped; `found` is told of the others and of those with nothing in them."""
    for number, raw in raw_lines(found.path):
        try:
            text = decoded(raw).strip()
        except Flaw as flaw:
            found.refuse(found.place(number), flaw)
            continue
        if text or keep_blank:
            yield number, text
        else:
            found.blank(number)
        if found.full:
            return
