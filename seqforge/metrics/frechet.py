"""FED, the Fréchet distance between two sets of embedded texts (de Masson d'Autume et al. 2019; Heusel et al. 2017).

0 is best. It sees quality and diversity, not memorisation, and word order only as far as the embedder does. It depends
on the embedder, and is biased upwards by about 1/N: compare values of equal N only.
"""

import numpy as np

from seqforge.metrics.bootstrap import centred
from seqforge.metrics.score import Score, signature

UNIT = "squared distance"


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|mean1 - mean2|^2 + Tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), of means (D,) and covariances (D,D).

    With cov = A A', the trace of the root is the sum of the singular values of A1' A2: no root of a product is taken,
    and singular covariances (fewer texts than dimensions) are exact too.
    """
    shift = mean1 - mean2
    overlap = np.linalg.svd(factor(cov1).T @ factor(cov2), compute_uv=False).sum()
    return max(0.0, float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * overlap))


def factor(cov: np.ndarray) -> np.ndarray:
    """A (D,D) with A A' = cov; eigenvalues that are rounding of 0 are 0."""
    value, vector = np.linalg.eigh(cov)
    noise = len(cov) * np.finfo(cov.dtype).eps * max(value[-1], 0.0)
    return vector * np.sqrt(np.where(value > noise, value, 0.0))


def moments(features: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D,D), divided by N - 1, of features (N,D). weights (N,): how often each row counts."""
    weights = np.ones(len(features)) if weights is None else weights
    rows = weights > 0  # a resample leaves out a third
    kept, weight = features[rows], weights[rows]
    total = weight.sum()
    mean = weight @ kept / total
    spread = (kept - mean) * np.sqrt(weight)[:, None]
    return mean, spread.T @ spread / (total - 1)


def fed(
    samples_features: np.ndarray,
    reference_features: np.ndarray,
    *,
    embedder: str,
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    resamples: int = 100,
) -> list[Score]:
    """FED of samples (N,D) and references (M,D), in the embedder's squared distance; `embedder` is its name.

    Both sides are cut to their first min(N, M) rows, the n of the signature. The interval is a bootstrap over both
    sides, centred, since a resample's own FED is higher than the set's; it does not take the bias of N away.
    Raises ValueError for fewer than 2 rows of a side, or features of different width.
    """
    samples, references = (np.asarray(x, dtype=np.float64) for x in (samples_features, reference_features))
    n = min(len(samples), len(references))
    if n < 2:
        raise ValueError(f"FED needs 2 sequences a side, not {len(samples)} and {len(references)}; draw more samples")
    if samples.shape[1] != references.shape[1]:
        raise ValueError(
            f"features of {samples.shape[1]} and {references.shape[1]} dimensions; embed both sides with one embedder"
        )
    samples, references = samples[:n], references[:n]
    value = frechet_distance(*moments(samples), *moments(references))
    other = np.random.default_rng([seed, 1])  # the references are drawn apart from the samples

    def again(weights: np.ndarray) -> float:
        drawn = np.bincount(other.integers(n, size=n), minlength=n)
        return frechet_distance(*moments(samples, weights), *moments(references, drawn))

    stderr, low, high = centred(value, again, n, seed, resamples)
    facts = {**facts, "n": n, "refs": n, "embed": embedder, "seed": seed}
    return [Score("fed", value, stderr, UNIT, temperature, signature("fed", **facts), (max(0.0, low), high))]
