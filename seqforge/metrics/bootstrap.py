"""95 % intervals by resampling sequences (Efron 1979), for any figure of a set of sequences."""

from collections.abc import Callable, Iterator

import numpy as np

LEVEL = 95.0


def of_mean(values: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float, float]:
    """values (N,), one a sequence -> standard error of their mean, and its interval's two ends."""
    means = np.concatenate([values[rows].mean(1) for rows in _redrawn(len(values), resamples, seed)])
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(means.std(ddof=1)), float(low), float(high)


def of_ratio(total: np.ndarray, count: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float, float]:
    """As `of_mean`, of sum(total) / sum(count): a mean over tokens, with sequences as the units. Both (N,)."""
    blocks = _redrawn(len(total), resamples, seed)
    found = np.concatenate([total[rows].sum(1) / count[rows].sum(1) for rows in blocks])
    low, high = np.percentile(found, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(found.std(ddof=1)), float(low), float(high)


def _redrawn(n: int, resamples: int, seed: int, most: int = 250_000) -> Iterator[np.ndarray]:
    """Rows drawn with replacement, one resample a line, (k,n) with k n at most `most` where n is: blocks for speed."""
    rng, step = np.random.default_rng(seed), max(1, most // n)
    for start in range(0, resamples, step):
        yield rng.integers(n, size=(min(step, resamples - start), n))


def centred(
    value: float,
    statistic: Callable[[np.ndarray], float],
    n: int,
    seed: int,
    resamples: int = 200,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float, float]:
    """As `of_mean`, of a figure of the whole set: statistic(weights (N,) integers, how often each sequence counts).

    A resample repeats sequences, which shifts figures that count distinct things; so the quantiles of the resampled
    figures are taken about their own mean and laid around `value`, within the `bounds` of what the figure can be.
    """
    rng = np.random.default_rng(seed)
    found = np.array([statistic(np.bincount(rng.integers(n, size=n), minlength=n)) for _ in range(resamples)])
    low, high = np.percentile(found, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]) - found.mean()
    ends = np.clip([value + low, value + high], *bounds)
    return float(found.std(ddof=1)), float(ends[0]), float(ends[1])
