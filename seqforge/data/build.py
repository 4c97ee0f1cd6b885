"""From documents to a corpus: split, tokenised, packed."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from tokenizers import Tokenizer

from seqforge.data import tokens
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.data.drift import drifted
from seqforge.data.pack import choose_lengths, pack
from seqforge.data.readers import Document

MOST_IDS = 1_000_000  # a stray number must not size the tables
MOST_TYPES = 20_000  # of a vocabulary whose size is not given (ScratchGAN's)
FEW = 500  # training sequences below which a warning says so
MOST_SHARED = 0.01  # of the sequences held out that may be training sequences too before a warning says so
MOST_UNKNOWN = 0.05  # of a set's tokens, likewise
ENOUGH_FOR_UNKNOWN = 20_000  # words from which types seen once become the unknown token, so that it is learned at all


def build(documents: dict[str, Document], config: DataConfig, whole_vocabulary: list[str] | None = None) -> Corpus:
    """The corpus of what was read: tokenised, split and packed. The vocabulary is that of the training set alone.

    whole_vocabulary: texts that hold every type there can be, where that is known.
    """
    train = documents["train"]
    parts = _split(documents, config)
    kind, blanks = _kind_of(train, config)
    texts = _texts(documents, parts)
    learn_from = texts["train"] + (whole_vocabulary or [])
    tokenizer, eos_id, encoded = _tokenize(kind, blanks, documents, parts, texts, learn_from, config)
    fit = choose_lengths(encoded["train"].lengths, config.max_length, config.overlong, eos_id is not None)
    splits = {}
    for name, (source, rows) in parts.items():
        place = _placer(documents[source], rows)
        splits[name], _ = pack(encoded[name], eos_id, fit, place, f"{documents[source].path} ({name})")
        if not len(splits[name]):
            raise ValueError(f"{documents[source].path}: no {name} sequence is left; raise --data.max_length")
    _warn_if_few(train, splits)
    unk_id = tokens.unknown_id(tokenizer, config.unk_token) if kind != "ids" else None
    if config.source != "demo":  # whose sentences are drawn, and may be drawn again
        _warn_if_shared(train, texts)
        _warn_if_unknown(train, splits, unk_id, config)
    for name in ("valid", "test"):
        if parts[name][0] != "train":
            _warn_if_drifted(documents[name], name, splits, tokenizer, (eos_id, unk_id))
    return Corpus(
        **splits,
        vocab_size=tokens.size_of(tokenizer),
        max_length=fit.longest,
        start_id=0 if eos_id is None else eos_id,
        eos_id=eos_id,
        tokenizer=tokenizer,
        source=f"{train.format}:{Path(train.path).name}",
        digest=splits["train"].digest(),
        kind=kind,
        unk_id=unk_id,
    )


Parts = dict[str, tuple[str, list[int]]]  # of train, valid, test: which document, and its rows


def _split(documents: dict[str, Document], config: DataConfig) -> Parts:
    """Which sequences go where. What has no file of its own is drawn from the training file."""
    texts = documents["train"].texts
    whole = len(texts)
    rows = torch.randperm(whole, generator=torch.Generator().manual_seed(config.seed)).tolist()
    if config.repeats == "apart":
        own = {text for name in ("valid", "test") if name in documents for text in documents[name].texts}
        rows = _alike_together([row for row in rows if texts[row] not in own], texts)
    parts: Parts = {}
    for name, most in (("valid", config.valid_size), ("test", config.test_size)):
        if name in documents:
            parts[name] = (name, list(range(len(documents[name].texts))))
            continue
        held = min(most, whole // 10)
        if held < 1:
            raise ValueError(
                f"{documents['train'].path}: {whole} sequences; at least 10 are needed to hold some out (or give "
                f"--data.{name} FILE)"
            )
        while config.repeats == "apart" and held < len(rows) and texts[rows[held - 1]] == texts[rows[held]]:
            held += 1
        parts[name], rows = ("train", rows[:held]), rows[held:]
    return {"train": ("train", rows), **parts}


def _alike_together(rows: list[int], texts: list[str]) -> list[int]:
    """The rows, each text's where the first of it stood."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(texts[row], []).append(row)
    return [row for alike in found.values() for row in alike]


def texts_of(documents: dict[str, Document], config: DataConfig) -> dict[str, list[str]]:
    """The sequences of train, valid and test as they were read."""
    return _texts(documents, _split(documents, config))


def _texts(documents: dict[str, Document], parts: Parts) -> dict[str, list[str]]:
    return {name: [documents[source].texts[i] for i in rows] for name, (source, rows) in parts.items()}


def _kind_of(document: Document, config: DataConfig) -> tuple[str, bool]:
    """word, punct, char, bpe, ids or a path, and whether blanks count."""
    if config.tokenizer != "auto":
        known = (*get_args(tokens.Kind), "ids")
        if config.tokenizer not in known and not Path(config.tokenizer).is_file():
            raise ValueError(
                f"data.tokenizer is {config.tokenizer!r}, but must be auto, {', '.join(known)}, or a tokenizer.json"
            )
        return config.tokenizer, config.tokenizer != "char" or tokens.choose_kind(document.texts)[1]
    if document.format == "ids":
        return "ids", True
    return tokens.choose_kind(document.texts)


def _tokenize(
    kind: str,
    blanks: bool,
    documents: dict[str, Document],
    parts: Parts,
    texts: dict[str, list[str]],
    learn_from: list[str],
    config: DataConfig,
) -> tuple[Tokenizer, int | None, dict[str, tokens.Encoded]]:
    """The tokenizer, its end token, and the ids of every part."""
    places = {name: _placer(documents[source], rows) for name, (source, rows) in parts.items()}
    if kind == "ids":
        return _tokenize_ids(texts, places, documents["train"].path, config)
    if kind in get_args(tokens.Kind):
        frequency = frequency_of(config, learn_from, kind)
        size = config.vocab_size or (None if kind == "bpe" else MOST_TYPES)
        names = (config.eos_token, config.unk_token)
        tokenizer = tokens.train_tokenizer(kind, learn_from, size, frequency, *names, config.lowercase, blanks)  # type: ignore[arg-type]
        eos_id = 0
    else:
        tokenizer, eos_id = tokens.open_tokenizer(Path(kind), config.eos_token)
    encoded = {name: tokens.encode(tokenizer, part) for name, part in texts.items()}
    for name, part in encoded.items():
        _refuse_strange(part, eos_id, tokenizer, places[name], config)
    return tokenizer, eos_id, encoded


def frequency_of(config: DataConfig, texts: list[str], kind: str) -> int:
    """How often a type must occur: as given, or twice where there is text enough to learn what `unknown` stands for."""
    if config.source == "demo":
        return 1  # all its words are known, and none is rare
    words = sum(len(text) if kind == "char" else text.count(" ") + 1 for text in texts)
    return config.min_frequency or (2 if words >= ENOUGH_FOR_UNKNOWN else 1)


def _refuse_strange(part: tokens.Encoded, eos_id: int, tokenizer: Tokenizer, place, config: DataConfig) -> None:
    """An end token within a text, or a text without a token."""
    ends = np.flatnonzero(part.ids == eos_id)
    if len(ends):
        row = int(np.searchsorted(np.cumsum(part.lengths), ends[0], side="right"))
        name = tokenizer.id_to_token(eos_id)
        raise ValueError(f"{place(row)}: holds the end token {name} itself; name another by --data.eos_token")
    empty = np.flatnonzero(part.lengths == 0)
    if len(empty):
        raise ValueError(f"{place(int(empty[0]))}: the tokenizer finds no token in it; remove the line")


def _tokenize_ids(
    texts: dict[str, list[str]], places: dict, path: str, config: DataConfig
) -> tuple[Tokenizer, int | None, dict[str, tokens.Encoded]]:
    """Ids as they are. Sequences of one length need no end token (SeqGAN's); others get one, after the largest id."""
    encoded = {name: tokens.read_ids(part, places[name], config.vocab_size) for name, part in texts.items()}
    largest = max(int(e.ids.max()) for e in encoded.values())
    if config.vocab_size is None and largest >= MOST_IDS:
        raise ValueError(
            f"{path}: its largest id is {largest}, a vocabulary beyond {MOST_IDS}; if that is meant, give "
            f"--data.vocab_size {largest + 1}"
        )
    vocab_size = config.vocab_size or largest + 1
    lengths = np.concatenate([e.lengths for e in encoded.values()])
    if (lengths == lengths[0]).all() and (config.max_length or 0) <= lengths[0]:
        return ids_tokenizer(vocab_size), None, encoded
    return ids_tokenizer(vocab_size, config.eos_token), vocab_size, encoded


def _placer(document: Document, rows: list[int]):
    return lambda i: document.place(rows[i])


def shared(texts: Mapping[str, list[str]], of: str, within: str) -> int:
    """How many sequences of one set are in another too, as they were read: rare words make no two of them alike."""
    known = set(texts[within])
    return sum(text in known for text in texts[of])


def _warn_if_shared(document: Document, texts: dict[str, list[str]]) -> None:
    found = {name: shared(texts, name, "train") for name in ("valid", "test")}
    told = [f"{n} of the {len(texts[k])} {k}" for k, n in found.items() if n > MOST_SHARED * len(texts[k])]
    if told:
        warnings.warn(
            f"{document.path}: {' and '.join(told)} sequences are training sequences too; figures on them favour what "
            "is learned by heart (--data.repeats apart keeps repeats in one set)",
            stacklevel=2,
        )


def _warn_if_unknown(document: Document, splits: dict[str, Split], unk_id: int | None, config: DataConfig) -> None:
    if unk_id is None:
        return
    of = {name: s.ids[torch.arange(s.ids.shape[1]) < s.lengths[:, None]] for name, s in splits.items()}
    shares = {name: float((ids == unk_id).float().mean()) for name, ids in of.items()}
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] > MOST_UNKNOWN:
        rare = shares["train"] > MOST_UNKNOWN  # not only words that it has never seen
        remedy = f"give --data.tokenizer bpe, or {'--data.min_frequency 1' if rare else 'more text'}"
        if config.vocab_size:
            remedy = "raise --data.vocab_size"
        elif config.tokenizer.endswith(".json"):
            remedy = f"is {config.tokenizer} meant for this text?"
        warnings.warn(f"{document.path}: {shares[worst]:.0%} of the {worst} tokens are unknown; {remedy}", stacklevel=2)


def _warn_if_drifted(
    document: Document, name: str, splits: dict[str, Split], tokenizer: Tokenizer, but: tuple[int | None, int | None]
) -> None:
    """but: the end token, and the unknown one, which training text has none of where every word became a type."""
    found = [d for d in drifted(splits["train"], splits[name], tokens.size_of(tokenizer)) if d.type_id not in but]
    if found:
        told = [
            f"{tokenizer.decode([d.type_id], skip_special_tokens=False)!r} is in {d.train:.1%} of the training "
            f"sequences and {d.other:.1%} of these"
            for d in found[:2]
        ]
        warnings.warn(
            f"{document.path}: not drawn like the training set ({'; '.join(told)}; {len(found)} such tokens), so that "
            "a distance to it (FED, reverse LM score) is of the files too, and training text itself is far from it; "
            "put both into one file, and what is held out is drawn from it",
            stacklevel=2,
        )


def _warn_if_few(document: Document, splits: dict[str, Split]) -> None:
    n, held = len(splits["train"]), min(len(splits["valid"]), len(splits["test"]))
    if n < FEW:
        warnings.warn(
            f"{document.path}: only {n} sequences to train on and {held} held out; a generator will learn them by "
            "heart and the figures say little (some thousands are needed for more than a trial)",
            stacklevel=2,
        )
