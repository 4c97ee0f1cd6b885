"""Samples beside their nearest training sequences, lengths and n-grams beside the data: by hand, by plain counting."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from seqforge import corpora, portrait
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.metrics.nearest import copied, nearest
from seqforge.metrics.ngrams import encode
from seqforge.metrics.profile import MOST_RANKS, length_profile, ngram_profile

FACTS = {"data": "x"}


def words(*lines):
    return [line.split() for line in lines]


def grams(tokens, orders=4):
    return {tuple(tokens[i : i + n]) for n in range(1, orders + 1) for i in range(len(tokens) - n + 1)}


def test_the_nearest_is_that_of_plain_sets():
    rng = np.random.default_rng(0)
    samples, training = ([list("abcdef"[k] for k in rng.integers(6, size=rng.integers(1, 12))) for _ in range(n)]
                         for n in (20, 60))  # fmt: skip
    for mine, (row, like) in zip(samples, nearest(*encode(samples, training)), strict=True):
        each = [len(grams(mine) & grams(t)) / len(grams(mine) | grams(t)) for t in training]
        assert like == pytest.approx(max(each))
        assert row == each.index(max(each))


def test_a_copy_is_like_itself_and_the_first_of_equals_counts():
    samples, training = encode(words("a man rides", "nobody knows"), words("x y", "a man rides", "a man rides"))
    assert nearest(samples, training)[0] == (1, 1.0)
    assert nearest(samples, training)[1] == (0, 0.0)
    with pytest.raises(ValueError, match="no training sequence"):
        nearest(samples, encode([])[0])


@pytest.mark.parametrize(
    ("mine", "other", "marked"),
    [
        ("abcxyz", "xyzabc", "111111"),
        ("abxyab", "abc", "000000"),  # spans of two
        ("aabcd", "zabcz", "01110"),
        ("ab", "ab", "00"),
        ("abcde", "abcd bcde", "11111"),  # two spans that overlap
    ],
)
def test_a_span_is_marked_from_three_tokens_on(mine, other, marked):
    assert "".join("01"[m] for m in copied([ord(c) for c in mine], [ord(c) for c in other], 3)) == marked


def corpus_of(tmp_path: Path, lines, **options):
    path = tmp_path / "data.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="only"):
        return corpora.load(DataConfig(source=str(path), min_frequency=1, **options))


TEXTS = {
    "word": [f"a man rides the {a} {b}" for a in ("red", "old", "big") for b in ("horse", "bike", "cow", "bus")],
    "char": [f"時は金なり{a}、花より団子{b}" for a in "春夏秋" for b in "山川雪月"],
    "bpe": [f"the naïve {a} said “{b}” twice" for a in ("cook", "judge", "king") for b in ("no", "yes", "why", "so")],
    "ids": [f"{a} 17 4 0 {b} 9" for a in (1, 2, 3) for b in (5, 6, 7, 8)],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_marks_stand_where_the_text_is_whatever_the_tokens(tmp_path, kind):
    corpus = corpus_of(tmp_path, TEXTS[kind], tokenizer=kind)
    drawn = {"final": {1.0: corpus.train, 0.5: corpus.train}}
    found = portrait.beside_training(drawn, corpus, 1)
    (generator,) = found["generators"]
    assert [c["temperature"] for c in generator["temperatures"]] == [0.5, 1.0]
    lines = corpus.decode(corpus.train.ids, corpus.train.lengths)
    for column in generator["temperatures"]:
        for k, one in enumerate(
            column["samples"]
        ):  # a copy of a training line is marked from its first letter to its last
            assert one["text"] == lines[k] == one["near"]["text"]
            assert one["near"]["like"] == 1
            assert one["spans"] == one["near"]["spans"] == [[0, len(lines[k])]]


def test_a_mark_covers_the_words_in_common_and_no_more(tmp_path):
    corpus = corpus_of(tmp_path, TEXTS["word"], tokenizer="word")
    known = corpus.tokenizer.get_vocab()
    said = words("bus cow man rides the red horse a")[0]
    ids = torch.tensor([[known[w] for w in said]])
    found = portrait.beside_training({"final": {1.0: Split(ids, torch.tensor([8]))}}, corpus, 1)
    one = found["generators"][0]["temperatures"][0]["samples"][0]
    ((start, end),) = one["spans"]
    assert one["text"][start:end] in ("man rides the red", "man rides the red horse")
    ((start, end),) = one["near"]["spans"]
    assert one["near"]["text"][start:end] in ("man rides the red", "man rides the red horse")
    json.dumps(found)


def test_temperatures_are_the_ends_one_and_those_between():
    assert portrait.chosen([1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5]) == [0.5, 0.7, 1.0, 1.25]
    assert portrait.chosen([1.0]) == [1.0]
    assert portrait.chosen([0.8, 0.5]) == [0.5, 0.8]


def test_ngrams_are_counted_as_by_hand():
    data, mine, training = encode(words("a b a", "b c"), words("a b b", "a b"), words("a b", "x b b"))
    one, two = ngram_profile({"held-out data": data, "final": mine}, training, FACTS, 1)[:2]
    assert one["of"]["held-out data"]["types"] == 3
    assert one["of"]["held-out data"]["ranks"] == [[1, 0.4], [2, 0.4], [3, 0.2]]
    assert one["of"]["held-out data"]["known"]["value"] == pytest.approx(4 / 5)  # c is not
    assert one["of"]["final"]["known"]["value"] == 1
    assert one["of"]["final"]["covered"]["value"] == pytest.approx(4 / 5)
    assert two["of"]["held-out data"]["known"]["value"] == pytest.approx(1 / 3)  # ab of ab, ba, bc
    assert two["of"]["final"]["known"]["value"] == 1  # ab, bb, ab
    assert two["of"]["final"]["covered"]["value"] == pytest.approx(1 / 3)
    assert "covered" not in two["of"]["held-out data"]
    assert two["of"]["final"]["known"]["signature"].startswith("known2|data:x|n:2|refs:2|refset:")


def test_shares_and_ranks_are_those_of_plain_counting():
    rng = np.random.default_rng(1)
    sets = [[[f"w{t}" for t in rng.zipf(1.6, rng.integers(4, 12)) % 500] for _ in range(200)] for _ in range(3)]
    data, mine, training = encode(*sets)
    for found in ngram_profile({"held-out data": data, "final": mine}, training, FACTS, 1):
        n = found["order"]
        every = [Counter(tuple(s[i : i + n]) for s in side for i in range(len(s) - n + 1)) for side in sets]
        final = found["of"]["final"]
        falling = sorted(every[1].values(), reverse=True)
        assert len(final["ranks"]) <= MOST_RANKS
        assert final["ranks"] == [[r, pytest.approx(falling[r - 1] / sum(falling))] for r, _ in final["ranks"]]
        assert final["ranks"][-1][0] == final["types"] == len(falling)
        share = sum(c for g, c in every[1].items() if g in every[2]) / every[1].total()
        assert final["known"]["value"] == pytest.approx(share)
        share = sum(c for g, c in every[0].items() if g in every[1]) / every[0].total()
        assert final["covered"]["value"] == pytest.approx(share)
        low, high = final["known"]["interval"]
        assert low < final["known"]["value"] < high


def test_an_order_that_nobody_reaches_is_left_out():
    data, mine, training = encode(words("a b", "b"), words("a", "b b"), words("a b c d e"))
    assert [f["order"] for f in ngram_profile({"data": data, "final": mine}, training, FACTS, 1)] == [1, 2]


def test_lengths_are_counted_in_bars():
    data, mine = encode([["a"] * n for n in (3, 3, 5)], [["a"] * n for n in (4, 5, 5)])
    found = length_profile({"data": data, "final": mine}, FACTS, 1)
    assert found["edges"] == [3, 4, 5, 6]
    assert found["counts"] == {"data": [2, 0, 1], "final": [0, 1, 2]}
    scores = {s["name"]: s["value"] for s in found["scores"]["final"]}
    assert scores["length_distance"] == pytest.approx(1.0)  # means 11/3 and 14/3, one above the other throughout
    wide = encode([["a"] * n for n in (1, 200)], [["a"] * 90])
    found = length_profile(dict(zip(("data", "final"), wide, strict=True)), FACTS, 1)
    assert len(found["edges"]) <= 42
    assert [sum(c) for c in found["counts"].values()] == [2, 1]
