"""Tunes beside held-out tunes: pitches, lengths, rhythm, texture, and whether they are tunes at all.

Definitions of scale consistency and polyphony: MusPy (Dong et al. 2020). The MSE of SeqGAN's paper is not defined
there; `pitch_mse` is one reading of it. Units are quarters and semitones, whatever the encoding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from seqforge.data.midi import Tune
from seqforge.data.music import MusicConfig, encoding_of, top_notes, valid
from seqforge.metrics import bootstrap
from seqforge.metrics.bleu import bleu
from seqforge.metrics.ngrams import References, Texts, encode, scored
from seqforge.metrics.score import Score
from seqforge.metrics.self_bleu import self_bleu

MAJOR = (0, 2, 4, 5, 7, 9, 11)  # the natural minor scales have the same pitch classes
GROUP = 4  # notes: the unit of repetition
LONGEST = 64  # quarters; longer lengths and gaps count as this


@dataclass(frozen=True, eq=False)
class Tunes:
    """N decoded sequences; sound (N,) says which decoded without repair and hold a note."""

    tunes: list[Tune]
    sound: np.ndarray

    @classmethod
    def of_words(cls, words: Sequence[Sequence[str]], config: MusicConfig) -> "Tunes":
        encoding = encoding_of(config)
        return cls([encoding.decode(w) for w in words], np.array([valid(encoding, w) for w in words]))

    def __len__(self) -> int:
        return len(self.tunes)

    @cached_property
    def top(self) -> np.ndarray:
        """(N,T) the highest pitch at each step, 0 where none sounds or the tune is over."""
        found = np.zeros((len(self), max(t.end for t in self.tunes) or 1))
        for row, tune in zip(found, self.tunes, strict=True):
            if len(tune.notes):
                which = top_notes(tune.notes, tune.end)
                row[: tune.end] = np.where(which >= 0, tune.notes[which, 2], 0)
        return found


# --- of one tune: a sum and what it is out of, (0, 0) where the tune has nothing of the kind -------------------------


def in_scale(tune: Tune) -> tuple[float, float]:
    """Share of the notes in that major or natural minor scale which holds most of them."""
    classes = np.bincount(tune.notes[:, 2] % 12, minlength=12)
    n = classes.sum()
    return (max(classes[[(root + k) % 12 for k in MAJOR]].sum() for root in range(12)) / n, 1) if n else (0, 0)


def voices(tune: Tune) -> tuple[float, float]:
    """Mean number of pitches over the steps at which any sounds."""
    roll = np.zeros((128, tune.end), bool)
    for onset, length, pitch in tune.notes[:, :3].tolist():
        roll[pitch, onset : onset + length] = True
    sounding = roll.any(0).sum()
    return (roll.sum() / sounding, 1) if sounding else (0, 0)


def silent_bars(tune: Tune) -> tuple[float, float]:
    """Bars in which nothing sounds, of all; bars of four quarters where the encoding has none."""
    steps = np.zeros(tune.end + 1, np.int64)
    np.add.at(steps, tune.notes[:, 0], 1)
    np.add.at(steps, tune.notes[:, 0] + tune.notes[:, 1], -1)
    sounds = np.concatenate([[0], np.cumsum(np.cumsum(steps)[: tune.end] > 0)])
    starts = tune.bars[tune.bars[:, 0] < tune.end, 0]
    ends = np.append(starts[1:], tune.end)
    return float((sounds[ends] == sounds[starts]).sum()) if len(starts) else 0.0, len(starts)


def repeated(tune: Tune) -> tuple[float, float]:
    """Groups of four successive notes, by pitch and length, that stood earlier in the tune, of all such groups."""
    notes = [tuple(n) for n in tune.notes[:, [2, 1]].tolist()]
    groups = [tuple(notes[i : i + GROUP]) for i in range(len(notes) - GROUP + 1)]
    return float(len(groups) - len(set(groups))), len(groups)


OF_ONE: dict[str, Callable[[Tune], tuple[float, float]]] = {
    "scale_consistency": in_scale,
    "polyphony": voices,
    "empty_bars": silent_bars,
    "repetition": repeated,
}
UNITS = {"polyphony": "pitches"}


def shares(name: str, tunes: Tunes, *, facts: Mapping[str, object], temperature: float | None, seed: int) -> Score:
    """Mean over tunes (empty_bars and repetition: over bars and groups). Raises ValueError where no tune has any."""
    pairs = np.array([OF_ONE[name.removesuffix("_references")](t) for t in tunes.tunes], dtype=float)
    pairs = pairs[pairs[:, 1] > 0]
    if not len(pairs):
        raise ValueError(f"{name}: none of {len(tunes)} tunes has notes enough for it")
    spread = bootstrap.of_ratio(pairs[:, 0], pairs[:, 1], seed)
    value = pairs[:, 0].sum() / pairs[:, 1].sum()
    unit = UNITS.get(name.removesuffix("_references"), "")
    return scored(name, value, spread, unit, temperature, facts, n=len(tunes), seed=seed)


def validity(tunes: Tunes, *, facts: Mapping[str, object], temperature: float | None, seed: int) -> Score:
    """Share that decodes without repair and holds a note."""
    right = tunes.sound.astype(float)
    return scored(
        "validity", right.mean(), bootstrap.of_mean(right, seed), "", temperature, facts, n=len(tunes), seed=seed
    )


# --- distributions ---------------------------------------------------------------------------------------------------


def pitch_classes(tune: Tune) -> np.ndarray:
    return np.bincount(tune.notes[:, 2] % 12, minlength=12)


def note_lengths(tune: Tune) -> np.ndarray:
    """Histogram over whole steps."""
    return _histogram(tune.notes[:, 1], tune.grid)


def inter_onsets(tune: Tune) -> np.ndarray:
    """Histogram of the steps between one onset and the next later one."""
    return _histogram(np.diff(np.unique(tune.notes[:, 0])), tune.grid)


def _histogram(steps: np.ndarray, grid: float) -> np.ndarray:
    size = round(LONGEST * grid) + 1
    return np.bincount(np.minimum(steps, size - 1), minlength=size)


def variation(p: np.ndarray, q: np.ndarray, grid: float) -> float:
    """Half the summed difference of two shares: 0 for equal ones, 1 for those with nothing in common."""
    return float(abs(p - q).sum() / 2)


def wasserstein(p: np.ndarray, q: np.ndarray, grid: float) -> float:
    """The area between two distribution functions, in quarters."""
    return float(abs(np.cumsum(p - q)).sum() / grid)


DISTANCES = {
    "pitch_class_distance": (pitch_classes, variation, "", 1.0),
    "note_length_distance": (note_lengths, wasserstein, "quarters", np.inf),
    "inter_onset_distance": (inter_onsets, wasserstein, "quarters", np.inf),
}


def distance(
    name: str,
    samples: Tunes,
    real: Tunes,
    own: dict,
    *,
    facts: Mapping[str, object],
    temperature: float | None,
    seed: int,
) -> Score:
    """Between what all notes of either side give together. Interval: bootstrap over samples, the references fixed."""
    histogram, apart, unit, most = DISTANCES[name]
    mine, theirs = (np.array([histogram(t) for t in side.tunes]) for side in (samples, real))
    if not (mine.sum() and theirs.sum()):
        raise ValueError(f"{name}: {'the samples have' if theirs.sum() else 'the references have'} no notes for it")
    reference, grid = theirs.sum(0) / theirs.sum(), samples.tunes[0].grid

    def gap(weights: np.ndarray) -> float:
        pooled = weights @ mine
        return apart(pooled / max(pooled.sum(), 1), reference, grid)

    value = gap(np.ones(len(samples), np.int64))
    spread = bootstrap.centred(value, gap, len(samples), seed, bounds=(0, most))
    return scored(name, value, spread, unit, temperature, facts, n=len(samples), **own, seed=seed)


def pitch_mse(
    samples: Tunes, real: Tunes, own: dict, *, facts: Mapping[str, object], temperature: float | None, seed: int
) -> Score:
    """Mean squared difference, in semitones, between the highest pitches of a sample and of each reference at the same
    step, over the steps at which both sound and over all references. Lowest for tunes that keep to the mean pitch.
    """
    width = min(samples.top.shape[1], real.top.shape[1])
    x, y = samples.top[:, :width], real.top[:, :width]
    count, first, second = (y > 0).sum(0), y.sum(0), (y**2).sum(0)
    total = ((x > 0) * (x**2 * count - 2 * x * first + second)).sum(1)
    pairs = (x > 0) @ count
    if not (pairs > 0).any():
        raise ValueError("pitch_mse: no sample sounds at a step where a reference does")
    each = total[pairs > 0] / pairs[pairs > 0]
    spread = bootstrap.of_mean(each, seed)
    return scored("pitch_mse", each.mean(), spread, "semitones²", temperature, facts, n=len(samples), **own, seed=seed)


# --- BLEU over notes -------------------------------------------------------------------------------------------------


def note_texts(samples: Tunes, real: Tunes) -> tuple[Texts, ...]:
    """Each note a word, of its pitch and its length: the same for every encoding."""
    sides = [[[f"{p}:{d}" for d, p in t.notes[:, 1:3].tolist()] for t in side.tunes] for side in (samples, real)]
    return encode(*sides)


NAMES = ["validity", *OF_ONE, *DISTANCES, "pitch_mse", "note_bleu", "note_self_bleu"]


def music_scores(name: str, samples: Tunes, real: Tunes, refset: str, **common) -> list[Score]:
    """One metric of NAMES; of a single set also that of the references. Raises ValueError naming what is missing."""
    own = {"refs": len(real), "refset": refset}
    if name == "validity":
        return [validity(samples, **common)]
    if name in OF_ONE:
        facts = {**common["facts"], "refset": refset}
        held = {**common, "facts": facts, "temperature": None}
        return [shares(name, samples, **common), shares(f"{name}_references", real, **held)]
    if name in DISTANCES:
        return [distance(name, samples, real, own, **common)]
    if name == "pitch_mse":
        return [pitch_mse(samples, real, own, **common)]
    mine, theirs = note_texts(samples, real)
    found = bleu(mine, References(theirs), **common) if name == "note_bleu" else self_bleu(mine, **common)
    return [replace(s, name=f"note_{s.name}", signature=f"note-{s.signature}") for s in found]
