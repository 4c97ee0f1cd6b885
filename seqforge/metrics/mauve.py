"""MAUVE, the area under the divergence curve of two sets of embedded texts (Pillutla et al. 2021).

In (0,1], 1 where the texts fall alike into the clusters of both sets. It depends on the embedder, on the number of
sequences and on the clustering: compare values with one signature only, from thousands of sequences a side.
"""

import numpy as np
from scipy import sparse
from scipy.special import rel_entr

from seqforge.metrics.bootstrap import centred
from seqforge.metrics.score import Score, signature

SAME = 1e-6  # squared distance of points that differ by rounding alone; they are of unit length, in single precision
REDO, ITERATIONS, VARIANCE, SCALING, POINTS = 5, 500, 0.9, 5.0, 25  # the defaults of the authors' package
ROWS = 1024  # of the distance matrix at a time, so that they stay in the cache


def mauve_of_histograms(p: np.ndarray, q: np.ndarray, scaling: float = SCALING, points: int = POINTS) -> float:
    """Area under the divergence curve of two histograms (K,), counts or probabilities.

    Curve: (exp(-c KL(q|r)), exp(-c KL(p|r))) for r = w p + (1-w) q at `points` weights w, even from 1e-6 to 1-1e-6,
    with the ends (1,0) and (0,1); c = scaling. Area by the trapezoid rule. Source: Pillutla et al. 2021, eq. 3 and 4;
    the number of weights and their ends are those of the authors' package.
    Raises ValueError for histograms of different length, a negative entry, or an empty histogram.
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or min(p.min(), q.min()) < 0 or not (p.sum() > 0 and q.sum() > 0):
        raise ValueError(f"two histograms of equal length, entries >= 0 and a sum > 0 are needed, not {p} and {q}")
    p, q = p / p.sum(), q / q.sum()
    w = np.linspace(1e-6, 1 - 1e-6, points)[:, None]
    mixed = w * p + (1 - w) * q  # (points,K)
    x = np.exp(-scaling * rel_entr(q, mixed).sum(1))  # falls from about 1 as w grows
    y = np.exp(-scaling * rel_entr(p, mixed).sum(1))
    return float(-np.trapezoid(np.r_[0, y, 1], np.r_[1, x, 0]))


def unit_components(features: np.ndarray, variance: float = VARIANCE) -> np.ndarray:
    """Rows (N,D) scaled to length 1 (a row of zeros stays), on the fewest principal axes with `variance` of the whole.

    Returns (N,d) in single precision.
    """
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norm > 0, norm, 1.0)
    unit -= unit.mean(0)
    value, vector = np.linalg.eigh(unit.T @ unit)
    reached = np.cumsum(value[::-1])
    keep = int(np.searchsorted(reached, variance * reached[-1])) + 1
    return (unit @ vector[:, ::-1][:, :keep]).astype(np.float32)


def squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,K) of (N,d) and (K,d); differences by rounding are 0."""
    distance = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    return np.where(distance > SAME, distance, 0)


def spread_centres(points: np.ndarray, clusters: int, rng: np.random.Generator, block: int = 64) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre a point drawn in proportion to its squared distance.

    Candidates are drawn in blocks by the distances at hand and accepted with the ratio of the distance by then, which
    is the same distribution in far fewer passes. Fewer than `clusters` where there are fewer different points.
    """
    centres = points[[rng.integers(len(points))]]
    nearest = squared_distances(points, centres)[:, 0].astype(np.float64)
    while len(centres) < clusters and nearest.any():
        candidates = rng.choice(len(points), size=block, p=nearest / nearest.sum())
        distance = squared_distances(points, points[candidates])  # (N,block)
        among, accepted = distance[candidates], []
        for j, limit in enumerate(rng.random(block) * nearest[candidates]):  # nearest > limit as the block begins
            if among[j, accepted].min(initial=np.inf) > limit:
                accepted.append(j)
        accepted = accepted[: clusters - len(centres)]
        centres = np.concatenate([centres, points[candidates[accepted]]])
        nearest = np.minimum(nearest, distance[:, accepted].min(1))
    return centres


def nearest_centre(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Index of the nearest centre (N,), and the sum of the squared distances to it."""
    norm, labels, total = (centres**2).sum(1), [], 0.0
    for start in range(0, len(points), ROWS):
        part = points[start : start + ROWS]
        score = part @ (-2 * centres.T)
        score += norm  # |x|^2 is the same for all centres
        found = score.argmin(1)
        labels.append(found)
        total += float((part**2).sum() + score[np.arange(len(part)), found].sum())
    return np.concatenate(labels), total


def kmeans(points: np.ndarray, clusters: int, seed: int, redo: int = REDO, iterations: int = ITERATIONS) -> np.ndarray:
    """Labels (N,) of the best of `redo` runs of Lloyd's algorithm, each of at most `iterations`, points (N,d)."""
    best, labels = np.inf, np.zeros(len(points), dtype=np.int64)
    for run in range(redo):
        centres = spread_centres(points, clusters, np.random.default_rng([seed, run]))
        found, total = nearest_centre(points, centres)
        for _ in range(iterations):
            before = found
            member = sparse.csr_array((np.ones(len(points), np.float32), (found, np.arange(len(points)))))
            filled = np.unique(found)  # an empty cluster would stay so
            centres = (member @ points)[filled] / np.bincount(found)[filled, None].astype(np.float32)
            found, total = nearest_centre(points, centres)
            if np.array_equal(found, before):
                break
        if total < best:
            best, labels = total, found
    return labels


def mauve(
    samples_features: np.ndarray,
    reference_features: np.ndarray,
    *,
    embedder: str,
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    resamples: int = 200,
) -> list[Score]:
    """MAUVE of samples (N,D) and references (M,D), in (0,1]; `embedder` is the name of what embedded them.

    Clusters: min(N, M) / 10 but at least 2, of both sides together, on features of unit length reduced to 0.9 of
    their variance. The interval is a centred bootstrap over both sides with the clustering held fixed.
    Raises ValueError for fewer than 2 rows of a side, or features of different width.
    """
    n, m = len(samples_features), len(reference_features)
    if min(n, m) < 2:
        raise ValueError(f"MAUVE needs 2 sequences a side, not {n} and {m}; draw more samples")
    if samples_features.shape[1] != reference_features.shape[1]:
        width = samples_features.shape[1], reference_features.shape[1]
        raise ValueError(f"features of {width[0]} and {width[1]} dimensions; embed both sides with one embedder")
    buckets = max(2, round(min(n, m) / 10))
    points = unit_components(np.concatenate([samples_features, reference_features]).astype(np.float64))
    p, q = np.split(kmeans(points, buckets, seed), [n])
    other = np.random.default_rng([seed, 1])  # the references are drawn apart from the samples

    def again(weights: np.ndarray) -> float:
        drawn = np.bincount(q[other.integers(m, size=m)], minlength=buckets)
        return mauve_of_histograms(np.bincount(p, weights, buckets), drawn)

    value = mauve_of_histograms(np.bincount(p, minlength=buckets), np.bincount(q, minlength=buckets))
    stderr, low, high = centred(value, again, n, seed, resamples)
    settings = {"buckets": buckets, "pca": VARIANCE, "kmeans": f"{REDO}x{ITERATIONS}", "c": SCALING, "points": POINTS}
    facts = {**facts, "n": n, "refs": m, "embed": embedder, **settings, "seed": seed}
    return [Score("mauve", value, stderr, "", temperature, signature("mauve", **facts), (max(0, low), min(1, high)))]
