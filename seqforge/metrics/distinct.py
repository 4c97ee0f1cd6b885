"""Variety within a set of samples. All of it falls as the set grows: compare at equal n only (n is in the signature).

distinct-n: distinct n-grams / n-grams (Li et al. 2016). unique-n: n-grams that occur exactly once in the set / n-grams.
Texygen's count of the same name is divided by sentences instead; that can exceed 1. An n-gram ratio is 0 where there
is no n-gram.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.sparse import csr_array

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import Grams, Texts, all_grams, scored
from seqforge.metrics.score import Score


def distinct(
    samples: Texts,
    orders: int = 4,
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """distinct1.., unique1.. for n = 1..orders, and unique_sequences: distinct sequences / sequences.

    Interval: bootstrap over samples. Raises ValueError where there is none.
    """
    if not len(samples):
        raise ValueError("no samples; a share of distinct n-grams needs at least one")
    figures = {"unique_sequences": sequence_share(samples)}
    for grams in all_grams(samples, orders):
        figures[f"distinct{grams.order}"] = gram_share(samples, grams, once=False)
        figures[f"unique{grams.order}"] = gram_share(samples, grams, once=True)
    scores = []
    for name in sorted(figures, key=lambda k: (k.startswith("unique"), k)):
        value = figures[name](np.ones(len(samples), np.int64))
        spread = bootstrap.centred(value, figures[name], len(samples), seed, bounds=(0, 1))
        scores.append(scored(name, value, spread, "", temperature, facts, n=len(samples), seed=seed))
    return scores


def gram_share(texts: Texts, grams: Grams, once: bool) -> Callable[[np.ndarray], float]:
    """Share of distinct n-grams, or of those that occur once, as a function of how often each sequence counts (N,)."""
    owner, number, count = grams.counts(texts)
    table = csr_array((count, (number, owner)), shape=(grams.size, len(texts)))
    total = np.maximum(0, texts.lengths - grams.order + 1)

    def share(weights: np.ndarray) -> float:
        counts, grams = table @ weights, total @ weights
        return float(np.count_nonzero(counts == 1 if once else counts) / grams) if grams else 0.0

    return share


def sequence_share(texts: Texts) -> Callable[[np.ndarray], float]:
    """Share of distinct sequences as a function of how often each counts (N,)."""
    number: dict[bytes, int] = {}
    which = np.array([number.setdefault(row, len(number)) for row in texts.rows()])
    return lambda weights: float(np.count_nonzero(np.bincount(which, weights)) / weights.sum())
