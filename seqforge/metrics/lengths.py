"""Lengths of samples and references, in tokens: the means, and how far apart the distributions are."""

from collections.abc import Callable, Mapping

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import Texts, scored
from seqforge.metrics.score import Score

UNIT = "tokens"


def lengths(
    samples: Texts,
    references: Texts,
    *,
    facts: Mapping[str, object],
    temperature: float | None = None,
    seed: int = 1,
) -> list[Score]:
    """length (mean of the samples), length_references (mean of those), length_distance (1-Wasserstein).

    Intervals: bootstrap over sequences; of the distance over samples, the references fixed. Raises ValueError where
    either set is empty.
    """
    if not (len(samples) and len(references)):
        raise ValueError(f"{len(samples)} samples and {len(references)} references; lengths are compared between both")
    refset = {"refset": references.digest()}
    distance = distance_from(samples.lengths, references.lengths)
    value = distance(np.ones(len(samples), np.int64))
    spread = bootstrap.centred(value, distance, len(samples), seed, bounds=(0, np.inf))
    own = {"n": len(samples), "refs": len(references), **refset, "seed": seed}
    return [
        _mean("length", samples.lengths, temperature, seed, facts, {}),
        _mean("length_references", references.lengths, None, seed, facts, refset),
        scored("length_distance", value, spread, UNIT, temperature, facts, **own),
    ]


def distance_from(mine: np.ndarray, real: np.ndarray) -> Callable[[np.ndarray], float]:
    """1-Wasserstein distance, the area between two distribution functions, given how often each of `mine` counts."""
    top = int(max(mine.max(), real.max())) + 1
    below = np.cumsum(np.bincount(real, minlength=top)) / len(real)

    def distance(weights: np.ndarray) -> float:
        return float(abs(np.cumsum(np.bincount(mine, weights, minlength=top)) / weights.sum() - below).sum())

    return distance


def _mean(name: str, values: np.ndarray, temperature: float | None, seed: int, facts: Mapping, own: Mapping) -> Score:
    spread = bootstrap.of_mean(values, seed)
    return scored(name, values.mean(), spread, UNIT, temperature, facts, n=len(values), **own, seed=seed)
