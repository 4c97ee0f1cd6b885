"""What samples owe to the training set: exact copies, the longest n-gram in common, near-duplicates.

A near-duplicate: the Jaccard similarity of its set of 2-grams and that of some training sequence is at least 0.8. A
sequence of one token has that token as its set; an exact copy always counts, the empty sequence included.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import Texts, joined, longer, per_sequence, scored, unigrams
from seqforge.metrics.score import Score

NEAR = (4, 5)  # 0.8 as a fraction: similarities are compared in whole numbers
CHUNK = 2_000_000  # pairs of sequences held at a time, some 60 MB


def novelty(
    samples: Texts,
    training: Texts,
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """copies and near_duplicates (shares of samples), longest_shared and longest_shared_max (tokens).

    Intervals: bootstrap over samples, the training set fixed; the maximum has none. Raises ValueError where either set
    is empty or the vocabularies differ.
    """
    if not (len(samples) and len(training)):
        raise ValueError(f"{len(samples)} samples and {len(training)} training sequences; novelty needs both")
    own = {"n": len(samples), "refs": len(training), "refset": training.digest()}
    same, shared = copies(samples, training), longest_shared(samples, training)
    near = near_duplicates(samples, training)
    means = [
        scored(name, values.mean(), bootstrap.of_mean(values, seed), unit, temperature, facts, **own, **more, seed=seed)
        for name, values, unit, more in (
            ("copies", same, "", {}),
            ("near_duplicates", near, "", {"near": "jaccard2>=0.8"}),
            ("longest_shared", shared, "tokens", {}),
        )
    ]
    return [*means, scored("longest_shared_max", shared.max(), None, "tokens", temperature, facts, **own)]


def copies(samples: Texts, training: Texts) -> np.ndarray:
    """(N,) whether each sample is a training sequence."""
    known = set(training.rows())
    return np.array([row in known for row in samples.rows()], bool)


def longest_shared(samples: Texts, training: Texts) -> np.ndarray:
    """(N,) length of the longest n-gram of each sample that some training sequence has too; 0 where no token is shared.

    n grows by one while anything is shared; starts of n-grams that only one side has are dropped on both sides.
    """
    both, n = joined(samples, training), len(samples)
    first = grams = unigrams(both)
    found = np.zeros(n, np.int64)
    while len(grams.start):
        mine = both.owner[grams.start] < n
        sides = [np.bincount(grams.number[side], minlength=grams.size) > 0 for side in (mine, ~mine)]
        shared = (sides[0] & sides[1])[grams.number]
        found[both.owner[grams.start[mine & shared]]] = grams.order
        grams = longer(both, first, grams.keep(shared))
    return found


def near_duplicates(samples: Texts, training: Texts) -> np.ndarray:
    """(N,) whether each sample is a near-duplicate of some training sequence. Exact: no pair is missed.

    Time grows with the pairs of sequences that have 2-grams in common, memory with the text alone.
    """
    n, sets = len(samples), gram_sets(joined(samples, training))
    mine, which = _distinct_rows(sets[np.arange(n)])
    real, _ = _distinct_rows(sets[np.arange(n, n + len(training))])
    sizes, real_sizes = np.diff(mine.indptr), np.diff(real.indptr)
    hit = np.zeros(len(sizes), bool)
    part, whole = NEAR
    for a, b, common in _overlaps(mine, real):
        hit[a[(part + whole) * common >= part * (sizes[a] + real_sizes[b])]] = True  # common / union >= part / whole
    return hit[which] | copies(samples, training)


def gram_sets(texts: Texts) -> csr_array:
    """(N,G) of 0 and 1: the set of 2-grams of each sequence, rare ones in the first columns."""
    first = unigrams(texts)
    pairs = longer(texts, first, first)
    alone = np.flatnonzero(texts.lengths[texts.owner] == 1)  # sequences of one token get a column for that token
    owner = np.concatenate([texts.owner[pairs.start], texts.owner[alone]])
    number = np.concatenate([pairs.number, pairs.size + first.number[alone]])
    size = pairs.size + first.size
    owner, number, _ = per_sequence(owner, number, size)
    column = np.empty(size, np.int64)
    column[np.argsort(np.bincount(number, minlength=size), kind="stable")] = np.arange(size)
    table = csr_array((np.ones(len(owner), np.int64), (owner, column[number])), shape=(len(texts), size))
    table.sort_indices()
    return table


def _distinct_rows(sets: csr_array) -> tuple[csr_array, np.ndarray]:
    """The different rows, and for every row which of these it is."""
    number: dict[bytes, int] = {}
    ends = np.asarray(sets.indptr).tolist()
    keys = (sets.indices[a:b].tobytes() for a, b in pairwise(ends))
    which = np.array([number.setdefault(key, len(number)) for key in keys])
    return sets[np.unique(which, return_index=True)[1]], which


def _overlaps(mine: csr_array, real: csr_array) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row of mine, row of real and how many elements they share, for all pairs that could be near-duplicates.

    Sets x, y of similarity >= 0.8 share at least 0.8 |x| and 0.8 |y| elements, so among the first |x| - ceil(0.8 |x|)
    + 1 of each, in any one order, they share one (Chaudhuri, Ganti and Kaushik 2006). With rare 2-grams first few pairs
    are left to look at. Where all are common (small vocabularies) it is cheaper to count everything shared at once.
    """
    short, short_real = _prefixes(mine), _prefixes(real)
    size = 1 + mine.nnz // (len(mine.indptr) - 1)
    if 2 * size * _work(short, short_real).sum() < _work(mine, real).sum():
        for a, b, _ in _meetings(short, short_real, CHUNK // (10 * size)):
            yield a, b, mine[a].multiply(real[b]).sum(axis=1)
    else:
        yield from _meetings(mine, real, CHUNK)


def _meetings(mine: csr_array, real: csr_array, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As `_overlaps`, of all pairs that share an element: by an inverted index, some `chunk` pairs at a time."""
    index = real.T.tocsr()
    parts = np.flatnonzero(np.diff(np.cumsum(_work(mine, real)) // max(chunk, 1))) + 1
    for rows in np.split(np.arange(len(mine.indptr) - 1), parts):
        met = (mine[rows] @ index).tocoo()
        yield rows[met.coords[0]], met.coords[1], met.data


def _work(mine: csr_array, real: csr_array) -> np.ndarray:
    """Entries of the inverted index of `real` that each row of `mine` meets."""
    return mine @ np.asarray(real.sum(axis=0))


def _prefixes(sets: csr_array) -> csr_array:
    """The first |x| - ceil(0.8 |x|) + 1 elements of each row x."""
    sizes = np.diff(sets.indptr)
    keep = sizes - -(-NEAR[0] * sizes // NEAR[1]) + 1
    place = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes)
    inside = place < np.repeat(keep, sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)[inside]
    return csr_array((sets.data[inside], (owner, sets.indices[inside])), shape=sets.shape)
