"""Corpora of pairs: a source and what answers it. Dialogues, or labels and their texts, from files to three splits.

Every turn but the first is a reply; its source is the turn before it, with `history` k the k before it, each with the
end token after it. Pairs that occur twice are taken once. A source utterance, or a labelled text, lies in one split
alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from tokenizers import Tokenizer

from seqforge.data import tokens
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus, Split
from seqforge.data.pack import LONGEST_BY_ITSELF, choose_lengths, pack
from seqforge.data.readers.dialogue import Dialogues, read_dialogues

HELD = ("valid", "test")
ASKED = "asked.json"  # beside the tokenizer in a checkpoint: what sources were made of, see `asked`


@dataclass(frozen=True)
class Pair:
    """history: the turns that the source is made of, oldest first; before: all turns before the reply; place: where."""

    history: tuple[str, ...]
    reply: str
    before: tuple[str, ...]
    place: str


def normalised(text: str) -> str:
    """Without case, marks and blanks."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


Key = Callable[[Pair], str]  # of a pair, what may lie in one split only


def utterance(pair: Pair) -> str:
    return normalised(pair.history[-1])


def labelled(pair: Pair) -> str:
    return normalised(pair.reply)


def pairs_of(dialogues: Dialogues, history: int) -> list[Pair]:
    """Every adjacent pair of turns, each distinct one (source and reply) once."""
    found: dict[tuple, Pair] = {}
    for i, turns in enumerate(dialogues.turns):
        for t in range(1, len(turns)):
            source = tuple(turns[max(0, t - history) : t])
            found.setdefault((source, turns[t]), Pair(source, turns[t], tuple(turns[:t]), dialogues.place(i)))
    return list(found.values())


def split_by_group(
    pairs: Sequence[Pair], held: tuple[int, int], seed: int, key: Key | None = utterance
) -> dict[str, list[Pair]]:
    """train, valid and test; of the held-out pairs about so many. All pairs of one key lie in one split; without a key
    each pair is drawn by itself.
    """
    groups: dict[object, list[Pair]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(key(pair) if key else i, []).append(pair)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    waiting = [list(groups.values())[i] for i in order]
    parts: dict[str, list[Pair]] = {}
    for name, most in zip(HELD, held, strict=True):
        parts[name] = []
        while waiting and len(parts[name]) < most:
            parts[name] += waiting.pop(0)
    return {"train": [pair for group in waiting for pair in group], **parts}


def load(files: dict[str, str], config: DataConfig) -> Corpus:
    """The corpus of dialogue files (or, by condition label, of labelled texts). Raises ValueError with the remedy."""
    labels = config.condition == "label"
    read = {}
    for name, path in files.items():
        most = (config.limit or None) if name == "train" else None
        read[name] = read_dialogues(path, labels, "skip" if config.on_error == "skip" else "stop", most)
        for reason, count in read[name].skipped.items():
            first = read[name].first_skipped[reason]
            warnings.warn(f"{path}: left out {count} x {reason} (the first: {first})", stacklevel=2)
    found = {name: pairs_of(d, 1 if labels else config.history) for name, d in read.items()}
    return build(
        found, config, f"{read['train'].format}:{Path(files['train']).name}", key=labelled if labels else utterance
    )


def build(
    found: dict[str, list[Pair]],
    config: DataConfig,
    source: str,
    whole: list[str] | None = None,
    key: Key | None = utterance,
) -> Corpus:
    """A corpus of pairs by split; what has no file of its own is drawn from the training pairs. `whole`: texts with
    every type there can be, where that is known; `key`: of that nothing lies in two splits.
    """
    parts = _parts(found, config, key)
    tokenizer, eos_id, kind = _tokenizer(parts["train"], config, whole or [])
    sides = {name: _encode(tokenizer, eos_id, part, config) for name, part in parts.items()}
    lengths = sides["train"][1].lengths
    fit = choose_lengths(lengths, config.max_length, config.overlong, True)
    asked_of = sides.values() if config.condition == "label" else [sides["train"]]  # labels are never cut
    widest = config.max_source or min(LONGEST_BY_ITSELF, max(int(asked.lengths.max()) for asked, _ in asked_of))
    splits = {}
    for name, (asked, answered) in sides.items():
        part = parts[name]
        packed, kept = pack(answered, eos_id, fit, lambda i, p=part: p[i].place, f"{source} ({name})")
        if not len(packed):
            raise ValueError(f"{source}: no {name} pair is left; raise --data.max_length")
        parts[name] = [part[i] for i in kept]
        splits[name] = replace(packed, source=_sources(asked, kept, widest, config, part, f"{source} ({name})"))
    for name in HELD if key else ():  # the first are asked where fewer will do, and a file may be sorted by label
        order = np.random.default_rng(config.seed).permutation(len(parts[name]))
        splits[name] = splits[name][torch.from_numpy(order)]
        parts[name] = [parts[name][i] for i in order]
    return Corpus(
        **splits,
        vocab_size=tokens.size_of(tokenizer),
        max_length=fit.longest,
        start_id=eos_id,
        eos_id=eos_id,
        tokenizer=tokenizer,
        source=source,
        digest=splits["train"].digest(),
        kind=kind,
        unk_id=tokens.unknown_id(tokenizer, config.unk_token),
        before={name: [p.before for p in part] for name, part in parts.items()},
    )


def _parts(found: dict[str, list[Pair]], config: DataConfig, key: Key | None) -> dict[str, list[Pair]]:
    train = found["train"]
    wanted = [0 if name in found else min(getattr(config, f"{name}_size"), len(train) // 10) for name in HELD]
    if any(name not in found and not n for name, n in zip(HELD, wanted, strict=True)):
        raise ValueError(
            f"{train[0].place}: {len(train)} distinct pairs; at least 10 are needed to hold some out (or give "
            "--data.valid and --data.test)"
        )
    parts = split_by_group(train, (wanted[0], wanted[1]), config.seed, key)
    parts |= {name: found[name] for name in HELD if name in found}
    if key:  # files of one's own may overlap
        what = "text" if key is labelled else "source"
        for name, later in (("valid", ("test",)), ("train", HELD)):
            seen = {key(p) for other in later for p in parts[other]}
            clean = [p for p in parts[name] if key(p) not in seen]
            if len(clean) < len(parts[name]):
                count = len(parts[name]) - len(clean)
                warnings.warn(f"{name}: left out {count} pairs whose {what} {' or '.join(later)} has too", stacklevel=2)
            parts[name] = clean
    empty = next((name for name, part in parts.items() if not part), None)
    if empty:
        what = "text" if key is labelled else "source utterance"
        raise ValueError(
            f"{train[0].place}: no {empty} pair is left, as pairs with the same {what} stay together; give more "
            "different ones"
        )
    return parts


def _tokenizer(train: list[Pair], config: DataConfig, whole: list[str]) -> tuple[Tokenizer, int, str]:
    texts = list(dict.fromkeys(t for p in train for t in (*p.history, p.reply))) + whole
    kind = config.tokenizer if config.tokenizer != "auto" else "word" if whole else "bpe"
    if kind in get_args(tokens.Kind):
        size, names = config.vocab_size, (config.eos_token, config.unk_token)
        tokenizer = tokens.train_tokenizer(
            kind,  # type: ignore[arg-type]
            texts,
            size,
            config.min_frequency or 1,
            *names,
            config.lowercase,
        )
        return tokenizer, 0, kind
    if not Path(kind).is_file():
        known = ", ".join(get_args(tokens.Kind))
        raise ValueError(f"data.tokenizer is {kind!r}, but of dialogues must be auto, {known}, or a tokenizer.json")
    return *tokens.open_tokenizer(Path(kind), config.eos_token), kind


def _encode(
    tokenizer: Tokenizer, eos_id: int, part: list[Pair], config: DataConfig
) -> tuple[tokens.Encoded, tokens.Encoded]:
    """The ids of sources, each turn with an end token after it, and of replies, without one."""
    replies = tokens.encode(tokenizer, [p.reply for p in part])
    turns = list(dict.fromkeys(turn for p in part for turn in p.history))
    ids = {turn: source_ids(tokenizer, eos_id, [turn]) for turn in turns}
    for pair, reply in zip(part, np.split(replies.ids, np.cumsum(replies.lengths)[:-1]), strict=True):
        if not len(reply) or any(len(ids[turn]) < 2 for turn in pair.history):
            raise ValueError(f"{pair.place}: the tokenizer finds no token in a turn; remove it")
        if eos_id in reply or any(eos_id in ids[turn][:-1] for turn in pair.history):
            name = tokenizer.id_to_token(eos_id)
            raise ValueError(
                f"{pair.place}: a turn holds the end token {name} itself; name another by --data.eos_token"
            )
    held = [[i for turn in pair.history for i in ids[turn]] for pair in part]
    flat = np.fromiter((i for row in held for i in row), np.int32, sum(map(len, held)))
    return tokens.Encoded(flat, np.array([len(row) for row in held], dtype=np.int64)), replies


def source_ids(tokenizer: Tokenizer, eos_id: int, turns: Sequence[str]) -> list[int]:
    """The ids of some turns as a source: an end token after each."""
    return [i for turn in turns for i in [*tokenizer.encode(turn, add_special_tokens=False).ids, eos_id]]


def asked(corpus: Corpus, labels: bool) -> str:
    """JSON of what the training sources hold: their `characters`, and of labels each of them, else null."""
    assert corpus.train.source is not None
    turns = {turn for turns in corpus.turns(corpus.train.source) for turn in turns}
    found = {"characters": "".join(sorted(set().union(*turns))), "labels": sorted(turns) if labels else None}
    return json.dumps(found, ensure_ascii=False)


def _sources(
    encoded: tokens.Encoded, kept: np.ndarray, widest: int, config: DataConfig, part: list[Pair], name: str
) -> Split:
    """Sources (N,S), the last `widest` tokens of those that are longer: the latest turn counts most."""
    ends = np.cumsum(encoded.lengths)
    long = [int(i) for i in kept if encoded.lengths[i] > widest]
    if long and config.condition == "label":
        raise ValueError(
            f"{part[long[0]].place}: a label of {encoded.lengths[long[0]] - 1} tokens and the end token, but "
            f"max_source is {widest}; raise --data.max_source, as a part of a label is not one"
        )
    if long and config.overlong == "stop":
        raise ValueError(
            f"{part[long[0]].place}: a source of {encoded.lengths[long[0]]} tokens, but max_source is {widest}; raise "
            "--data.max_source, or pass --data.overlong truncate"
        )
    if long:
        warnings.warn(
            f"{name}: {len(long)} of {len(kept)} sources are longer than {widest} tokens and lose their oldest "
            f"(the first: {part[long[0]].place}); --data.max_source sets the length",
            stacklevel=2,
        )
    lengths = np.minimum(encoded.lengths[kept], widest)
    ids = np.zeros((len(kept), int(lengths.max())), dtype=np.int64)
    for row, (i, n) in enumerate(zip(kept, lengths, strict=True)):
        ids[row, :n] = encoded.ids[ends[i] - n : ends[i]]
    return Split(torch.from_numpy(ids), torch.from_numpy(lengths))
