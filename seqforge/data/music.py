"""Tunes as tokens and back: one token a step, as SeqGAN's paper has it, or an encoding of miditok; phrases, folders.

A sequence is words between blanks, so that every part of the project that reads text reads music too.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from seqforge.data import midi
from seqforge.data.midi import HIGHEST, LOWEST, VELOCITY, Tune
from seqforge.data.readers.document import Document, Flaw

Name = Literal["melody", "remi", "tsd", "midilike", "structured"]
CLASSES = {"remi": "REMI", "tsd": "TSD", "midilike": "MIDILike", "structured": "Structured"}
QUARTERS, EIGHTHS = range(1, 9), range(1, 13)  # the signatures an encoding of miditok knows: 1/4 .. 8/4, 1/8 .. 12/8
REST, HOLD = "rest", "_"
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MOST_NAMED = 50  # files in one warning
GAP = 1e-6


@dataclass(frozen=True)
class MusicConfig:
    """How MIDI becomes sequences.

    Args:
        encoding: melody: one token a step, the highest pitch that sounds or a rest (SeqGAN, with a piano's 88 pitches);
            remi, tsd, midilike, structured: every note, by miditok's encodings of these names
        holds: of melody: a token of its own for a note that goes on, so that repeated ones stay apart (the paper: none)
        grid: steps a quarter; 4 are sixteenths, 12 hold triplets too
        seconds: of melody: length of a step in seconds, in place of grid (the paper: 0.4); 0 keeps to the beat
        bars: length of a phrase in bars; 0 takes whole tunes
        tokens: most tokens of a phrase, in place of bars (the paper: 32 steps); 0 keeps to bars
        track: melody (the first track with notes), all of them joined, or a number from 0; auto is melody for the
            encoding of that name, else all. Percussion is left out
        transpose: adds copies of every training phrase moved by up to so many semitones each way
        velocities: levels of loudness told apart by the encodings of miditok; 0 leaves loudness out
        longest: beats of the longest note that the encodings of miditok can write; longer ones are cut there
    """

    encoding: Name = "melody"
    holds: bool = True
    grid: int = 4
    seconds: float = 0.0
    bars: int = 4
    tokens: int = 0
    track: str = "auto"
    transpose: int = 0
    velocities: int = 0
    longest: int = 48

    def __post_init__(self):
        least = {"grid": 1, "bars": 0, "tokens": 0, "transpose": 0, "velocities": 0, "longest": 1, "seconds": 0}
        most = {"grid": 96, "transpose": 87, "velocities": 127, "longest": 1000, "seconds": 60}
        for name, low in least.items():
            value, high = getattr(self, name), most.get(name, np.inf)
            if not low <= value <= high:
                told = f"at least {low}" if high == np.inf else f"between {low} and {high}"
                raise ValueError(f"data.music.{name} is {value}, but must be {told}")
        if self.track not in ("auto", "melody", "all") and not re.fullmatch(r"\d{1,4}", self.track):
            raise ValueError(f"data.music.track is {self.track!r}; give auto, melody, all, or a number from 0")
        if self.seconds and (self.encoding != "melody" or not self.tokens):
            raise ValueError("data.music.seconds: steps of seconds know no bars; give --data.music.encoding melody and "
                             "--data.music.tokens")  # fmt: skip
        if self.velocities and self.encoding == "melody":
            raise ValueError("data.music.velocities: the melody encoding has no loudness; choose another encoding")

    @property
    def track_number(self) -> int | None:
        """Which track is read; None joins all."""
        named = {"melody": 0, "all": None, "auto": 0 if self.encoding == "melody" else None}
        return named[self.track] if self.track in named else int(self.track)


class Encoding(Protocol):
    """A way to write a tune as words. `name` is for signatures."""

    name: str

    def vocabulary(self) -> list[str]: ...
    def encode(self, tune: Tune) -> list[str]: ...
    def decode(self, words: Sequence[str]) -> Tune: ...
    def follows(self, words: Sequence[str]) -> bool: ...


@functools.lru_cache(maxsize=8)
def encoding_of(config: MusicConfig) -> Encoding:
    return Melody(config) if config.encoding == "melody" else Miditok(config)


def valid(encoding: Encoding, words: Sequence[str]) -> bool:
    """Whether these words are a tune as they stand: nothing to repair or to leave out, and a note in it."""
    return bool(words) and encoding.follows(words) and len(encoding.decode(words).notes) > 0


def pitch_name(pitch: int) -> str:
    """60 is C4."""
    return f"{KEYS[pitch % 12]}{pitch // 12 - 1}"


class Melody:
    """One word a step: the name of the highest pitch that sounds, `rest`, and with `holds` `_` where a note goes on."""

    def __init__(self, config: MusicConfig):
        self.holds = config.holds
        self.grid = 60 / midi.TEMPO / config.seconds if config.seconds else float(config.grid)
        step = f"{config.seconds}s" if config.seconds else str(config.grid)
        self.name = f"melody{'-holds' if config.holds else ''}-{step}"
        self.pitches = {pitch_name(p): p for p in range(LOWEST, HIGHEST + 1)}

    def vocabulary(self) -> list[str]:
        return [*self.pitches, REST, *([HOLD] if self.holds else [])]

    def encode(self, tune: Tune) -> list[str]:
        which = top_notes(tune.notes, tune.end)  # the note of each step
        names = [pitch_name(p) for p in tune.notes[:, 2].tolist()]
        started = np.diff(which, prepend=-1) != 0
        return [
            REST if n < 0 else names[n] if new or not self.holds else HOLD
            for n, new in zip(which.tolist(), started.tolist(), strict=True)
        ]

    def decode(self, words: Sequence[str]) -> Tune:
        """What is no word of it, and a hold with nothing to hold, is a rest."""
        notes: list[list[int]] = []
        sounding = None
        for step, word in enumerate(words):
            pitch = self.pitches.get(word)
            goes_on = sounding is not None and (word == HOLD if self.holds else pitch == sounding)
            if goes_on:
                notes[-1][1] += 1
            elif pitch is not None:
                notes.append([step, 1, pitch, VELOCITY])
            sounding = pitch if pitch is not None else sounding if goes_on else None
        end = len(words)
        return Tune(np.array(notes, dtype=np.int64).reshape(-1, 4), midi.bars_of([], 1, self.grid, end), self.grid, end)

    def follows(self, words: Sequence[str]) -> bool:
        """Whether every word is of the vocabulary and every hold has a note to hold."""
        before = [REST, *words]
        held = all(a != REST for a, b in zip(before, words, strict=False) if b == HOLD)
        return held and all(w in self.pitches or w == REST or (w == HOLD and self.holds) for w in words)


def top_notes(notes: np.ndarray, end: int) -> np.ndarray:
    """(end,) the number of the highest note that sounds at each step, of equal pitches the latest; -1 for none."""
    which = np.full(end, -1)
    for n in np.lexsort((notes[:, 0], notes[:, 2])):
        which[notes[n, 0] : notes[n, 0] + notes[n, 1]] = n
    return which


class Miditok:
    """An encoding of miditok over the 88 keys, with time signatures where it has them; one track, no drums."""

    def __init__(self, config: MusicConfig):
        try:
            import miditok
        except ImportError as e:
            raise ValueError(
                f"data.music.encoding is {config.encoding}, but miditok is not installed; pip install 'seqforge[music]'"
            ) from e
        self.miditok, self.grid = miditok, config.grid
        settings = miditok.TokenizerConfig(
            pitch_range=(LOWEST, HIGHEST + 1),
            beat_res={(0, config.longest): config.grid},
            use_velocities=config.velocities > 0,
            num_velocities=config.velocities or 1,
            use_time_signatures=True,
            time_signature_range={4: list(QUARTERS), 8: list(EIGHTHS)},
            use_pitchdrum_tokens=False,
            special_tokens=["PAD"],
        )
        self.tokenizer = getattr(miditok, CLASSES[config.encoding])(settings)
        self.words = [w for w in self.tokenizer.vocab if not w.startswith("PAD")]
        self.known = frozenset(self.words)
        self.longest = config.longest
        loud = f"-v{config.velocities}" if config.velocities else ""
        self.name = f"{config.encoding}-{config.grid}{loud}-{config.longest}"

    def vocabulary(self) -> list[str]:
        return self.words

    def encode(self, tune: Tune) -> list[str]:
        """Raises Flaw for a bar whose signature cannot be written."""
        check_bars(tune)
        lib = midi.symusic()
        score, track = lib.Score(self.grid), lib.Track(program=0, is_drum=False)
        columns = (tune.notes[:, k].astype(t) for k, t in enumerate((np.int32, np.int32, np.int8, np.int8)))
        track.notes = lib.Note.from_numpy(*columns)
        score.tracks.append(track)
        before = None
        for start, n, d in tune.bars.tolist():
            if (n, d) != before:
                score.time_signatures.append(lib.TimeSignature(start, n, d))
            before = (n, d)
        found = self.tokenizer.encode(score)
        return found[0].tokens if found else []

    def decode(self, words: Sequence[str]) -> Tune:
        """What is no word of it is left out, and what does not follow the encoding's rules is repaired by miditok."""
        kept = [w for w in words if w in self.known]
        score = self.tokenizer.decode([self.miditok.TokSequence(tokens=kept)])
        each = [t.notes.numpy() for t in score.tracks]
        columns = [
            np.concatenate([t[f] for t in each] or [np.zeros(0)]) for f in ("time", "duration", "pitch", "velocity")
        ]
        notes = np.column_stack(columns).astype(np.int64)
        per_step = score.tpq / self.grid
        notes[:, :2] = np.rint(notes[:, :2] / per_step)
        notes[:, 1] = np.maximum(1, notes[:, 1])
        end = int((notes[:, 0] + notes[:, 1]).max(initial=0))
        signatures = [(s.time, s.numerator, s.denominator) for s in score.time_signatures]
        return Tune(midi.ordered(notes), midi.bars_of(signatures, 1 / per_step, self.grid, end), float(self.grid), end)

    def follows(self, words: Sequence[str]) -> bool:
        """By miditok's own count of errors (order of tokens, time that goes back); the last note has to be whole."""
        if not words or not self.known.issuperset(words):
            return False
        first, last = (words[i].split("_")[0] for i in (0, -1))
        open_end = last in ("Pitch", "Position", "Velocity" if self._has("Duration") else "")
        stray = first in ("Velocity", "Duration")  # of a note that is not there; miditok looks at what follows alone
        return (
            not open_end
            and not stray
            and self.tokenizer.tokens_errors(self.miditok.TokSequence(tokens=list(words))) == 0
        )

    def _has(self, kind: str) -> bool:
        return any(w.startswith(f"{kind}_") for w in self.words)


def check_bars(tune: Tune) -> None:
    """Raises Flaw where a bar's signature is none that is known, or does not give the length of the bar."""
    length = tune.bars[:, 1] * 4 / tune.bars[:, 2] * tune.grid
    wrong = np.flatnonzero(abs(np.diff(tune.bars[:, 0]) - length[:-1]) > GAP)
    strange = [
        i for i, (_, n, d) in enumerate(tune.bars.tolist()) if n not in {4: QUARTERS, 8: EIGHTHS}.get(d, range(0))
    ]
    if len(wrong) or strange:
        i = min([*wrong.tolist(), *strange])
        bar = f"bar {i + 1} ({tune.bars[i, 1]}/{tune.bars[i, 2]})"
        remedy = "raise --data.music.grid, or choose --data.music.encoding melody"
        raise Flaw("odd bar", f"{bar} cannot be written in steps of 1/{tune.grid:g} of a quarter", remedy)


def phrases(tune: Tune, config: MusicConfig) -> Iterator[Tune]:
    """The tune in pieces of so many bars or tokens; a rest of less than half of one, and one without notes, are left
    out."""
    for piece in _pieces(tune, config):
        if len(piece.notes):
            yield piece


def _pieces(tune: Tune, config: MusicConfig) -> Iterator[Tune]:
    if config.tokens and config.encoding == "melody":
        for at in range(0, tune.end, config.tokens):
            if (last := min(at + config.tokens, tune.end)) - at >= config.tokens / 2:
                yield tune.cut(at, last)
    elif config.tokens:
        yield from _by_tokens(tune, config)
    elif config.bars:
        starts = [*tune.bars[:, 0].tolist(), tune.end]
        for i in range(0, len(tune.bars), config.bars):
            if (last := min(i + config.bars, len(tune.bars))) - i >= config.bars / 2:
                yield tune.cut(starts[i], starts[last])
    else:
        yield tune


def _by_tokens(tune: Tune, config: MusicConfig) -> Iterator[Tune]:
    """Whole bars, as many as give at most `tokens` tokens by the count of each; a single bar of more is left out."""
    starts, encoding, i = [*tune.bars[:, 0].tolist(), tune.end], encoding_of(config), 0
    counts = [len(encoding.encode(tune.cut(a, b))) for a, b in pairwise(starts)]
    upto = np.concatenate([[0], np.cumsum(counts)])
    while i < len(counts):
        last = int(np.searchsorted(upto, upto[i] + config.tokens, side="right")) - 1
        while last > i and len(encoding.encode(tune.cut(starts[i], starts[last]))) > config.tokens:
            last -= 1  # time between two bars may cost a token that neither has alone
        if last > i:
            yield tune.cut(starts[i], starts[last])
        i = max(last, i + 1)


@dataclass(frozen=True)
class Read:
    """The tunes of a folder, and what was left out of it: reason -> file and what is wrong with it."""

    tunes: list[tuple[Path, Tune]]
    left_out: dict[str, list[tuple[str, str]]]
    notes: int
    outside: int


def read_folder(path: Path, config: MusicConfig, stop: bool = False) -> Read:
    """Every tune of a folder or of one file, in the order of names. A file that cannot be read is left out by name, or
    with `stop` a ValueError. Raises ValueError where none is left.
    """
    files, others, below = ([path], [], 0) if path.is_file() else midi.folder_files(path)
    left_out: dict[str, list[tuple[str, str]]] = {}
    for other in others:
        left_out.setdefault("no MIDI", []).append((_name(other, path), "is no MIDI file"))
    tunes, notes, outside = [], 0, 0
    for file in files:
        try:
            tune, beyond = midi.read_midi(file, config.track_number, config.grid, config.seconds)
            if config.encoding != "melody":
                check_bars(tune)
        except Flaw as e:
            if stop:
                raise ValueError(f"{file}: {e.what}; mend it, or pass --data.on_error skip to leave it out") from e
            left_out.setdefault(e.reason, []).append((_name(file, path), e.what))
            continue
        tunes.append((file, tune))
        notes, outside = notes + len(tune.notes) + beyond, outside + beyond
    if below:
        left_out["in folders below"] = [("", f"{below} MIDI files lie in folders below and are not read")]
    if not tunes:
        told = "; ".join(f"{name}: {what}" for found in left_out.values() for name, what in found[:3])
        raise ValueError(
            f"{path}: no MIDI file in it that can be used ({told or 'it is empty'}); give a folder of tunes"
        )
    return Read(tunes, left_out, notes, outside)


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file != folder else file.name


def told(path: Path, read: Read) -> Iterator[str]:
    """A sentence for every kind of thing left out, with names."""
    for reason, found in read.left_out.items():
        if reason == "in folders below":
            yield f"{path}: {found[0][1]}; name such a folder by --data to use them"
            continue
        names = ", ".join(f"{n} ({what})" if reason == "broken MIDI" else n for n, what in found[:MOST_NAMED])
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        yield f"{path}: left out {len(found)} x {reason}: {names}{more}"
    if read.outside:
        yield f"{path}: left out {read.outside} of {read.notes} notes, which no piano has (88 keys, A0 to C8)"


def document(
    path: str, read: Read, config: MusicConfig, name: str, transpose: int = 0, most: int | None = None
) -> Document:
    """The phrases of tunes as words, each with its place; `transpose` adds copies moved by up to so many semitones."""
    encoding = encoding_of(config)
    texts, places, numbers = [], [], []
    shifts = [0, *(s for k in range(1, transpose + 1) for s in (k, -k))]
    for file, tune in read.tunes:
        if most is not None and len(texts) >= most:
            break
        for number, phrase in enumerate(phrases(tune, config), 1):
            for shift in shifts:
                if (moved := phrase.moved(shift)) is not None:
                    texts.append(" ".join(encoding.encode(moved)))
                    numbers.append(number)
                    places.append(f"{file}: phrase {number}" + (f", moved by {shift:+} semitones" if shift else ""))
    if not texts:
        raise ValueError(f"{path}: no phrase in its {name} tunes; lower --data.music.bars or --data.music.tokens")
    skipped = {reason: len(found) for reason, found in read.left_out.items()}
    first = {reason: ": ".join(filter(None, found[0])) for reason, found in read.left_out.items()}
    return Document(path, "midi", texts[:most], numbers[:most], None, skipped, first, places[:most])
