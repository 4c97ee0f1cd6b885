"""LM score and reverse LM score by trigrams: the pair that a frontier of text is drawn over, at every temperature.

As metrics/lm.py, with a model that is fitted in a blink and has no seed: interpolated Kneser-Ney (Chen and Goodman
1999, absolute discount 0.75), its unigrams interpolated with the uniform, so that no token is impossible. Blind to what
reaches further than three tokens. In nats per token, end tokens counted.
"""

from functools import cached_property

import numpy as np

from seqforge.data.corpus import Split
from seqforge.metrics.nll import UNIT
from seqforge.metrics.score import Score, signature

ORDER, DISCOUNT = 3, 0.75


class TrigramModel:
    """Fitted on sequences. A token's context is the two before it, a start symbol where there are none."""

    def __init__(self, real: Split, vocab_size: int):
        self.real, self.vocab_size = real, vocab_size
        if vocab_size > 2_000_000:
            raise ValueError(f"lm3 takes at most 2,000,000 tokens, but the vocabulary has {vocab_size}; leave it out")
        grams, weight = np.unique(self._keys(trigrams(real, vocab_size)), return_counts=True)
        self.levels = []
        for order in range(ORDER, 0, -1):  # of shorter ones counts in how many contexts they occur
            base = vocab_size + 1
            contexts, first = np.unique(grams // base, return_index=True)
            ends = [*first[1:], len(grams)]
            totals = np.add.reduceat(weight, first)
            self.levels.append((grams, weight, contexts, totals, np.array(ends) - first))
            grams, weight = np.unique(grams % base ** (order - 1), return_counts=True)

    @cached_property
    def digest(self) -> str:
        """Of the sequences that it was fitted on."""
        return self.real.digest()

    def _keys(self, grams: np.ndarray) -> np.ndarray:
        """Token n-grams (M,n) as numbers, in the order of their tokens."""
        base, keys = self.vocab_size + 1, np.zeros(len(grams), np.int64)
        for column in grams.T:
            keys = keys * base + column
        return keys

    def log_probs(self, grams: np.ndarray) -> np.ndarray:
        """log p(last | the two before) (M,) of trigrams (M,3)."""
        p = np.full(len(grams), 1 / self.vocab_size)
        for order, (known, weight, contexts, totals, types) in enumerate(reversed(self.levels), 1):
            tail = grams[:, ORDER - order :]
            count = _found(known, weight, self._keys(tail))
            context = self._keys(tail[:, :-1])
            total, distinct = _found(contexts, totals, context), _found(contexts, types, context)
            seen = (np.maximum(count - DISCOUNT, 0) + DISCOUNT * distinct * p) / np.maximum(total, 1)
            p = np.where(total > 0, seen, p)
        return np.log(p)

    def sums(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """-log p of each sequence (N,), and its tokens (N,)."""
        lengths = split.lengths.cpu().numpy()
        logp = self.log_probs(trigrams(split, self.vocab_size))
        return -np.bincount(np.repeat(np.arange(len(lengths)), lengths), logp, len(lengths)), lengths


def trigrams(split: Split, vocab_size: int) -> np.ndarray:
    """(M,3): each token with the two before it, sequence by sequence; `vocab_size` is the start symbol."""
    ids, lengths = split.ids.cpu().numpy(), split.lengths.cpu().numpy()
    padded = np.pad(ids, ((0, 0), (ORDER - 1, 0)), constant_values=vocab_size)
    inside = np.arange(ids.shape[1]) < lengths[:, None]
    return np.stack([padded[:, k : k + ids.shape[1]][inside] for k in range(ORDER)], axis=1)


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value at each wanted key, 0 where it is not among the sorted keys."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def lm3_scores(
    samples: Split, test: Split, model: TrigramModel, facts: dict[str, object], temperature: float | None
) -> list[Score]:
    """lm3: samples under the model of real text; reverse_lm3: test text under a model of the samples."""
    ways = (("lm3", model, samples), ("reverse_lm3", TrigramModel(samples, model.vocab_size), test))
    found = []
    for name, judge, judged in ways:
        total, tokens = judge.sums(judged)
        value = total.sum() / tokens.sum()
        own = {"n": len(samples), "lm": "kn3", "test": test.digest()}
        own |= {"fitset": model.digest} if name == "lm3" else {}  # the other is fitted on the samples
        text = signature(name.replace("_", "-"), **{**facts, **own})
        found.append(Score(name, float(value), _ratio_error(total, tokens), UNIT, temperature, text))
    return found


def _ratio_error(total: np.ndarray, tokens: np.ndarray) -> float | None:
    """Standard error of sum(total) / sum(tokens), sequences being the units."""
    if len(total) < 2:
        return None
    rest = total - total.sum() / tokens.sum() * tokens
    return float(np.sqrt((rest**2).sum() / (len(rest) - 1) * len(rest)) / tokens.sum())
