"""MS-Jaccard: how alike the n-grams of samples and of real text are, as multisets. Quality and diversity at once.

Source: Montahaei, Alihosseini and Baghshah 2019 (arXiv 1904.03971). A count is divided by its set's number of
sequences; score_n = sum of the smaller / sum of the larger over all n-grams; MS-Jaccard-N = (score_1 .. score_N)^(1/N).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import Grams, Texts, all_grams, joined, scored
from seqforge.metrics.score import Score


def ms_jaccard(
    samples: Texts,
    references: Texts,
    orders: Sequence[int] = (2, 3, 4, 5),
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """ms_jaccard2, ...: MS-Jaccard-N, 0..1, 1 for the same text. 0 where at some n nothing is shared.

    Interval: bootstrap over samples, the references fixed. Raises ValueError where either set is empty, the
    vocabularies differ or an order is below 1.
    """
    if not (len(samples) and len(references)):
        raise ValueError(f"{len(samples)} samples and {len(references)} references; MS-Jaccard needs both")
    if min(orders) < 1:
        raise ValueError(f"orders {tuple(orders)}; MS-Jaccard begins at 1")
    both = joined(samples, references)
    each = [jaccard(both, grams, len(samples)) for grams in all_grams(both, max(orders))]
    own = {"n": len(samples), "refs": len(references), "refset": references.digest(), "seed": seed}
    scores = []
    for n in orders:
        figure = _geometric(each[:n])
        value = figure(np.ones(len(samples), np.int64))
        spread = bootstrap.centred(value, figure, len(samples), seed, bounds=(0, 1))
        scores.append(scored(f"ms_jaccard{n}", value, spread, "", temperature, facts, **own))
    return scores


def jaccard(both: Texts, grams: Grams, n: int) -> Callable[[np.ndarray], float]:
    """score_n as a function of how often each sample counts (n,); the samples are the first n of `both`.

    The sum of the larger is the sum of all less that of the smaller, so only shared n-grams are looked at again.
    """
    owner, number, count = grams.counts(both)
    mine = owner < n
    real = np.bincount(number[~mine], count[~mine], minlength=grams.size) / (len(both) - n)
    shared = mine & (real[number] > 0)
    among, column = np.unique(number[shared], return_inverse=True)
    table = csr_array((count[shared].astype(float), (column, owner[shared])), shape=(len(among), n))
    per_sample = np.bincount(owner[mine], count[mine], minlength=n)
    total, real = real.sum(), real[among]

    def score(weights: np.ndarray) -> float:
        size = weights.sum()
        smaller = np.minimum(table @ weights / size, real).sum()
        larger = per_sample @ weights / size + total - smaller
        return float(smaller / larger) if larger else 0.0

    return score


def _geometric(each: list[Callable[[np.ndarray], float]]) -> Callable[[np.ndarray], float]:
    return lambda weights: math.prod(score(weights) for score in each) ** (1 / len(each))
