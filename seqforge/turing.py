"""Judged by people: trials that do not show what is real, the file of answers, and what the answers say. No torch."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from seqforge.metrics.calibration import wilson

FILE = "turing.jsonl"
SOURCES = ("real", "generated", "pretrained")
ANSWERS = ("person", "machine")


@dataclass(frozen=True)
class Trial:
    """One text to judge. id: says nothing of the source."""

    id: str
    text: str
    source: str

    @property
    def truth(self) -> str:
        return "person" if self.source == "real" else "machine"


@dataclass(frozen=True)
class Deck:
    """The trials of a run, the same for every judge. seed, temperature: of the samples; step: of the generator;
    left_out: texts that were both real and generated.
    """

    trials: dict[str, Trial]
    seed: int
    temperature: float
    step: int
    left_out: int

    def order(self, judge: str) -> list[Trial]:
        """All of them, shuffled by seed and judge."""
        return sorted(self.trials.values(), key=lambda t: _mixed(f"{self.seed}/{judge}/{t.id}"))


def deal(n: int, real: list[str], drawn: Mapping[str, Iterable[str]], seed: int, temperature: float, step: int) -> Deck:
    """n distinct texts: half of them real, the rest in equal parts from what each generator has drawn (by source).

    Raises ValueError where there are too few on one side, or n cannot be dealt so.
    """
    parts = 2 * len(drawn)
    if n < parts or n % parts:
        raise ValueError(f"--n is {n}, but must be a multiple of {parts}: half is real, the rest is generated")
    known, both, taken = set(real), set(), {}
    _enough(n, len(known), "")
    for source, texts in drawn.items():
        wanted = n // parts
        for text in texts:
            if text in known:
                both.add(text)
            elif text not in taken:
                taken[text] = source
                wanted -= 1
            if not wanted:
                break
        if wanted:
            raise ValueError(
                f"--n is {n}, but of the {n // parts} sequences wanted of source `{source}` only {n // parts - wanted} "
                "could be drawn that differ from each other and from the test set; lower --n or raise --temperature"
            )
    _enough(n, len(known - both), " that are not generated too")
    people = sorted(known - both, key=lambda text: _mixed(f"{seed}/{text}"))[: n // 2]
    taken |= dict.fromkeys(people, "real")
    name = f"{seed}/{temperature}/{step}/{n}/{parts}"
    trials = [Trial(_mixed(f"{name}/{text}")[:12], text, source) for text, source in taken.items()]
    return Deck({t.id: t for t in trials}, seed, temperature, step, len(both))


def _enough(n: int, there: int, which: str) -> None:
    if n // 2 > there:
        raise ValueError(
            f"--n is {n}, half of them real, but the run has only {there} distinct test sequences{which}; "
            f"give at most --n {2 * there}, or train with more --data.test_size"
        )


def _mixed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Answer:
    """One line of turing.jsonl. truth, answer: person or machine; source: real, generated (by the final generator) or
    pretrained; seconds: from the text's appearance to the answer; seed, temperature, step: of the samples.
    """

    judge: str
    time: str
    trial: str
    text: str
    truth: str
    source: str
    answer: str
    seconds: float
    seed: int
    temperature: float
    step: int

    @property
    def right(self) -> bool:
        return self.answer == self.truth


def read(path: Path) -> tuple[list[Answer], list[int]]:
    """The answers in a file, and the numbers of lines that are none (cut off, foreign, or given a second time)."""
    if not path.is_file():
        return [], []
    found: dict[tuple[str, str], Answer] = {}
    broken = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        one = _parsed(line)
        if one is None or (one.judge, one.trial) in found:
            broken.append(number)
        else:
            found[one.judge, one.trial] = one
    return list(found.values()), broken


def _parsed(line: bytes) -> Answer | None:
    try:
        raw = json.loads(line)
        one = Answer(**{f.name: raw[f.name] for f in fields(Answer)})
        words = all(isinstance(w, str) for w in (one.judge, one.time, one.trial, one.text))
        known = one.truth in ANSWERS and one.answer in ANSWERS and one.source in SOURCES
        finite = all(math.isfinite(x) for x in (one.seconds, one.temperature))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return one if words and known and finite else None


def append(path: Path, answer: Answer) -> None:
    """Add a line, on the disk when this returns; where that fails (OSError) the file is as before. The caller holds the
    file's lock. A line that was cut off stays a line of its own.
    """
    line = json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n"
    with path.open("a+b", buffering=0) as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def share(these: Iterable[bool]) -> dict[str, Any]:
    """How many of how many, as a share with its 95 % interval (Wilson); None in place of a share of nothing."""
    found = list(these)
    n, k = len(found), sum(found)
    low, high = wilson(k / n, n) if n else (None, None)
    return {"count": k, "of": n, "share": k / n if n else None, "low": low, "high": high}


def told_apart(real: Iterable[Answer], made: Iterable[Answer]) -> dict[str, Any]:
    """Accuracy where each side counts half, however many its answers: 0.5 is a coin's, also of a judge who says one
    thing more often. Its 95 % interval is by Wilson's of both sides (Newcombe 1998); None where a side has no answer.
    """
    sides = [share(a.right for a in side) for side in (real, made)]
    found = {"real": sides[0]["of"], "generated": sides[1]["of"]}
    if not all(side["of"] for side in sides):
        return {**found, "share": None, "low": None, "high": None}
    mean = sum(side["share"] for side in sides) / 2
    below, above = (math.hypot(*(side["share"] - side[end] for side in sides)) / 2 for end in ("low", "high"))
    return {**found, "share": mean, "low": mean - below, "high": mean + above}


def results(answers: list[Answer]) -> dict[str, Any]:
    """Accuracy in all, by judge, and by source and temperature of what was generated, held to the real sequences asked
    beside it; and the share that was called human by source and temperature.
    """
    judges = {judge: [a for a in answers if a.judge == judge] for judge in dict.fromkeys(a.judge for a in answers)}
    kinds = {(SOURCES.index(a.source), a.temperature if a.source != "real" else None) for a in answers}
    ordered = [(SOURCES[at], heat) for at, heat in sorted(kinds, key=lambda k: (k[0], k[1] or 0))]
    beside = {heat: [a for a in answers if (a.source, a.temperature) == ("real", heat)] for _, heat in ordered}
    return {
        "answers": len(answers),
        "accuracy": share(a.right for a in answers),
        "judges": [
            {"judge": judge, **share(a.right for a in own), "seconds": median(a.seconds for a in own)}
            for judge, own in judges.items()
        ],
        "by_generator": [
            {
                "source": source,
                "temperature": heat,
                **told_apart(beside[heat], [a for a in answers if (a.source, a.temperature) == (source, heat)]),
            }
            for source, heat in ordered
            if source != "real"
        ],
        "called_human": [
            {
                "source": source,
                "temperature": heat,
                **share(a.answer == "person" for a in answers if a.source == source and heat in (None, a.temperature)),
            }
            for source, heat in ordered
        ],
    }
