"""What a score might have been with other samples: the same resamples for all generators, so that gaps are paired."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

RESAMPLES, PARTS = 400, 8


@lru_cache(maxsize=4)
def _weights(n: int, seed: int, stream: int) -> np.ndarray:
    """(RESAMPLES,N) float32: how often each of N sequences is drawn."""
    rng = np.random.default_rng([seed, stream])
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]).astype(np.float32)


def bootstrap(total: np.ndarray, count: np.ndarray, seed: int, test: bool = False) -> np.ndarray:
    """(RESAMPLES,) means sum(total) / sum(count) over sequences drawn again; total and count (N,). Equal N and seed
    draw the same rows; those of the test set are other ones than those of the samples.
    """
    weights = _weights(len(total), seed, int(test))
    middle = total.sum() / count.sum()  # of differences float32 keeps enough digits
    return middle + weights @ (total - middle * count).astype(np.float32) / (weights @ count.astype(np.float32))


def parts(n: int) -> list[slice]:
    """PARTS slices of n rows, as equal as can be: where a model is fitted to the samples, each part has its own."""
    ends = [n * k // PARTS for k in range(PARTS + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]
