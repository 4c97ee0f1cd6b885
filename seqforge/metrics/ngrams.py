"""N-grams of sets of token sequences, counted with whole arrays.

An n-gram's number comes from the pair (number of its first n-1 tokens, its last token). Numbers are dense, so a pair
fits in 64 bits whatever the vocabulary and the order.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from seqforge.metrics.score import Score, signature


@dataclass(frozen=True, eq=False)
class Texts:
    """N sequences one after another: ids (M,) int64, lengths (N,) int64 with sum M. `words[id]` is the token's text."""

    ids: np.ndarray
    lengths: np.ndarray
    words: tuple[str, ...] | None = None

    @classmethod
    def from_ids(cls, ids: np.ndarray, lengths: np.ndarray) -> "Texts":
        """ids (N,T), lengths (N,): what stands past the lengths is left out. An end token is the caller's to cut off.

        Raises ValueError where the shapes do not fit or a length is not within 0..T.
        """
        ids, lengths = np.asarray(ids), np.asarray(lengths).astype(np.int64)
        if ids.ndim != 2 or lengths.shape != ids.shape[:1]:
            raise ValueError(f"ids of shape {ids.shape} with lengths of {lengths.shape}; pass (N,T) and (N,)")
        if ((lengths < 0) | (lengths > ids.shape[1])).any():
            raise ValueError(f"lengths {lengths.min()}..{lengths.max()}; with ids {ids.shape} pass 0..{ids.shape[1]}")
        return cls(ids[np.arange(ids.shape[1]) < lengths[:, None]].astype(np.int64), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N+1,): sequence i is ids[offsets[i]:offsets[i+1]]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def owner(self) -> np.ndarray:
        """(M,): the sequence of each token."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def left(self) -> np.ndarray:
        """(M,): tokens from this one to the end of its sequence, itself included."""
        return np.repeat(self.offsets[1:], self.lengths) - np.arange(len(self.ids))

    def rows(self) -> list[bytes]:
        """One key a sequence: equal where the sequences are."""
        return [self.ids[a:b].tobytes() for a, b in pairwise(self.offsets.tolist())]

    def digest(self) -> str:
        """First 8 hex digits of a sha256 over the text, its sequences sorted: no metric here sees their order."""
        words = self.words
        tokens = [str(i) if words is None else words[i] for i in self.ids.tolist()]
        ends = self.offsets.tolist()
        lines = sorted("\x1f".join(tokens[a:b]) for a, b in pairwise(ends))
        return hashlib.sha256("\x1e".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def encode(*sets: Sequence[Sequence[str]]) -> tuple[Texts, ...]:
    """Sets of tokenised sequences over one vocabulary. Only texts of one call may be held against each other."""
    number: dict[str, int] = {}
    flat = [[number.setdefault(t, len(number)) for sequence in s for t in sequence] for s in sets]
    lengths = [[len(sequence) for sequence in s] for s in sets]
    words = tuple(number)
    return tuple(Texts(np.array(i, np.int64), np.array(n, np.int64), words) for i, n in zip(flat, lengths, strict=True))


def same_vocabulary(a: Texts, b: Texts) -> None:
    """Raises ValueError where the ids of the two mean different things, as far as that can be known."""
    if a.words is not b.words:
        raise ValueError("two texts with vocabularies of their own; encode both in one call of encode()")


def joined(a: Texts, b: Texts) -> Texts:
    """The sequences of a, then those of b. Raises ValueError where their vocabularies differ."""
    same_vocabulary(a, b)
    return Texts(np.concatenate([a.ids, b.ids]), np.concatenate([a.lengths, b.lengths]), a.words)


@dataclass(frozen=True, eq=False)
class Grams:
    """The n-grams of a text, n = order: gram k starts at token start[k] and has number[k], equal for equal ones.

    keys (size,): what the numbers 0..size-1 stand for, sorted; tokens for n = 1, then pairs (see `longer`).
    """

    order: int
    start: np.ndarray  # (K,)
    number: np.ndarray  # (K,)
    keys: np.ndarray  # (size,)

    @property
    def size(self) -> int:
        return len(self.keys)

    def keep(self, which: np.ndarray) -> "Grams":
        """Those where `which` (K,) holds. The numbers stay."""
        return Grams(self.order, self.start[which], self.number[which], self.keys)

    def counts(self, texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every (sequence, n-gram) that occurs, sorted: sequence, number and how often, (P,) each."""
        return per_sequence(texts.owner[self.start], self.number, self.size)


def unigrams(texts: Texts) -> Grams:
    keys, number = np.unique(texts.ids, return_inverse=True)
    return Grams(1, np.arange(len(texts.ids)), number, keys)


def longer(texts: Texts, first: Grams, grams: Grams) -> Grams:
    """From n-grams to the (n+1)-grams that start where they do. `first`: all unigrams of the same texts."""
    grams = grams.keep(texts.left[grams.start] > grams.order)
    pairs = grams.number * first.size + first.number[grams.start + grams.order]
    keys, number = np.unique(pairs, return_inverse=True)
    return Grams(grams.order + 1, grams.start, number, keys)


def all_grams(texts: Texts, orders: int) -> Iterator[Grams]:
    """Of n = 1..orders in turn."""
    first = grams = unigrams(texts)
    yield first
    for _ in range(orders - 1):
        grams = longer(texts, first, grams)
        yield grams


def per_sequence(owner: np.ndarray, number: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """owner, number (K,) of n-grams -> every pair once, sorted: owner, number and how often, (P,) each."""
    key = np.sort(owner * size + number)
    at = np.flatnonzero(np.diff(key, prepend=-1))
    pair = key[at]
    owner = pair // max(size, 1)
    return owner, pair - owner * size, np.diff(at, append=len(key))


class References:
    """References for BLEU, indexed once and asked often: per n-gram the largest count in any one of them.

    Memory and time to build are linear in the text. Raises ValueError where there is no reference.
    """

    def __init__(self, texts: Texts, orders: int = 5):
        if not len(texts):
            raise ValueError("no reference sequences; BLEU needs at least one")
        self.texts, self.orders = texts, orders
        self.lengths = np.unique(texts.lengths)
        self.keys: list[np.ndarray] = []
        self.limits: list[np.ndarray] = []
        for grams in all_grams(texts, orders):
            _, number, count = grams.counts(texts)
            limit = np.zeros(grams.size, np.int64)
            np.maximum.at(limit, number, count)
            self.keys.append(grams.keys)
            self.limits.append(limit)

    @cached_property
    def digest(self) -> str:
        return self.texts.digest()

    def matches(self, texts: Texts, orders: int) -> Iterator[np.ndarray]:
        """Of n = 1..orders in turn: (N,) how many n-grams of each sequence count, clipped at the references' largest.

        Raises ValueError where the vocabulary is another, or `orders` beyond the index.
        """
        same_vocabulary(texts, self.texts)
        if orders > self.orders:
            raise ValueError(f"order {orders}, but the references are indexed up to {self.orders}; build with more")
        token, known = find(self.keys[0], texts.ids)
        start, number = np.flatnonzero(known), token[known]
        again = np.ones(len(start), bool)
        for n in range(1, orders + 1):
            if n > 1:  # an n-gram is known, or comes twice in a sequence, only where its first n-1 tokens are and do
                ends = start + n - 1
                on = np.flatnonzero(texts.left[start] >= n)
                on = on[known[ends[on]]]
                number, there = find(self.keys[n - 1], number[on] * len(self.keys[0]) + token[ends[on]])
                on, number = on[there], number[there]
                start, again = start[on], again[on]
            owner = texts.owner[start]
            spare, again = self._spare(owner, number, again, n)
            yield np.bincount(owner, minlength=len(texts)) - np.bincount(spare, minlength=len(texts))

    def _spare(self, owner: np.ndarray, number: np.ndarray, again: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Owners of the n-grams that are clipped, one an occurrence; and which n-grams come twice in a sequence.

        Only those that may come twice (`again`) are sorted: the others count once, and the references have them.
        """
        at = np.flatnonzero(again)
        key = owner[at] * len(self.keys[n - 1]) + number[at]
        order = np.argsort(key, kind="stable")
        key, at = key[order], at[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        count = np.diff(first, append=len(key))
        rank = np.arange(len(key)) - np.repeat(first, count)  # 0 for an n-gram's first occurrence in its sequence
        twice = np.zeros(len(owner), bool)
        twice[at] = np.repeat(count > 1, count)
        return owner[at[rank >= self.limits[n - 1][number[at]]]], twice


def find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each of `wanted` (K,) in the sorted `keys`, and whether it is there (if not, the place is any)."""
    place = np.searchsorted(keys, wanted)
    if not len(keys):
        return place, np.zeros(len(wanted), bool)
    place = np.minimum(place, len(keys) - 1)
    return place, keys[place] == wanted


def scored(
    name: str,
    value: float,
    spread: tuple[float, float, float] | None,
    unit: str,
    temperature: float | None,
    facts: Mapping[str, object],
    **own: object,
) -> Score:
    """A Score; spread: standard error and the interval's ends. Signature: `facts`, then the metric's `own`.

    Raises ValueError where the two give one name different values.
    """
    clash = next((k for k in own if k in facts and facts[k] != own[k]), None)
    if clash:
        raise ValueError(
            f"{name}: the fact {clash!r} is {facts[clash]!r} of the caller's and {own[clash]!r} here; rename"
        )
    stderr, *interval = spread or (None,)
    text = signature(name.replace("_", "-"), **{**facts, **own})
    return Score(name, float(value), stderr, unit, temperature, text, (interval[0], interval[1]) if interval else None)
