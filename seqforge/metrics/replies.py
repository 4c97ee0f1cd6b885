"""Replies held to what they answer. All intervals by the bootstrap over replies.

copied: share of replies that repeat a turn of their source. generic: share of those given to more than one in fifty
sources. right: share of replies that an exact judge of the conversation accepts.
reply_bleu: corpus BLEU of replies, each held to the real replies to its own source alone (Papineni et al. 2002).
"""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import scored
from seqforge.metrics.score import Score

BLEU = (2, 4)  # orders
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


Tokens = Sequence[int] | Sequence[str]


def bleu_rows(said: Sequence[Tokens], references: Sequence[Sequence[Tokens]], order: int) -> np.ndarray:
    """(N, 2 order + 2) counts of every reply: n-grams found in a reference, each no more often than in the one that has
    it most; all its n-grams, none of a shorter reply (nltk counts one); its length; the length of the reference nearest
    in length, the shorter of two. Replies to one source may share one list of references, which is then counted once.
    """
    rows, known = np.zeros((len(said), 2 * order + 2), np.int64), {}
    for row, reply, others in zip(rows, said, references, strict=True):
        if id(others) not in known:
            known[id(others)] = _most(others, order), {len(other) for other in others}
        most, sizes = known[id(others)]
        for n in range(1, order + 1):
            mine = _ngrams(reply, n)
            row[n - 1] = sum(min(count, most.get(gram, 0)) for gram, count in mine.items())
            row[order + n - 1] = mine.total()
        row[-2:] = len(reply), min((abs(size - len(reply)), size) for size in sizes)[1]
    return rows


def _ngrams(tokens: Tokens, n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _most(texts: Sequence[Tokens], order: int) -> dict[tuple, int]:
    """Of every n-gram up to that order, how often the text has it that has it most."""
    most: dict[tuple, int] = {}
    for text in texts:
        for n in range(1, order + 1):
            for gram, count in _ngrams(text, n).items():
                most[gram] = max(count, most.get(gram, 0))
    return most


def corpus_bleu(rows: np.ndarray, weights: np.ndarray, order: int) -> float:
    """BLEU of that order of replies counted by `bleu_rows`, reply i `weights[i]` times; 0 where one has no match."""
    highest = rows.shape[1] // 2 - 1
    found, possible, ends = np.split(weights @ rows, [highest, 2 * highest])
    if not found[:order].all():
        return 0.0
    short = min(0.0, 1 - ends[1] / ends[0])
    return float(np.exp(short + np.log(found[:order] / possible[:order]).mean()))


def reply_bleu(
    said: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    facts: dict[str, object],
    temperature: float | None,
    seed: int = 1,
) -> list[Score]:
    """reply_bleu2 and reply_bleu4. references: of every reply, the real replies to its source."""
    found, rows = [], bleu_rows(said, references, max(BLEU))
    for order in BLEU:
        value = corpus_bleu(rows, np.ones(len(rows), np.int64), order)
        statistic = functools.partial(corpus_bleu, rows, order=order)
        spread = bootstrap.centred(value, statistic, len(rows), seed, bounds=(0, 1))
        found.append(scored(f"reply_bleu{order}", value, spread, "", temperature, facts, n=len(rows), seed=seed))
    return found


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
