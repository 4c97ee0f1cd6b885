"""Self-BLEU: how much each sample is like the others. Low is diverse.

Source: Zhu et al. 2018 (Texygen), with the sample itself left out of its references: kept in, every score is 1. Exact
and linear in the text: each n-gram is counted once over the set, with its largest and second-largest count.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from seqforge.metrics.bleu import ORDERS, Smoothing, from_matches, means
from seqforge.metrics.ngrams import Texts, all_grams
from seqforge.metrics.score import Score


def self_sentence_scores(
    texts: Texts, orders: Sequence[int] = ORDERS, smoothing: Smoothing = "method1"
) -> dict[int, np.ndarray]:
    """BLEU-n of each sequence (N,) with all the others as references. Raises ValueError for fewer than 2 sequences."""
    if len(texts) < 2:
        raise ValueError(f"Self-BLEU of {len(texts)} sequence; it needs at least 2, the others are its references")
    matches = leave_one_out_matches(texts, max(orders))
    return from_matches(matches, texts.lengths, closest_other(texts.lengths), orders, smoothing)


def leave_one_out_matches(texts: Texts, orders: int) -> Iterator[np.ndarray]:
    """Of n = 1..orders in turn: (N,) n-grams of each sequence, clipped at the largest count in any other."""
    for grams in all_grams(texts, orders):
        owner, number, count = grams.counts(texts)
        most, second = two_largest(number, count, grams.size)
        # Who holds the largest count is held against the second-largest; with two holders the two are equal.
        limit = np.where(count == most[number], second[number], most[number])
        yield np.bincount(owner, np.minimum(count, limit), minlength=len(texts))


def two_largest(number: np.ndarray, count: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """number, count (P,) -> (size,) the largest count of each number, and the second-largest (0 where there is one)."""
    base = int(count.max(initial=0)) + 1
    key = np.sort(number * base + count)
    number, count = key // base, key % base
    last = np.flatnonzero(np.diff(number, append=size))  # of each number, in order; every number occurs
    before = np.maximum(last - 1, 0)
    second = np.where((last > 0) & (number[before] == number[last]), count[before], 0)
    return count[last], second


def closest_other(lengths: np.ndarray) -> np.ndarray:
    """(N,) the closest length among the other sequences; the shorter where two are as close."""
    distinct, which, count = np.unique(lengths, return_inverse=True, return_counts=True)
    far = np.iinfo(np.int64).max // 4
    padded = np.concatenate([[-far], distinct, [far]])
    below, above = padded[:-2], padded[2:]
    other = np.where(distinct - below <= above - distinct, below, above)
    return np.where(count > 1, distinct, other)[which]


def self_bleu(
    samples: Texts,
    orders: Sequence[int] = ORDERS,
    smoothing: Smoothing = "method1",
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """self_bleu2, ...: mean over the samples, 0..1. Grows with their number: compare at equal n only.

    Interval: bootstrap over sentence scores. Raises ValueError for fewer than 2 samples.
    """
    found = self_sentence_scores(samples, orders, smoothing)
    own = {"refs": "leave-one-out", "smooth": smoothing, "seed": seed}
    return means("self_bleu", found, facts, own, temperature, seed)
