"""LM scores with a known model in place of a fitted one, its fitting, the grammar's verdict, and the bootstrap."""

import functools

import numpy as np
import pytest
import torch
from worlds import alive, garbled, plain_log_probs, rng, tiny

from seqforge import __version__
from seqforge.data.corpus import Split
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, fit_language_model, validation_nll
from seqforge.metrics import bootstrap
from seqforge.metrics.grammar import judged
from seqforge.metrics.lm import HELD, hold_out, lm_score, reverse_lm_score, without_duplicates
from seqforge.models.lstm import LSTMConfig

VOCAB, HORIZON = 5, 6


def split(n: int, seed: int) -> Split:
    lengths = torch.randint(1, HORIZON + 1, (n,), generator=rng(seed))
    ids = torch.randint(VOCAB, (n, HORIZON), generator=rng(seed + 1))
    return Split(ids * alive(lengths, HORIZON), lengths)


class KnownModel:
    """A fit that learns nothing: it writes down what it was given, and returns the same tiny LSTM."""

    def __init__(self):
        self.model, self.given = tiny(3, vocab=VOCAB), []

    def __call__(self, train: Split, valid: Split, seed: int):
        self.given.append((train, valid, seed))
        return self.model


def rows(s: Split) -> list[tuple]:
    return sorted(tuple(r[:n]) for r, n in zip(s.ids.tolist(), s.lengths.tolist(), strict=True))


def cross_entropy(model, s: Split) -> tuple[float, float]:
    """-log p over all tokens by the written-out LSTM, per token; and the ratio's standard error by the delta method."""
    total = -plain_log_probs(model, s.ids, s.lengths).detach().sum(1).numpy()
    count = s.lengths.numpy()
    value = total.sum() / count.sum()
    residual = total - value * count
    return value, float(np.sqrt((residual**2).sum() * len(count) / (len(count) - 1)) / count.sum())


# --- the scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_the_scores_are_cross_entropies_of_the_right_side_under_a_model_of_the_other(reverse):
    samples, real, fit = split(80, 1), split(60, 5), KnownModel()
    function = reverse_lm_score if reverse else lm_score
    (score,) = function(samples, real, fit, {"tok": "word"}, 0.8, seed=7)
    value, stderr = cross_entropy(fit.model, real if reverse else samples)
    assert score.value == pytest.approx(value, rel=1e-9)
    assert score.stderr == pytest.approx(stderr, rel=1e-9)
    assert score.interval[0] < score.value < score.interval[1]
    assert score.interval[1] - score.interval[0] == pytest.approx(2 * 1.96 * stderr, rel=0.15)
    assert score.value != pytest.approx(cross_entropy(fit.model, samples if reverse else real)[0], abs=1e-3)
    ((train, valid, seed),) = fit.given
    assert seed == 7
    learned = without_duplicates(samples) if reverse else real
    assert sorted(rows(train) + rows(valid)) == rows(learned)
    assert len(valid) == len(learned) // HELD
    own = f"refs:60|refset:{real.digest()}" if reverse else f"fitted:60|fitset:{real.digest()}"
    name = "reverse-lm" if reverse else "lm-score"
    assert score.signature == f"{name}|tok:word|n:80|{own}|lm:lstm|seed:7|v:{__version__}"
    assert (score.name, score.unit, score.temperature) == (name.replace("-", "_"), "nats per token", 0.8)


def test_a_score_is_that_of_its_seed_and_blind_to_padding():
    samples, real = split(80, 1), split(60, 5)
    dirty = [Split(garbled(s.ids, s.lengths, VOCAB), s.lengths) for s in (samples, real)]
    for function in (lm_score, reverse_lm_score):
        first = function(samples, real, KnownModel(), {})
        assert function(samples, real, KnownModel(), {}) == first
        assert function(*dirty, KnownModel(), {}) == first
        assert function(samples, real, KnownModel(), {}, seed=2)[0].interval != first[0].interval


def test_repeating_a_sample_teaches_the_reverse_model_nothing():
    samples, real = split(80, 1), split(60, 5)
    once, often = KnownModel(), KnownModel()
    reverse_lm_score(samples, real, once, {})
    reverse_lm_score(Split(samples.ids.repeat(3, 1), samples.lengths.repeat(3)), real, often, {})
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(once.given[0][:2], often.given[0][:2], strict=True))


def test_duplicates_are_removed_in_order_and_by_what_is_within_the_sequence():
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [1, 2, 4], [1, 2, 0], [0, 0, 0], [0, 0, 0], [3, 1, 1]])
    lengths = torch.tensor([2, 1, 2, 3, 1, 2, 1])
    kept = without_duplicates(Split(ids, lengths))
    assert kept.ids.tolist() == [[1, 2, 0], [3, 0, 0], [1, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert kept.lengths.tolist() == [2, 1, 3, 1, 2]  # (1,2) is not (1,2,0), and (0) is not (0,0)


def test_too_few_to_learn_from_is_refused():
    """One training sentence was held out of itself, and the fitting ended in torch's own words."""
    same = Split(torch.ones(500, HORIZON, dtype=torch.long), torch.full((500,), HORIZON))
    with pytest.raises(ValueError, match="needs at least 20 distinct samples, but there are 1"):
        reverse_lm_score(same, split(30, 1), KnownModel(), {})
    with pytest.raises(ValueError, match="lm needs at least 2 sequences"):
        lm_score(split(30, 1), split(30, 1)[:1], KnownModel(), {})
    lm_score(split(30, 1), split(30, 1)[:2], KnownModel(), {})


@pytest.mark.parametrize(("n", "held"), [(2, 1), (9, 1), (19, 1), (20, 2), (60, 6)])
def test_a_tenth_is_held_out_and_the_rest_is_learned(n, held):
    numbered = Split(torch.arange(n)[:, None], torch.ones(n, dtype=torch.long))
    train, valid = hold_out(numbered, seed=1)
    assert len(valid) == held
    assert sorted(train.ids.flatten().tolist() + valid.ids.flatten().tolist()) == list(range(n))
    if n == 60:
        assert set(valid.ids.flatten().tolist()) != set(hold_out(numbered, seed=2)[1].ids.flatten().tolist())
        assert torch.equal(valid.ids, hold_out(numbered, seed=1)[1].ids)


# --- the model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """The recipe at a size that takes no time."""
    monkeypatch.setattr(mle, "LANGUAGE_MODEL", LSTMConfig(embedding=8, hidden=16, dropout=0.1, init_std=0.2))
    training = MLEConfig(epochs=15, batch=16, lr=0.03, lr_decay=0.5, patience=2)
    monkeypatch.setattr(mle, "LANGUAGE_MODEL_TRAINING", training)


fit = functools.partial(fit_language_model, vocab_size=VOCAB, eos_id=4, start_id=4)


def counting(n: int, horizon: int = 6) -> Split:
    """The same sentence again and again: 0 1 2 3 0 END, whose tokens but for the first 0's successor are certain."""
    ids = torch.tensor([[0, 1, 2, 3, 1, 4]]).repeat(n, 1)
    return Split(ids[:, :horizon], torch.full((n,), horizon))


def test_it_learns_a_deterministic_language_to_nearly_nothing(small):
    model = fit(counting(400), counting(20), 1)
    assert validation_nll(model, counting(20)) < 0.02
    assert not model.training
    blank = mle.LSTMGenerator(VOCAB, eos_id=4, start_id=4)
    assert validation_nll(blank, counting(20)) == pytest.approx(np.log(VOCAB), abs=0.1)


def test_it_learns_the_entropy_of_a_language_with_one_free_choice(small):
    """Half of the sentences say 0 1 END, half 0 2 END: ln 2 over three tokens."""
    ids = torch.tensor([[0, 1, 4], [0, 2, 4]]).repeat(200, 1)
    two = Split(ids, torch.full((400,), 3))
    assert validation_nll(fit(two, two[:40], 1), two) == pytest.approx(np.log(2) / 3, abs=0.02)


def test_what_is_held_out_is_not_learned(small):
    """Another language is held out: the model knows only the first, however long it looked at the second."""
    other = Split(torch.tensor([[2, 2, 3, 3, 0, 4]]).repeat(40, 1), torch.full((40,), 6))
    model = fit(counting(400), other, 1)
    alike = [fit(counting(400), Split(other.ids, other.lengths)[:n], 1) for n in (40, 20)]
    for key, p in model.state_dict().items():
        assert torch.equal(p, alike[0].state_dict()[key])
        assert torch.equal(p, alike[1].state_dict()[key])  # as many of them as there are, the same weights
    assert validation_nll(model, other) > 1.5


def test_the_weights_are_those_of_the_best_epoch(small, monkeypatch):
    seen = []
    plain = mle.validation_nll
    monkeypatch.setattr(mle, "validation_nll", lambda m, v: seen.append(plain(m, v)) or seen[-1])
    train, valid = split(64, 1), split(32, 3)  # nothing to learn: it over-fits at once
    model = fit(train, valid, 1)
    assert plain(model, valid) == min(seen)
    assert seen[-1] > min(seen)
    assert len(seen) - 1 - int(np.argmin(seen)) == 2  # stopped after two that were no better
    assert len(seen) < 15


def test_fitting_is_of_its_seed_and_leaves_the_ambient_random_numbers_as_they_were(small):
    """It set torch's ambient seed for its dropout: a model trained around a score drew the same dropout again."""
    train, valid = split(64, 1), split(32, 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(train, valid, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = fit(train, valid, 1), fit(train, valid, 2)
    assert all(torch.equal(p, again.state_dict()[k]) for k, p in first.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)


def test_the_recipe_is_what_its_docstring_says():
    assert LSTMConfig(embedding=128, hidden=256, layers=1, dropout=0.3, init_std=0.1) == mle.LANGUAGE_MODEL
    assert MLEConfig(15, 64, 0.003, 0.5, weight_decay=0.0, clip=5.0, patience=2) == mle.LANGUAGE_MODEL_TRAINING


# --- the grammar's verdict ----------------------------------------------------------------------------------------


KNOWN = {("a", "b"): np.log(0.5), ("a", "b", "c"): np.log(0.3), ("c",): np.log(0.2)}


class Judge:
    """Knows three sentences."""

    def log_probs(self, sentences):
        return np.array([KNOWN.get(tuple(s), -np.inf) for s in sentences])


def test_the_verdict_by_hand():
    samples = [["a", "b"], ["b"], ["a", "b", "c"], ["c"], ["c", "c"], ["a", "b"], [], ["a", "b"]]
    share, true_nll = judged(Judge(), samples, {"tok": "word"}, 1.0, seed=3)
    assert (share.name, true_nll.name) == ("grammatical", "true_nll")
    assert share.value == 5 / 8
    assert share.stderr == pytest.approx(np.sqrt(5 / 8 * 3 / 8 / 8), rel=0.1)
    total = -(3 * np.log(0.5) + np.log(0.3) + np.log(0.2))
    assert true_nll.value == pytest.approx(total / (2 + 3 + 1 + 2 + 2), rel=1e-12)
    assert true_nll.unit == "nats per token"
    assert share.interval[0] < share.value < share.interval[1] <= 1
    assert share.signature.startswith("grammatical|tok:word|n:8|")
    assert "seed:3" in true_nll.signature


def test_where_nothing_is_grammatical_or_all_is():
    (share,) = judged(Judge(), [["b"], ["c", "c"]], {}, None)
    assert (share.value, share.stderr, share.interval) == (0.0, 0.0, (0.0, 0.0))
    share, true_nll = judged(Judge(), [["c"]] * 4, {}, None)
    assert (share.value, share.interval) == (1.0, (1.0, 1.0))
    assert true_nll.value == pytest.approx(-np.log(0.2))
    assert true_nll.stderr == pytest.approx(0, abs=1e-12)


# --- the bootstrap ------------------------------------------------------------------------------------------------


def test_of_mean_is_the_analytic_standard_error():
    values = np.random.default_rng(1).gamma(2.0, size=400)
    stderr, low, high = bootstrap.of_mean(values, seed=2, resamples=4000)
    analytic = values.std() / 20  # of the empirical distribution: without Bessel's correction
    assert stderr == pytest.approx(analytic, rel=0.05)
    assert low == pytest.approx(values.mean() - 1.96 * analytic, abs=0.25 * analytic)
    assert high == pytest.approx(values.mean() + 1.96 * analytic, abs=0.25 * analytic)


def test_of_ratio_is_the_analytic_standard_error_of_a_mean_over_tokens():
    random = np.random.default_rng(1)
    count = random.integers(1, 20, size=400)
    total = count * random.gamma(2.0, size=400)
    stderr, low, high = bootstrap.of_ratio(total, count, seed=2, resamples=4000)
    value = total.sum() / count.sum()
    analytic = np.sqrt(((total - value * count) ** 2).sum()) / count.sum()
    assert stderr == pytest.approx(analytic, rel=0.06)
    assert (low, high) == pytest.approx((value - 1.96 * analytic, value + 1.96 * analytic), abs=0.3 * analytic)
    assert stderr != pytest.approx(total.std() / 20 / count.mean(), rel=0.15)  # as if their lengths were fixed
    assert bootstrap.of_ratio(3 * count, count, seed=2) == pytest.approx((0, 3, 3), abs=1e-12)


def test_centred_is_laid_around_the_value_within_its_bounds():
    values = np.random.default_rng(1).random(300)

    def mean(weights: np.ndarray) -> float:
        assert weights.sum() == 300
        assert weights.min() >= 0
        return float((weights * values).sum() / 300)

    stderr, low, high = bootstrap.centred(0.7, mean, 300, seed=2, resamples=3000)
    analytic = values.std() / 300**0.5
    assert stderr == pytest.approx(analytic, rel=0.06)
    assert (low, high) == pytest.approx((0.7 - 1.96 * analytic, 0.7 + 1.96 * analytic), abs=0.25 * analytic)
    _, low, high = bootstrap.centred(0.99, mean, 300, seed=2, bounds=(0.0, 1.0))
    assert high == 1.0
    assert 0.9 < low < 0.99
    _, low, _ = bootstrap.centred(0.01, mean, 300, seed=2, bounds=(0.0, 1.0))
    assert low == 0.0


def test_a_figure_that_resampling_shifts_keeps_its_place():
    """Distinct things in a set: a resample has 1 - 1/e of them, and its quantiles lie far off."""
    stderr, low, high = bootstrap.centred(1.0, lambda w: float((w > 0).mean()), 200, seed=1)
    assert low < 1.0 < high
    assert high - low < 0.2
    assert 0 < stderr < 0.05


def test_a_seed_means_the_same_interval():
    values, count = np.random.default_rng(1).random(50), np.arange(1, 51)
    for of in (
        lambda seed: bootstrap.of_mean(values, seed),
        lambda seed: bootstrap.of_ratio(values, count, seed),
        lambda seed: bootstrap.centred(0.5, lambda w: float(w @ values / 50), 50, seed),
    ):
        assert of(1) == of(1)
        assert of(1) != of(2)
