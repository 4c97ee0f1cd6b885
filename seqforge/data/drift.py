"""Whether a test set that came in a file of its own was drawn like the training set.

Where it was not, every distance to it (FED, MAUVE, reverse LM score) measures the files as well as the generator, and
no generator reaches the floor that text of one source would give.
"""

from dataclasses import dataclass

import numpy as np

from seqforge.data.corpus import Split

STANDARD_ERRORS = 6.0  # between two shares of sequences before chance is ruled out, of many types at once
TIMES = 3.0  # and how many times the larger share must be the smaller
LEAST = 0.02  # and the larger one at least


@dataclass(frozen=True)
class Drift:
    """A type whose share of sequences differs between two sets."""

    type_id: int
    train: float
    other: float


def drifted(train: Split, other: Split, vocab_size: int) -> list[Drift]:
    """Types in so different shares of the sequences of two sets that one source cannot have given both.

    Those whose two shares lie STANDARD_ERRORS standard errors apart (of the difference of two proportions, pooled), the
    larger at least LEAST and TIMES the smaller; the largest difference first.
    """
    n, m = len(train), len(other)
    p, q = (sequences_with(s, vocab_size) / len(s) for s in (train, other))
    pooled = (n * p + m * q) / (n + m)
    stderr = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    more, less = np.maximum(p, q), np.minimum(p, q)
    told = (more - less > STANDARD_ERRORS * stderr) & (more >= LEAST) & (more >= TIMES * less)
    order = np.argsort(-(more - less) * told, kind="stable")[: int(told.sum())]
    return [Drift(int(i), float(p[i]), float(q[i])) for i in order]


def sequences_with(split: Split, vocab_size: int) -> np.ndarray:
    """(V,) how many sequences hold each type; once each, however often it occurs in them."""
    ids, lengths = split.ids.cpu().numpy(), split.lengths.cpu().numpy()
    rows, places = np.nonzero(np.arange(ids.shape[1]) < lengths[:, None])
    keys = np.unique(rows * vocab_size + ids[rows, places])
    return np.bincount(keys % vocab_size, minlength=vocab_size)
