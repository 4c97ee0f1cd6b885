"""Samples before a grammar that knows the true probability of every sentence (seqforge/grammars.py)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import scored
from seqforge.metrics.nll import UNIT
from seqforge.metrics.score import Score


class Judge(Protocol):
    def log_probs(self, sentences: Sequence[Sequence[str]]) -> np.ndarray: ...


def judged(
    judge: Judge, samples: Sequence[Sequence[str]], facts: dict[str, object], temperature: float | None, seed: int = 1
) -> list[Score]:
    """grammatical: share of the samples that the grammar can produce. true_nll: -log p of those, in nats per word.

    true_nll alone is lowered by saying the same likely sentence again and again. Left out where no sample is
    grammatical.
    """
    logp = judge.log_probs(samples)
    right = np.isfinite(logp)
    found = [share_grammatical(right, facts, temperature, seed)]
    if right.any():
        words = np.array([len(s) for s, ok in zip(samples, right, strict=True) if ok], dtype=float)
        spread, value = bootstrap.of_ratio(-logp[right], words, seed), -logp[right].sum() / words.sum()
        found.append(
            scored("true_nll", value, spread, UNIT, temperature, facts, n=len(samples), of="grammatical", seed=seed)
        )
    return found


def share_grammatical(right: np.ndarray, facts: dict[str, object], temperature: float | None, seed: int = 1) -> Score:
    """grammatical: the share of samples (N,) that are right."""
    spread = bootstrap.of_mean(right.astype(float), seed)
    return scored("grammatical", right.mean(), spread, "", temperature, facts, n=len(right), seed=seed)
