"""What to train on, as options: `--data X` and `--data.NAME`."""

from dataclasses import dataclass, field
from typing import Literal

from seqforge import ranges
from seqforge.data.music import MusicConfig
from seqforge.data.pack import Overlong
from seqforge.data.readers import Format


@dataclass(frozen=True)
class DataConfig:
    """What to train on. `--data X` is short for `--data.source X`.

    Args:
        source: a file of your own (text, JSON, JSONL, CSV, Parquet, token ids; .gz of each), a folder with train, valid
            and test files, a folder of MIDI files, hf:DATASET, the name of a published corpus (`seqforge data get`),
            "demo" (sentences of a grammar that ships), "oracle" (synthetic benchmark), "dialogues" (conversations of a
            grammar that ships), or "agreement", "copying" or "brackets" (synthetic worlds with one constraint each)
        format: how the file is read; auto finds it from content and name
        column: field or column that holds the text; by default the usual names
        on_error: skip leaves out what cannot be read, and counts it; auto stops there, but skips files of a MIDI folder
        valid: file of sequences for early stopping; by default a tenth of the source, at most valid_size
        test: file of sequences for the figures; by default a tenth of the source, at most test_size
        repeats: of sequences that are alike: keep leaves each in the set that it is drawn into; apart puts them into
            one, and leaves out training sequences that a file of valid or test holds
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
    repeats: Literal["keep", "apart"] = "keep"
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
        counts = {"max_length": 1, "vocab_size": 1, "train_size": 1, "valid_size": 1, "test_size": 1, "limit": 0}
        counts |= {"reach": 1, "min_frequency": 1, "history": 1, "max_source": 2}
        ranges.check(self, "data.", **ranges.at_least(counts))
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
