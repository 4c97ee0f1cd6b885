"""What the samples of a run look like beside the data, for the report: RUN/distributions.json and RUN/nearest.json."""

import functools
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from tokenizers import Tokenizer

from seqforge import scoring
from seqforge.data.corpus import Corpus, Split
from seqforge.metrics.nearest import copied, nearest
from seqforge.metrics.ngrams import Texts, joined
from seqforge.metrics.profile import length_profile, ngram_profile

DISTRIBUTIONS, NEAREST = "distributions.json", "nearest.json"
MOST_TOKENS = 5_000_000  # of the training text that is looked at: a minute for the largest, not an hour
SHOWN = 6  # samples at each temperature
TEMPERATURES = 4
LEAST_COPIED = {"char": 10, "bpe": 4}  # tokens of a span that is marked, by the tokenizer
WORDS_COPIED, NOTES_COPIED = 3, 8  # of all others, and of music: less than that all tunes share
Drawn = Mapping[str, Mapping[float, Split]]  # generator -> temperature -> its samples


def some_training(corpus: Corpus) -> Split:
    """The first training sequences, as many as MOST_TOKENS allow."""
    return corpus.train[slice(max(1, int((corpus.train.lengths.cumsum(0) <= MOST_TOKENS).sum())))]


def distributions(drawn: Drawn, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Lengths and n-grams of the test set and of as many samples of each generator at temperature 1."""
    words: tuple[str, ...] = tuple(scoring.vocabulary(corpus))
    n = min(len(corpus.test), *(len(by[1.0]) for by in drawn.values()))
    splits = {"held-out data": corpus.test, **{name: by[1.0] for name, by in drawn.items()}}
    sets = {name: scoring.texts_of(s[slice(n)], corpus.eos_id, words) for name, s in splits.items()}
    training = some_training(corpus)
    facts = {"temp": 1.0, "seed": seed, "data": corpus.source}
    return {
        "sequences": n,
        "training": [len(training), len(corpus.train)],
        "lengths": length_profile(sets, facts, seed),
        "ngrams": ngram_profile(sets, scoring.texts_of(training, corpus.eos_id, words), facts, seed),
    }


def chosen(temperatures: list[float]) -> list[float]:
    """The coldest and the hottest, 1 where it is among them, and of the others those that lie evenly between."""
    rising = sorted(set(temperatures))
    ends = {rising[0], rising[-1], *(t for t in rising if t == 1.0)}
    between = [t for t in rising if t not in ends]
    while len(ends) < TEMPERATURES and between:
        far = max(between, key=lambda t: min(abs(t - e) for e in ends))
        between.remove(far)
        ends.add(far)
    return sorted(ends)


def beside_training(drawn: Drawn, corpus: Corpus, seed: int) -> dict[str, Any]:
    """A few samples of each generator at a few temperatures, each with the training sequence most like it and what was
    copied from it. Row k comes from the same noise at every temperature.
    """
    training, words = some_training(corpus), tuple(scoring.vocabulary(corpus))
    known = scoring.texts_of(training, corpus.eos_id, words)
    usual = WORDS_COPIED if corpus.music is None else NOTES_COPIED
    source, least = corpus.test.source, LEAST_COPIED.get(corpus.kind, usual)
    generators = []
    for name, by in drawn.items():
        few = {t: scoring.texts_of(by[t][slice(SHOWN)], corpus.eos_id, words) for t in chosen(list(by))}
        all_ = functools.reduce(joined, few.values())
        rows = [_row(all_, k, known, *near, least, corpus.tokenizer) for k, near in enumerate(nearest(all_, known))]
        ends = accumulate((len(t) for t in few.values()), initial=0)
        found = [{"temperature": t, "samples": rows[a:b]} for t, (a, b) in zip(few, pairwise(ends), strict=True)]
        generators.append({"name": name, "temperatures": found})
    return {
        "training": [len(training), len(corpus.train)],
        "digest": corpus.digest,
        "least": least,
        "seed": seed,
        "asked": None if source is None else [" ".join(turns) for turns in corpus.turns(source[slice(SHOWN)])],
        "generators": generators,
    }


def _row(texts: Texts, k: int, known: Texts, row: int, like: float, least: int, tokenizer: Tokenizer) -> dict[str, Any]:
    mine, other = _ids(texts, k), _ids(known, row)
    return {
        **_marked(tokenizer, mine, copied(mine, other, least)),
        "near": {**_marked(tokenizer, other, copied(other, mine, least)), "row": row, "like": round(like, 4)},
    }


def _ids(texts: Texts, k: int) -> list[int]:
    return texts.ids[texts.offsets[k] : texts.offsets[k + 1]].tolist()


def _marked(tokenizer: Tokenizer, ids: list[int], mark: list[bool]) -> dict[str, Any]:
    """The text, and the spans of it that are marked as [first letter, letter after the last].

    Where a token lies in the text is told by the text of all before it, whatever the tokenizer puts between them.
    """
    ends = [len(t) for t in tokenizer.decode_batch([ids[:k] for k in range(len(ids) + 1)])]
    text = tokenizer.decode(ids)
    spans: list[list[int]] = []
    for k, on in enumerate(mark):
        if on and k and mark[k - 1]:
            spans[-1][1] = ends[k + 1]
        elif on:
            blank = len(text[ends[k] :]) - len(text[ends[k] :].lstrip())
            spans.append([ends[k] + blank, ends[k + 1]])
    return {"text": text, "spans": spans}
