"""N-gram metrics by hand, against nltk, scipy and plain counting; and what must not matter to them."""

import math
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.util import ngrams
from scipy.stats import wasserstein_distance

import seqforge
from seqforge.metrics import bootstrap, novelty
from seqforge.metrics.bleu import Smoothing, bleu, bleu_f1, brevity, reverse_bleu, sentence_scores
from seqforge.metrics.distinct import distinct
from seqforge.metrics.lengths import lengths
from seqforge.metrics.ms_jaccard import ms_jaccard
from seqforge.metrics.ngrams import References, Texts, all_grams, encode, scored, unigrams

FACTS = {"tok": "word"}
ORDERS = (1, 2, 3, 4, 5)
SEQUENCES = st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=8)


def drawn(seed, n, vocabulary=4, longest=9):
    """n random sequences of 0..longest tokens, some of them twice."""
    rng = np.random.default_rng(seed)
    found = [[f"w{t}" for t in rng.integers(vocabulary, size=rng.integers(longest + 1))] for _ in range(n)]
    return [*found, *found[: n // 5]]


def words(*lines):
    return [line.split() for line in lines]


@contextmanager
def few_resamples():
    """Bootstraps of two resamples, where only values and names are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("of_mean", "centred"):
            patch.setattr(bootstrap, name, partial(getattr(bootstrap, name), resamples=2))
        yield


def by_name(scores):
    return {s.name: s for s in scores}


def values(scores):
    return {s.name: s.value for s in scores}


def nltk_bleu(hypothesis, references, n, smoothing: Smoothing = "method1"):
    function = {"method1": SmoothingFunction().method1, "none": None}[smoothing]
    return sentence_bleu(references, hypothesis, (1 / n,) * n, function)


def assert_bleu_is_nltks(hypotheses, references, smoothing: Smoothing = "method1"):
    mine, real = encode(hypotheses, references)
    found = sentence_scores(mine, References(real), ORDERS, smoothing)
    for n in ORDERS:
        wanted = [nltk_bleu(h, references, n, smoothing) for h in hypotheses]
        np.testing.assert_allclose(found[n], wanted, rtol=1e-9, atol=1e-12, err_msg=f"BLEU-{n}")


# --- BLEU


@pytest.mark.filterwarnings("ignore::UserWarning:nltk")
@pytest.mark.parametrize("smoothing", ["method1", "none"])
@pytest.mark.parametrize("seed", range(6))
def test_bleu_is_nltks(seed, smoothing):
    """Among these: empty, one-word and repeated sentences, hypotheses shorter than n, words no reference has."""
    assert_bleu_is_nltks(drawn(seed, 40, 5), drawn(seed + 100, 12, 4), smoothing)


@pytest.mark.filterwarnings("ignore::UserWarning:nltk")
@pytest.mark.parametrize("smoothing", ["method1", "none"])
@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        (words("", "a", "a a", "b"), words("a")),
        (words("a b"), words("", "a b c")),
        (words("a"), words("")),
        (words("a b c d e"), words("a b c d e")),
        (words("a b c"), words("a b", "a b c d")),  # two references as close: the shorter counts
        (words("a b c"), words("a b c d", "b a")),
        (words("the the the the the the the"), words("the cat is on the mat", "there is a cat on the mat")),
        (words("a b a b a b"), words("a b a", "b a b a b")),
        (words("x y z"), words("a b c")),
    ],
)
def test_bleu_is_nltks_in_corner_cases(hypotheses, references, smoothing):
    assert_bleu_is_nltks(hypotheses, references, smoothing)


@settings(max_examples=60, deadline=None)
@given(hypotheses=SEQUENCES, references=SEQUENCES)
def test_bleu_is_nltks_whatever_the_text(hypotheses, references):
    assert_bleu_is_nltks(hypotheses, references)


def test_bleu2_by_hand():
    """`a b a` against `a b c` and `a a c c`: a twice, b once: 3/3; a b once, b a never: 1/2; no penalty."""
    mine, real = encode(words("a b a", "a b"), words("a b c", "a a c c"))
    found = sentence_scores(mine, References(real), (2,))[2]
    assert found[0] == pytest.approx(math.sqrt(1 / 2), abs=1e-12)
    assert found[1] == pytest.approx(math.exp(1 - 3 / 2), abs=1e-12)


def test_the_brevity_penalty_by_hand():
    found = brevity(np.array([0, 2, 3, 4]), np.array([0, 3, 3, 3]))
    assert found == pytest.approx([0.0, math.exp(-1 / 2), 1.0, 1.0], abs=1e-12)


def test_bleu_is_the_mean_of_all_hypotheses_with_its_bootstrap():
    hypotheses, references = drawn(1, 30), drawn(2, 20)
    mine, real = encode(hypotheses, references)
    scores = by_name(bleu(mine, References(real), facts=FACTS, seed=7))
    each = np.array([nltk_bleu(h, references, 3) for h in hypotheses])
    assert list(scores) == ["bleu2", "bleu3", "bleu4", "bleu5"]
    assert scores["bleu3"].value == pytest.approx(each.mean(), abs=1e-9)
    stderr, *interval = bootstrap.of_mean(each, 7)
    assert scores["bleu3"].stderr == pytest.approx(stderr, abs=1e-9)
    assert scores["bleu3"].interval == pytest.approx(interval, abs=1e-9)
    assert scores["bleu3"].stderr == pytest.approx(each.std(ddof=1) / len(each) ** 0.5, rel=0.1)


def test_reverse_bleu_has_the_real_sentences_as_hypotheses():
    samples, real_text = drawn(3, 25), drawn(4, 15)
    mine, real = encode(samples, real_text)
    found = values(reverse_bleu(mine, References(real), facts=FACTS))
    assert found["reverse_bleu4"] == pytest.approx(np.mean([nltk_bleu(r, samples, 4) for r in real_text]), abs=1e-9)


def test_bleu_f1_is_the_harmonic_mean_and_its_error_that_of_both():
    mine, real = encode(drawn(5, 60), drawn(6, 40))
    references = References(real)
    there, back = (f(mine, references, (3,), facts=FACTS)[0] for f in (bleu, reverse_bleu))
    (f1,) = bleu_f1(mine, references, (3,), facts=FACTS)
    a, b = there.value, back.value
    assert f1.name == "bleu_f1_3"
    assert f1.value == pytest.approx(2 * a * b / (a + b), abs=1e-12)
    by_a, by_b = 2 * b * b / (a + b) ** 2, 2 * a * a / (a + b) ** 2  # derivatives of 2ab/(a+b)
    assert there.stderr is not None
    assert back.stderr is not None
    assert f1.stderr is not None
    assert f1.interval is not None
    assert f1.stderr == pytest.approx(math.hypot(by_a * there.stderr, by_b * back.stderr), rel=0.1)
    assert f1.interval[0] < f1.value < f1.interval[1]
    assert f1.interval[1] - f1.interval[0] == pytest.approx(2 * 1.96 * f1.stderr, rel=0.1)


def test_bleu_f1_of_nothing_in_common_is_zero():
    mine, real = encode(words("a b c"), words("x y z"))
    assert values(bleu_f1(mine, References(real), (2,), facts=FACTS)) == {"bleu_f1_2": 0.0}


def test_an_index_is_asked_again_and_answers_the_same():
    """Texygen kept the references of its first call for later files: here each index has its own."""
    first, second, mine = encode(words("a b c d"), words("c d a b"), words("a b c", "c d a"))
    one, other = References(first), References(second)
    before = sentence_scores(mine, one)[2]
    assert not np.allclose(before, sentence_scores(mine, other)[2])
    np.testing.assert_array_equal(before, sentence_scores(mine, one)[2])


# --- distinct-n, unique-n


def test_distinct_and_unique_by_hand():
    """Tokens aba, ab, c, ab: three of eight differ, c comes once. 2-grams ab ba, ab, ab: two differ, ba comes once."""
    (texts,) = encode(words("a b a", "a b", "c", "", "a b"))
    found = values(distinct(texts, facts=FACTS))
    assert found == pytest.approx(
        {
            "distinct1": 3 / 8,
            "distinct2": 2 / 4,
            "distinct3": 1.0,
            "distinct4": 0.0,
            "unique1": 1 / 8,
            "unique2": 1 / 4,
            "unique3": 1.0,
            "unique4": 0.0,
            "unique_sequences": 4 / 5,
        },
        abs=1e-12,
    )


@settings(max_examples=25, deadline=None)
@given(text=SEQUENCES)
def test_distinct_and_unique_are_what_a_counter_says(text):
    with few_resamples():
        found = values(distinct(encode(text)[0], facts=FACTS))
    for n in (1, 2, 3, 4):
        counts = Counter(g for s in text for g in ngrams(s, n))
        total = max(1, counts.total())
        assert found[f"distinct{n}"] == pytest.approx(len(counts) / total, abs=1e-12)
        assert found[f"unique{n}"] == pytest.approx(sum(c == 1 for c in counts.values()) / total, abs=1e-12)
    assert found["unique_sequences"] == pytest.approx(len({tuple(s) for s in text}) / len(text), abs=1e-12)


def test_a_resample_is_counted_as_the_text_it_stands_for():
    """The bootstrap's weights: the statistic of a text with sequences repeated is that of the repeated text."""
    text = drawn(8, 20)
    weights = np.random.default_rng(1).integers(0, 3, len(text))
    repeated = [s for s, w in zip(text, weights, strict=True) for _ in range(w)]
    figures = {}
    real_centred = bootstrap.centred

    def listen(value, statistic, n, seed, bounds=None):
        figures[len(figures)] = statistic(weights)
        return real_centred(value, statistic, n, seed, 10, bounds=bounds or (-np.inf, np.inf))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "centred", listen)
        names = [s.name for s in distinct(encode(text)[0], facts=FACTS)]
        mine, real = encode(text, drawn(9, 15))
        names += [s.name for s in ms_jaccard(mine, real, facts=FACTS)]
        names += [s.name for s in lengths(mine, real, facts=FACTS) if s.name == "length_distance"]
    mine, real = encode(repeated, drawn(9, 15))
    wanted = distinct(mine, facts=FACTS) + ms_jaccard(mine, real, facts=FACTS) + lengths(mine, real, facts=FACTS)
    assert len(names) == 14
    assert dict(zip(names, figures.values(), strict=True)) == pytest.approx(
        {s.name: s.value for s in wanted if s.name in names}, abs=1e-12
    )


# --- MS-Jaccard


def plain_ms_jaccard(a, b, order):
    product = 1.0
    for n in range(1, order + 1):
        one, two = (Counter(g for s in text for g in ngrams(s, n)) for text in (a, b))
        pairs = [(one[g] / len(a), two[g] / len(b)) for g in one.keys() | two.keys()]
        product *= sum(map(min, pairs)) / (sum(map(max, pairs)) or 1)
    return product ** (1 / order)


def test_ms_jaccard_by_hand():
    """Samples a b, a b (per sentence a 1, b 1, ab 1); real a b, a c, b, a (a 3/4, b 1/2, c 1/4, ab 1/4, ac 1/4).

    Tokens: (3/4 + 1/2) / (1 + 1 + 1/4) = 5/9. Pairs: (1/4) / (1 + 1/4) = 1/5. N = 2: root of 1/9.
    """
    mine, real = encode(words("a b", "a b"), words("a b", "a c", "b", "a"))
    found = values(ms_jaccard(mine, real, (1, 2, 3), facts=FACTS))
    assert found == pytest.approx({"ms_jaccard1": 5 / 9, "ms_jaccard2": 1 / 3, "ms_jaccard3": 0.0}, abs=1e-12)


def test_ms_jaccard_of_the_same_text_is_one_whatever_the_number_of_copies():
    text = words("a b c a b", "c c a b a", "b")
    mine, real = encode(text, [*text, *text])
    assert list(values(ms_jaccard(mine, real, facts=FACTS)).values()) == pytest.approx([1.0] * 4, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(a=SEQUENCES, b=SEQUENCES)
def test_ms_jaccard_is_what_counters_say(a, b):
    mine, real = encode(a, b)
    with few_resamples():
        found = values(ms_jaccard(mine, real, facts=FACTS))
    assert found == pytest.approx({f"ms_jaccard{n}": plain_ms_jaccard(a, b, n) for n in (2, 3, 4, 5)}, abs=1e-12)


# --- novelty


def plain_longest(sequence, training):
    for n in range(len(sequence), 0, -1):
        if set(ngrams(sequence, n)) & {g for t in training for g in ngrams(t, n)}:
            return n
    return 0


def near(a, b):
    one, two = (set(ngrams(s, 2 if len(s) > 1 else 1)) for s in (a, b))
    return a == b or (bool(one & two) and Fraction(len(one & two), len(one | two)) >= Fraction(4, 5))


def test_novelty_by_hand():
    """A copy; four of eight 2-grams shared; none; four of five (0.8 counts); three of five."""
    training = words("a b c d e f g", "p q r s t", "m n o p q")
    samples = words("a b c d e f g", "a b c d e x y", "u v", "p q r s t u", "p q r s u")
    mine, real = encode(samples, training)
    assert novelty.copies(mine, real).tolist() == [True, False, False, False, False]
    assert novelty.longest_shared(mine, real).tolist() == [7, 5, 0, 5, 4]
    assert novelty.near_duplicates(mine, real).tolist() == [True, False, False, True, False]
    found = by_name(novelty.novelty(mine, real, facts=FACTS))
    assert {name: s.value for name, s in found.items()} == pytest.approx(
        {"copies": 1 / 5, "near_duplicates": 2 / 5, "longest_shared": 21 / 5, "longest_shared_max": 7}, abs=1e-12
    )
    assert found["longest_shared_max"].interval is None
    assert {found[n].unit for n in ("longest_shared", "longest_shared_max")} == {"tokens"}
    assert found["copies"].interval == bootstrap.of_mean(np.array([1, 0, 0, 0, 0]), 1)[1:]


def test_short_sequences_are_near_duplicates_of_their_like_alone():
    mine, real = encode(words("a", "", "a b", "b", "a a"), words("a", "a b c"))
    assert novelty.near_duplicates(mine, real).tolist() == [True, False, False, False, False]
    mine, real = encode(words("", "b"), words("", "a"))
    assert novelty.near_duplicates(mine, real).tolist() == [True, False]


@settings(max_examples=60, deadline=None)
@given(samples=SEQUENCES, training=SEQUENCES)
def test_novelty_is_what_plain_comparison_says(samples, training):
    mine, real = encode(samples, training)
    assert novelty.copies(mine, real).tolist() == [s in training for s in samples]
    assert novelty.longest_shared(mine, real).tolist() == [plain_longest(s, training) for s in samples]
    assert novelty.near_duplicates(mine, real).tolist() == [any(near(s, t) for t in training) for s in samples]


@pytest.mark.parametrize("vocabulary", [2, 400])
@pytest.mark.parametrize("chunk", [30, 2_000_000])
def test_near_duplicates_of_garbled_sequences_are_all_found(monkeypatch, vocabulary, chunk):
    """30 tokens with 0..4 replaced, similarities about 0.8. Vocabulary 400 goes by prefixes, 2 by counting all."""
    monkeypatch.setattr(novelty, "CHUNK", chunk)
    rng = np.random.default_rng(vocabulary)
    training = rng.integers(vocabulary, size=(40, 30))
    if vocabulary == 400:
        training[:, :15] = training[0, :15]  # one opening for all: costly to count, and prefixes do not see it
    samples = np.repeat(training, 2, axis=0)
    for i, row in enumerate(samples):
        row[rng.integers(30, size=i % 5)] = rng.integers(vocabulary, size=i % 5)
    many, full = np.array([len(samples), len(training)]), 30
    mine, real = (Texts.from_ids(ids, np.full(n, full)) for ids, n in zip((samples, training), many, strict=True))
    wanted = [any(near(s, t) for t in training.tolist()) for s in samples.tolist()]
    chunks, meet = [], novelty._meetings
    monkeypatch.setattr(novelty, "_meetings", lambda a, b, size: chunks.append(size) or meet(a, b, size))
    assert novelty.near_duplicates(mine, real).tolist() == wanted
    assert (chunks[0] < chunk) == (vocabulary == 400)  # with pairs to look at anew, fewer are held
    assert sum(wanted) >= 16 if vocabulary == 2 else 16 < sum(wanted) < 76


# --- lengths


def test_lengths_by_hand_and_against_scipy():
    mine, real = encode(words("a", "a b c", ""), words("a b", "a b c d e f"))
    found = by_name(lengths(mine, real, facts=FACTS))
    assert found["length"].value == pytest.approx(4 / 3, abs=1e-12)
    assert found["length_references"].value == pytest.approx(4.0, abs=1e-12)
    assert found["length_distance"].value == pytest.approx(8 / 3, abs=1e-12)  # all of the samples' are shorter
    assert {s.unit for s in found.values()} == {"tokens"}
    for seed in range(5):
        a, b = encode(drawn(seed, 30), drawn(seed + 50, 45, longest=14))
        wanted = wasserstein_distance(a.lengths, b.lengths)
        assert values(lengths(a, b, facts=FACTS))["length_distance"] == pytest.approx(wanted, abs=1e-12)


# --- what all of them have in common


def everything(samples, real_text):
    mine, real = encode(samples, real_text)
    references = References(real)
    return [
        *bleu(mine, references, facts=FACTS),
        *reverse_bleu(mine, references, facts=FACTS),
        *bleu_f1(mine, references, facts=FACTS, resamples=20),
        *distinct(mine, facts=FACTS),
        *ms_jaccard(mine, real, facts=FACTS),
        *novelty.novelty(mine, real, facts=FACTS),
        *lengths(mine, real, facts=FACTS),
    ]


@settings(max_examples=25, deadline=None)
@given(samples=SEQUENCES, real_text=SEQUENCES, seed=st.integers(0, 2**31))
def test_neither_the_order_of_sequences_nor_the_names_of_tokens_matter(samples, real_text, seed):
    with few_resamples():
        assert_only_content_matters(samples, real_text, seed)


def assert_only_content_matters(samples, real_text, seed):
    wanted = everything(samples, real_text)
    rng = np.random.default_rng(seed)
    shuffled = everything(*([text[i] for i in rng.permutation(len(text))] for text in (samples, real_text)))
    assert values(shuffled) == pytest.approx(values(wanted), abs=1e-12)
    assert [s.signature for s in shuffled] == [s.signature for s in wanted]
    names = {"a": "zebra", "b": "a", "c": "b"}
    renamed = everything(*([[names[t] for t in s] for s in text] for text in (samples, real_text)))
    assert values(renamed) == pytest.approx(values(wanted), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(text=SEQUENCES, other=SEQUENCES, padding=st.integers(-5, 9), extra=st.integers(0, 3))
def test_what_stands_past_the_lengths_does_not_matter(text, other, padding, extra):
    mine, real = encode(text, other)
    padded = []
    for texts in (mine, real):
        ids = np.full((len(texts), texts.lengths.max() + extra), padding)
        for i, (a, n) in enumerate(zip(texts.offsets, texts.lengths, strict=False)):
            ids[i, :n] = texts.ids[a : a + n]
        padded.append(Texts.from_ids(ids, texts.lengths))
    np.testing.assert_array_equal(padded[0].ids, mine.ids)
    wanted, found = sentence_scores(mine, References(real)), sentence_scores(padded[0], References(padded[1]))
    for n in wanted:
        np.testing.assert_array_equal(found[n], wanted[n])


def test_large_ids_and_many_orders_do_not_overflow():
    """Ids of 62 bits and n = 12: keys of n-grams are pairs of dense numbers, so nothing wraps around."""
    rng = np.random.default_rng(3)
    big = rng.integers(2**62, size=50)
    ids = big[rng.integers(50, size=(30, 40))]
    ids[15:, :20] = ids[:15, 7:27]
    texts = Texts.from_ids(ids, np.full(30, 40))
    for grams in all_grams(texts, 12):
        counts = Counter(g for row in ids.tolist() for g in ngrams(row, grams.order))
        assert sorted(Counter(grams.number.tolist()).values()) == sorted(counts.values())
    assert sentence_scores(texts, References(texts, 12), (12,))[12] == pytest.approx(np.ones(30), abs=1e-12)


def test_equal_ngrams_have_equal_numbers_and_counts_are_per_sequence():
    (texts,) = encode(words("a b a", "", "b a"))
    first = unigrams(texts)
    assert first.number.tolist() == [0, 1, 0, 1, 0]
    owner, number, count = first.counts(texts)
    assert list(zip(owner, number, count, strict=True)) == [(0, 0, 2), (0, 1, 1), (2, 0, 1), (2, 1, 1)]


def test_signatures_say_what_was_measured():
    mine, real = encode(words("a b c", "b"), words("a b", "c a b", "c"))
    with few_resamples():
        scores = everything(words("a b c", "b"), words("a b", "c a b", "c"))
    found = {s.name: s.signature for s in scores}
    v, refset = f"v:{seqforge.__version__}", f"refset:{real.digest()}"
    assert found["bleu4"] == f"bleu4|tok:word|n:2|refs:3|{refset}|smooth:method1|seed:1|{v}"
    assert found["reverse_bleu4"] == f"reverse-bleu4|tok:word|n:3|refs:2|{refset}|smooth:method1|seed:1|{v}"
    assert found["bleu_f1_4"] == f"bleu-f1-4|tok:word|n:2|refs:3|{refset}|smooth:method1|seed:1|{v}"
    assert found["distinct2"] == f"distinct2|tok:word|n:2|seed:1|{v}"
    assert found["ms_jaccard3"] == f"ms-jaccard3|tok:word|n:2|refs:3|{refset}|seed:1|{v}"
    assert found["copies"] == f"copies|tok:word|n:2|refs:3|{refset}|seed:1|{v}"
    assert found["near_duplicates"] == f"near-duplicates|tok:word|n:2|refs:3|{refset}|near:jaccard2>=0.8|seed:1|{v}"
    assert found["length_distance"] == f"length-distance|tok:word|n:2|refs:3|{refset}|seed:1|{v}"
    score = bleu(mine, References(real), (2,), "none", facts={}, temperature=0.7, seed=3)[0]
    assert score.signature == f"bleu2|n:2|refs:3|{refset}|smooth:none|seed:3|{v}"
    assert score.temperature == 0.7
    assert len(set(found.values())) == len(scores)


def test_the_digest_is_of_the_text_not_of_its_numbers():
    """Encoded beside other samples the same references get other ids, and must keep their digest."""
    text = words("a b", "c", "")
    alone, (_, beside) = encode(text)[0], encode(words("c b a"), text)
    assert alone.ids.tolist() != beside.ids.tolist()
    assert alone.digest() == beside.digest() == encode(text[::-1])[0].digest()
    others = [words("a b", "c"), words("a", "b c", ""), words("b a", "c", ""), [["a b"], ["c"], []]]
    assert len({encode(t)[0].digest() for t in [text, *others]}) == 5
    ids = Texts.from_ids(np.array([[7, 8], [9, 0], [0, 0]]), np.array([2, 1, 0]))
    assert ids.digest() == encode(words("7 8", "9", ""))[0].digest()


def test_bad_input_is_told():
    mine, real, none = encode(words("a b"), words("a"), [])
    with pytest.raises(ValueError, match="no reference sequences"):
        References(none)
    with pytest.raises(ValueError, match="at least one hypothesis"):
        bleu(none, References(real), facts=FACTS)
    with pytest.raises(ValueError, match="order 5, but the references are indexed up to 3"):
        sentence_scores(mine, References(real, 3))
    with pytest.raises(ValueError, match="smoothing 'method7'"):
        sentence_scores(mine, References(real), (2,), "method7")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"orders \(0, 2\)"):
        sentence_scores(mine, References(real), (0, 2))
    with pytest.raises(ValueError, match=r"encode both in one call"):
        sentence_scores(encode(words("a"))[0], References(real))
    with pytest.raises(ValueError, match="0 samples and 1 references"):
        ms_jaccard(none, real, facts=FACTS)
    with pytest.raises(ValueError, match=r"orders \(0,\)"):
        ms_jaccard(mine, real, (0,), facts=FACTS)
    with pytest.raises(ValueError, match="0 training sequences"):
        novelty.novelty(mine, none, facts=FACTS)
    with pytest.raises(ValueError, match="no samples"):
        distinct(none, facts=FACTS)
    with pytest.raises(ValueError, match="0 references"):
        lengths(mine, none, facts=FACTS)
    with pytest.raises(ValueError, match=r"'seed' is 4 of the caller's and 1 here"):
        bleu(mine, References(real), facts={"seed": 4})
    with pytest.raises(ValueError, match=r"lengths 0\.\.4"):
        Texts.from_ids(np.zeros((2, 3), int), np.array([0, 4]))
    with pytest.raises(ValueError, match=r"\(2, 3\) with lengths of \(1,\)"):
        Texts.from_ids(np.zeros((2, 3), int), np.array([3]))
    assert scored("a_b", 1, None, "", None, {"n": 2}, n=2).signature == f"a-b|n:2|v:{seqforge.__version__}"
