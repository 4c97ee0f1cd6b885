"""What is in a person's files, and the settings that training would choose for them."""

from collections import Counter
from typing import Any

import numpy as np

from seqforge.data.corpus import Corpus, Split
from seqforge.data.readers import Document

SHOWN = 5
BINS = 12


def facts(documents: dict[str, Document], corpus: Corpus, chosen: dict[str, Any]) -> dict[str, Any]:
    """Counts, lengths, vocabulary, duplicates, overlaps, unknown rates, samples and settings, as plain values."""
    splits = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    texts = {name: corpus.decode(s.ids, s.lengths) for name, s in splits.items()}
    return {
        "files": {name: file_facts(d) for name, d in documents.items()},
        "splits": {name: split_facts(s, corpus) for name, s in splits.items()},
        "vocabulary": vocabulary_facts(corpus),
        "lengths": histogram(corpus.train.lengths.numpy()),
        "duplicates": {name: len(t) - len(set(t)) for name, t in texts.items()},
        "overlap": {
            f"{b} lines that are in {a}": sum(t in in_a for t in texts[b])
            for a, b in (("train", "valid"), ("train", "test"), ("valid", "test"))
            for in_a in [set(texts[a])]
        },
        "samples": {
            "as read": [documents["train"].texts[i][:200] for i in range(min(SHOWN, len(documents["train"].texts)))],
            "as decoded": texts["train"][:SHOWN],
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
    lengths = split.lengths.numpy()
    inside = np.arange(split.ids.shape[1])[None, :] < lengths[:, None]
    unknown = float((split.ids.numpy()[inside] == corpus.unk_id).mean()) if corpus.unk_id is not None else 0.0
    last = split.ids.numpy()[np.arange(len(lengths)), lengths - 1]
    cut = int((last != corpus.eos_id).sum()) if corpus.eos_id is not None else 0
    return {
        "sequences": len(split),
        "tokens": int(lengths.sum()),
        "mean length": round(float(lengths.mean()), 2),
        "longest": int(lengths.max()),
        "unknown rate": round(unknown, 5),
        "cut": cut,
    }


def vocabulary_facts(corpus: Corpus) -> dict[str, Any]:
    """Types, how often they are seen in training, and how many of the most frequent cover how much of it."""
    split = corpus.train
    inside = np.arange(split.ids.shape[1])[None, :] < split.lengths.numpy()[:, None]
    counts = np.sort(np.bincount(split.ids.numpy()[inside], minlength=corpus.vocab_size))[::-1]
    covered = np.cumsum(counts) / counts.sum()
    words = {i: w for w, i in corpus.tokenizer.get_vocab().items()}
    common = Counter(dict(enumerate(np.bincount(split.ids.numpy()[inside], minlength=corpus.vocab_size).tolist())))
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
