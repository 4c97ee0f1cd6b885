"""FED, MAUVE and EmbSim: by hand, against scipy, scikit-learn and torch, and against brute force written out."""

import sys
from collections import Counter
from itertools import pairwise, permutations
from math import exp, log, log10, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import auc

from seqforge.metrics import embsim as words
from seqforge.metrics.embedders import embedder, fit_idf, sentence_transformer, tfidf, tfidf_rows
from seqforge.metrics.embsim import embsim, embsim_of_tables
from seqforge.metrics.frechet import fed, frechet_distance, moments
from seqforge.metrics.mauve import kmeans, mauve, mauve_of_histograms, spread_centres, unit_components


def texts(n, seed, vocabulary=40, length=8):
    """Sentences whose words follow a Zipf-like law."""
    rng = np.random.default_rng(seed)
    drawn = (vocabulary ** rng.random((n, length))).astype(int)
    return [[f"w{word}" for word in row] for row in drawn]


def covariance(dims, seed, rank=None):
    half = np.random.default_rng(seed).standard_normal((dims, rank or 3 * dims))
    return half @ half.T / half.shape[1]


# embedders


def test_tfidf_by_hand():
    """Of two references `a` is in both: idf ln(3/3) + 1 = 1; `b` in one: ln(3/2) + 1; `a a b` counts a twice."""
    references = [["a", "b"], ["a", "c"]]
    columns, idf = fit_idf(references, (1,))
    assert columns == {("a",): 0, ("b",): 1, ("c",): 2}
    assert idf == pytest.approx([1, log(1.5) + 1, log(1.5) + 1], abs=1e-15)
    b = log(1.5) + 1
    rows = tfidf_rows([["a", "a", "b"], ["z"]], columns, idf, (1,)).toarray()
    assert rows[0] == pytest.approx([2 / sqrt(4 + b * b), b / sqrt(4 + b * b), 0], abs=1e-15)
    assert rows[1] == pytest.approx([0, 0, 0], abs=0)


@pytest.mark.parametrize("orders", [(1,), (1, 2), (2, 3)])
def test_tfidf_is_scikit_learns(orders):
    references, others = texts(60, 1), texts(30, 2, vocabulary=60)
    theirs = TfidfVectorizer(
        tokenizer=str.split, token_pattern=None, lowercase=False, ngram_range=(orders[0], orders[-1])
    )
    theirs.fit([" ".join(text) for text in references])
    columns, idf = fit_idf(references, orders)
    assert {" ".join(gram) for gram in columns} == set(theirs.vocabulary_)
    order = [theirs.vocabulary_[" ".join(gram)] for gram in columns]
    expected = theirs.transform([" ".join(text) for text in others]).toarray()[:, order]
    assert tfidf_rows(others, columns, idf, orders).toarray() == pytest.approx(expected, abs=1e-9)


def test_only_the_most_frequent_ngrams_are_kept_ties_alphabetical():
    columns, _ = fit_idf(["c c c b a", "d b"], (1,), limit=3)
    assert list(columns) == [("c",), ("b",), ("a",)]


@pytest.mark.parametrize("n", [50, 600])  # the whole decomposition, and the iteration
def test_the_reduction_is_the_truncated_svd_with_the_largest_entry_positive(n):
    references = texts(n, 3)
    columns, idf = fit_idf(references, (1, 2))
    rows = tfidf_rows(references, columns, idf, (1, 2)).toarray()
    right = np.linalg.svd(rows, full_matrices=False)[2][:5].T
    right *= np.sign(right[np.abs(right).argmax(0), np.arange(5)])
    found = tfidf(references, dims=5)
    assert found(references) == pytest.approx(rows @ right, abs=1e-9)
    assert min(rows.shape) > 512 or n == 50
    assert found.name == f"tfidf,orders=1+2,dims=5,fit={n},seed=0"


def test_directions_that_the_references_do_not_have_are_left_out():
    """Three different sentences span three dimensions; a fourth direction would be noise."""
    references = [["a", "b"], ["c", "d"], ["e", "f", "a"]] * 20
    found = tfidf(references, dims=10)
    assert found(references).shape == (60, 3)
    assert np.array_equal(found(texts(5, 1)), np.zeros((5, 3)))
    assert np.array_equal(tfidf(references, dims=10)(references), found(references))


def test_strings_and_token_lists_are_the_same_texts():
    references = ["a b c", "a c", "b d"]
    split = [text.split() for text in references]
    assert np.array_equal(tfidf(references)(references), tfidf(split)(split))


def test_sentence_transformers_is_asked_for_text(monkeypatch):
    asked = []

    class Encoder:
        def __init__(self, model):
            self.model = model

        def encode(self, sentences, show_progress_bar):
            asked.append((self.model, sentences))
            return np.ones((len(sentences), 4), dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    found = embedder("st:small", [])
    features = found([["a", "cat"], "a dog"])
    assert asked == [("small", ["a cat", "a dog"])]
    assert (found.name, features.shape, features.dtype) == ("st:small", (2, 4), np.float64)


def test_bad_embedders_say_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'seqforge\[embeddings\]'"):
        sentence_transformer("small")
    for spec in ("bert", "st:", ""):
        with pytest.raises(ValueError, match="pass tfidf, or st:MODEL"):
            embedder(spec, [])
    for references in ([], ["a b"], ["a", "a"]):
        with pytest.raises(ValueError, match="give more references"):
            embedder("tfidf", references)
    assert embedder("tfidf", ["a b", "a c"]).name == "tfidf,orders=1+2,dims=2,fit=2,seed=0"


# FED


def test_frechet_distance_by_hand():
    """Diagonal covariances: 3^2 + 4^2 + (2-1)^2 + (5-3)^2."""
    found = frechet_distance(np.array([3.0, 0]), np.diag([4.0, 25]), np.array([0, 4.0]), np.diag([1.0, 9]))
    assert found == pytest.approx(9 + 16 + 1 + 4, rel=1e-14)


@pytest.mark.parametrize("dims", [1, 7, 40])
def test_frechet_distance_is_that_of_scipys_sqrtm(dims):
    one, two = covariance(dims, 1), 2 * covariance(dims, 2)
    shift = np.linspace(0, 1, dims)
    expected = shift @ shift + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet_distance(shift, one, np.zeros(dims), two) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ranks", [(5, 40), (5, 7), (1, 1), (30, 30)])
def test_singular_covariances_as_by_scipys_sqrtm(ranks):
    """Tr (C1 C2)^(1/2) = Tr (R C2 R)^(1/2) with R = C1^(1/2), and by ranks too low for a stable root of the product."""
    one, two = covariance(40, 1, ranks[0]), covariance(40, 2, ranks[1])
    value, vector = np.linalg.eigh(one)
    root = vector * np.sqrt(np.where(value > 1e-12, value, 0)) @ vector.T
    symmetric = root @ two @ root + 1e-20 * np.eye(40)
    expected = np.trace(one + two) - 2 * np.real(np.trace(sqrtm(symmetric)))
    zero = np.zeros(40)
    assert frechet_distance(zero, one, zero, two) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(zero, one, zero, one) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(zero, two, zero, one) == pytest.approx(frechet_distance(zero, one, zero, two), rel=1e-12)


def test_weights_count_rows_as_often():
    features = np.random.default_rng(1).standard_normal((6, 3)) + 100
    repeated = features[[0, 0, 0, 2, 4, 4]]
    mean, cov = moments(features, np.array([3, 0, 1, 0, 2, 0]))
    assert mean == pytest.approx(repeated.mean(0), rel=1e-13)
    assert cov == pytest.approx(np.cov(repeated.T), rel=1e-11)


def test_fed_is_of_equally_many_rows_and_says_so():
    one, two = np.random.default_rng(1).standard_normal((2, 30, 4))
    (score,) = fed(one, two[:20], embedder="E", facts={"tok": "word"}, temperature=0.5, seed=7)
    root = sqrtm(np.cov(one[:20].T) @ np.cov(two[:20].T))
    shift = one[:20].mean(0) - two[:20].mean(0)
    expected = shift @ shift + np.trace(np.cov(one[:20].T) + np.cov(two[:20].T) - 2 * np.real(root))
    assert score.value == pytest.approx(expected, rel=1e-9)
    assert score.signature.startswith("fed|tok:word|n:20|refs:20|embed:E|seed:7|v:")
    assert (score.name, score.unit, score.temperature) == ("fed", "squared distance", 0.5)
    assert [score] == fed(one, two[:20], embedder="E", facts={"tok": "word"}, temperature=0.5, seed=7)


def test_the_error_of_fed_is_that_of_both_sides():
    """Unit normals 3 apart: FED is 9 + small, its error 2 * 3 * sqrt(1/400 + 1/400) = .424 by the delta method."""
    rng = np.random.default_rng(2)
    (score,) = fed(rng.normal(3, 1, (400, 1)), rng.normal(0, 1, (400, 1)), embedder="E", facts={}, resamples=600)
    assert score.stderr == pytest.approx(6 * sqrt(2 / 400), rel=0.12)
    low, high = score.interval
    assert low < score.value < high
    assert high - low == pytest.approx(2 * 1.96 * score.stderr, rel=0.1)


def test_fed_of_a_set_and_itself_is_nought_and_its_interval_not_below():
    one = np.random.default_rng(1).standard_normal((50, 80))  # fewer rows than dimensions
    (score,) = fed(one, one, embedder="E", facts={}, resamples=20)
    assert score.value == pytest.approx(0, abs=1e-10)
    assert score.interval[0] >= 0


# MAUVE


def area_written_out(p, q, scaling=5.0, points=25):
    """The definition with plain loops: rightmost point of the curve first."""
    curve = [(1.0, 0.0)]
    for i in range(points):
        w = 1e-6 + (1 - 2e-6) * i / (points - 1)
        mixed = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
        x = sum(b * log(b / r) for b, r in zip(q, mixed, strict=True) if b)
        y = sum(a * log(a / r) for a, r in zip(p, mixed, strict=True) if a)
        curve.append((exp(-scaling * x), exp(-scaling * y)))
    curve.append((0.0, 1.0))
    return sum((x0 - x1) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(curve))


def test_equal_histograms_are_one_whatever_their_counts():
    assert mauve_of_histograms(np.array([3, 1, 0]), np.array([6, 2, 0])) == pytest.approx(1, rel=1e-12)


def test_disjoint_histograms_by_hand():
    """r = (w, 1-w): the curve is ((1-w)^5, w^5), its area in the limit 5 B(6,5) = 1/252.

    The trapezoids of 25 points give 336177991/82556485632 for weights from 0 to 1, in fractions.
    """
    w = [1e-6 + (1 - 2e-6) * i / 24 for i in range(25)]
    x, y = [1, *((1 - v) ** 5 for v in w), 0], [0, *(v**5 for v in w), 1]
    by_hand = sum((x[i] - x[i + 1]) * (y[i] + y[i + 1]) / 2 for i in range(26))
    found = mauve_of_histograms(np.array([1, 0]), np.array([0, 1]))
    assert found == pytest.approx(by_hand, rel=1e-9)
    assert found == pytest.approx(336177991 / 82556485632, rel=1e-6)
    assert mauve_of_histograms(np.array([1, 0]), np.array([0, 1]), points=4001) == pytest.approx(1 / 252, rel=1e-4)


def test_two_buckets_and_three_points_by_hand():
    """p = (3/4, 1/4), q = (1/4, 3/4), c = 1: at w = 1/2 r = (1/2, 1/2) and both KL are 3/4 ln(3/2) + 1/4 ln(1/2).

    The ends are x = 1, y = exp(-KL(p|q)) = exp(-ln(3)/2) = 1/sqrt(3), and mirrored (up to the 1e-6 of the weights).
    """
    p, q = np.array([3, 1]), np.array([1, 3])
    m, e = exp(-(0.75 * log(1.5) + 0.25 * log(0.5))), 1 / sqrt(3)  # (1,0), (1,e), (m,m), (e,1), (0,1)
    area = (1 - m) * (e + m) / 2 + (m - e) * (m + 1) / 2 + e
    assert mauve_of_histograms(p, q, scaling=1, points=3) == pytest.approx(area, rel=1e-5)
    assert mauve_of_histograms(p, q) == pytest.approx(area_written_out([0.75, 0.25], [0.25, 0.75]), rel=1e-9)


histograms = st.integers(2, 6).flatmap(lambda k: st.tuples(*[st.lists(st.integers(0, 9), min_size=k, max_size=k)] * 2))


@settings(max_examples=60, deadline=None)
@given(histograms.filter(lambda both: sum(both[0]) and sum(both[1])))
def test_area_against_plain_loops_and_by_symmetry(both):
    p, q = (np.array(x) / sum(x) for x in both)
    found = mauve_of_histograms(p, q)
    assert found == pytest.approx(area_written_out(p, q), rel=1e-9)
    assert found == pytest.approx(mauve_of_histograms(q, p), rel=1e-9)
    assert 0 < found <= 1 + 1e-12


def test_area_is_scikit_learns_auc_of_the_curve_both_ways():
    p, q = np.array([5, 3, 0, 2]) / 10, np.array([1, 4, 5, 0]) / 10
    w = np.linspace(1e-6, 1 - 1e-6, 25)[:, None]
    mixed = w * p + (1 - w) * q
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (np.exp(-5 * np.where(a > 0, a * np.log(a / mixed), 0).sum(1)) for a in (q, p))
    x, y = np.r_[1, x, 0], np.r_[0, y, 1]
    assert mauve_of_histograms(p, q) == pytest.approx((auc(x, y) + auc(y, x)) / 2, rel=1e-9)


def test_bad_histograms_are_refused():
    for p, q in (([1, 1], [1, 1, 1]), ([1, -1], [1, 1]), ([0, 0], [1, 1])):
        with pytest.raises(ValueError, match="two histograms"):
            mauve_of_histograms(np.array(p), np.array(q))


def test_components_are_scikit_learns_of_rows_of_unit_length():
    features = np.random.default_rng(1).standard_normal((80, 12)) * np.linspace(0.2, 3, 12)
    expected = PCA(0.9).fit_transform(features / np.linalg.norm(features, axis=1, keepdims=True))
    found = unit_components(features, 0.9)
    assert found.shape == expected.shape
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-5)
    assert np.isfinite(unit_components(np.zeros((4, 3)))).all()


def test_centres_have_the_probabilities_of_kmeans_plus_plus():
    """Four points on a line, three centres: every ordered choice's probability by the definition, one after another."""
    line = [0.0, 1.0, 3.0, 7.0]
    probability = Counter()
    for chosen in permutations(range(4), 3):
        p = 1 / 4
        for k in (1, 2):
            near = [min((x - line[c]) ** 2 for c in chosen[:k]) for x in line]
            p *= near[chosen[k]] / sum(near)
        probability[tuple(line[c] for c in chosen)] = p
    points, rng, n = np.array(line, dtype=np.float32)[:, None], np.random.default_rng(3), 3000
    found = Counter(tuple(spread_centres(points, 3, rng, block=8)[:, 0].tolist()) for _ in range(n))
    assert sum(probability.values()) == pytest.approx(1)
    for chosen, p in probability.items():
        assert found[chosen] / n == pytest.approx(p, abs=4 * sqrt(p * (1 - p) / n) + 1e-9)


def test_clusters_are_the_blobs_and_no_more_than_there_are_points():
    blobs = np.repeat(np.eye(5), 30, axis=0) + np.random.default_rng(1).normal(0, 0.01, (150, 5))
    labels = kmeans(blobs.astype(np.float32), 5, seed=1).reshape(5, 30)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 5
    copies = np.repeat(np.eye(5, dtype=np.float32)[:3], 40, axis=0)
    assert len(set(kmeans(copies, 12, seed=1))) == 3


def test_labels_are_those_of_the_nearest_mean():
    """What Lloyd's algorithm ends in: every point is nearest to the mean of its own cluster."""
    points = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32)
    labels = kmeans(points, 10, seed=1, redo=2)
    means = np.stack([points[labels == k].mean(0) for k in range(labels.max() + 1)])
    assert np.array_equal(((points[:, None] - means) ** 2).sum(2).argmin(1), labels)


def test_more_runs_of_kmeans_are_never_worse():
    points = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32)
    spread = []
    for redo in (1, 2, 3, 8):
        labels = kmeans(points, 20, seed=1, redo=redo)
        spread.append(sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in range(20)))
    assert spread[0] > spread[-1] + 0.1
    assert all(a >= b - 1e-3 for a, b in pairwise(spread))


def mixture(n, first, seed):
    """`first` texts in one direction and n - first in another, of any length, slightly blurred."""
    rng = np.random.default_rng(seed)
    direction = np.repeat([[1.0, 0, 0], [0, 1.0, 0]], [first, n - first], axis=0)
    return (direction + rng.normal(0, 0.01, (n, 3))) * rng.uniform(1, 9, (n, 1))


def test_mauve_of_two_directions_is_that_of_their_counts():
    """20 texts a side make 2 clusters; lengths of the features do not matter."""
    (score,) = mauve(
        mixture(20, 15, 1), mixture(20, 5, 2), embedder="E", facts={"tok": "word"}, temperature=1.0, seed=3
    )
    assert score.value == pytest.approx(area_written_out([0.75, 0.25], [0.25, 0.75]), rel=1e-9)
    head = "mauve|tok:word|n:20|refs:20|embed:E|buckets:2|pca:0.9|kmeans:5x500|c:5.0|points:25|seed:3|v:"
    assert score.signature.startswith(head)
    assert (score.name, score.unit, score.temperature) == ("mauve", "", 1.0)
    low, high = score.interval
    assert 0 <= low < score.value < high <= 1


def test_the_error_of_mauve_is_that_of_counts_drawn_on_both_sides(monkeypatch):
    monkeypatch.setattr("seqforge.metrics.mauve.round", lambda _: 2, raising=False)  # 2 clusters for 300 texts too
    (score,) = mauve(mixture(300, 180, 1), mixture(300, 120, 2), embedder="E", facts={}, resamples=1000)
    rng = np.random.default_rng(1)
    drawn = [(rng.binomial(300, 0.6), rng.binomial(300, 0.4)) for _ in range(2000)]
    brute = [mauve_of_histograms(np.array([a, 300 - a]), np.array([b, 300 - b])) for a, b in drawn]
    assert score.stderr == pytest.approx(np.std(brute), rel=0.1)
    assert score.interval[1] - score.interval[0] == pytest.approx(np.ptp(np.percentile(brute, [2.5, 97.5])), rel=0.1)


def test_mauve_of_a_set_and_itself_is_one():
    features = tfidf(texts(300, 1))(texts(300, 1))
    (score,) = mauve(features, features, embedder="E", facts={})
    assert score.value == pytest.approx(1, rel=1e-12)
    assert score.interval[1] <= 1


# EmbSim


def test_embsim_of_tables_by_hand():
    """Rows of similarities (1,0), (0,1) and (1,1/sqrt 2), (1/sqrt 2,1): both cosines are 1/sqrt(1.5)."""
    real, generated = np.array([[2.0, 0], [0, 3]]), np.array([[1.0, 0], [1, 1]])
    assert embsim_of_tables(real, generated, np.array([0, 1])) == pytest.approx(log10(1 / sqrt(1.5)), rel=1e-12)
    three = np.array([[1.0, 0], [0, 1], [1, 0]])  # rows of words 0 and 2 against the first table's: (1,0,1) both
    other = np.array([[1.0, 0], [1, 0], [0, 1]])  # (1,1,0) and (0,0,1): cosines 1/2 and 1/sqrt 2
    found = embsim_of_tables(three, other, np.array([0, 2]))
    assert found == pytest.approx(log10((0.5 + 1 / sqrt(2)) / 2), rel=1e-12)
    assert embsim_of_tables(three, 5 * three, np.arange(3)) == pytest.approx(0, abs=1e-12)


def test_a_mean_cosine_below_nought_says_the_remedy():
    """Word 0's rows are (1,-1,-1) and (1,1,1): cosine -1/3."""
    real, generated = np.array([[1.0, 0], [-1, 0], [-1, 0]]), np.array([[1.0, 0]] * 3)
    with pytest.raises(ValueError, match=r"mean cosine, which is -0\.333 here; draw more samples"):
        embsim_of_tables(real, generated, np.array([0]))
    with pytest.raises(ValueError, match="draw more samples"):
        embsim_of_tables(real[:2], generated[:2], np.array([0]))  # (1,-1) and (1,1): 0


def test_words_and_their_neighbours_by_hand():
    ids, known = words.vocabulary_of([["b", "a", "b"], ["c"]], [["a", "z", "b"]])
    assert (ids, known) == ({"b": 0, "a": 1, "c": 2, "z": 3}, 3)
    pairs = words.neighbours([["b", "a", "z"], ["c"], ["c", "b"]], ids)
    assert sorted(map(tuple, pairs.tolist())) == sorted([(0, 1), (1, 0), (1, 3), (3, 1), (2, 0), (0, 2)])


def test_negatives_are_log_uniform():
    probability = words.log_uniform(50)
    assert probability.sum() == pytest.approx(1, rel=1e-12)
    assert probability[2] == pytest.approx(log(4 / 3) / log(51), rel=1e-12)
    drawn = np.bincount(words.draw((np.arange(100_000) + 0.5) / 100_000, 50), minlength=50)
    assert drawn / 100_000 == pytest.approx(probability, abs=3e-5)


def test_gradients_are_those_of_torch():
    """Cross-entropy over (label, negatives), logits less log expected counts; word 2 is negative and label at once."""
    rng = np.random.default_rng(1)
    inner, outer = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    expected = rng.standard_normal(6)
    word, label, negative = np.array([0, 5, 0]), np.array([2, 1, 4]), np.array([2, 3, 3, 0])
    table, weight = (torch.tensor(x, requires_grad=True) for x in (inner, outer))
    logits = torch.cat([table, torch.ones(6, 1)], 1)[word] @ weight.T - torch.tensor(expected)  # (B,V)
    wrong = logits[:, negative].masked_fill(torch.tensor(label[:, None] == negative), -torch.inf)
    chosen = torch.cat([logits.gather(1, torch.tensor(label)[:, None]), wrong], 1)
    torch.nn.functional.cross_entropy(chosen, torch.zeros(3, dtype=torch.long)).backward()
    to_inner, to_outer, rows = words.gradients(inner, outer, expected, word, label, negative)
    assert rows.tolist() == [2, 1, 4, 2, 3, 3, 0]
    for found, at, truth in ((to_inner, word, table.grad), (to_outer, rows, weight.grad)):
        total = np.zeros((6, found.shape[1]))
        np.add.at(total, at, found)
        assert total == pytest.approx(truth.numpy(), abs=1e-6)


def test_adagrad_adds_up_a_row_that_comes_twice():
    """Row 1 has 1 + 2 = 3: squares .1 + 9, step 3 / sqrt(9.1) times the rate; row 0 is left alone."""
    table, squares = np.zeros((3, 1)), np.full((3, 1), 0.1)
    words.adagrad(table, squares, np.array([1, 2, 1]), np.array([[1.0], [4], [2]]), 0.5)
    assert table[:, 0] == pytest.approx([0, -0.5 * 3 / sqrt(9.1), -0.5 * 4 / sqrt(16.1)])
    assert squares[:, 0] == pytest.approx([0.1, 9.1, 16.1])


def test_words_of_like_company_grow_alike():
    """`cat` and `dog` stand in the same places, `sky` elsewhere."""
    rng = np.random.default_rng(1)
    lines = [
        ["the", ("cat", "dog")[i], "sits"] if i < 2 else ["blue", "sky", "shines"] for i in rng.integers(0, 3, 3000)
    ]
    ids, _ = words.vocabulary_of(lines, [])
    table = words.unit_rows(words.skip_gram(words.neighbours(lines, ids), len(ids), seed=1).astype(float))
    like, unlike = (table[ids["cat"]] @ table[ids[other]] for other in ("dog", "sky"))
    assert like > 0.6 > unlike + 0.3


def test_embsim_falls_from_equal_texts_to_like_texts_to_shuffled_ones():
    rng = np.random.default_rng(1)

    def chains(n, seed, step):
        start = np.random.default_rng(seed).integers(0, 30, n)
        return [[f"w{(s + step * k) % 30}" for k in range(6)] for s in start]

    real, like = chains(600, 1, 1), chains(600, 2, 1)
    shuffled = [[f"w{i}" for i in rng.integers(0, 30, 6)] for _ in like]
    value = [embsim(x, real, facts={})[0].value for x in (real, like, shuffled)]
    assert value[0] == pytest.approx(0, abs=1e-12)  # the same seed starts both tables
    assert 0 > value[1] > value[2] + 0.05


def test_embsim_says_what_it_is_and_takes_the_frequent_tenth():
    samples, references = texts(120, 1), texts(150, 2)
    (score,) = embsim(samples, references, facts={"tok": "word"}, temperature=1.0, seed=4)
    ids, known = words.vocabulary_of(references[:120], samples)
    tables = [words.skip_gram(words.neighbours(x, ids), len(ids), 4) for x in (references[:120], samples)]
    rows = np.arange(len(ids) // 10)
    assert (len(rows), known > len(rows)) == (3, True)
    assert score.value == pytest.approx(embsim_of_tables(*tables, rows), rel=1e-12)
    settings_told = "skipgram,dims=32+batch=64+negatives=64+passes=2+rate=1.0"
    head = f"embsim|tok:word|n:120|refs:120|embed:{settings_told}|rows:tenth|seed:4|v:"
    assert score.signature.startswith(head)
    cosines = words.row_cosines(*tables, rows)
    assert score.stderr == pytest.approx(cosines.std() / sqrt(3) / cosines.mean() / log(10), rel=0.1)
    low, high = score.interval
    assert log10(cosines.min()) - 1e-12 <= low < score.value < high <= log10(cosines.max()) + 1e-12
    assert [score] == embsim(samples, references, facts={"tok": "word"}, temperature=1.0, seed=4)
    assert score.value != embsim(samples, references, facts={}, seed=5)[0].value


# what all refuse


def test_too_few_sequences_are_refused():
    one, two = np.ones((1, 3)), np.eye(3)
    for metric in (fed, mauve):
        for pair in ((one, two), (two, one)):
            with pytest.raises(ValueError, match=r"2 sequences a side.*; draw more samples"):
                metric(*pair, embedder="E", facts={})
        with pytest.raises(ValueError, match="3 and 4 dimensions; embed both sides with one embedder"):
            metric(two, np.eye(4), embedder="E", facts={})
    with pytest.raises(ValueError, match="2 sequences a side, not 1 and 3"):
        embsim([["a", "b"]], [["a", "b"]] * 3, facts={})
    with pytest.raises(ValueError, match="sentences of 2 words or more"):
        embsim([["a"], ["b"]], [["a", "b"]] * 3, facts={})
