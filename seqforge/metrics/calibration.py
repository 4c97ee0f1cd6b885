"""Does p(real) mean what it says? A discriminator's accuracy and calibration on held-out and generated sequences.

Judgements are of sequences, or of each token of them; the sequences are the independent units. All p are cut into BINS
equal parts of 0..1, and in each part the share that is real stands beside the mean p (DeGroot and Fienberg 1983). ECE:
the mean distance of the two, weighed by the judgements in the part (Naeini et al. 2015; Guo et al. 2017).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import scored
from seqforge.metrics.score import Score

BINS = 10
Z = 1.96


@dataclass(frozen=True, eq=False)
class Judged:
    """Of N sequences: real (N,) bool; count, total (N,BINS) judgements in each part and the sum of their p; right (N,)
    judgements on the right side of one half.
    """

    real: np.ndarray
    count: np.ndarray
    total: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, counted: np.ndarray, real: np.ndarray) -> "Judged":
        """p (N,K): what the discriminator said; counted (N,K): which of it there is; real (N,): of which sequences."""
        if p.shape != counted.shape or real.shape != p.shape[:1] or not (real.any() and not real.all()):
            raise ValueError(
                f"p {p.shape}, counted {counted.shape}, real {real.shape} with {real.sum()} real; pass both"
            )
        part = np.where(counted, np.minimum((p * BINS).astype(np.int64), BINS - 1), -1)
        count = np.stack([(part == b).sum(1) for b in range(BINS)], 1)
        total = np.stack([(p * (part == b)).sum(1) for b in range(BINS)], 1)
        return cls(real, count, total, (((p > 0.5) == real[:, None]) & counted).sum(1))

    def accuracy(self, weights: np.ndarray) -> float:
        """Share told apart at one half, each side counting half; weights (N,): how often each sequence counts."""
        sides = [weights * side for side in (self.real, ~self.real)]
        return float(np.mean([w @ self.right / max(w @ self.count.sum(1), 1) for w in sides]))

    def ece(self, weights: np.ndarray) -> float:
        off = (weights * self.real) @ self.count - weights @ self.total
        return float(abs(off).sum() / max(weights @ self.count.sum(1), 1))

    def ece_by_chance(self) -> float:
        """What ECE would be on average of a discriminator of these p that is calibrated: 0 only with endless data.

        A part's distance is then normal about 0, and all tokens of a sequence are real together or none is.
        """
        mean = self.total / np.maximum(self.count, 1)
        variance = (self.count**2 * mean * (1 - mean)).sum(0)
        return float(math.sqrt(2 / math.pi) * np.sqrt(variance).sum() / self.count.sum())


def scores_of(judged: Judged, facts: Mapping[str, object], seed: int) -> list[Score]:
    """d_accuracy and d_ece, with intervals: bootstrap over sequences."""
    n, own = len(judged.real), {"n": len(judged.real), "bins": BINS, "seed": seed}
    ones = np.ones(n, np.int64)
    found = []
    for name, statistic in (("d_accuracy", judged.accuracy), ("d_ece", judged.ece)):
        value = statistic(ones)
        spread = bootstrap.centred(value, statistic, n, seed, bounds=(0, 1))
        found.append(scored(name, value, spread, "", 1.0, facts, **own))
    return found


def reliability(judged: Judged) -> list[dict[str, Any]]:
    """Every part that holds a judgement: its ends, how many are of real and of generated sequences, the mean p, and the
    share that is real with its 95 % interval.
    """
    found = []
    for b in range(BINS):
        count = judged.count[:, b]
        if not count.any():
            continue
        real, all_ = int(count[judged.real].sum()), int(count.sum())
        low, high = wilson(real / all_, all_**2 / (count**2).sum())  # tokens of one sequence tell one thing (Kish 1965)
        found.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "real": real,
                "generated": all_ - real,
                "p": float(judged.total[:, b].sum() / all_),
                "share": real / all_,
                "low": low,
                "high": high,
            }
        )
    return found


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of n independent trials (Wilson 1927): within 0..1, and not empty where all agree."""
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
