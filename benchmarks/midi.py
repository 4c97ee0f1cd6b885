"""python -m benchmarks.midi FOLDER: MIDI to tokens to MIDI on a folder, against mido's reading of the same files.

A note is the same where pitch, onset and length agree within half a grid step. Of the others, those are `repeated` that
touch another of their pitch, `overlapping` that sound with another pitch; what is neither is `wrong`.
"""

import sys
import time
from collections import Counter
from pathlib import Path

import mido
import numpy as np

from seqforge.data import midi, music
from seqforge.data.music import MusicConfig

ENCODINGS = [MusicConfig(), MusicConfig(holds=False), MusicConfig(grid=12)]
ENCODINGS += [MusicConfig(encoding=name, longest=400) for name in ("remi", "tsd")]


def by_mido(path: Path) -> list[np.ndarray]:
    """Of every track with notes (N,3): onset, length, pitch. Of equal pitches the first to start ends first."""
    file, tracks = mido.MidiFile(path), []
    for track in file.tracks:
        now, sounding, notes = 0, {}, []
        for message in track:
            now += message.time
            if message.type == "note_on" and message.velocity:
                sounding.setdefault((message.channel, message.note), []).append(now)
            elif message.type in ("note_on", "note_off") and sounding.get((message.channel, message.note)):
                start = sounding[message.channel, message.note].pop(0)
                notes.append((start / file.ticks_per_beat, (now - start) / file.ticks_per_beat, message.note))
        if notes:
            tracks.append(np.array(sorted(notes)))
    return tracks


def compared(wanted: np.ndarray, found: np.ndarray, grid: int) -> Counter:
    """How many notes came back, and why the others did not."""
    counts, half, left = Counter(notes=len(wanted)), 0.5 / grid + 1e-9, list(map(tuple, found))
    steps = np.column_stack([np.rint(wanted[:, 0] * grid), np.maximum(1, np.rint(wanted[:, 1] * grid)), wanted[:, 2]])
    for i, (onset, length, pitch) in enumerate(wanted):
        near = [f for f in left if f[2] == pitch and abs(f[0] - onset) <= half and abs(f[1] - length) <= half]
        if near:
            left.remove(min(near, key=lambda f: abs(f[0] - onset) + abs(f[1] - length)))
            counts["same"] += 1
            continue
        start, end = steps[i, 0], steps[i, :2].sum()
        touching = (steps[:, 0] <= end) & (start <= steps[:, :2].sum(1)) & (np.arange(len(steps)) != i)
        meeting = (steps[:, 0] < end) & (start < steps[:, :2].sum(1))
        same_pitch = (touching & (steps[:, 2] == pitch)).any()
        others = (meeting & (steps[:, 2] != pitch)).any()
        counts["repeated" if same_pitch else "overlapping" if others else "wrong"] += 1
    return counts


def main(folder: Path) -> None:
    for config in ENCODINGS:
        encoding, counts, seconds = music.encoding_of(config), Counter(), 0.0
        for path in sorted(folder.glob("*.mid")):
            begun = time.perf_counter()
            tune, _ = midi.read_midi(path, config.track_number, config.grid)
            words = encoding.encode(tune)
            seconds += time.perf_counter() - begun
            back = encoding.decode(words).notes[:, :3] / [config.grid, config.grid, 1]
            tracks = by_mido(path)
            wanted = np.concatenate(tracks if config.track_number is None else tracks[config.track_number :][:1])
            counts += compared(wanted, back, config.grid)
            counts["valid"] += music.valid(encoding, words)
        print(f"{encoding.name}: {dict(counts)}, read and tokenised in {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
