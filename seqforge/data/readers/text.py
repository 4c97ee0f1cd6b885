"""Plain text: one sequence a line, paragraphs, token ids."""

import re

from seqforge.data.readers.document import OVERLONG, Document, Flaw, Found, overlong
from seqforge.data.readers.files import lines

IDS = re.compile(r"[0-9]{1,9}(?:\s+[0-9]{1,9})*")


def read_lines(found: Found) -> Document:
    """One sequence a line. Empty lines between others are left out and counted under both policies."""
    for number, text in lines(found):
        found.add(text, number)
    return found.document("lines")


def read_ids(found: Found) -> Document:
    """SeqGAN's files: one sequence a line, token ids separated by blanks. Whether they are in the vocabulary is the
    caller's to check."""
    for number, text in lines(found):
        if IDS.fullmatch(text):
            found.add(" ".join(str(int(word)) for word in text.split()), number)
            continue
        bad = next(w for w in text.split() if not IDS.fullmatch(w))
        remedy = "give numbers from 0 to 999999999 separated by blanks, or pass --data.format lines"
        found.refuse(found.place(number), Flaw("not token ids", f"{bad[:40]!r} is not a token id", remedy))
    return found.document("ids")


def read_paragraphs(found: Found) -> Document:
    """Sequences separated by blank lines; the lines of each are joined by a space. A bad line separates nothing."""
    parts: list[str] = []
    first = size = 0
    for number, text in lines(found, keep_blank=True):
        if not text:
            _finish(found, parts, size, first)
            parts, size = [], 0
            continue
        first = first if size else number
        size += len(text) + 1
        if size - 1 <= OVERLONG:
            parts.append(text)
    _finish(found, parts, size, first)
    return found.document("paragraphs")


def _finish(found: Found, parts: list[str], size: int, first: int) -> None:
    if size - 1 > OVERLONG:
        found.refuse(found.place(first), overlong())
    elif parts:
        found.add(" ".join(parts), first)
