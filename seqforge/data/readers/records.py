"""Records with fields: JSON (a list of objects, as ScratchGAN's files) and JSONL (an object a line)."""

import codecs
import json
import re
from typing import Any

from seqforge.data.readers.document import OVERLONG, Document, Flaw, Found, check_text, invalid_utf8
from seqforge.data.readers.files import blocks, lines

PAIR = "prompt/completion"
ORDER = {  # what a record's sequence is taken from, the first that is there
    "json": ("s", "text", "sentence", PAIR, "messages", "content"),
    "jsonl": ("text", PAIR, "messages", "sentence", "s", "content"),
}
RECORD = 4 * OVERLONG  # characters of a JSON record, whatever its fields
DECODER = json.JSONDecoder(parse_int=float)  # numbers are never taken, and a float takes any number of digits
BLANK = re.compile(r"[ \t\n\r]*")
Pairs = list[tuple[str, str | None]]


class Taker:
    """Takes the sequences out of records. The first record that has a known field decides for the whole file."""

    def __init__(self, found: Found, format: str, column: str | None):
        self.found, self.field, self.given = found, column, column is not None
        self.order = ORDER["json" if format == "json" else "jsonl"]

    @property
    def with_context(self) -> bool:
        return self.field == "messages" or (self.field == PAIR and not self.given)

    def take(self, record: Any, number: int, where: str) -> None:
        """Adds the record's sequences to what is found, all of them or none."""
        try:
            pairs = [(check_text(text), context and check_text(context)) for text, context in self._pairs(record)]
        except Flaw as flaw:
            return self.found.refuse(where, flaw)
        for text, context in pairs:
            self.found.add(text, number, context or None)
        return None

    def _pairs(self, record: Any) -> Pairs:
        if not isinstance(record, dict):
            raise Flaw("not an object", f"a record must be an object with fields, not {_kind(record)}")
        if self.field is None:
            self.field = self._choose(record)
        if self.field == PAIR and not self.given:
            return [(_string(record, "completion"), _string(record, "prompt"))]
        if self.field == "messages":
            return _messages(record)
        return [(_string(record, self.field), None)]

    def _choose(self, record: dict) -> str:
        for field in self.order:
            if field in record or (field == PAIR and "prompt" in record and "completion" in record):
                return field
        what = f"none of the fields is known; they are {_names(record)}"
        raise Flaw("no known field", what, "name the one with the text by --data.column")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", float: "a number", int: "a number", bool: "true or false"}
    return kinds.get(type(value), "nothing")


def _names(record: dict) -> str:
    return ", ".join(repr(str(name)[:40]) for name in list(record)[:12]) or "none at all"


def _string(record: dict, field: str) -> str:
    if field not in record:
        what = f"no field {field[:40]!r}; the fields are {_names(record)}"
        raise Flaw("field missing", what, "name another by --data.column")
    if not isinstance(record[field], str):
        raise Flaw(
            "field not text",
            f"field {field[:40]!r} holds {_kind(record[field])}, not text",
            "name another by --data.column",
        )
    return record[field]


def _messages(record: dict) -> Pairs:
    """Every message's content, and the one before it as its context."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages
    ):
        what = "`messages` must be a list of objects, each with text as its `content`"
        raise Flaw("not messages", what, "mend it, or name another field by --data.column")
    contents = [m["content"] for m in messages]
    return list(zip(contents, [None, *contents], strict=False))


def read_jsonl(found: Found, column: str | None) -> Document:
    """One object a line."""
    taker = Taker(found, "jsonl", column)
    for number, text in lines(found):
        where = f"{found.path}:{number}"
        try:
            record = DECODER.decode(text)
        except RecursionError:
            found.refuse(where, Flaw("not JSON", "an object nested too deeply"))
        except json.JSONDecodeError as e:
            remedy = "write one object a line, or pass --data.format json for a file that is one list"
            found.refuse(where, Flaw("not JSON", f"not a JSON object ({e.msg} at character {e.pos + 1})", remedy))
        else:
            taker.take(record, number, where)
    return found.document("jsonl", taker.with_context)


def read_json(found: Found, column: str | None) -> Document:
    """A list of objects, read record by record. What comes after a syntax error cannot be told, so that it stops
    under both policies."""
    taker, window = Taker(found, "json", column), _Window(found.path)
    if window.peek() != "[":
        remedy = "write [{...}, ...]; a file with one object a line is --data.format jsonl, plain text is lines"
        raise ValueError(f"{found.path}:{window.line}: a JSON file must hold a list of records; {remedy}")
    number = 0
    while window.next_is_record(first=number == 0):
        where, record = f"{found.path}:{window.line}", window.value()
        number += 1
        try:
            _check_source(window.source)
            taker.take(record, number, f"{where}: record {number}")
        except Flaw as flaw:
            found.refuse(f"{where}: record {number}", flaw)
        if found.full:
            break
    return found.document("json", taker.with_context)


def _check_source(source: str) -> None:
    """Raises Flaw for a record with bytes that are not UTF-8 anywhere in it; `surrogateescape` carried them through."""
    try:
        source.encode()
    except UnicodeEncodeError as e:
        raise invalid_utf8(ord(source[e.start]) - 0xDC00, None) from None


class _Window:
    """The part of a JSON file around one record; `line` is that of the next character, `source` the last value's."""

    def __init__(self, path: str):
        self.path, self.blocks = path, blocks(path)
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text, self.at, self.line, self.source = "", 0, 1, ""

    def more(self) -> bool:
        """Reads another block. False at the end of the file."""
        block = next(self.blocks, b"")
        self.text, self.at = self.text[self.at :] + self.decode(block, not block), 0
        return bool(block)

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def peek(self) -> str:
        """The next character that is not blank; nothing at the end."""
        while True:
            found = BLANK.match(self.text, self.at)
            self.move(found.end() if found else self.at)
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def next_is_record(self, first: bool) -> bool:
        """Steps over the mark before a record; over the closing one, after which nothing may come."""
        mark = self.peek()
        if first or mark == ",":
            self.move(self.at + 1)
            mark = self.peek()
            if not (first and mark == "]"):
                return True
        if mark != "]":
            raise self.error("',' or ']' expected" if mark else "the list is not closed", self.at)
        self.move(self.at + 1)
        if self.peek():
            raise self.error("something comes after the list", self.at)
        return False

    def value(self) -> Any:
        """Decodes the next value. One that ends where the window does may go on, and is read again with more."""
        while True:
            said, after = "the list is not closed", len(self.text) - self.at
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text):
                    return self._read(value, end)
            except json.JSONDecodeError as e:
                said, after = e.msg, e.pos - self.at
            except RecursionError:
                raise self.error("nested too deeply", self.at) from None
            if len(self.text) - self.at > RECORD:
                raise self.error(f"no end of the record within {RECORD:,} characters: {said}", self.at)
            if not self.more():
                raise self.error(said, self.at + after)

    def _read(self, value: Any, end: int) -> Any:
        self.source = self.text[self.at : end]
        self.move(end)
        return value

    def error(self, what: str, at: int) -> ValueError:
        line = self.line + self.text.count("\n", self.at, at)
        remedy = (
            "mend it there (python -m json.tool shows the place); a file with one object a line is --data.format jsonl"
        )
        return ValueError(f"{self.path}:{line}: not valid JSON ({what}); {remedy}")
