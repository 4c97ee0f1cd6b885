"""The training sequence that a sample is most like, and what of it was copied.

Likeness: the Jaccard similarity of the sets of n-grams of orders 1 to 4. Exact; the first of equals counts.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from seqforge.metrics.ngrams import Texts, all_grams, joined

ORDERS = 4


def nearest(samples: Texts, training: Texts) -> list[tuple[int, float]]:
    """Of each sample the row of the training sequence most like it, and how like. Time is linear in the training text
    for each sample. Raises ValueError where there is no training sequence.
    """
    if not len(training):
        raise ValueError("no training sequence; there is nothing to be like")
    n, table = len(samples), gram_table(joined(samples, training))
    real = table[np.arange(n, n + len(training))]
    sizes, starts, places = np.diff(real.indptr), np.asarray(table.indptr), np.asarray(table.indices)
    found = []
    for row in range(n):
        mine = np.zeros(table.shape[1])  # pyright: ignore[reportOptionalSubscript]
        mine[places[starts[row] : starts[row + 1]]] = 1
        common = real @ mine
        like = common / np.maximum(sizes + mine.sum() - common, 1)
        found.append((int(like.argmax()), float(like.max())))
    return found


def gram_table(texts: Texts) -> csr_array:
    """(N,G) of 0 and 1: the set of n-grams of orders 1 to ORDERS of each sequence."""
    owners, columns, size = [], [], 0
    for grams in all_grams(texts, ORDERS):
        owner, number, _ = grams.counts(texts)
        owners.append(owner)
        columns.append(number + size)
        size += grams.size
    at = (np.concatenate(owners), np.concatenate(columns))
    return csr_array((np.ones(len(at[0])), at), shape=(len(texts), size))


def copied(mine: Sequence[int], other: Sequence[int], least: int) -> list[bool]:
    """Of each token of `mine` whether it lies in a span of `least` tokens or more that `other` has too."""
    spans = {tuple(other[i : i + least]) for i in range(len(other) - least + 1)}
    found = [False] * len(mine)
    for i in range(len(mine) - least + 1):
        if tuple(mine[i : i + least]) in spans:
            found[i : i + least] = [True] * least
    return found
