"""Replies held to what they answer. All intervals by the bootstrap over replies.

copied: share of replies that repeat a turn of their source. generic: share of those given to more than one in fifty
sources. right: share of replies that an exact judge of the conversation accepts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import scored
from seqforge.metrics.score import Score

GENERIC = 50  # a reply is generic that is given more often than once in so many


def copied(replies: Sequence[str], sources: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) bool: the reply is a turn of its source, or a part of one of three words or more. sources: turns of each."""
    found = []
    for reply, turns in zip(replies, sources, strict=True):
        said, long = f" {' '.join(reply.split())} ", len(reply.split()) >= 3
        asked = [f" {' '.join(turn.split())} " for turn in turns]
        found.append(said in asked or (long and any(said in turn for turn in asked)))
    return np.array(found, dtype=bool)


def generic(replies: Sequence[str]) -> np.ndarray:
    """(N,) bool: the same reply makes up more than one in fifty."""
    counts = Counter(replies)
    return np.array([counts[r] * GENERIC > len(replies) and counts[r] > 1 for r in replies], dtype=bool)


def judged(
    replies: Sequence[str],
    sources: Sequence[Sequence[str]],
    facts: dict[str, object],
    temperature: float | None,
    seed: int = 1,
    right: np.ndarray | None = None,
) -> list[Score]:
    """copied, generic, and right where a judge has said so, (N,) bool."""
    figures = {"copied": copied(replies, sources), "generic": generic(replies)}
    if right is not None:
        figures = {"right": right, **figures}
    return [
        scored(
            name, v.mean(), bootstrap.of_mean(v.astype(float), seed), "", temperature, facts, n=len(replies), seed=seed
        )
        for name, v in figures.items()
    ]
