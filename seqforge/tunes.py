"""What a run of music writes and reads besides words: MIDI files, pictures, tunes for the report, a MIDI prompt."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from seqforge.data import midi, music
from seqforge.data.corpus import Corpus, Split
from seqforge.data.music import MusicConfig
from seqforge.data.readers.document import Flaw
from seqforge.models.generator import Generator
from seqforge.sampling import sample, uniform


def described(generator: Generator, corpus: Corpus, seed: int, tunes: int = 4) -> dict[str, Any]:
    """A few held-out and a few generated tunes: their notes (onset, length, pitch) and length, in quarters."""
    assert corpus.music is not None
    encoding = music.encoding_of(corpus.music)
    rng = torch.Generator().manual_seed(seed)
    drawn = sample(generator, uniform((tunes, corpus.max_length), rng, corpus.train.ids.device))
    found = {}
    for side, split in (("real", corpus.test[slice(tunes)]), ("generated", Split(drawn.ids, drawn.lengths))):
        each = [encoding.decode(text.split()) for text in corpus.decode(split.ids, split.lengths)]
        found[side] = [{"notes": in_quarters(t), "quarters": t.end / t.grid} for t in each]
    return found


def in_quarters(tune: midi.Tune) -> list[tuple[float, float, int]]:
    """Onset, length and pitch of every note."""
    return [(on / tune.grid, length / tune.grid, pitch) for on, length, pitch, _ in tune.notes.tolist()]


def config_of(data: dict[str, Any]) -> MusicConfig | None:
    """How the sequences of a run are tunes, from the `data` of its config.yaml; None where they are none."""
    return MusicConfig(**data["music"]) if data.get("format") == "midi" else None


def prompt_words(path: Path, config: MusicConfig, bars: int | None, horizon: int) -> list[str]:
    """The first bars of a MIDI file as words; by default as many as fill no more than half of `horizon` tokens.

    Raises ValueError for a file that cannot be read, or too few bars.
    """
    try:
        tune, _ = midi.read_midi(path, config.track_number, config.grid, config.seconds)
        starts = [*tune.bars[1:, 0].tolist(), tune.end]
        encoding = music.encoding_of(config)
        if bars is not None:
            if not 1 <= bars <= len(starts):
                raise ValueError(f"--prompt-bars is {bars}, but {path} has {len(starts)} bars; give 1 to {len(starts)}")
            return encoding.encode(tune.cut(0, starts[bars - 1]))
        best: list[str] = []
        for last in starts:
            words = encoding.encode(tune.cut(0, last))
            if len(words) > horizon // 2:
                break
            best = words or best
    except Flaw as e:
        raise ValueError(f"--prompt {path}: {e.what}; give another file") from e
    if not best:
        raise ValueError(f"--prompt {path}: its first bar is more than half of {horizon} tokens; give --prompt-bars 1")
    return best


def check_folder(path: Path) -> Path:
    """The path of a folder to be made. Raises ValueError where there is something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out {path}: is not an empty folder; give a new one (or FILE.txt for words)")
    return path


def write(texts: Iterable[str], config: MusicConfig, folder: Path, tempo: float, images: bool) -> tuple[int, int]:
    """tune-001.mid, ..., with `images` a piano roll of each; returns how many, and how many decoded without repair."""
    from seqforge.report import rolls

    folder.mkdir(parents=True, exist_ok=True)
    encoding, count, whole = music.encoding_of(config), 0, 0
    for count, text in enumerate(texts, 1):
        words = text.split()
        tune = encoding.decode(words)
        whole += music.valid(encoding, words)
        midi.write_midi(tune, folder / f"tune-{count:03}.mid", tempo)
        if images:
            rolls.roll_png(in_quarters(tune), tune.end / tune.grid, folder / f"tune-{count:03}.png")
    return count, whole
