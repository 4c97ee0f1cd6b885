"""The verdict on planted generators whose frontiers are known exactly, and the parts that it is made of."""

import collections
import functools
import math

import numpy as np
import pytest
import torch
from planted import TEMPERATURES, apart, corpus, counterpart, exact, exact_gap, truth

from seqforge import evaluate, verdict
from seqforge.data.corpus import Split
from seqforge.evaluate import EvaluateConfig
from seqforge.frontier import mean_interval
from seqforge.metrics import draws
from seqforge.metrics.lm3 import TrigramModel, lm3_scores, trigrams
from seqforge.verdict import Judgement, judge, load_draws, over_seeds, reason, save_draws


def row(generator, world, seed, samples):
    """What `evaluate` writes of a generator, and its draws."""
    held: dict = {}
    config = EvaluateConfig(samples=samples, temperatures=TEMPERATURES, seed=seed, metrics=["length"])
    scores = [s.as_dict() for s in evaluate.sweep(generator, world, config, held)]
    return scores, held


def verdicts_of(mine, seeds, kinds, samples=2000, **data):
    """What is said of `mine` against the counterpart, each seed with samples and a test set of its own."""
    found = {kind: collections.Counter() for kind in kinds}
    for seed in seeds:
        world = corpus(seed, **data)
        (a, a_draws), (b, b_draws) = (row(g, world, seed, samples) for g in (mine, counterpart()))
        for kind in kinds:
            told = judge(kind, a, b, a_draws, b_draws)
            found[kind][told.word if told else None] += 1
    return found


EQUAL = {
    "itself, sharpened": lambda: counterpart().sharpened(1.25),
    "spoilt otherwise": functools.cache(lambda: twin()),
}


def twin():
    """Another generator, as far from the truth: its exact gap is told below to be none."""
    low, high = 0.3, 1.5
    while True:
        by = (low + high) / 2
        gap = exact_gap(truth().spoilt(by, seed=1), counterpart())
        if abs(gap) < 0.001:
            return truth().spoilt(by, seed=1)
        low, high = (low, by) if gap > 0 else (by, high)


def test_the_exact_scores_are_those_of_many_samples():
    """The reference that the planted cases rest on, against the sampler and the metrics of the package."""
    scores, _ = row(counterpart(), corpus(0, test=6000), 1, 6000)
    for t in (1.25, 0.7):
        for name, wanted in zip(("nll_test", "nll_oracle"), exact(counterpart(), t), strict=True):
            (s,) = [s for s in scores if (s["name"], s["temperature"]) == (name, t)]
            assert abs(s["value"] - wanted) < 4 * s["stderr"] < 0.1


def test_planted_gaps_are_what_they_are_called():
    assert exact_gap(apart(-0.1), counterpart()) == pytest.approx(-0.1, abs=1e-3)
    assert exact_gap(apart(0.1), counterpart()) == pytest.approx(0.1, abs=1e-3)
    for make in EQUAL.values():
        assert abs(exact_gap(make(), counterpart())) < 0.003


@pytest.mark.parametrize(("gap", "word"), [(-0.1, "beats"), (0.1, "loses to")])
def test_a_gap_of_a_tenth_of_a_nat_is_seen(gap, word):
    found = verdicts_of(apart(gap), range(3), ["oracle"])["oracle"]
    assert found[word] >= 2
    assert found[{"beats": "loses to", "loses to": "beats"}[word]] == 0


@pytest.mark.parametrize("how", EQUAL)
def test_no_gap_is_a_tie(how):
    assert verdicts_of(EQUAL[how](), range(3), ["oracle"])["oracle"]["ties with"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "word", "wrong"), [(-0.1, "beats", "loses to"), (0.1, "loses to", "beats")])
def test_a_gap_of_a_tenth_of_a_nat_is_seen_in_fifty_seeds(gap, word, wrong):
    found = verdicts_of(apart(gap), range(50), ["oracle"])["oracle"]
    assert found[word] >= 40, found
    assert found[wrong] <= 1, found


@pytest.mark.slow
@pytest.mark.parametrize("how", EQUAL)
def test_no_gap_is_a_tie_in_fifty_seeds(how):
    found = verdicts_of(EQUAL[how](), range(50), ["oracle"])["oracle"]
    assert found["ties with"] >= 45, found


@pytest.mark.slow
def test_no_gap_is_a_tie_on_text_in_fifty_seeds():
    """Where the truth is not known: trigrams and BLEU see the equal as equal too."""
    found = verdicts_of(counterpart().sharpened(1.25), range(50), ["lm", "bleu"], train=2000)
    for kind in ("lm", "bleu"):
        assert found[kind]["ties with"] >= 45, found


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "word", "wrong"), [(-0.1, "beats", "loses to"), (0.1, "loses to", "beats")])
def test_a_gap_of_a_tenth_of_a_nat_is_seen_on_text_in_fifty_seeds(gap, word, wrong):
    found = verdicts_of(apart(gap), range(50), ["lm", "bleu"], train=2000)
    assert found["lm"][word] >= 40, found
    assert max(found[kind][wrong] for kind in ("lm", "bleu")) <= 1, found


def test_text_has_frontiers_of_its_own():
    world = corpus(0, test=1000, train=1000)
    (a, a_draws), (b, b_draws) = (row(g, world, 1, 1000) for g in (truth().spoilt(1.0), counterpart()))
    found = {j.frontier: j for j in verdict.judgements(a, b, a_draws, b_draws)}
    assert list(found) == ["lm", "bleu"]
    assert (found["lm"].word, found["lm"].by, found["lm"].units) == ("loses to", "parts", draws.PARTS)
    assert found["bleu"].by == "bootstrap"
    assert found["bleu"].word != "beats"
    told = verdict.sentence(a, b, list(found.values()), "adversarial")
    assert told is not None
    assert told.startswith("The adversarial stage loses to MLE: at equal reverse LM score its LM score (trigrams) is +")
    hopeless, held = row(truth().spoilt(1.6), world, 1, 1000)
    told = verdict.sentence(hopeless, b, verdict.judgements(hopeless, b, held, b_draws), "adversarial")
    assert told is not None
    assert told.startswith("The adversarial stage loses to MLE: it is worse on both counts")


def test_a_collapse_is_named():
    world = corpus(0)
    fallen, (b, b_draws) = truth().sharpened(60.0), row(counterpart(), world, 1, 1000)
    a, a_draws = row(fallen, world, 1, 1000)
    told = verdict.sentence(a, b, verdict.judgements(a, b, a_draws, b_draws), "adversarial")
    assert told is not None
    assert "It has collapsed: at no temperature evaluated is its entropy above" in told
    assert "beats" not in told
    sharper, held = row(counterpart().sharpened(1.25), world, 1, 1000)
    told = verdict.sentence(sharper, b, verdict.judgements(sharper, b, held, b_draws), "adversarial")
    assert told is not None
    assert "collapsed" not in told


@pytest.mark.parametrize("word", ["ties with", "beats", "loses to"])
def test_a_collapse_is_named_whatever_the_area_says(word):
    """Where the two share a short stretch of diversity they may tie there, and the collapse went without a word."""

    def scores(entropy):
        values = {"nll_test": 8.0, "nll_oracle": 9.0, "entropy": entropy}
        return [{"name": k, "temperature": 1.0, "value": v, "stderr": 0.1} for k, v in values.items()]

    found = [Judgement("oracle", word, 0.0, -0.1, 0.1, 8.0, 8.1, "bootstrap", 400)]
    told = verdict.sentence(scores(0.49), scores(1.0), found, "adversarial")
    assert told is not None
    assert told.startswith(f"The adversarial stage {word} MLE")
    assert "at no temperature evaluated is its entropy above 0.490, for 1.000 before" in told
    assert "collapsed" not in str(verdict.sentence(scores(0.51), scores(1.0), found, "adversarial"))


def at_temperatures(points):
    """Scores of (NLL_test, NLL_oracle) points, the first at temperature 1, each next one colder."""
    each = [(name, 1 - k / 10, p[i]) for k, p in enumerate(points) for i, name in enumerate(("nll_test", "nll_oracle"))]
    return [{"name": n, "temperature": t, "value": v, "stderr": 0.01} for n, t, v in each]


def test_better_than_the_most_diverse_end_alone_is_no_verdict():
    """One more diverse than any temperature makes the other, and better than that is there, was "better on both counts
    at any temperature", while a cooler other was better still.
    """

    theirs = at_temperatures([(5.0, 6.0), (6.0, 4.5), (7.0, 3.5)])
    told = verdict.sentence(at_temperatures([(4.05, 5.5), (4.9, 4.9)]), theirs, [], "adversarial")
    assert str(told).startswith("No verdict: it is more diverse than any temperature evaluated makes")
    told = verdict.sentence(at_temperatures([(4.05, 5.5), (4.9, 3.4)]), theirs, [], "adversarial")
    assert str(told).startswith("The adversarial stage beats MLE: it is better on both counts")


def test_worse_than_the_coldest_end_alone_is_no_verdict():
    """One less diverse than any temperature makes the other, and worse than that is there, "loses", "at any temperature
    evaluated", though a cooler one of its own was better than all of the other.
    """

    theirs = at_temperatures([(5.0, 6.0), (6.0, 4.5), (7.0, 3.5)])
    told = verdict.sentence(at_temperatures([(7.5, 3.8), (9.0, 3.0)]), theirs, [], "adversarial")
    assert str(told).startswith("No verdict: it is less diverse than any temperature evaluated makes")
    told = verdict.sentence(at_temperatures([(7.5, 3.8), (9.0, 3.6)]), theirs, [], "adversarial")
    assert str(told).startswith("The adversarial stage loses to MLE: it is worse on both counts than")
    assert "at the coldest evaluated" in str(told)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"reward": "discriminator", "mle": {}}, "seqforge compare --controls RUN"),
        ({"reward": "discriminator", "mle": {}, "from": "runs/a"}, "the same command with --reward constant"),
        ({"reward": "discriminator"}, "--reward constant --from RUN"),
        ({"reward": "constant", "mle": {}}, None),
        ({"mle": {}}, None),
    ],
)
def test_controls_are_named_where_there_are_any(facts, told):
    """PG-BLEU, whose reward no discriminator gives, was sent to controls that refuse it."""
    assert evaluate.controls_of(facts) == told


def test_the_score_of_a_trigram_model_names_what_it_was_fitted_on():
    """Models of 30 and of 3,000 sequences had one signature, and their scores were compared."""
    world = corpus(0, test=60, train=60)
    signs = [
        [s.signature for s in lm3_scores(world.test, world.test, TrigramModel(real, 7), {}, 1.0)]
        for real in (world.train, world.train[slice(30)])
    ]
    assert [a == b for a, b in zip(*signs, strict=True)] == [False, True]


def test_without_draws_there_is_no_verdict():
    """A number without its interval is none."""
    scores, _ = row(counterpart(), corpus(0, test=100), 1, 100)
    assert judge("oracle", scores, scores, {}, {}) is None
    told = verdict.sentence(scores, scores, [], "adversarial")
    assert told is not None
    assert told.startswith("No verdict")


def test_the_interval_by_parts_is_students():
    """Eight parts: 2.365 standard errors of their mean gap, not 2.365 of their standard deviations."""
    line, moves = [(8.0, 9.0), (9.0, 8.0), (10.0, 7.0)], np.arange(8) / 100
    sides = []
    for by, move in ((0.3, moves), (0.0, 0 * moves)):
        values = {(n, 1 + k / 10): v for k, (x, y) in enumerate(line) for n, v in (("reverse_lm3", x), ("lm3", y - by))}
        scores = [{"name": n, "temperature": t, "value": v, "stderr": 0.1} for (n, t), v in values.items()]
        sides.append((scores, {(n, t): v + move * (n == "lm3") for (n, t), v in values.items()}))
    (mine, my_draws), (theirs, their_draws) = sides
    found = judge("lm", mine, theirs, my_draws, their_draws)
    assert found is not None
    half = 2.365 * moves.std(ddof=1) / 8**0.5
    assert (found.gap, found.low, found.high) == pytest.approx((-0.3, -0.3 - half, -0.3 + half), abs=1e-5)


def test_seeds_together_by_hand():
    each = [Judgement("oracle", "beats", g, g - 1, g + 1, 8.0, 9.0 + g, "bootstrap", 400) for g in (-0.3, -0.5, -0.1)]
    found = over_seeds(each)
    mean, half = mean_interval([-0.3, -0.5, -0.1])
    assert (found.gap, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert (found.word, found.by, found.units) == ("ties with", "seeds", 3)  # 4.303 * .2 / sqrt 3 = .497
    assert "95 % interval -0.797 to +0.197, 3 seeds" in reason(found, "MLE")


def test_draws_come_back_from_their_file(tmp_path):
    held = {("nll_test", 0.9): np.arange(3.0), ("bleu4", 1.0): np.ones(2)}
    save_draws(tmp_path / "d.npz", {"final": held, "pre-trained": {}})
    found = load_draws(tmp_path / "d.npz", "final")
    assert found.keys() == held.keys()
    assert all((found[k] == held[k]).all() for k in held)
    assert load_draws(tmp_path / "d.npz", "pre-trained") == {}
    assert load_draws(tmp_path / "none.npz", "final") == {}


def test_bootstrap_means_are_those_of_rows_drawn_again():
    rng = np.random.default_rng(0)
    total, count = rng.gamma(2.0, 3.0, 400), rng.integers(1, 9, 400).astype(float)
    found = draws.bootstrap(total, count, seed=3)
    rows = np.random.default_rng([3, 0]).integers(400, size=400)
    assert found[0] == pytest.approx(total[rows].sum() / count[rows].sum(), rel=1e-5)
    rest = total - total.sum() / count.sum() * count
    assert found.std() == pytest.approx(math.sqrt((rest**2).sum()) / count.sum(), rel=0.1)
    assert not np.allclose(found, draws.bootstrap(total, count, seed=3, test=True))
    assert [p.stop - p.start for p in draws.parts(20)] == [2, 3, 2, 3, 2, 3, 2, 3]


# --- trigrams ------------------------------------------------------------------------------------------------------


def plain_kneser_ney(sentences, vocab, word, context, order=3, discount=0.75):
    """The recursion as it is written down, counting by hand; context: the two tokens before, `vocab` at the start."""
    grams = [tuple(([vocab] * 2 + s)[i : i + 3]) for s in sentences for i in range(len(s))]

    def p(k, history):
        if k == 0:
            return 1 / vocab
        if k == 3:
            counts = collections.Counter(g for g in grams)
        else:  # in how many contexts one longer
            longer = {g[3 - k - 1 :] for g in grams}
            counts = collections.Counter(g[1:] for g in longer)
        here = {g: c for g, c in counts.items() if g[:-1] == tuple(history)}
        total = sum(here.values())
        below = p(k - 1, history[1:])
        if not total:
            return below
        return (max(here.get((*history, word), 0) - discount, 0) + discount * len(here) * below) / total

    return p(order, list(context))


def split_of(sentences):
    ids = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.long)
    for i, s in enumerate(sentences):
        ids[i, : len(s)] = torch.tensor(s)
    return Split(ids, torch.tensor([len(s) for s in sentences]))


def test_trigrams_are_kneser_neys():
    rng = np.random.default_rng(1)
    sentences = [rng.integers(5, size=n).tolist() for n in rng.integers(1, 7, 30)]
    model = TrigramModel(split_of(sentences), 6)  # token 5 never occurs
    for context in ([6, 6], [6, 2], [1, 3], [5, 0], [5, 5]):
        grams = np.array([[*context, w] for w in range(6)])
        found = np.exp(model.log_probs(grams))
        assert found == pytest.approx([plain_kneser_ney(sentences, 6, w, context) for w in range(6)], rel=1e-12)
        assert found.sum() == pytest.approx(1)


def test_sums_count_every_token_once_and_nothing_past_the_end():
    sentences = [[1, 2, 0], [3], [2, 2, 2, 1]]
    real = split_of(sentences)
    garbled = Split(torch.where(real.ids == 0, 4, real.ids), real.lengths)
    garbled.ids[0, 2] = 0
    model = TrigramModel(real, 5)
    assert [tuple(g) for g in trigrams(real, 5)[:4]] == [(5, 5, 1), (5, 1, 2), (1, 2, 0), (5, 5, 3)]
    total, tokens = model.sums(garbled)
    assert tokens.tolist() == [3, 1, 4]
    wanted = -math.log(plain_kneser_ney(sentences, 5, 3, [5, 5]))
    assert total[1] == pytest.approx(wanted)
    forward, backward = lm3_scores(real, split_of([[3], [3]]), model, {}, 1.0)
    assert forward.value == pytest.approx(total.sum() / 8)
    assert backward.value == pytest.approx(wanted)  # its model of the samples is that of the same sentences


def test_identical_draws_have_an_interval_of_no_width():
    """Half a width of 0 was read as none known: from minus to plus infinity."""
    scores = [
        {"name": name, "temperature": t, "value": value + t, "stderr": 0.1}
        for name, value in (("reverse_lm3", 3.0), ("lm3", 2.0))
        for t in (1.0, 0.8)
    ]
    held = {(s["name"], s["temperature"]): np.full(8, s["value"]) for s in scores}
    found = judge("lm", scores, scores, held, held)
    assert found is not None
    assert (found.gap, found.low, found.high, found.word) == (0, 0, 0, "ties with")


def test_a_generator_is_not_held_to_itself():
    row = {"name": "pre-trained", "step": 7, "scores": []}
    assert evaluate.verdict([row, {**row, "name": "final"}]) == (None, [])
