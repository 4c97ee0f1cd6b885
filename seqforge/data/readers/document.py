"""What reading a file gives, and the gathering of it under one policy for bad records."""

from dataclasses import dataclass
from typing import Literal, get_args

Format = Literal["auto", "lines", "paragraphs", "ids", "json", "jsonl", "csv", "tsv", "parquet", "hf", "midi"]
OnError = Literal["stop", "skip"]

OVERLONG = 1_000_000  # characters of a line or of one text
OVERHEAD = 100  # bytes that a text takes in memory besides its characters
BY_RECORD = ("json", "parquet", "hf")  # formats whose `numbers` count records, not lines


@dataclass(frozen=True)
class Document:
    """The sequences of one file, and where each stands.

    format: the one found or given, never "auto". texts: one sequence each; for "ids" the numbers as text, "17 4 0".
    numbers: from 1; of the line (of a paragraph or a CSV row, its first), for json, parquet and hf of the record.
    contexts: the prompt of prompt/completion, the message before of `messages`; None for everything else.
    skipped: reason -> how many records were left out; first_skipped: reason -> the message of the first of its kind.
    places: where each stands, where it is not a line or record of `path` (a folder of MIDI).
    """

    path: str
    format: str
    texts: list[str]
    numbers: list[int]
    contexts: list[str | None] | None
    skipped: dict[str, int]
    first_skipped: dict[str, str]
    places: list[str] | None = None

    def place(self, i: int) -> str:
        """Where sequence i stands: "FILE:LINE", or "FILE: record N" for json, parquet and hf."""
        if self.places is not None:
            return self.places[i]
        between = ": record " if self.format in BY_RECORD else ":"
        return f"{self.path}{between}{self.numbers[i]}"


class Flaw(Exception):
    """Why one record cannot be taken: a reason to count it under, and what is wrong with which value."""

    def __init__(self, reason: str, what: str, remedy: str = "mend it"):
        super().__init__(what)
        self.reason, self.what, self.remedy = reason, what, remedy


class Found:
    """The sequences found so far. `most`: how many are wanted; `room`: bytes they may take (None: no bound);
    `by_record`: whether numbers count records, not lines."""

    def __init__(
        self,
        path: str,
        on_error: OnError = "stop",
        most: int | None = None,
        room: int | None = None,
        by_record: bool = False,
    ):
        if on_error not in get_args(OnError):
            raise ValueError(
                f"{path}: --data.on_error is {on_error!r}; expected one of: {', '.join(get_args(OnError))}"
            )
        if most is not None and most < 1:
            raise ValueError(f"{path}: {most} sequences wanted; ask for at least 1")
        self.on_error: OnError = on_error
        self.path, self.most, self.room, self.by_record = path, most, room, by_record
        self.texts: list[str] = []
        self.numbers: list[int] = []
        self.contexts: list[str | None] = []
        self.skipped: dict[str, int] = {}
        self.first_skipped: dict[str, str] = {}
        self.blanks, self.first_blank = 0, 0
        self.taken = 0

    @property
    def full(self) -> bool:
        return self.most is not None and len(self.texts) >= self.most

    def place(self, number: int) -> str:
        return f"{self.path}{': record ' if self.by_record else ':'}{number}"

    def add(self, text: str, number: int, context: str | None = None) -> None:
        """One sequence, checked and stripped. One with nothing in it is left out and counted under both policies."""
        self.flush_blanks()
        if not text:
            self.leave_out("empty text", f"{self.place(number)}: a text with nothing in it")
        elif not self.full:
            self._keep(text, number, context)

    def _keep(self, text: str, number: int, context: str | None) -> None:
        self.texts.append(text)
        self.numbers.append(number)
        self.contexts.append(context)
        if self.room is not None:
            self.taken += len(text) + len(context or "") + OVERHEAD
            if self.taken > self.room:
                raise ValueError(f"{self.path}: {bomb(self.room)}")

    def blank(self, number: int) -> None:
        """An empty line: left out, and counted once anything follows it (blank lines at the end are nobody's error)."""
        self.first_blank = self.first_blank if self.blanks else number
        self.blanks += 1

    def flush_blanks(self) -> None:
        if self.blanks:
            self.leave_out("blank line", f"{self.place(self.first_blank)}: a line with nothing in it", self.blanks)
            self.blanks = 0

    def leave_out(self, reason: str, message: str, count: int = 1) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + count
        self.first_skipped.setdefault(reason, message)

    def refuse(self, where: str, flaw: Flaw) -> None:
        """One bad record: under "stop" a ValueError with place, value and remedy; under "skip" left out and counted."""
        if self.on_error == "stop":
            raise ValueError(f"{where}: {flaw.what}; {flaw.remedy}, or pass --data.on_error skip to leave it out")
        self.flush_blanks()
        self.leave_out(flaw.reason, f"{where}: {flaw.what}")

    def document(self, format: str, with_context: bool = False) -> Document:
        """Raises ValueError when no sequence was found."""
        if not self.texts:
            raise ValueError(f"{self.path}: no sequence in it, read as {format}{self._reasons()}")
        contexts = self.contexts if with_context else None
        return Document(
            self.path, format, self.texts, self.numbers, contexts, dict(self.skipped), dict(self.first_skipped)
        )

    def _reasons(self) -> str:
        if not self.skipped:
            return "; give a file with at least one, or another --data.format"
        counts = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items())
        return f"; left out: {counts}; the first: {next(iter(self.first_skipped.values()))}"


def bomb(room: int) -> str:
    remedy = "unpack it yourself if it is meant"
    return f"takes more than {room:,} bytes when unpacked and looks like a decompression bomb; {remedy}"


def check_text(text: str) -> str:
    """The text, stripped. Raises Flaw when it is overlong or cannot be written as UTF-8 without NUL bytes."""
    if len(text) > OVERLONG:
        raise overlong()
    if "\0" in text:
        raise Flaw("NUL byte", f"NUL byte after {text[: text.index(chr(0))][-20:]!r}", "remove it (tr -d '\\000')")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as e:
            what = f"\\u{ord(text[e.start]):04x} is half of a character and cannot be written"
            raise Flaw("not valid text", what, "repair the text") from None
    return text.strip()


def invalid_utf8(byte: int, column: int | None) -> Flaw:
    at = "" if column is None else f" at byte {column} of the line"
    return Flaw("invalid UTF-8", f"0x{byte:02x}{at} is not UTF-8", "convert the file (iconv -f latin1 -t utf-8)")


def overlong() -> Flaw:
    return Flaw("overlong line", f"more than {OVERLONG:,} characters without an end", "break it into shorter sequences")
