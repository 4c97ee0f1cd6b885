"""Readers of dialogues: JSONL (`messages`, prompt/completion, text/label), `__eou__` lines, parallel files, YAML.

A dialogue is a list of turns. One turn alone is no dialogue: it is left out and counted. What cannot be read is a
ValueError with place, value and remedy, or is left out and counted, by one policy for all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seqforge.data.readers.document import OVERLONG, Flaw, Found, OnError, check_text
from seqforge.data.readers.files import check_file, decoded, lines, raw_lines

EOU = "__eou__"
PARALLEL = {".src": (".trg", ".tgt")}


@dataclass(frozen=True)
class Dialogues:
    """turns: one list a dialogue, no turn empty; numbers: the line or record of each, from 1; skipped: reason -> count;
    first_skipped: reason -> message of the first of its kind. format: messages, pairs, labels, eou, parallel or yaml.
    """

    path: str
    format: str
    turns: list[list[str]]
    numbers: list[int]
    skipped: dict[str, int]
    first_skipped: dict[str, str]

    def place(self, i: int) -> str:
        return f"{self.path}{': dialogue ' if self.format == 'yaml' else ':'}{self.numbers[i]}"


def read_dialogues(path: str, labels: bool = False, on_error: OnError = "stop", most: int | None = None) -> Dialogues:
    """The dialogues of a file, at most `most`; with `labels` pairs of a label and its text (JSONL `text` and `label`).

    .yaml and .yml hold a list of lists of turns (or `conversations:` with one); X.src is read beside X.trg, a turn a
    line; a line that begins with `{` is JSON; any other file needs `__eou__` between its turns. Raises ValueError.
    """
    check_file(path)
    found = Found(path, on_error, most)
    kind = _kind(found, labels)
    turns: list[list[str]] = []
    numbers: list[int] = []
    for number, read in READERS[kind](found):
        try:
            dialogue = [check_text(turn) for turn in read]
            if not all(dialogue):
                raise Flaw(
                    "empty turn", f"turn {dialogue.index('') + 1} of the dialogue is empty", "write it or drop it"
                )
        except Flaw as flaw:
            found.refuse(_place(found, kind, number), flaw)
            continue
        if len(dialogue) < 2:
            message = f"{_place(found, kind, number)}: a dialogue with one turn, which nobody answers"
            found.leave_out("dialogue with one turn", message)
            continue
        turns.append(dialogue)
        numbers.append(number)
        if most is not None and len(turns) >= most:
            break
    if not turns:
        raise ValueError(f"{path}: no dialogue of two turns in it, read as {kind}{found._reasons()}")
    return Dialogues(path, kind, turns, numbers, dict(found.skipped), dict(found.first_skipped))


def _place(found: Found, kind: str, number: int) -> str:
    return f"{found.path}{': dialogue ' if kind == 'yaml' else ':'}{number}"


Read = Iterator[tuple[int, list[str]]]


def _kind(found: Found, labels: bool) -> str:
    suffix = Path(found.path).suffix
    if labels:
        return "labels"
    if suffix in (".yaml", ".yml"):
        return "yaml"
    if suffix in PARALLEL:
        return "parallel"
    first = next((text for _, text in lines(Found(found.path, found.on_error))), "")
    if first.startswith("{"):
        return _kind_of_records(found)
    if EOU in first:
        return "eou"
    raise ValueError(
        f"{found.path}:1: {first[:40]!r} is no dialogue; give JSON lines with `messages` or `prompt` and `completion`, "
        f"lines with {EOU} between the turns, X.src beside X.trg, or YAML lists of turns"
    )


def _kind_of_records(found: Found) -> str:
    """By the first line that is an object; a broken one before it is told of, or left out, by who reads them all."""
    for _, text in lines(Found(found.path, found.on_error)):
        try:
            return "messages" if "messages" in _object(text) else "pairs"
        except Flaw:
            continue
    return "pairs"


def _object(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Flaw("not JSON", f"not a JSON object ({str(e)[:60]})", "write one object a line") from e
    if not isinstance(record, dict):
        raise Flaw("not an object", "a record must be an object with fields", "write one object a line")
    return record


def _text(record: dict, field: str, what: str = "the record") -> str:
    value = record.get(field)
    if not isinstance(value, str):
        told = "is missing" if value is None else f"is {value!r:.40}, not text"
        raise Flaw(f"{field} missing", f"`{field}` of {what} {told}")
    return value


def _messages(record: dict) -> list[str]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Flaw("not messages", "`messages` must be a list of objects with `role` and `content`")
    for i, message in enumerate(messages):
        _text(message, "role", f"message {i + 1}")
    return [_text(m, "content", f"message {i + 1}") for i, m in enumerate(messages) if m["role"] != "system"]


def _pair(record: dict) -> list[str]:
    return [_text(record, "prompt"), _text(record, "completion")]


def _label(record: dict) -> list[str]:
    label = record.get("label")
    return [str(label) if isinstance(label, int) else _text(record, "label"), _text(record, "text")]


def _records(take) -> Any:
    def read(found: Found) -> Read:
        for number, text in lines(found):
            try:
                turns = take(_object(text))
            except Flaw as flaw:
                found.refuse(f"{found.path}:{number}", flaw)
            else:
                yield number, turns

    return read


def _eou(found: Found) -> Read:
    for number, text in lines(found):
        turns = text.split(EOU)
        yield number, turns[:-1] if not turns[-1].strip() else turns


def _parallel(found: Found) -> Read:
    path = Path(found.path)
    others = [path.with_suffix(suffix) for suffix in PARALLEL[path.suffix]]
    other = next((p for p in others if p.is_file()), None)
    if other is None:
        raise ValueError(f"{path}: {others[0].name} is not beside it; give the replies, one a line, under that name")
    asked, answered = (list(raw_lines(str(p))) for p in (path, other))
    if len(asked) != len(answered):
        raise ValueError(
            f"{path}: {len(asked)} lines, but {other} has {len(answered)}; line n of one answers line n of the other"
        )
    for (number, source), (_, reply) in zip(asked, answered, strict=True):
        turns = []
        for side, raw in ((path, source), (other, reply)):
            try:
                turns.append(decoded(raw).strip())
            except Flaw as flaw:
                found.refuse(f"{side}:{number}", flaw)
        if len(turns) == 2:  # a line left out is left out on both sides
            yield number, turns


def _yaml(found: Found) -> Read:
    text = Path(found.path).read_bytes()
    if len(text) > 64 * OVERLONG:
        raise ValueError(
            f"{found.path}: {len(text):,} bytes of YAML; write it as JSON lines, which are read one by one"
        )
    try:
        content = yaml.load(text.decode(), Loader=yaml.BaseLoader)  # every turn as it is written: Yes is no truth value
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{found.path}: not YAML ({' '.join(str(e).split())[:120]}); mend it") from e
    content = content.get("conversations") if isinstance(content, dict) else content
    if not isinstance(content, list):
        raise ValueError(
            f"{found.path}: YAML must hold a list of dialogues, each a list of turns (or `conversations:`)"
        )
    for number, turns in enumerate(content, 1):
        if isinstance(turns, list) and all(isinstance(t, str) for t in turns):
            yield number, turns
        else:
            what = "a dialogue must be a list of turns, each a text"
            found.refuse(f"{found.path}: dialogue {number}", Flaw("not turns", what))


READERS = {
    "messages": _records(_messages),
    "pairs": _records(_pair),
    "labels": _records(_label),
    "eou": _eou,
    "parallel": _parallel,
    "yaml": _yaml,
}
