"""From `--data` to a corpus: an oracle's world, or a file of token ids."""

from dataclasses import dataclass
from pathlib import Path

import torch

from seqforge.data.corpus import Corpus, Split, ids_tokenizer, read_id_file
from seqforge.oracles import load_oracle, oracle_corpus, seeded_oracle

MOST_IDS = 1_000_000  # a stray number must not size the tables


@dataclass(frozen=True)
class DataConfig:
    """What to train on. `--data X` is short for `--data.source X`.

    Args:
        source: "oracle" (the synthetic benchmark), or a file of token ids, one sequence a line
        max_length: tokens of the longest sequence; on the oracle, of every sequence (SeqGAN: 20)
        vocab_size: token types; for a file of ids, by default its largest id + 1
        oracle_file: the authors' oracle parameters (target_params_py3.pkl), in place of a seeded oracle
        oracle_seed: seed of the oracle's own parameters where no file is given
        oracle_embedding: embedding width of a seeded oracle (SeqGAN: 32)
        oracle_hidden: LSTM width of a seeded oracle (SeqGAN: 32)
        train_size: sequences drawn from the oracle to train on (SeqGAN: 9,984)
        valid_size: sequences for early stopping; of a file, drawn from it by data.seed, at most a tenth
        test_size: sequences for NLL_test; of a file, drawn from it by data.seed, at most a tenth
        seed: seed of the draw of the three sets, kept apart from --seed so that seeds of a method share their data
    """

    source: str = "oracle"
    max_length: int = 20
    vocab_size: int | None = None
    oracle_file: str | None = None
    oracle_seed: int = 0
    oracle_embedding: int = 32
    oracle_hidden: int = 32
    train_size: int = 9984
    valid_size: int = 2048
    test_size: int = 9984
    seed: int = 0

    def __post_init__(self):
        for name in ("max_length", "train_size", "valid_size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("seed", "oracle_seed"):
            if not 0 <= getattr(self, name) < 2**61:  # the three sets take seeds of their own, up to 3 * seed + 2
                raise ValueError(f"data.{name} is {getattr(self, name)}, but must lie between 0 and 2^61 - 1")


def load(config: DataConfig) -> Corpus:
    """The corpus that a configuration names. Raises ValueError naming the value and the remedy."""
    if config.source == "oracle":
        return _oracle(config)
    path = Path(config.source)
    if path.is_dir():
        raise ValueError(f"--data {path}: is a folder; give a file of token ids, one sequence a line, or `oracle`")
    if not path.is_file():
        raise ValueError(f"--data {path}: no such file; give a file of token ids, one sequence a line, or `oracle`")
    return _id_file(path, config)


def _oracle(config: DataConfig) -> Corpus:
    for name in ("vocab_size", "oracle_embedding", "oracle_hidden"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"data.{name} is {value}, but must be at least 1")
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
    return oracle_corpus(oracle, sizes, config.max_length, config.seed)


def _id_file(path: Path, config: DataConfig) -> Corpus:
    whole = read_id_file(path, config.vocab_size, config.max_length)
    if bool((whole.lengths != config.max_length).any()):
        short = int((whole.lengths != config.max_length).nonzero()[0])
        raise ValueError(
            f"{path}:{short + 1}: {int(whole.lengths[short])} tokens, but sequences of ids have no end token and must "
            f"all have --data.max_length {config.max_length} tokens"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(config.seed))
    held = min(config.valid_size, len(whole) // 10), min(config.test_size, len(whole) // 10)
    if min(held) < 1:
        raise ValueError(f"{path}: {len(whole)} sequences; at least 10 are needed to hold some out")
    valid, test, train = order.split([*held, len(whole) - sum(held)])
    vocab_size = config.vocab_size or int(whole.ids.max()) + 1
    if config.vocab_size is None and vocab_size > MOST_IDS:
        raise ValueError(
            f"{path}: its largest id is {vocab_size - 1}, a vocabulary beyond {MOST_IDS}; if that is meant, give "
            f"--data.vocab_size {vocab_size}"
        )
    splits: list[Split] = [whole[rows] for rows in (train, valid, test)]
    return Corpus(
        *splits,
        vocab_size=vocab_size,
        max_length=config.max_length,
        start_id=0,
        eos_id=None,
        tokenizer=ids_tokenizer(vocab_size),
        source=f"ids:{path.name}",
        digest=splits[0].digest(),
    )
