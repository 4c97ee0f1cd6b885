"""EmbSim (Zhu et al. 2018, Texygen): do words keep the same company in samples as in real text?

A skip-gram is trained on each side apart. log10 of the mean cosine between a word's row of similarities to all words
in one table and in the other; 0 is best. It sees which words stand side by side, not whole sentences.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, log10

import numpy as np

from seqforge.metrics.bootstrap import of_mean
from seqforge.metrics.score import Score, signature

Tokens = Sequence[str]


@dataclass(frozen=True)
class SkipGram:
    """Settings of the authors' code; its learning rate is that of Adagrad, whose squares start at 0.1 as there."""

    dims: int = 32
    batch: int = 64
    negatives: int = 64  # drawn once a batch, log-uniformly by rank of frequency
    passes: int = 2
    rate: float = 1.0


PLAIN = SkipGram()


def vocabulary_of(references: Sequence[Tokens], samples: Sequence[Tokens]) -> tuple[dict[str, int], int]:
    """Ids of the words of both sides, the most frequent of the references first, ties alphabetical; and how many
    of them the references have."""
    count = Counter(word for text in references for word in text)
    known = len(count)
    count.update({word: 0 for text in samples for word in text})
    return {word: i for i, word in enumerate(sorted(count, key=lambda word: (-count[word], word)))}, known


def neighbours(texts: Sequence[Tokens], ids: dict[str, int]) -> np.ndarray:
    """(P,2): each word with the one before it and the one after it; no pair crosses a sentence's end."""
    right = np.array([(ids[a], ids[b]) for text in texts for a, b in pairwise(text)], dtype=np.int64)
    right = right.reshape(-1, 2)
    return np.concatenate([right, right[:, ::-1]])


def log_uniform(words: int) -> np.ndarray:
    """(V,): the probability log((k+2)/(k+1)) / log(V+1) of word k, close to Zipf's law for ids by frequency."""
    return np.diff(np.log(np.arange(1, words + 2))) / log(words + 1)


def draw(uniform: np.ndarray, words: int) -> np.ndarray:
    """Ids (S,) distributed as `log_uniform`, from numbers (S,) in [0,1), by the inverse of its cumulative sum."""
    return np.minimum((words + 1.0) ** uniform, words).astype(np.int64) - 1


def skip_gram(pairs: np.ndarray, words: int, seed: int, settings: SkipGram = PLAIN) -> np.ndarray:
    """Input vectors (V,E) of a skip-gram trained on pairs (P,2) of (word, neighbour) by a sampled softmax.

    Start, order and negatives come from the seed alone, so two equal texts give equal tables. Sources: Mikolov et al.
    2013; sampled softmax of Jean et al. 2015: logits less the log of the expected count of a candidate, negatives
    that equal the label left out.
    """
    rng = np.random.default_rng(seed)
    inner = rng.uniform(-1, 1, (words, settings.dims)).astype(np.float32)
    outer = rng.standard_normal((words, settings.dims + 1), dtype=np.float32) / np.float32(settings.dims**0.5)
    outer[:, -1] = 0  # the last column is the bias
    squares = np.full_like(inner, 0.1), np.full_like(outer, 0.1)
    expected = np.log(settings.negatives * log_uniform(words)).astype(np.float32)
    for _ in range(settings.passes):
        order = rng.permutation(len(pairs))
        for start in range(0, len(order), settings.batch):
            word, label = pairs[order[start : start + settings.batch]].T
            negative = draw(rng.random(settings.negatives), words)
            to_inner, to_outer, chosen = gradients(inner, outer, expected, word, label, negative)
            adagrad(inner, squares[0], word, to_inner, settings.rate)
            adagrad(outer, squares[1], chosen, to_outer, settings.rate)
    return inner


def gradients(
    inner: np.ndarray,
    outer: np.ndarray,
    expected: np.ndarray,
    word: np.ndarray,
    label: np.ndarray,
    negative: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the mean cross-entropy over a batch: by inner[word] (B,E), by outer's rows (B+S,E+1), and those rows' ids."""
    hidden = np.append(inner[word], np.ones((len(word), 1), np.float32), axis=1)
    wrong = hidden @ outer[negative].T - expected[negative]  # (B,S)
    wrong[label[:, None] == negative] = -np.inf
    right = (hidden * outer[label]).sum(1) - expected[label]
    top = np.maximum(right, wrong.max(1))
    wrong, right = np.exp(wrong - top[:, None]), np.exp(right - top)
    scale = 1 / (len(word) * (right + wrong.sum(1)))
    wrong, error = wrong * scale[:, None], right * scale - np.float32(1 / len(word))
    to_hidden = wrong @ outer[negative] + error[:, None] * outer[label]
    return to_hidden[:, :-1], np.concatenate([error[:, None] * hidden, wrong.T @ hidden]), np.append(label, negative)


def adagrad(table: np.ndarray, squares: np.ndarray, rows: np.ndarray, gradient: np.ndarray, rate: float) -> None:
    """One step in place, on `rows` (R,) of which some may be the same: their gradients (R,E) add up first."""
    order = rows.argsort(kind="stable")
    ordered = rows[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    total, row = np.add.reduceat(gradient[order], first), ordered[first]
    square = squares[row] + total**2
    squares[row] = square
    table[row] -= np.float32(rate) * total / np.sqrt(square)


def row_cosines(real: np.ndarray, generated: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(R,): for each word of `rows` the cosine of its two rows of cosine similarities to all words. Tables (V,E)."""
    similar = []
    for table in (real, generated):
        unit = unit_rows(table.astype(np.float64))
        similar.append(unit_rows(unit[rows] @ unit.T))
    return (similar[0] * similar[1]).sum(1)


def unit_rows(table: np.ndarray) -> np.ndarray:
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def embsim_of_tables(real: np.ndarray, generated: np.ndarray, rows: np.ndarray) -> float:
    """log10 of the mean over `rows` of `row_cosines`. Raises ValueError where the mean is not above 0."""
    return log10_above_zero(float(row_cosines(real, generated, rows).mean()))


def log10_above_zero(cosine: float) -> float:
    if not cosine > 0:
        raise ValueError(f"EmbSim is the log of a mean cosine, which is {cosine:.3g} here; draw more samples")
    return min(0.0, log10(cosine))


def embsim(
    samples: Sequence[Tokens],
    references: Sequence[Tokens],
    *,
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    settings: SkipGram = PLAIN,
) -> list[Score]:
    """EmbSim of samples and references, token lists; log10 of a cosine, <= 0.

    Rows are the tenth of the common vocabulary that is most frequent in the references. Both sides are cut to their
    first min(N, M) sequences, since longer training moves the vectors further. The interval is a bootstrap over the
    rows: of the choice of words, not of the texts. Raises ValueError for fewer than 2 sequences a side, a side
    without two words side by side, or a mean cosine (or its interval's lower end) that is not above 0.
    """
    n = min(len(samples), len(references))
    if n < 2:
        raise ValueError(
            f"EmbSim needs 2 sequences a side, not {len(samples)} and {len(references)}; draw more samples"
        )
    ids, known = vocabulary_of(references[:n], samples[:n])
    pairs = [neighbours(side[:n], ids) for side in (references, samples)]
    if not all(map(len, pairs)):
        raise ValueError("EmbSim needs sentences of 2 words or more on both sides; draw longer samples")
    real, generated = (skip_gram(p, len(ids), seed, settings) for p in pairs)
    cosines = row_cosines(real, generated, np.arange(min(known, max(1, len(ids) // 10))))
    value = log10_above_zero(float(cosines.mean()))
    stderr, low, high = of_mean(cosines, seed)
    told = "+".join(f"{k}={v}" for k, v in vars(settings).items())
    facts = {**facts, "n": n, "refs": n, "embed": f"skipgram,{told}", "rows": "tenth", "seed": seed}
    spread = None if len(cosines) < 2 else stderr / (float(cosines.mean()) * log(10))
    interval = log10_above_zero(low), log10_above_zero(high)
    return [Score("embsim", value, spread, "log10 cosine", temperature, signature("embsim", **facts), interval)]
