"""How sets of sequences are distributed, side by side: their lengths, and their n-grams by rank and by what is known.

Of n-grams of orders 1 to 4, counted by occurrence: known, the share that the training text has too (held-out text tells
what is usual: more is copying, less is what nobody writes); covered, the share of the held-out text's that a set has.
Types grow with the text, so all sets must have the same number of sequences.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from seqforge.metrics import draws
from seqforge.metrics.lengths import lengths
from seqforge.metrics.ngrams import Grams, Texts, all_grams, joined, scored

ORDERS = 4
MOST_RANKS = 40  # points of a curve of frequency over rank
MOST_BARS = 40  # of the histogram of lengths
Sets = Mapping[str, Texts]  # by name; the held-out text is the first


def length_profile(sets: Sets, facts: Mapping[str, object], seed: int) -> dict[str, Any]:
    """edges (K+1,) of the bars, each from its edge up to the next; counts of each set (K,); scores of all but the first
    against it.
    """
    least, most = (int(f([f(t.lengths) for t in sets.values()])) for f in (min, max))
    width = -(-(most - least + 1) // MOST_BARS)
    edges = np.arange(least, most + width + 1, width)
    first, *others = sets.items()
    return {
        "edges": edges.tolist(),
        "counts": {name: np.histogram(t.lengths, edges)[0].tolist() for name, t in sets.items()},
        "scores": {name: [s.as_dict() for s in lengths(t, first[1], facts=facts, seed=seed)] for name, t in others},
    }


def ngram_profile(sets: Sets, training: Texts, facts: Mapping[str, object], seed: int) -> list[dict[str, Any]]:
    """Of every order that some sequence reaches, and every set: types, occurrences, [rank, share] by falling share, and
    the scores known and covered.
    """
    names, every = list(sets), training
    for texts in reversed(list(sets.values())):
        every = joined(texts, every)
    ends = np.cumsum([0, *(len(t) for t in sets.values())])
    own = {"refs": len(training), "refset": training.digest()}
    found = []
    for grams in all_grams(every, ORDERS):
        owner = every.owner[grams.start]
        inside = [(owner >= a) & (owner < b) for a, b in pairwise(ends)]
        has = [np.bincount(grams.number[side], minlength=grams.size) for side in (*inside, owner >= ends[-1])]
        if not all(h.any() for h in has[:-1]):
            break
        of = {name: _ranks(has[k]) for k, name in enumerate(names)}
        for k, name in enumerate(names):
            known = _share(grams, inside[k], owner - ends[k], len(sets[name]), has[-1] > 0)
            of[name]["known"] = _scored(
                f"known{grams.order}", *known, facts, {"n": len(sets[name]), **own, "seed": seed}, seed
            )
            covered = _share(grams, inside[0], owner, len(sets[names[0]]), has[k] > 0)
            if k:
                mine = {"of": sets[names[0]].digest(), "n": len(sets[name]), "seed": seed}
                of[name]["covered"] = _scored(f"covered{grams.order}", *covered, facts, mine, seed)
        found.append({"order": grams.order, "of": of})
    return found


def _ranks(counts: np.ndarray) -> dict[str, Any]:
    """Types, occurrences, and the share of the type at some ranks, evenly spaced in their logarithm."""
    falling = np.sort(counts[counts > 0])[::-1]
    at = np.unique(np.geomspace(1, len(falling), MOST_RANKS).round().astype(np.int64))
    shares = falling[at - 1] / falling.sum()
    return {
        "types": len(falling),
        "occurrences": int(falling.sum()),
        "ranks": [[int(r), float(s)] for r, s in zip(at, shares, strict=True)],
    }


def _share(grams: Grams, side: np.ndarray, row: np.ndarray, n: int, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the n sequences of a side: its n-grams that are known, and all."""
    rows, numbers = row[side], grams.number[side]
    return np.bincount(rows[known[numbers]], minlength=n), np.bincount(rows, minlength=n)


def _scored(
    name: str, hits: np.ndarray, all_: np.ndarray, facts: Mapping[str, object], own: dict[str, object], seed: int
) -> dict[str, Any]:
    """sum(hits) / sum(all) with a bootstrap interval over sequences, as a score."""
    value = hits.sum() / all_.sum()
    with np.errstate(invalid="ignore"):  # few sequences: some draws have none that is long enough
        again = draws.bootstrap(hits.astype(float), all_.astype(float), seed)
    low, high = np.nanpercentile(again, [2.5, 97.5])
    spread = (float(np.nanstd(again, ddof=1)), max(0.0, float(low)), min(1.0, float(high)))
    return scored(name, value, spread, "", None, facts, **own).as_dict()
