"""What is in a person's files, and the settings that training would choose for them."""

from collections import Counter
from typing import Any

import numpy as np

from seqforge.data.build import shared
from seqforge.data.corpus import Corpus, Split
from seqforge.data.readers import Document

SHOWN = 5
BINS = 12


def facts(
    documents: dict[str, Document], texts: dict[str, list[str]], corpus: Corpus, chosen: dict[str, Any]
) -> dict[str, Any]:
    """Counts, lengths, vocabulary, duplicates, overlaps, unknown rates, samples and settings, as plain values.

    texts: the sequences of each split as they were read: rare words do not make two of them duplicates.
    """
    splits = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    first = corpus.train[:SHOWN]
    return {
        "files": {name: file_facts(d) for name, d in documents.items()},
        "splits": {name: split_facts(s, corpus) for name, s in splits.items()},
        "vocabulary": vocabulary_facts(corpus),
        "lengths": histogram(corpus.train.lengths.numpy()),
        "duplicates": {name: len(t) - len(set(t)) for name, t in texts.items()},
        "overlap": {
            f"{b} lines that are in {a}": shared(texts, b, a)
            for a, b in (("train", "valid"), ("train", "test"), ("valid", "test"))
        },
        "samples": {
            "as read": [text[:200] for text in texts["train"][:SHOWN]],
            "as decoded": [text[:200] for text in corpus.decode(first.ids, first.lengths)],
        },
        "settings": chosen,
    }


def file_facts(document: Document) -> dict[str, Any]:
    return {
        "path": document.path,
        "format": document.format,
        "sequences": len(document.texts),
        "skipped": document.skipped,
        "characters": sum(map(len, document.texts)),
    }


def split_facts(split: Split, corpus: Corpus) -> dict[str, Any]:
    lengths, counts = split.lengths.numpy(), word_counts(split, corpus)
    unknown = counts[corpus.unk_id] / counts.sum() if corpus.unk_id is not None else 0.0
    last = split.ids.numpy()[np.arange(len(lengths)), lengths - 1]
    cut = int((last != corpus.eos_id).sum()) if corpus.eos_id is not None else 0
    return {
        "sequences": len(split),
        "tokens": int(lengths.sum()),
        "mean length": round(float(lengths.mean()), 2),
        "longest": int(lengths.max()),
        "unknown rate": round(float(unknown), 5),
        "cut": cut,
    }


def word_counts(split: Split, corpus: Corpus) -> np.ndarray:
    """(V,) how often each type occurs; the end token, which is no word, not at all."""
    inside = np.arange(split.ids.shape[1])[None, :] < split.lengths.numpy()[:, None]
    counts = np.bincount(split.ids.numpy()[inside], minlength=corpus.vocab_size)
    if corpus.eos_id is not None:
        counts[corpus.eos_id] = 0
    return counts


def vocabulary_facts(corpus: Corpus) -> dict[str, Any]:
    """Types, how often they are seen in training, and how many of the most frequent cover how much of it.

    The end token counts as a type, but not as a word that is seen or covers anything.
    """
    of_type = word_counts(corpus.train, corpus)
    counts = np.sort(np.delete(of_type, [] if corpus.eos_id is None else [corpus.eos_id]))[::-1]
    covered = np.cumsum(counts) / counts.sum()
    words = {i: w for w, i in corpus.tokenizer.get_vocab().items()}
    common = Counter({i: n for i, n in enumerate(of_type.tolist()) if n})
    return {
        "types": corpus.vocab_size,
        "never seen in training": int((counts == 0).sum()),
        "seen once": int((counts == 1).sum()),
        "types that cover 90 %": int(np.searchsorted(covered, 0.90) + 1),
        "types that cover 99 %": int(np.searchsorted(covered, 0.99) + 1),
        "most frequent": [words.get(i, str(i)) for i, _ in common.most_common(10)],
    }


def histogram(lengths: np.ndarray) -> list[dict[str, int]]:
    """Lengths in about a dozen bins of whole tokens: from, to (both included), sequences."""
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // BINS))
    starts = range(low, high + 1, width)
    counts = np.bincount((lengths - low) // width, minlength=len(starts))
    pairs = zip(starts, counts.tolist(), strict=True)
    return [{"from": s, "to": min(s + width - 1, high), "sequences": n} for s, n in pairs]
