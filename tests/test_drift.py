"""A test set of another source than the training set is named; one of the same source is not."""

import warnings

import pytest
import torch

from seqforge import corpora
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.data.drift import drifted, sequences_with

TOPICS = ("bathroom", "kitchen", "street", "field", "table", "beach")


def split_of(rows: list[list[int]]) -> Split:
    lengths = torch.tensor([len(r) for r in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return Split(ids, lengths)


def drawn(n: int, seed: int, types: int = 2000, length: int = 12) -> Split:
    """Sequences of tokens with the frequencies of words (1 over their rank)."""
    rng = torch.Generator().manual_seed(seed)
    weight = 1 / torch.arange(1, types + 1, dtype=torch.float64)
    ids = torch.multinomial(weight, n * length, replacement=True, generator=rng).reshape(n, length)
    return Split(ids, torch.randint(1, length + 1, (n,), generator=rng))


def lines(n: int, seed: int, topics: tuple[str, ...]) -> list[str]:
    rng = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(topics), (n,), generator=rng).tolist()
    counts = torch.randint(80, (n, 2), generator=rng).tolist()
    return [f"a {topics[k]} with {a} of {b} things in it" for k, (a, b) in zip(pick, counts, strict=True)]


def test_counts_sequences_not_occurrences():
    split = split_of([[1, 1, 1], [2, 1], [3]])
    assert sequences_with(split, 5).tolist() == [0, 2, 1, 1, 0]  # the zeros past the ends are no tokens


@pytest.mark.parametrize("sizes", [(9000, 1000), (500, 500), (300, 30)])
def test_one_source_is_never_called_two(sizes):
    for seed in range(40):
        assert not drifted(drawn(sizes[0], 2 * seed), drawn(sizes[1], 2 * seed + 1), 2000)


def test_a_rarer_topic_is_named_with_its_shares():
    train = split_of([[1, 2, 3]] * 30 + [[1, 4, 5]] * 170)
    other = split_of([[1, 2, 3]] * 2 + [[1, 4, 5]] * 198)
    assert [(d.type_id, d.train, d.other) for d in drifted(train, other, 6)] == []  # 4 standard errors: chance
    found = drifted(split_of([[1, 2, 3]] * 300 + [[1, 4, 5]] * 1700), split_of([[1, 2]] * 20 + [[1, 4]] * 1980), 6)
    assert [(d.type_id, d.train, d.other) for d in found] == [(5, 0.85, 0.0), (3, 0.15, 0.0), (2, 0.15, 0.01)]


def test_a_file_of_other_topics_is_warned_about(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(lines(1200, 1, TOPICS)))
    (tmp_path / "test.txt").write_text("\n".join(lines(600, 2, TOPICS[2:])))
    with pytest.warns(UserWarning, match=r"test.txt: not drawn like the training set \('(bathroom|kitchen)' is in 1"):
        corpora.load(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize("own", [True, False])
def test_nothing_is_said_of_one_source(tmp_path, own):
    (tmp_path / "train.txt").write_text("\n".join(lines(1200, 1, TOPICS)))
    if own:
        (tmp_path / "test.txt").write_text("\n".join(lines(600, 3, TOPICS)))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*drawn like")
        corpora.load(DataConfig(source=str(tmp_path)))


def test_words_that_training_never_saw_are_no_other_source(tmp_path):
    """Where every word becomes a type, `unknown` is in no training sequence, and may be in every other one."""
    train = [f"{text} word{i}" for i, text in enumerate(lines(1200, 1, TOPICS))]
    test = [f"{text} other{i}" for i, text in enumerate(lines(600, 3, TOPICS))]
    (tmp_path / "train.txt").write_text("\n".join(train))
    (tmp_path / "test.txt").write_text("\n".join(test))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*drawn like")
        corpora.load(DataConfig(source=str(tmp_path), min_frequency=1))
