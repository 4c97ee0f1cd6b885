"""Commands on data: data inspect, data get, data decode, and score."""

import contextlib
import functools
import io
import json
import pickle
import pickletools
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from seqforge import corpora, loading, options, scoring, worlds
from seqforge.cli_runs import names_of, sink
from seqforge.data import fetch, inspect, music, published, tokens
from seqforge.data.build import texts_of
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.data.music import MusicConfig
from seqforge.data.pack import Lengths, pack
from seqforge.data.readers import Document, Format, read
from seqforge.data.readers.files import BOM
from seqforge.methods.mle import fit_language_model
from seqforge.options import Parser
from seqforge.settings import build
from seqforge.tables import out, print_facts, print_metrics

NEED_TRAIN = ("novelty", "lm")  # within "quick" and "all" they are left out without it
LONGEST_SCORED = 2048  # tokens; one longer line would size the tables of all


def data_(argv: list[str]) -> int:
    """Look at data, fetch published corpora, decode id files: seqforge data inspect|get|decode ..."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: seqforge data COMMAND [options]\n\ncommands:")
        for name, command in DATA_COMMANDS.items():
            print(f"  {name:<10}{command.__doc__}")
        print("\n`seqforge data COMMAND --help` explains every option.")
        return 0 if argv else 2
    return DATA_COMMANDS[options.known(argv[0], list(DATA_COMMANDS), "data command")](argv[1:])


def inspect_(argv: list[str]) -> int:
    """What is in a file or folder, and the settings training would choose: seqforge data inspect FILE."""
    parser = Parser(prog="seqforge data inspect", description=inspect_.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_class_arguments(DataConfig, None, skip={"source"})
    parser.add_argument("file", help="a file or folder of sequences, hf:DATASET, or demo")
    values = parser.parse_args(argv).as_dict()
    as_json, source = values.pop("json"), values.pop("file")
    config = build(DataConfig, {**values, "source": source})
    if source in ("oracle", "dialogues", *worlds.NAMES):
        raise ValueError(f"data inspect: {source} is drawn, not read; give a file, folder or demo")
    for name in ("condition", "history", "max_source"):
        if getattr(config, name) != getattr(DataConfig, name):
            raise ValueError(f"data inspect: shows each text as a sequence, not pairs; leave out --{name}")
    with _own_names():
        documents, corpus = corpora.documents_and_corpus(config)
    settings = {f"data.{k}": v for k, v in corpora.settings(config, documents, corpus).items()}
    found = inspect.facts(documents, texts_of(documents, config), corpus, settings)
    print(json.dumps(found, indent=1, ensure_ascii=False)) if as_json else _print_inspected(found)
    return 0


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """Remedies name options as these commands have them, --column for --data.column."""
    try:
        yield
    except ValueError as e:
        raise ValueError(str(e).replace("--data.", "--")) from e


def _print_inspected(found: dict[str, Any]) -> None:
    for name, file in found["files"].items():
        print_facts(f"{name} file", file)
        out.print()
    for name, split in found["splits"].items():
        print_facts(name, split)
        out.print()
    print_facts("vocabulary", found["vocabulary"])
    out.print("\nlengths of the training sequences, end token included")
    most = max(b["sequences"] for b in found["lengths"])
    for b in found["lengths"]:
        bar = "█" * round(40 * b["sequences"] / most)
        out.print(f"{b['from']:>6}-{b['to']:<6}{b['sequences']:>8}  {bar}", markup=False)
    out.print()
    print_facts("duplicates within", found["duplicates"])
    out.print()
    print_facts("overlap between splits", found["overlap"])
    for name, lines in found["samples"].items():
        out.print(f"\n{name}")
        for line in lines:
            out.print(f"  {line}", markup=False)
    out.print()
    print_facts("settings it would choose", found["settings"])


def get_(argv: list[str]) -> int:
    """Fetch a published corpus into the cache: seqforge data get NAME (without a name: a list)."""
    parser = Parser(prog="seqforge data get", description=get_.__doc__)
    parser.add_argument("name", nargs="?", help="a corpus; without it they are listed")
    parser.add_argument(
        "--cache", type=Path, help="folder to keep it in (default: $SEQFORGE_CACHE or ~/.cache/seqforge)"
    )
    parser.add_argument("--offline", action="store_true", help="open no connection: check what is in the cache")
    parser.add_argument("--force", action="store_true", help="fetch anew what is there already")
    args = parser.parse_args(argv)
    if not args.name:
        for name, corpus in published.CORPORA.items():
            out.print(f"{name:<16}{corpus.about} (licence: {corpus.licence})", markup=False, soft_wrap=True)
        return 0
    say = functools.partial(print, file=sys.stderr)
    path = fetch.get(args.name, args.cache, args.offline, args.force, say)
    out.print(f"{args.name}: {path}\nuse it by: {published.CORPORA[args.name].use(path)}", markup=False, soft_wrap=True)
    return 0


def decode_(argv: list[str]) -> int:
    """Turn a file of token ids into text: seqforge data decode FILE --tokenizer tokenizer.json | --vocab FILE."""
    parser = Parser(prog="seqforge data decode", description=decode_.__doc__)
    parser.add_argument("file", type=Path, help="token ids separated by blanks, one sequence a line")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, or a run folder that has one")
    parser.add_argument("--vocab", type=Path, help="one word a line from id 0 on, or a pickled list or dict")
    parser.add_argument("--out", type=Path, help="file to write (default: the terminal)")
    args = parser.parse_args(argv)
    if (args.tokenizer is None) == (args.vocab is None):
        raise ValueError("data decode needs one of --tokenizer and --vocab")
    tokenizer, size = _tokenizer_at(args.tokenizer) if args.tokenizer else _vocabulary_at(args.vocab)
    try:
        document = read(args.file, "ids")
    except ValueError as e:  # this command has no such options
        raise ValueError(re.sub(r",? or pass --data\.\w+ \w+( to leave it out)?", "", str(e))) from e
    found = tokens.read_ids(document.texts, document.place, size, "give the tokenizer or vocabulary that made the ids")
    ends = np.cumsum(found.lengths)
    rows = [found.ids[b - n : b].tolist() for b, n in zip(ends, found.lengths, strict=True)]
    text = "\n".join(tokenizer.decode_batch(rows, skip_special_tokens=True)) + "\n"
    with sink(args.out) as file:
        file.write(text)
    return 0


def _tokenizer_at(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer, and the number of its ids before an end token was added to it."""
    if (path / "config.yaml").is_file():
        tokenizer = loading.load_tokenizer(loading.find_checkpoint(path))
        return tokenizer, tokens.size_of(tokenizer)
    if not path.is_file():
        raise ValueError(f"--tokenizer {path}: no such file; give a tokenizer.json or a run folder")
    return tokens.open_tokenizer(path, "<eos>")[0], tokens.size_of(tokens.read_tokenizer(path))


def _vocabulary_at(path: Path) -> tuple[Tokenizer, int]:
    """A tokenizer that only decodes: words in the order of their ids, or a pickle of them."""
    if not path.is_file():
        raise ValueError(f"--vocab {path}: no such file")
    raw = path.read_bytes()
    if _is_pickle(raw):
        words = _words_of(_load_words(path, raw), path)
    else:
        lines = enumerate(raw.removeprefix(BOM).removesuffix(b"\n").split(b"\n"), 1)
        words = [_word(line, f"{path}:{number}") for number, line in lines]
    return tokens.vocabulary(words, str(path)), len(words)


def _is_pickle(raw: bytes) -> bool:
    """By the first byte since protocol 2; before that, where it reads as one from its first byte to its last."""
    if raw[:1] == b"\x80" or not raw.endswith(pickle.STOP):
        return raw[:1] == b"\x80"
    try:
        *_, (_, _, end) = pickletools.genops(raw)
    except UnicodeDecodeError:  # Python 2's strings are bytes
        return raw[:1] in (b"(", b"]", b"}")
    except Exception:  # it fails in as many ways as there are files
        return False
    return end == len(raw) - 1


def _word(line: bytes, place: str) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{place}: 0x{line[e.start]:02x} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)"
        ) from e


class _WordsOnly(pickle.Unpickler):
    """Lists, dicts, strings and numbers; nothing that a pickle could call."""

    def find_class(self, module: str, name: str):
        raise ValueError(f"it would run {module}.{name}; only lists and dicts of words are admitted")


def _load_words(path: Path, raw: bytes) -> Any:
    try:
        return _WordsOnly(io.BytesIO(raw), encoding="utf-8").load()
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: refused, {e}; give a pickled list or dict of words, or one word a line") from e


def _words_of(found: Any, path: Path) -> list[str]:
    """Words by id from a list, from {word: id} or {id: word}, or from the pair of both that the authors' files hold."""
    if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(x, dict) for x in found):
        found = found[0]
    if isinstance(found, dict):
        pairs = {v: k for k, v in found.items()} if all(isinstance(v, int) for v in found.values()) else found
        if not all(isinstance(k, int) and isinstance(v, str) for k, v in pairs.items()):
            raise ValueError(f"{path}: holds a dict that does not join words and numbers; give word -> id")
        if sorted(pairs) != list(range(len(found))):
            raise ValueError(f"{path}: its ids are not 0 to {len(found) - 1}, each once; number the words anew")
        return [pairs[i] for i in range(len(pairs))]
    if isinstance(found, list) and all(isinstance(w, str) for w in found):
        return found
    raise ValueError(f"{path}: holds {type(found).__name__}, not a list or dict of words")


def score_(argv: list[str]) -> int:
    """Score a file of sentences, or a folder of MIDI, against another: seqforge score --samples A --references B."""
    parser = Parser(prog="seqforge score", description=score_.__doc__)
    parser.add_argument("--samples", required=True, help="file of the sentences, or folder of the tunes, to score")
    parser.add_argument("--references", required=True, help="file of real sentences, unseen in training")
    parser.add_argument("--train", help="file of the sentences trained on, for novelty and the LM score")
    known = ", ".join([*scoring.QUICK, *scoring.SLOW, *scoring.MUSIC])
    parser.add_argument("--metrics", type=names_of, default=["quick"], help=f"such as bleu,mauve, of {known}; or all")
    parser.add_argument("--tokenizer", default="auto", help="word, punct, char, ids, a tokenizer.json; auto looks")
    parser.add_argument("--lowercase", action="store_true", help="read all as lower case")
    parser.add_argument("--n", type=int, help="take the first n samples only (a peer's protocol)")
    parser.add_argument("--refs", type=int, help="take the first so many references only")
    parser.add_argument("--smoothing", type=Literal["method1", "none"], default="method1", help="of BLEU counts of 0")
    parser.add_argument("--embedder", default="tfidf", help="of fed and mauve: tfidf, or st:MODEL")
    parser.add_argument("--format", type=Format, default="auto", help="how the files are read")
    parser.add_argument("--column", help="field or column that holds the text")
    parser.add_argument("--on_error", type=Literal["auto", "stop", "skip"], default="auto",
                        help="skip leaves out what cannot be read; auto does so with MIDI")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the bootstrap and of what must be fitted")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_class_arguments(MusicConfig, "music")
    args = parser.parse_args(argv)
    scoring.known_metrics(args.metrics)
    for name in NEED_TRAIN:
        if name in args.metrics and not args.train:
            raise ValueError(f"--metrics {name}: needs the text trained on; give it by --train FILE")
    with _own_names():
        sets, kind = _sets_of(args)
    found = scoring.score(sets, args.metrics, {"tok": kind}, None, args.seed, args.smoothing, args.embedder)
    plain = [asdict(s) for s in found]
    print(json.dumps(plain, indent=1)) if args.json else print_metrics(plain)
    return 0


def _sets_of(args: Any) -> tuple[scoring.Sets, str]:
    """The files read, tokenised over one vocabulary, and the kind of their tokens."""
    files = {"samples": args.samples, "references": args.references} | ({"train": args.train} if args.train else {})
    config = DataConfig(format=args.format, column=args.column, on_error=args.on_error)
    config = replace(config, music=build(MusicConfig, args.music.as_dict()))
    documents, played = _documents(files, config)
    if documents["samples"].texts == documents["references"].texts:
        raise ValueError(
            f"{args.samples} and {args.references} hold the same sequences; --references needs real text of its own"
        )
    texts = {name: d.texts for name, d in documents.items()}
    for name, most in (("samples", args.n), ("references", args.refs)):
        if most is not None and not 0 < most <= len(texts[name]):
            raise ValueError(f"asked for {most} {name}, but {files[name]} has {len(texts[name])}")
        texts[name] = texts[name][:most]
    if played:
        args.tokenizer = "word"  # of words that stand between blanks
    tokenizer, kind, eos_id = _scoring_tokenizer(args, documents, texts)
    kind = music.encoding_of(config.music).name if played else kind
    splits = {name: _split_of(tokenizer, eos_id, documents[name], part) for name, part in texts.items()}
    width = max(s.ids.shape[1] for s in splits.values())
    assert width <= LONGEST_SCORED + 1
    vocabulary = {i: w for w, i in tokenizer.get_vocab().items()}
    words = [vocabulary.get(i, "") for i in range(tokens.size_of(tokenizer))]
    fit: Callable = functools.partial(fit_language_model, vocab_size=len(words), eos_id=eos_id, start_id=eos_id)
    tunes = config.music if played else None
    return scoring.Sets(splits["samples"], splits["references"], splits.get("train"), words, eos_id, fit, tunes), kind


def _documents(files: dict[str, str], config: DataConfig) -> tuple[dict[str, Document], bool]:
    """What the files hold, and whether they are tunes: folders of MIDI, all of them."""
    played = [name for name, path in files.items() if Path(path).exists() and _is_music(path, config)]
    if not played:
        return corpora.read_documents(files, config), False
    if len(played) < len(files):
        text = next(path for name, path in files.items() if name not in played)
        what = "not MIDI, but the others are" if Path(text).exists() else "no such file"
        raise ValueError(f"{text}: {what}; give folders of MIDI for all")
    documents = {}
    for name, path in files.items():
        read = music.read_folder(Path(path), config.music, config.on_error == "stop")
        for sentence in music.told(Path(path), read):
            warnings.warn(sentence, stacklevel=2)
        documents[name] = music.document(path, read, config.music, name)
    return documents, True


def _is_music(path: str, config: DataConfig) -> bool:
    return corpora.is_music(replace(config, source=path))


def _scoring_tokenizer(args: Any, documents: dict[str, Document], texts: dict[str, list[str]]):
    """The tokenizer, its name for signatures, its end token. All types of all files have an id: nothing is unknown."""
    every = [t for part in texts.values() for t in part]
    name = args.tokenizer
    if name not in ("auto", "word", "punct", "char", "ids"):
        if not Path(name).is_file():
            raise ValueError(f"--tokenizer {name}: must be auto, word, punct, char, ids, or a tokenizer.json")
        if args.lowercase:
            raise ValueError(
                f"--lowercase: --tokenizer {name} has a way of its own with capitals; leave one of them out"
            )
        tokenizer, eos_id = tokens.open_tokenizer(Path(name), "<eos>")
        return tokenizer, tokens.name_of(name, tokenizer), eos_id
    kind, blanks = tokens.choose_kind(documents["references"].texts)
    if name == "ids" or (name == "auto" and documents["references"].format == "ids"):
        kind, blanks = "word", True
    elif name != "auto":
        kind, blanks = name, name != "char" or blanks
    tokenizer = tokens.train_tokenizer(kind, every, None, 1, END, "<unk>", args.lowercase, blanks)
    return tokenizer, kind + ("-lower" if args.lowercase else ""), 0


END = "\x03"  # ends a sequence; no text that was read holds it


def _split_of(tokenizer: Tokenizer, eos_id: int, document: Document, texts: list[str]) -> Split:
    encoded = tokens.encode(tokenizer, texts)
    longest = Lengths(min(int(encoded.lengths.max()), LONGEST_SCORED) + 1, "stop")
    try:
        return pack(encoded, eos_id, longest, document.place, document.path)[0]
    except ValueError as e:
        i = int(encoded.lengths.argmax())
        raise ValueError(
            f"{document.place(i)}: {encoded.lengths[i]} tokens; at most {LONGEST_SCORED} are scored: cut it"
        ) from e


DATA_COMMANDS: dict[str, Callable[[list[str]], int]] = {"inspect": inspect_, "get": get_, "decode": decode_}
