"""Self-BLEU against nltk with each sentence's own copy left out, and by hand."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

import seqforge
from seqforge.metrics.bleu import Smoothing
from seqforge.metrics.ngrams import Texts, encode
from seqforge.metrics.self_bleu import closest_other, self_bleu, self_sentence_scores, two_largest

ORDERS = (1, 2, 3, 4, 5)


def words(*lines):
    return [line.split() for line in lines]


def assert_it_is_nltks(text, smoothing: Smoothing = "method1"):
    found = self_sentence_scores(encode(text)[0], ORDERS, smoothing)
    function = SmoothingFunction().method1 if smoothing == "method1" else None
    for n in ORDERS:
        others = [text[:i] + text[i + 1 :] for i in range(len(text))]
        wanted = [sentence_bleu(o, s, (1 / n,) * n, function) for o, s in zip(others, text, strict=True)]
        np.testing.assert_allclose(found[n], wanted, rtol=1e-9, atol=1e-12, err_msg=f"Self-BLEU-{n}")


@pytest.mark.filterwarnings("ignore::UserWarning:nltk")
@pytest.mark.parametrize("smoothing", ["method1", "none"])
@pytest.mark.parametrize(
    "text",
    [
        words("", ""),
        words("", "a"),
        words("a", "a", "b"),
        words("a b c d e", "a b c d e", "x"),  # repeated: the other copy is a reference
        words("a b c d e", "f g h i j"),
        words("a a a", "a a", "a"),  # the largest count is one's own
        words("a a b", "a a c", "a"),  # two hold it
        words("a b", "a b c", "a b c d"),  # others as close on both sides: the shorter counts
        words("a b a b a", "b a b", "", "", "a", "b b b b"),
    ],
)
def test_self_bleu_is_nltks_in_corner_cases(text, smoothing):
    assert_it_is_nltks(text, smoothing)


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_is_nltks_on_random_text(seed):
    rng = np.random.default_rng(seed)
    text = [[f"w{t}" for t in rng.integers(5, size=rng.integers(12))] for _ in range(30)]
    assert_it_is_nltks([*text, *text[:3]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=2, max_size=8))
def test_self_bleu_is_nltks_whatever_the_text(text):
    assert_it_is_nltks(text)


def test_the_sample_is_not_among_its_references():
    """Two sentences that share their first three of four tokens: 3/4 and 2/3. With itself among them each has 1."""
    (texts,) = encode(words("a b c d", "a b c e"))
    assert self_sentence_scores(texts, (2,))[2] == pytest.approx([math.sqrt(1 / 2)] * 2, abs=1e-12)
    (same,) = encode(words("a b c d", "a b c d"))
    assert self_sentence_scores(same, (2,))[2] == pytest.approx([1.0, 1.0], abs=1e-12)


def test_the_two_largest_counts_by_hand():
    number, count = np.array([2, 0, 1, 2, 0, 2]), np.array([5, 1, 4, 7, 1, 6])
    most, second = two_largest(number, count, 3)
    assert (most.tolist(), second.tolist()) == ([1, 4, 7], [1, 0, 6])


def test_the_closest_other_length_by_hand():
    assert closest_other(np.array([4, 6, 8, 8, 1])).tolist() == [6, 4, 8, 8, 4]
    assert closest_other(np.array([3, 9])).tolist() == [9, 3]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=2, max_size=6), st.integers(0, 2**31))
def test_order_and_names_do_not_matter(text, seed):
    wanted = self_sentence_scores(encode(text)[0])
    order = np.random.default_rng(seed).permutation(len(text))
    found = self_sentence_scores(encode([[t * 2 for t in text[i]] for i in order])[0])
    for n in wanted:
        np.testing.assert_allclose(found[n], wanted[n][order], rtol=1e-12)


def test_scores_have_names_signatures_and_intervals():
    (texts,) = encode(words("a b c", "a b", "c a b", "d"))
    scores = self_bleu(texts, facts={"tok": "word"}, temperature=0.5, seed=2)
    assert [s.name for s in scores] == ["self_bleu2", "self_bleu3", "self_bleu4", "self_bleu5"]
    wanted = f"self-bleu4|tok:word|n:4|refs:leave-one-out|smooth:method1|seed:2|v:{seqforge.__version__}"
    assert scores[2].signature == wanted
    assert scores[2].temperature == 0.5
    each = self_sentence_scores(texts)[4]
    assert scores[2].value == pytest.approx(each.mean(), abs=1e-12)
    assert scores[2].stderr == pytest.approx(each.std() / 2, rel=0.1)
    assert scores[2].interval is not None
    assert scores[2].interval[0] < scores[2].value < scores[2].interval[1]


def test_one_sequence_has_no_others():
    with pytest.raises(ValueError, match="at least 2"):
        self_bleu(encode(words("a b"))[0], facts={})


def test_time_is_linear_in_the_text():
    """Ten times the sentences, and far less than the hundred times that comparing all with all would take."""
    rng = np.random.default_rng(1)
    spent = []
    for n in (2_000, 20_000):
        texts = Texts.from_ids(rng.zipf(1.3, (n, 12)) % 5000, np.full(n, 12))
        before = time.process_time()
        self_sentence_scores(texts)
        spent.append(time.process_time() - before)
    assert spent[1] < 40 * spent[0] + 0.2
