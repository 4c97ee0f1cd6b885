"""From `--data` to a corpus: an oracle's world, the grammar that ships, or a person's own files."""

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import get_args

import torch

from seqforge import dialogues, pairs, worlds
from seqforge.data import fetch, midi, music, tokens
from seqforge.data.build import MOST_IDS, build, frequency_of, texts_of
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus
from seqforge.data.published import CORPORA
from seqforge.data.readers import SPLITS, Document, folder_files, has_columns, read
from seqforge.grammars import demo_grammar
from seqforge.oracles import load_oracle, oracle_corpus, seeded_oracle

WORLDS = ("oracle", "demo", "dialogues", *worlds.NAMES)  # sources that are no paths


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
    documents = read_documents(find_files(config), config)
    return documents, build(documents, config)


GENERATED = ("format", "column", "valid", "test", "repeats", "limit")  # options that have no part in what is drawn


def refuse_idle(config: DataConfig) -> None:
    """Raises ValueError for options that would do nothing with this source: figures are not on the file one gave."""
    names = GENERATED if config.source in WORLDS else ()
    names += ("oracle_file",) if config.source != "oracle" else ()
    for name in names:
        if getattr(config, name) != getattr(DataConfig, name):
            kind = "is drawn, not read" if config.source in WORLDS else "is no oracle"
            raise ValueError(f"data.{name} is {getattr(config, name)}, but {config.source} {kind}; leave it out")


def effective(config: DataConfig, corpus: Corpus) -> DataConfig:
    """The configuration with what was found in the data: it gives the same corpus again."""
    if corpus.oracle is not None:
        return dataclasses.replace(config, max_length=corpus.max_length, vocab_size=corpus.vocab_size)
    overlong = "truncate" if config.overlong == "auto" and config.max_length is None else config.overlong
    if corpus.music is not None:
        return dataclasses.replace(config, format="midi", max_length=corpus.max_length, overlong=overlong)
    kind = config.tokenizer if config.tokenizer != "auto" else corpus.kind
    sources = [split.source for split in (corpus.train, corpus.valid, corpus.test) if split.source is not None]
    if config.condition != "label":  # labels are never cut, so that the longest counts, whatever split it is in
        sources = sources[:1]
    widest = max([2, *(source.ids.shape[1] for source in sources)]) if sources else config.max_source
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
    path = path_of(config)
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


def path_of(config: DataConfig) -> Path:
    """The source as a path; a published corpus's is that of its copy in the cache."""
    path = Path(config.source)
    if config.source in CORPORA and not path.exists():
        try:
            path = fetch.get(config.source, offline=True)
        except ValueError as e:
            raise ValueError(f"{e}; or train on a copy of your own: --data PATH") from e
    return path


def read_documents(files: dict[str, str], config: DataConfig) -> dict[str, Document]:
    """Each file by its name. A column counts for those that have columns; for all where none has, which is an error."""
    columns = {name: config.column is not None and has_columns(path, config.format) for name, path in files.items()}
    found = {}
    for name, path in files.items():
        own = config if columns[name] or not any(columns.values()) else dataclasses.replace(config, column=None)
        found[name] = read_document(path, own, (config.limit or None) if name == "train" else None)
    return found


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
    path = path_of(config)
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
    source = path_of(config)
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


def digests(corpus: Corpus) -> dict[str, str]:
    """What a run sees of its data: the three sets as ids, and what the ids stand for."""
    vocabulary = json.dumps(sorted(corpus.tokenizer.get_vocab().items())).encode()
    held = {name: getattr(corpus, name).digest() for name in ("valid", "test")}
    return {"data": corpus.digest, **held, "vocabulary": hashlib.sha256(vocabulary).hexdigest()[:8]}


def check(folder: Path, corpus: Corpus) -> None:
    """Raises ValueError where a run began with other data, by the digests in its log."""
    log = folder / "log.jsonl"
    first = log.read_text().partition("\n")[0] if log.is_file() else ""
    try:
        began = json.loads(first) if first else {}
    except ValueError:
        return  # cut off: nothing to hold it to
    for name, now in digests(corpus).items():
        if began.get(name, now) != now:
            what = "data" if name == "data" else f"{name} data"
            raise ValueError(
                f"{folder}: it began with other {what} (digest {began[name]}; {corpus.source} has {now} now); "
                "bring the file back as it was, or train anew (also where seqforge has come to split it otherwise)"
            )
