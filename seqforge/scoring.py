"""All text metrics of one set of samples, by name: what `seqforge score` and `seqforge evaluate` both run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch

from seqforge.data.corpus import Corpus, Split
from seqforge.data.music import MusicConfig
from seqforge.metrics import embedders, lm
from seqforge.metrics.bleu import Smoothing, bleu, bleu_f1, reverse_bleu
from seqforge.metrics.distinct import distinct
from seqforge.metrics.embsim import embsim
from seqforge.metrics.frechet import fed
from seqforge.metrics.lengths import lengths
from seqforge.metrics.mauve import mauve
from seqforge.metrics.ms_jaccard import ms_jaccard
from seqforge.metrics.music import NAMES as MUSIC
from seqforge.metrics.music import Tunes, music_scores
from seqforge.metrics.ngrams import References, Texts
from seqforge.metrics.novelty import novelty
from seqforge.metrics.score import Score
from seqforge.metrics.self_bleu import self_bleu

QUICK = ["bleu", "self_bleu", "reverse_bleu", "bleu_f1", "distinct", "ms_jaccard", "novelty", "length", "fed"]
SLOW = ["mauve", "embsim", "lm", "reverse_lm"]
LEAST = 2  # sequences on either side


@dataclass(frozen=True)
class Sets:
    """What is scored, all over one vocabulary. words: the text of every id; fit: a recipe of a language model.

    train: what the generator was trained on, where that is known: novelty and the LM score need it. music: how the
    sequences are tunes, where they are.
    """

    samples: Split
    references: Split
    train: Split | None
    words: list[str]
    eos_id: int | None
    fit: lm.Fit
    music: MusicConfig | None = None

    @cached_property
    def tunes(self) -> tuple[Tunes, Tunes]:
        """The samples and the references decoded. Raises ValueError where they are none."""
        if self.music is None:
            raise ValueError("a metric of tunes, and these are none; leave it out")
        samples, real = (Tunes.of_words(words_of(s, self), self.music) for s in (self.samples, self.references))
        return samples, real


def known_metrics(names: Sequence[str], tunes: bool = False) -> list[str]:
    """`all` and `quick` written out, with the metrics of music for `tunes`. Raises ValueError naming one not known."""
    found, more = [], MUSIC if tunes else []
    for name in names:
        group = {"all": QUICK + SLOW + more, "quick": QUICK + more}.get(name, [name])
        if group == [name] and name not in QUICK + SLOW + MUSIC:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(QUICK + SLOW + MUSIC)}, quick, all")
        found += [g for g in group if g not in found]
    return found


def score(
    sets: Sets,
    names: Sequence[str],
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    smoothing: Smoothing = "method1",
    embedder: str = "tfidf",
) -> list[Score]:
    """The metrics `names`, in that order; those that need training text are left out where there is none."""
    assert smoothing in get_args(Smoothing)
    for what, split in (("samples", sets.samples), ("references", sets.references)):
        if len(split) < LEAST:
            raise ValueError(f"{len(split)} {what}; the metrics need at least {LEAST}")
    words = tuple(sets.words)  # one object: what is held against each other shares it
    texts, real = (texts_of(s, sets.eos_id, words) for s in (sets.samples, sets.references))
    names = known_metrics(names, sets.music is not None)
    common = {"facts": facts, "temperature": temperature, "seed": seed}
    index = References(real) if any("bleu" in n and n != "self_bleu" for n in names) else None
    features: dict[str, object] = {}
    found: list[Score] = []
    for name in names:
        if name in ("bleu", "reverse_bleu", "bleu_f1"):
            assert index is not None
            function = {"bleu": bleu, "reverse_bleu": reverse_bleu, "bleu_f1": bleu_f1}[name]
            found += function(texts, index, smoothing=smoothing, **common)
        elif name == "self_bleu":
            found += self_bleu(texts, smoothing=smoothing, **common)
        elif name == "distinct":
            found += distinct(texts, **common)
        elif name == "ms_jaccard":
            found += ms_jaccard(texts, real, **common)
        elif name in MUSIC:
            found += music_scores(name, *sets.tunes, real.digest(), **common)  # type: ignore[arg-type]
        elif name == "length":
            found += lengths(texts, real, **common)
        elif name == "novelty" and sets.train is not None:
            found += novelty(texts, texts_of(sets.train, sets.eos_id, words), **common)
        elif name in ("fed", "mauve"):
            if not features:
                features = _features(sets, embedder)
            found += {"fed": fed, "mauve": mauve}[name](**features, **common)  # type: ignore[arg-type]
        elif name == "embsim":
            found += embsim(words_of(sets.samples, sets), words_of(sets.references, sets), **common)
        elif name == "lm" and sets.train is not None:
            digest = texts_of(sets.train, sets.eos_id, words).digest()
            found += lm.lm_score(sets.samples, sets.train, sets.fit, digest=digest, **common)
        elif name == "reverse_lm":
            found += lm.reverse_lm_score(sets.samples, sets.references, sets.fit, digest=real.digest(), **common)
    return [replace(s, temperature=temperature) for s in found]


def texts_of(split: Split, eos_id: int | None, words: tuple[str, ...] | None = None) -> Texts:
    """Without the end tokens. With the words of the ids, so that the digest is that of the text, whatever its ids."""
    texts = Texts.from_ids(split.ids.cpu().numpy(), word_lengths(split, eos_id).cpu().numpy())
    return replace(texts, words=words)


def word_lengths(split: Split, eos_id: int | None) -> torch.Tensor:
    """(N,) tokens of each sequence, its end token not counted."""
    if eos_id is None:
        return split.lengths
    last = split.ids.gather(1, (split.lengths - 1)[:, None]).squeeze(1)
    return split.lengths - (last == eos_id).long()


def vocabulary(corpus: Corpus) -> list[str]:
    """The text of every id."""
    words = {i: w for w, i in corpus.tokenizer.get_vocab().items()}
    return [words.get(i, "") for i in range(corpus.vocab_size)]


def spoken(split: Split, corpus: Corpus) -> list[list[str]]:
    """The tokens of every sequence of a corpus's ids as text."""
    return _in_words(split, vocabulary(corpus), corpus.eos_id)


def words_of(split: Split, sets: Sets) -> list[list[str]]:
    """The tokens of every sequence as text."""
    return _in_words(split, sets.words, sets.eos_id)


def _in_words(split: Split, words: list[str], eos_id: int | None) -> list[list[str]]:
    """Without the end tokens."""
    counts = word_lengths(split, eos_id).tolist()
    return [[words[i] for i in row[:n]] for row, n in zip(split.ids.tolist(), counts, strict=True)]


def _features(sets: Sets, embedder: str) -> dict[str, object]:
    """Of samples and references. What is known of the references is kept for the next samples held to the same."""
    key = (embedder, texts_of(sets.references, sets.eos_id, tuple(sets.words)).digest())
    if key not in _fitted:
        references = words_of(sets.references, sets)
        embed = embedders.embedder(embedder, references)
        _fitted.clear()
        _fitted[key] = (embed, embed(references))
    embed, real = _fitted[key]
    return {
        "samples_features": embed(words_of(sets.samples, sets)),
        "reference_features": real,
        "embedder": embed.name,
    }


_fitted: dict[tuple[str, str], tuple[embedders.Embedder, np.ndarray]] = {}  # the last only
