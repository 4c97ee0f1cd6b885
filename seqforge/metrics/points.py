"""A generator's points on the frontiers at one temperature: scores, and what they might have been (draws.py)."""

from collections.abc import Callable, Mapping

import numpy as np

from seqforge.data.corpus import Split
from seqforge.metrics import draws
from seqforge.metrics.bleu import means, sentence_scores
from seqforge.metrics.lm3 import TrigramModel, lm3_scores
from seqforge.metrics.ngrams import References, Texts
from seqforge.metrics.score import Score
from seqforge.metrics.self_bleu import self_sentence_scores

Draws = dict[tuple[str, float], np.ndarray]  # (score, temperature) -> (R,)
BLEU = (4,)


def share(name: str, right: np.ndarray, temperature: float, seed: int) -> Draws:
    """Bootstrap shares of the samples that an exact judge accepts, right (N,) bool."""
    return {(name, temperature): draws.bootstrap(right.astype(float), np.ones(len(right)), seed)}


def of_text(
    samples: Split,
    test: Split,
    model: TrigramModel,
    texts: Callable[[Split], Texts],
    references: References,
    facts: Mapping[str, object],
    temperature: float,
    seed: int,
) -> tuple[list[Score], Draws]:
    """lm3, reverse_lm3, bleu4 and self_bleu4. model: of the training text; references: of the test text; texts: a split
    without its end tokens. The first two are drawn by parts, each with a model of its own, the others by bootstrap.
    """
    common = dict(facts)
    scores = lm3_scores(samples, test, model, common, temperature)
    found: Draws = {(s.name, temperature): np.empty(0) for s in scores}
    if min(len(samples), len(test)) >= 2 * draws.PARTS:
        slices = zip(draws.parts(len(samples)), draws.parts(len(test)), strict=True)
        each = [lm3_scores(samples[a], test[b], model, common, temperature) for a, b in slices]
        found = {(s.name, temperature): np.array([part[k].value for part in each]) for k, s in enumerate(scores)}
    mine = texts(samples)
    one = {"seed": seed, "smooth": "method1"}
    quality = sentence_scores(mine, references, BLEU)
    alike = self_sentence_scores(mine, BLEU)
    own = {"refs": len(references.texts), "refset": references.digest, **one}
    scores += means("bleu", quality, facts, own, temperature, seed)
    scores += means("self_bleu", alike, facts, {"refs": "leave-one-out", **one}, temperature, seed)
    for name, values in (("bleu4", quality[4]), ("self_bleu4", alike[4])):
        found[name, temperature] = draws.bootstrap(values, np.ones(len(values)), seed)
    return scores, found
