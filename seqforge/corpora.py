"""From `--data` to a corpus: an oracle's world, the grammar that ships, or a person's own files."""

import dataclasses
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from tokenizers import Tokenizer

from seqforge import dialogues, pairs, worlds
from seqforge.data import fetch, midi, music, tokens
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.data.music import MusicConfig
from seqforge.data.pack import Overlong, choose_lengths, pack
from seqforge.data.published import CORPORA
from seqforge.data.readers import SPLITS, Document, Format, folder_files, read
from seqforge.grammars import demo_grammar
from seqforge.oracles import load_oracle, oracle_corpus, seeded_oracle

MOST_IDS = 1_000_000  # a stray number must not size the tables
MOST_TYPES = 20_000  # of a vocabulary whose size is not given (ScratchGAN's)
WORLDS = ("oracle", "demo", "dialogues", *worlds.NAMES)  # sources that are no paths
FEW = 500  # training sequences below which a warning says so
ENOUGH_FOR_UNKNOWN = 20_000  # words from which types seen once become the unknown token, so that it is learned at all


@dataclass(frozen=True)
class DataConfig:
    """What to train on. `--data X` is short for `--data.source X`.

    Args:
        source: a file of your own (text, JSON, JSONL, CSV, Parquet, token ids; .gz of each), a folder with train, valid
            and test files, a folder of MIDI files, hf:DATASET, the name of a published corpus (`seqforge data get`),
            "demo" (sentences of a grammar that ships), "oracle" (synthetic benchmark), or "agreement", "copying" or
            "brackets" (synthetic worlds with one constraint each)
        format: how the file is read; auto finds it from content and name
        column: field or column that holds the text; by default the usual names
        on_error: skip leaves out what cannot be read, and counts it; auto stops there, but skips files of a MIDI folder
        valid: file of sequences for early stopping; by default a tenth of the source, at most valid_size
        test: file of sequences for the figures; by default a tenth of the source, at most test_size
        limit: read at most so many training sequences; 0 reads all
        tokenizer: word, punct (punctuation apart), char, bpe, ids, or a tokenizer.json; auto looks at the text
        vocab_size: token types, end and unknown included; by default all of a text up to 20,000 (bpe: 4,096), of an
            oracle 5,000; of ids without the end token, by default the largest + 1
        min_frequency: rarer types become the unknown token; by default 2, in small texts 1
        lowercase: read text as lower case
        eos_token: name of the end token
        unk_token: name of the unknown token
        max_length: tokens of the longest sequence, end token included; by default that of the text, an oracle's 20
        overlong: longer sequences stop the reading, are cut, or are left out; auto cuts where max_length is not given
        oracle_file: the authors' oracle parameters (target_params_py3.pkl), in place of a seeded oracle
        oracle_seed: seed of the oracle's own parameters where no file is given, and of the fillers of agreement
        oracle_embedding: embedding width of a seeded oracle (SeqGAN: 32)
        oracle_hidden: LSTM width of a seeded oracle (SeqGAN: 32)
        reach: of agreement, copying and brackets: how far, how long or how deep the constraint goes (tokens)
        train_size: sequences drawn from an oracle, a world or the demo grammar to train on (SeqGAN: 9,984)
        valid_size: sequences for early stopping; of a file, drawn from it by data.seed, at most a tenth
        test_size: sequences for the figures; of a file, drawn from it by data.seed, at most a tenth
        condition: what each sequence answers: none; turns: those before it in a dialogue; label: the `label` beside its
            `text` (the method dialogue takes turns where this is none)
        history: turns before a reply that it answers, the latest included
        max_source: tokens of the longest source; by default that of the data, at most 256; longer ones lose
            their oldest
        seed: seed of the draw of the three sets, kept apart from --seed so that seeds of a method share their data
        music: how MIDI becomes sequences
    """

    source: str = "oracle"
    format: Format = "auto"
    column: str | None = None
    on_error: Literal["auto", "stop", "skip"] = "auto"
    valid: str | None = None
    test: str | None = None
    limit: int = 0
    tokenizer: str = "auto"
    vocab_size: int | None = None
    min_frequency: int | None = None
    lowercase: bool = False
    eos_token: str = "<eos>"
    unk_token: str = "<unk>"
    max_length: int | None = None
    overlong: Overlong = "auto"
    oracle_file: str | None = None
    oracle_seed: int = 0
    oracle_embedding: int = 32
    oracle_hidden: int = 32
    reach: int = 4
    train_size: int = 9984
    valid_size: int = 2048
    test_size: int = 9984
    condition: Literal["none", "turns", "label"] = "none"
    history: int = 1
    max_source: int | None = None
    seed: int = 0
    music: MusicConfig = field(default_factory=MusicConfig)

    def __post_init__(self):
        least = {"max_length": 1, "vocab_size": 1, "train_size": 1, "valid_size": 1, "test_size": 1, "limit": 0}
        for name, low in {**least, "reach": 1, "min_frequency": 1, "history": 1, "max_source": 2}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"data.{name} is {value}, but must be at least {low}")
        for name in ("seed", "oracle_seed"):
            if not 0 <= getattr(self, name) < 2**61:  # the three sets take seeds of their own, up to 3 * seed + 2
                raise ValueError(f"data.{name} is {getattr(self, name)}, but must lie between 0 and 2^61 - 1")
        for name in ("vocab_size", "min_frequency", "lowercase") if self.tokenizer.endswith(".json") else ():
            if getattr(self, name):
                raise ValueError(
                    f"data.{name} is {getattr(self, name)}, but {self.tokenizer} has its own vocabulary; leave it out"
                )
        if self.eos_token == self.unk_token or self.eos_token.split() != [self.eos_token]:
            raise ValueError(f"data.eos_token is {self.eos_token!r}; give a word of its own, other than data.unk_token")
        if self.unk_token.split() != [self.unk_token]:
            raise ValueError(f"data.unk_token is {self.unk_token!r}; give one word without blanks")


def load(config: DataConfig) -> Corpus:
    """The corpus that a configuration names. Raises ValueError naming the value and the remedy."""
    if config.condition != "none":
        if config.source in ("oracle", "demo", *worlds.NAMES):
            raise ValueError(
                f"--data {config.source} has no dialogues; give a file of yours, or `dialogues`, a world that ships"
            )
        return dialogues.load(config) if config.source == "dialogues" else pairs.load(find_files(config), config)
    if config.source == "dialogues":
        raise ValueError("--data dialogues holds replies to turns; `seqforge train dialogue` reads it")
    if config.source in worlds.NAMES:
        return _world(config)
    return _oracle(config) if config.source == "oracle" else documents_and_corpus(config)[1]


def documents_and_corpus(config: DataConfig) -> tuple[dict[str, Document], Corpus]:
    """What was read, by train, valid and test where each has a file, and the corpus made of it. Not of an oracle."""
    if config.source == "demo":
        return _demo(config)
    if is_music(config):
        return _music(config)
    documents = {
        name: read_document(path, config, (config.limit or None) if name == "train" else None)
        for name, path in find_files(config).items()
    }
    return documents, build(documents, config)


def effective(config: DataConfig, corpus: Corpus) -> DataConfig:
    """The configuration with what was found in the data: it gives the same corpus again."""
    if corpus.oracle is not None:
        return dataclasses.replace(config, max_length=corpus.max_length, vocab_size=corpus.vocab_size)
    overlong = "truncate" if config.overlong == "auto" and config.max_length is None else config.overlong
    if corpus.music is not None:
        return dataclasses.replace(config, format="midi", max_length=corpus.max_length, overlong=overlong)
    kind = config.tokenizer if config.tokenizer != "auto" else corpus.kind
    source = corpus.train.source
    widest = config.max_source if source is None else max(2, source.ids.shape[1])
    lengths = {"max_length": corpus.max_length, "max_source": widest}
    return dataclasses.replace(config, **lengths, overlong=overlong, tokenizer=kind)


def settings(config: DataConfig, documents: dict[str, Document], corpus: Corpus) -> dict[str, object]:
    """What was found, as options that make the same corpus; None where an option has no part in it."""
    full, trained = effective(config, corpus), corpus.kind in get_args(tokens.Kind)
    numbers = corpus.kind == "ids"
    given = corpus.vocab_size - (corpus.eos_id is not None if numbers else 0)  # ids are counted without an end token
    frequency = frequency_of(config, texts_of(documents, config)["train"], corpus.kind) if trained else None
    return {
        "format": documents["train"].format,
        "tokenizer": full.tokenizer,
        "vocab_size": given if trained or numbers else None,
        "min_frequency": frequency,
        "max_length": full.max_length,
        "overlong": full.overlong,
    }


def find_files(config: DataConfig) -> dict[str, str]:
    """train, and valid and test where there are files of them."""
    path = _path(config)
    if path.is_dir():
        files = {k: str(v) for k, v in folder_files(path).items() if k != "glove"}
    elif config.source.startswith("hf:") or path.exists():
        files = {"train": str(path) if path.exists() else config.source}
    else:
        raise ValueError(
            f"--data {config.source}: no such file; give a file or folder of your sequences, `demo`, or `oracle`"
        )
    given = {name: getattr(config, name) for name in ("valid", "test") if getattr(config, name)}
    return {**files, **given}


def _path(config: DataConfig) -> Path:
    """The source as a path; a published corpus's is that of its copy in the cache."""
    path = Path(config.source)
    if config.source in CORPORA and not path.exists():
        try:
            path = fetch.get(config.source, offline=True)
        except ValueError as e:
            raise ValueError(f"{e}; or train on a copy of your own: --data PATH") from e
    return path


def read_document(path: str, config: DataConfig, most: int | None = None) -> Document:
    """Read one file, at most `most` sequences of it; what was left out is told in a warning."""
    document = read(path, config.format, config.column, "skip" if config.on_error == "skip" else "stop", most)
    for reason, count in document.skipped.items():
        first = document.first_skipped[reason]
        warnings.warn(f"{path}: left out {count} x {reason} (the first: {first})", stacklevel=2)
    return document


def _oracle(config: DataConfig) -> Corpus:
    for name in ("oracle_embedding", "oracle_hidden"):
        if getattr(config, name) < 1:
            raise ValueError(f"data.{name} is {getattr(config, name)}, but must be at least 1")
    if (config.vocab_size or 0) > MOST_IDS:
        raise ValueError(f"data.vocab_size is {config.vocab_size}, but an oracle has at most {MOST_IDS} token types")
    if config.oracle_file is not None:
        oracle = load_oracle(config.oracle_file)
        if config.vocab_size not in (None, oracle.vocab_size):
            raise ValueError(
                f"data.vocab_size is {config.vocab_size}, but {config.oracle_file} has {oracle.vocab_size} token "
                "types; leave out --data.vocab_size"
            )
    else:
        oracle = seeded_oracle(
            config.oracle_seed, config.vocab_size or 5000, config.oracle_embedding, config.oracle_hidden
        )
    sizes = (config.train_size, config.valid_size, config.test_size)
    return oracle_corpus(oracle, sizes, config.max_length or 20, config.seed)


def _world(config: DataConfig) -> Corpus:
    world = worlds.World(config.source, config.reach, config.vocab_size, config.max_length, config.oracle_seed)
    return worlds.world_corpus(world, (config.train_size, config.valid_size, config.test_size), config.seed)


def _demo(config: DataConfig) -> tuple[dict[str, Document], Corpus]:
    """Sentences of the grammar that ships; the grammar itself is the judge of what a generator writes."""
    grammar = demo_grammar()
    sizes = {"train": config.train_size, "valid": config.valid_size, "test": config.test_size}
    documents = {}
    for stream, (name, n) in enumerate(sizes.items()):
        texts = [" ".join(words) for words in grammar.sample(n, seed=config.seed * 3 + stream)]
        numbers = list(range(1, n + 1))
        documents[name] = Document(f"demo {name}", "lines", texts, numbers, None, {}, {})
    config = dataclasses.replace(config, max_length=config.max_length or grammar.longest + 1)
    corpus = build(documents, config, whole_vocabulary=[" ".join(grammar.words)])
    return documents, dataclasses.replace(corpus, source=f"demo:{corpus.digest}", judge=grammar)


def is_music(config: DataConfig) -> bool:
    """A MIDI file, or a folder of them without a train file of text."""
    if config.source in WORLDS or config.format not in ("auto", "midi"):
        return config.format == "midi"
    path = _path(config)
    if config.format == "midi" or not path.is_dir():
        return config.format == "midi" or (path.suffix.lower() in midi.SUFFIXES and path.is_file())
    has_text = any(
        p.is_file() and p.name.split(".")[0].lower() in SPLITS and not midi.is_midi(p) for p in path.iterdir()
    )
    return not has_text and midi.holds_midi(path)


def _music(config: DataConfig) -> tuple[dict[str, Document], Corpus]:
    """Phrases of tunes. Whole tunes are held out, so that no phrase of one is both trained on and tested."""
    for name in ("column", "vocab_size", "min_frequency", "lowercase"):
        if getattr(config, name):
            raise ValueError(f"data.{name} is {getattr(config, name)}, but MIDI has no such thing; leave it out")
    if config.tokenizer != "auto":
        raise ValueError(f"data.tokenizer is {config.tokenizer}, but tunes have tokens of their own: leave it out, and "
                         "choose by --data.music.encoding")  # fmt: skip
    found, encoding = _tunes(config), music.encoding_of(config.music)
    most = {"train": config.limit or None, "valid": config.valid_size, "test": config.test_size}
    documents = {
        name: music.document(
            path, read, config.music, name, config.music.transpose if name == "train" else 0, most[name]
        )
        for name, (path, read) in found.items()
    }
    plain = dataclasses.replace(config, tokenizer="word", min_frequency=1)
    corpus = build(documents, plain, whole_vocabulary=[" ".join(encoding.vocabulary())])
    return documents, dataclasses.replace(corpus, kind=encoding.name, music=config.music)


def _tunes(config: DataConfig) -> dict[str, tuple[str, music.Read]]:
    """train, valid, test -> folder and tunes: of folders of these names in the source, of those that are given, else
    drawn from the training tunes, a tenth each.
    """
    source = _path(config)
    if not source.exists():
        raise ValueError(f"--data {config.source}: no such file; give a folder of MIDI files")
    inner = (
        {SPLITS[p.name.lower()]: p for p in source.iterdir() if p.name.lower() in SPLITS and p.is_dir()}
        if source.is_dir()
        else {}
    )
    folders = inner if "train" in inner else {"train": source}
    folders |= {name: Path(value) for name in ("valid", "test") if (value := getattr(config, name))}
    found = {}
    for name, folder in folders.items():
        if not folder.exists():
            raise ValueError(f"--data.{name} {folder}: no such file; give a folder of MIDI files")
        read = music.read_folder(folder, config.music, config.on_error == "stop")
        for sentence in music.told(folder, read):
            warnings.warn(sentence, stacklevel=2)
        found[name] = (str(folder), read)
    path, train = found["train"]
    rows = torch.randperm(len(train.tunes), generator=torch.Generator().manual_seed(config.seed)).tolist()
    held = len(rows) // 10
    for name in ("valid", "test"):
        if name in found:
            continue
        if held < 1:
            raise ValueError(f"{path}: {len(train.tunes)} tunes; at least 10 are needed to hold some out (or give "
                             f"--data.{name} FOLDER)")  # fmt: skip
        taken, rows = rows[:held], rows[held:]
        found[name] = (path, dataclasses.replace(train, tunes=[train.tunes[i] for i in taken]))
    found["train"] = (path, dataclasses.replace(train, tunes=[train.tunes[i] for i in rows]))
    return {name: found[name] for name in ("train", "valid", "test")}


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
        unk_id=tokens.unknown_id(tokenizer, config.unk_token) if kind != "ids" else None,
    )


Parts = dict[str, tuple[str, list[int]]]  # of train, valid, test: which document, and its rows


def _split(documents: dict[str, Document], config: DataConfig) -> Parts:
    """Which sequences go where. What has no file of its own is drawn from the training file."""
    whole = len(documents["train"].texts)
    rows = torch.randperm(whole, generator=torch.Generator().manual_seed(config.seed)).tolist()
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
        parts[name], rows = ("train", rows[:held]), rows[held:]
    return {"train": ("train", rows), **parts}


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


def _warn_if_few(document: Document, splits: dict[str, Split]) -> None:
    n, held = len(splits["train"]), min(len(splits["valid"]), len(splits["test"]))
    if n < FEW:
        warnings.warn(
            f"{document.path}: only {n} sequences to train on and {held} held out; a generator will learn them by "
            "heart and the figures say little (some thousands are needed for more than a trial)",
            stacklevel=2,
        )
