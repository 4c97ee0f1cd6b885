"""BLEU of sentences against a set, forwards (quality), backwards (coverage), and the harmonic mean of the two.

Source: Papineni et al. 2002; smoothing method 1 of Chen and Cherry 2014 (0.1 for a count of 0); all hypotheses against
all references as in Zhu et al. 2018 (Texygen). Numbers are those of nltk's sentence_bleu.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import References, Texts, scored
from seqforge.metrics.score import Score

Smoothing = Literal["method1", "none"]
ORDERS = (2, 3, 4, 5)
EPSILON = 0.1


def sentence_scores(
    hypotheses: Texts, references: References, orders: Sequence[int] = ORDERS, smoothing: Smoothing = "method1"
) -> dict[int, np.ndarray]:
    """BLEU-n of each hypothesis, (N,) in 0..1, against all references at once; weights 1/n each.

    smoothing "none": a precision of 0 becomes the smallest float, as in nltk, so a score is tiny but not always 0.
    Raises ValueError where the vocabularies differ or an order is beyond the index.
    """
    near = closest(references.lengths, hypotheses.lengths)
    return from_matches(references.matches(hypotheses, max(orders)), hypotheses.lengths, near, orders, smoothing)


def from_matches(
    matches: Iterable[np.ndarray], lengths: np.ndarray, near: np.ndarray, orders: Sequence[int], smoothing: Smoothing
) -> dict[int, np.ndarray]:
    """BLEU from clipped matches (N,) of n = 1, 2, ..., lengths (N,) and the closest reference lengths (N,)."""
    if smoothing not in ("method1", "none"):
        raise ValueError(f"smoothing {smoothing!r}; use 'method1' or 'none'")
    if min(orders) < 1:
        raise ValueError(f"orders {tuple(orders)}; BLEU begins at 1")
    scale, logs = brevity(lengths, near), np.zeros(len(lengths))
    found = {}
    for n, hits in enumerate(matches, 1):
        total = np.maximum(1, lengths - n + 1)
        nothing = EPSILON / total if smoothing == "method1" else sys.float_info.min
        logs += np.log(np.where(hits > 0, hits / total, nothing))
        if n == 1:
            scale = scale * (hits > 0)  # no token shared: 0, whatever the smoothing
        if n in orders:
            found[n] = scale * np.exp(logs / n)
    return found


def closest(among: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of the sorted lengths `among` the closest to each of `lengths` (N,); the shorter where two are."""
    place = np.searchsorted(among, lengths)
    below, above = among[np.maximum(place - 1, 0)], among[np.minimum(place, len(among) - 1)]
    return np.where(abs(lengths - below) <= abs(above - lengths), below, above)


def brevity(lengths: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Penalty (N,): 1 for a hypothesis as long as the closest reference or longer, 0 for an empty one."""
    return np.where(lengths > 0, np.exp(np.minimum(0, 1 - near / np.maximum(lengths, 1))), 0.0)


def bleu(
    hypotheses: Texts,
    references: References,
    orders: Sequence[int] = ORDERS,
    smoothing: Smoothing = "method1",
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """bleu2, ...: mean BLEU-n of all hypotheses against all references, 0..1. High for a collapsed generator too.

    Interval: bootstrap over hypotheses, the references fixed. Raises ValueError where there is no hypothesis.
    """
    found = _some(hypotheses, references, orders, smoothing)
    own = {"refs": len(references.texts), "refset": references.digest, "smooth": smoothing, "seed": seed}
    return means("bleu", found, facts, own, temperature, seed)


def reverse_bleu(
    samples: Texts,
    references: References,
    orders: Sequence[int] = ORDERS,
    smoothing: Smoothing = "method1",
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """reverse_bleu2, ...: each real sequence (of `references`) is a hypothesis, the samples are its references.

    Low where the samples miss what the real text says. In the signature n counts the real sequences, refs the samples;
    refset is the real text. Raises ValueError where there is no sample.
    """
    found = _some(references.texts, References(samples, max(orders)), orders, smoothing)
    own = {"refs": len(samples), "refset": references.digest, "smooth": smoothing, "seed": seed}
    return means("reverse_bleu", found, facts, own, temperature, seed)


def bleu_f1(
    samples: Texts,
    references: References,
    orders: Sequence[int] = ORDERS,
    smoothing: Smoothing = "method1",
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
    resamples: int = 1000,
) -> list[Score]:
    """bleu_f1_2, ...: harmonic mean of BLEU-n and reverse BLEU-n. Interval: both sets of scores resampled, apart."""
    forward = _some(samples, references, orders, smoothing)
    backward = _some(references.texts, References(samples, max(orders)), orders, smoothing)
    there, back = (np.stack([found[n] for n in orders], 1) for found in (forward, backward))  # (N,orders)
    rng = np.random.default_rng(seed)
    draws = [_harmonic(_redrawn(there, rng), _redrawn(back, rng)) for _ in range(resamples)]
    stderr = np.std(draws, axis=0, ddof=1)
    low, high = np.percentile(draws, [(100 - bootstrap.LEVEL) / 2, (100 + bootstrap.LEVEL) / 2], axis=0)
    own = {"n": len(samples), "refs": len(references.texts), "refset": references.digest}
    own |= {"smooth": smoothing, "seed": seed}
    values = _harmonic(there.mean(0), back.mean(0))
    return [
        scored(
            f"bleu_f1_{n}", values[i], (float(stderr[i]), float(low[i]), float(high[i])), "", temperature, facts, **own
        )
        for i, n in enumerate(orders)
    ]


def means(
    name: str,
    found: dict[int, np.ndarray],
    facts: Mapping[str, object],
    own: Mapping[str, object],
    temperature: float | None,
    seed: int,
) -> list[Score]:
    """Scores `name`n of the sentence scores (N,) of each order."""
    return [
        scored(f"{name}{n}", v.mean(), bootstrap.of_mean(v, seed), "", temperature, facts, n=len(v), **own)
        for n, v in found.items()
    ]


def _some(hypotheses: Texts, references: References, orders: Sequence[int], smoothing: Smoothing):
    if not len(hypotheses):
        raise ValueError("no sequences to score; BLEU needs at least one hypothesis")
    return sentence_scores(hypotheses, references, orders, smoothing)


def _redrawn(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """values (N,K) -> the K means over N rows drawn with replacement."""
    return np.bincount(rng.integers(len(values), size=len(values)), minlength=len(values)) @ values / len(values)


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """2ab / (a+b), 0 where both are."""
    return 2 * a * b / np.where(a + b > 0, a + b, 1)
