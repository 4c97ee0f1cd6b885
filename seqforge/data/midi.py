"""MIDI files as tunes on a grid of equal steps, and back, by symusic. The folder of a music corpus."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from seqforge.data.readers.document import Flaw

SUFFIXES = (".mid", ".midi", ".kar")
MAGIC = b"MThd"
LOWEST, HIGHEST = 21, 108  # the 88 keys of a piano
MOST_STEPS = 200_000  # of one tune: a stray time must not size the tables
TEMPO = 120.0  # quarters a minute: what MIDI means where it says nothing
TICKS = 480  # a quarter, in the files written
VELOCITY = 90


@dataclass(frozen=True, eq=False)
class Tune:
    """notes (N,4) int64: onset, length, pitch, velocity, in steps and MIDI numbers, sorted; bars (K,3) int64: first
    step, numerator, denominator of each; grid: steps a quarter; end: steps in all, no less than any note's end.
    """

    notes: np.ndarray
    bars: np.ndarray
    grid: float
    end: int

    def cut(self, first: int, last: int) -> "Tune":
        """What sounds from step `first` up to `last`; notes that cross an end are cut there."""
        onset = np.maximum(self.notes[:, 0], first)
        length = np.minimum(self.notes[:, 0] + self.notes[:, 1], last) - onset
        notes = np.column_stack([onset - first, length, self.notes[:, 2:]])[length > 0]
        bars = self.bars[(self.bars[:, 0] >= first) & (self.bars[:, 0] < last)] - [first, 0, 0]
        return Tune(ordered(notes), bars, self.grid, last - first)

    def moved(self, semitones: int) -> "Tune | None":
        """Transposed; None where a note would leave the piano."""
        notes = self.notes + np.array([0, 0, semitones, 0])
        inside = ((notes[:, 2] >= LOWEST) & (notes[:, 2] <= HIGHEST)).all()
        return Tune(notes, self.bars, self.grid, self.end) if inside else None


def ordered(notes: np.ndarray) -> np.ndarray:
    """By onset, then pitch, then length."""
    return notes[np.lexsort((notes[:, 1], notes[:, 2], notes[:, 0]))]


def symusic() -> Any:
    """The library, or a ValueError that says how to get it."""
    try:
        import symusic
    except ImportError as e:
        raise ValueError("MIDI: symusic is not installed; pip install 'seqforge[music]'") from e
    return symusic


def read_midi(path: Path, track: int | None, grid: int, seconds: float = 0.0) -> tuple[Tune, int]:
    """The tune of a file, and how many notes lie outside of a piano's keys and are left out. Percussion is left out.

    Onsets and lengths are each rounded to the nearest step, a length to at least one. track: the number of one among
    the tracks with pitched notes, from 0 (a file of one track counts each channel as a track); None joins all. seconds:
    the length of a step in place of grid. Raises Flaw for what is no MIDI, is broken, or has no note there.
    """
    with open(path, "rb") as file:
        raw = file.read()
    if not raw:
        raise Flaw("empty file", "the file is empty")
    if not raw.startswith(MAGIC):
        raise Flaw("no MIDI", f"begins with {raw[:4]!r}, not with {MAGIC!r}")
    promised, there = int.from_bytes(raw[10:12]), tracks_in(raw)
    if there < promised:  # a file cut between two tracks reads well
        raise Flaw("broken MIDI", f"cannot be read (has {there} of its {promised} tracks)")
    try:
        score = symusic().Score.from_midi(raw)
    except (RuntimeError, OverflowError, TypeError) as e:  # what the library raises for bytes it cannot read
        raise Flaw("broken MIDI", f"cannot be read ({str(e).removesuffix(': iostream error')})") from e
    if score.tpq < 1:
        raise Flaw("broken MIDI", f"counts {score.tpq} ticks a quarter")
    timed, steps, per = score, grid / score.tpq, float(grid)
    if seconds:
        timed, steps, per = score.to("Second"), 1 / seconds, 60 / TEMPO / seconds
    tracks = [t.notes.numpy() for t in timed.tracks if len(t.notes) and not t.is_drum]
    if not tracks:
        raise Flaw("no note", "has no note (percussion aside)")
    if track is not None and track >= len(tracks):
        raise Flaw("no such track", f"has {len(tracks)} tracks with notes; there is no number {track}, counted from 0")
    chosen = tracks if track is None else [tracks[track]]
    notes, outside = _on_grid(chosen, steps)
    end = int((notes[:, 0] + notes[:, 1]).max())
    if end > MOST_STEPS:
        raise Flaw("far too long", f"lasts {end:,} steps; at most {MOST_STEPS:,} are read")
    signatures = [] if seconds else [(s.time, s.numerator, s.denominator) for s in score.time_signatures]
    return Tune(notes, bars_of(signatures, grid / score.tpq, per, end), per, end), outside


def tracks_in(raw: bytes) -> int:
    """How many tracks the bytes of a MIDI file hold, the last perhaps in part."""
    at, found = 0, 0
    while at + 8 <= len(raw):
        found += raw[at : at + 4] == b"MTrk"
        at += 8 + int.from_bytes(raw[at + 4 : at + 8])
    return found


def _on_grid(tracks: list[dict[str, np.ndarray]], steps: float) -> tuple[np.ndarray, int]:
    """Notes (N,4), and how many are left out; `steps` to a unit of their times."""
    fields = ("time", "duration", "pitch", "velocity")
    onset, length, pitch, velocity = (np.concatenate([t[f] for t in tracks]).astype(float) for f in fields)
    notes = np.column_stack([np.rint(onset * steps), np.maximum(1, np.rint(length * steps)), pitch, velocity])
    inside = (pitch >= LOWEST) & (pitch <= HIGHEST)
    if not inside.any():
        raise Flaw("no note", "has no note on a piano's keys (percussion aside)")
    return ordered(notes[inside].astype(np.int64)), int((~inside).sum())


def bars_of(signatures: Sequence[tuple[int, int, int]], steps_a_tick: float, grid: float, end: int) -> np.ndarray:
    """Bars (K,3) up to step `end` from signatures (tick, numerator, denominator); 4/4 until the first.

    A bar that a new signature cuts short gets the signature of what is left of it, where there is one in quarters or
    eighths. Halves are written as quarters.
    """
    known = {0: (4, 4)} | {round(t * steps_a_tick): (n, d) for t, n, d in signatures if n > 0 and d > 0}
    changes = [*sorted(known), max(end, *known) + 1]
    bars = []
    for start, stop in pairwise(changes):
        n, d = _in_quarters(*known[start])
        length = max(n * 4 / d * grid, 1.0)
        for k in range(int(np.ceil((min(stop, end) - start) / length))):
            at = start + k * length
            left = (stop - at) / grid  # quarters
            short = stop <= end and stop - at < length - 1e-6
            bars.append((round(at), *(_in_quarters(round(left * 2), 8) if short else (n, d))))
    return np.array(bars, dtype=np.int64).reshape(-1, 3)


def _in_quarters(n: int, d: int) -> tuple[int, int]:
    """The same length in quarters where the signature is in halves or wholes, or in eighths for shorter units."""
    if d < 4:
        return n * 4 // d, 4
    while d > 8 and n % 2 == 0:
        n, d = n // 2, d // 2
    return (n // 2, 4) if d == 8 and n % 2 == 0 and n < 6 else (max(n, 1), d)


def write_midi(tune: Tune, path: Path, tempo: float = TEMPO) -> None:
    """One track of piano; tempo in quarters a minute. A tune without notes is a file with an empty track."""
    lib = symusic()
    score, scale = lib.Score(TICKS), TICKS / tune.grid
    score.tempos.append(lib.Tempo(0, tempo))
    before = None
    for start, n, d in tune.bars.tolist():
        if (n, d) != before:
            score.time_signatures.append(lib.TimeSignature(round(start * scale), n, d))
        before = (n, d)
    onset, stop = (np.rint(x * scale).astype(np.int32) for x in (tune.notes[:, 0], tune.notes[:, :2].sum(1)))
    track = lib.Track(name="tune", program=0, is_drum=False)
    pitch, velocity = (tune.notes[:, k].astype(np.int8) for k in (2, 3))
    track.notes = lib.Note.from_numpy(onset, stop - onset, pitch, velocity)
    score.tracks.append(track)
    score.dump_midi(str(path))


def is_midi(path: Path) -> bool:
    """By its name, or its first bytes where the name says nothing."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def folder_files(folder: Path) -> tuple[list[Path], list[Path], int]:
    """Its MIDI files, its other files, and how many MIDI files lie in folders below that are not looked at.

    Where the folder itself holds none, those of all folders below are taken. Names with a dot in front do not count.
    """
    try:
        here = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        below = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent != folder and not _hidden(p, folder))
    except OSError as e:
        raise ValueError(f"{folder}: cannot be read ({e}); check its permissions") from e
    mine = [p for p in here if is_midi(p)]
    if mine:
        return mine, [p for p in here if p not in set(mine)], sum(p.suffix.lower() in SUFFIXES for p in below)
    found = [p for p in below if is_midi(p)]
    return found, [p for p in here + below if p not in set(found)], 0


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def holds_midi(path: Path) -> bool:
    """A MIDI file, or a folder with one in it or below; a folder's size does not matter once one is found."""
    if path.is_file():
        return is_midi(path)
    return any(
        name.lower().endswith(SUFFIXES) or is_midi(Path(place) / name)
        for place, _, names in os.walk(path)
        for name in names
    )
