"""MIDI files made for the tests, by mido: a library of its own beside the one that reads them."""

import random
from pathlib import Path

import mido

Note = tuple[float, float, int]  # onset and length in quarters, pitch


def save(
    path: Path, *tracks: list[Note], ticks: int = 480, signatures=((0, 4, 4),), tempo: float | None = None
) -> Path:
    file = mido.MidiFile(ticks_per_beat=ticks)
    head = [
        (round(at * ticks), mido.MetaMessage("time_signature", numerator=n, denominator=d)) for at, n, d in signatures
    ]
    if tempo:
        head.append((0, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))))
    for k, notes in enumerate(tracks):
        events = [(round(s * ticks), mido.Message("note_on", note=p, velocity=80)) for s, _, p in notes]
        events += [(round((s + d) * ticks), mido.Message("note_off", note=p)) for s, d, p in notes]
        events += head if k == 0 else []
        track, now = mido.MidiTrack(), 0
        for at, message in sorted(events, key=lambda e: (e[0], e[1].type != "note_off")):
            track.append(message.copy(time=at - now))
            now = at
        file.tracks.append(track)
    file.save(path)
    return path


def by_mido(path: Path) -> list[Note]:
    """Onset and length in quarters and pitch of every note of a file, sorted."""
    file, found = mido.MidiFile(path), []
    for track in file.tracks:
        now, sounding = 0, {}
        for message in track:
            now += message.time
            if message.type == "note_on" and message.velocity:
                sounding.setdefault((message.channel, message.note), []).append(now)
            elif message.type in ("note_on", "note_off"):
                start = sounding[message.channel, message.note].pop(0)
                found.append((start / file.ticks_per_beat, (now - start) / file.ticks_per_beat, message.note))
    return sorted(found)


def melody(bars: int = 8, seed: int = 0) -> list[Note]:
    """Eighths and quarters of C major, one after another."""
    draw, now, notes = random.Random(seed), 0.0, []
    while now < 4 * bars:
        length = min(draw.choice((0.5, 0.5, 1.0)), 4 * bars - now)
        notes.append((now, length, draw.choice((60, 62, 64, 65, 67, 69, 71, 72))))
        now += length
    return notes


def folder(path: Path, tunes: int = 12, bars: int = 8) -> Path:
    """Tunes of a melody and its chords."""
    path.mkdir(parents=True)
    for k in range(tunes):
        chords = [(4.0 * b, 4.0, p) for b in range(bars) for p in (48, 52, 55)]
        save(path / f"tune{k:02}.mid", melody(bars, k), chords)
    return path
