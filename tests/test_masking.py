"""What stands past the end of a sequence changes no loss, reward, gradient or metric."""

import dataclasses
import itertools

import pytest
import torch
from ragged import CNN, EOS, HORIZON, VOCAB, ragged, ragged_corpus
from worlds import Headless, alive, every_sequence, far, garbled, gradients, plain_log_probs, rng, table_score, tiny

from seqforge import discriminate, likelihood, objectives, rewards, scoring
from seqforge.data.corpus import Split
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig
from seqforge.methods.pg_bleu import bleu_scorer
from seqforge.metrics import lm, nll
from seqforge.metrics.bleu import sentence_scores
from seqforge.metrics.ngrams import References
from seqforge.metrics.self_bleu import self_sentence_scores
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.lstm import LSTMConfig
from seqforge.sampling import Samples, mask_of, uniform

# --- losses and gradients -----------------------------------------------------------------------------------------


def wider(ids: torch.Tensor, by: int = 3) -> torch.Tensor:
    """More padding, of garbage."""
    more = torch.randint(3, (len(ids), by), generator=rng(8))
    return torch.cat([ids, more], 1)


def test_the_likelihood_is_a_mean_over_tokens_however_much_padding_there_is():
    generator = tiny(1, eos_id=2)
    ids, lengths = every_sequence(eos_id=2)
    truth = -plain_log_probs(generator, ids, lengths).sum() / lengths.sum()
    for padded in (ids, garbled(ids, lengths), wider(ids), wider(garbled(ids, lengths))):
        loss, logp = mle.likelihood_loss(generator, Split(padded, lengths))
        assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
        assert (
            far(
                gradients(loss, generator),
                gradients(-plain_log_probs(generator, ids, lengths).sum() / lengths.sum(), generator),
            )
            <= 1e-6
        )
        assert not logp[~mask_of(lengths, padded.shape[1])].any()
        nll_valid = mle.validation_nll(generator, Split(padded, lengths))
        assert nll_valid == pytest.approx(truth.item(), rel=1e-12)


RAGGED = [[4, 1, 3, 4, 2], [4, 4, 4, 4, 4], [2, 2, 2, 2, 2], [1, 1, 1, 1, 1], [1, 1, 1, 1, 3]]


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("lengths", RAGGED)
def test_leaving_padded_positions_out_of_the_head_changes_no_number(lengths, kind):
    """Against autograd over all positions, padding included, with a weight of 0 there."""
    generator = tiny(2)
    ids = torch.randint(3, (5, 4), generator=rng(1))
    lengths = torch.tensor(lengths)
    mask, weight = alive(lengths), torch.randn((5, 4), generator=rng(2), dtype=torch.float64)
    whole = plain_log_probs(generator, ids, torch.full((5,), 4))
    truth = -(weight * mask * whole).sum()
    for junk in (weight * mask, torch.where(mask, weight, 1e6)):
        loss, logp = weighted_nll(kind(generator), garbled(ids, lengths) if not mask.all() else ids, lengths, junk)
        assert loss.item() == pytest.approx(truth.item(), abs=1e-10)
        assert torch.allclose(logp, whole.detach() * mask, atol=1e-12)
        assert torch.equal(logp == 0, ~mask)
        assert (
            far(
                gradients(loss, generator),
                gradients(-(weight * mask * plain_log_probs(generator, ids, lengths)).sum(), generator),
            )
            <= 1e-10
        )
    for temperature, rows in itertools.product((1.0, 0.6), (None, 1, 2)):
        found = likelihood.sequence_nll(kind(generator), wider(ids), lengths, temperature, rows)
        assert torch.allclose(found[:, :4], -plain_log_probs(generator, ids, lengths, temperature), atol=1e-12)
        assert not found[:, 4:].any()


def test_weights_are_zero_past_the_ends_and_see_nothing_there():
    mask = alive(torch.tensor([4, 2, 1]))
    q = torch.rand((3, 4), generator=rng(1))
    for baseline, reduction in itertools.product(("none", "step", "leave-one-out"), ("sum", "mean")):
        weights = [
            objectives.reinforce_weight(objectives.advantage(x, mask, baseline), mask, reduction)
            for x in (q, torch.where(mask, q, 1e3))
        ]
        assert torch.equal(*weights)
        assert not weights[0][~mask].any()
    assert not objectives.reinforce_weight(torch.full((3, 4), 5.0), mask).masked_select(~mask).any()
    assert not objectives.mle_weight(mask)[~mask].any()


# --- rewards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts", [0, 3])
def test_action_values_are_zero_past_the_ends_and_see_nothing_there(rollouts):
    generator = tiny(13, eos_id=2)
    discriminator = CNNDiscriminator(3, 4, embedding=4, widths=[1, 2, 3], filters=[3, 3, 3], dropout=0.0)
    samples, trail = rewards.sample_with_trail(generator, uniform((40, 4), rng(9)))
    other = Samples(garbled(samples.ids, samples.lengths), samples.lengths, samples.logp)
    ids, lengths = every_sequence(eos_id=2)
    bleu = bleu_scorer(Split(garbled(ids, lengths)[::3], lengths[::3]), 2, "method1", 2)
    noise, mask = uniform((40, 3, rollouts, 4), rng(10)), alive(samples.lengths)
    assert not mask.all()
    for score in (table_score(), discriminate.Score(discriminator), bleu):
        q, same = (rewards.rollout_q(generator, s, trail, score, noise) for s in (samples, other))
        assert torch.equal(q, same)
        assert not q[~mask].any()
        shuffled = rewards.shuffled_reward(torch.where(mask, q, 1e3), mask, rng(1))
        assert float(shuffled[mask].max()) <= float(q.max())
        assert not rewards.shuffled_reward(q, mask, rng(1))[~mask].any()
    assert not rewards.random_reward(mask, rng(1))[~mask].any()
    assert not rewards.constant_reward(mask)[~mask].any()


def test_a_discriminator_and_its_training_see_nothing_past_the_ends():
    real, fake = ragged(40, 1), ragged(40, 4)
    states, scores = [], []
    for garbage in (False, True):
        sides = [(garbled(s.ids, s.lengths, VOCAB) if garbage else s.ids, s.lengths) for s in (real, fake)]
        discriminator = CNNDiscriminator.of(dataclasses.replace(CNN, dropout=0.0), VOCAB, HORIZON, seed=2)
        scores.append(discriminate.Score(discriminator)(*sides[0]).tolist())
        label = torch.arange(80) < 40
        ids, lengths = (torch.cat([sides[0][k], sides[1][k]]) for k in (0, 1))
        loss = objectives.discriminator_loss(discriminator(ids, lengths), label)
        scores.append([g.tolist() for g in gradients(loss, discriminator).values()])
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
        scores.append(discriminate.epoch(discriminator, optimizer, *sides, 16, rng(3), 0.1))
        scores.append(discriminate.held_out_accuracy(discriminate.Score(discriminator), *sides))
        states.append({k: v.tolist() for k, v in discriminator.state_dict().items()})
    assert scores[:4] == scores[4:]
    assert states[0] == states[1]


# --- metrics ------------------------------------------------------------------------------------------------------


def both() -> list[tuple[Split, Split, Split]]:
    """Samples, references and training set: with zeros and with garbage past the ends."""
    made = []
    for garbage in (False, True):
        splits = [ragged(n, seed) for n, seed in ((40, 1), (30, 2), (60, 3))]
        made.append(tuple(Split(garbled(s.ids, s.lengths, VOCAB), s.lengths) if garbage else s for s in splits))
    return made


def test_every_text_metric_is_blind_to_padding(monkeypatch):
    monkeypatch.setattr(mle, "LANGUAGE_MODEL", LSTMConfig(embedding=4, hidden=4, dropout=0.3))
    monkeypatch.setattr(mle, "LANGUAGE_MODEL_TRAINING", MLEConfig(epochs=2, lr=0.01, lr_decay=0.5, patience=2))

    def fit(train, valid, seed):
        return mle.fit_language_model(train, valid, seed, VOCAB, EOS, EOS)

    found = []
    for samples, real, train in both():
        sets = scoring.Sets(samples, real, train, [f"w{i}" for i in range(VOCAB)], EOS, fit)
        names = [*scoring.QUICK, "embsim", "lm", "reverse_lm"]  # mauve sees the words alone, as embsim does
        found.append(scoring.score(sets, names, {}, 1.0))
    assert found[0] == found[1]
    names = {s.name for s in found[0]}
    assert {"bleu2", "self_bleu2", "reverse_bleu2", "fed", "embsim", "lm_score", "reverse_lm"} <= names
    assert len(names) > 30, names


def test_likelihoods_digests_and_texts_are_blind_to_padding():
    (a, _, _), (b, _, _) = both()
    generator = tiny(3, EOS, VOCAB)
    assert a.digest() == b.digest()
    assert a[:-1].digest() != a.digest()
    assert nll.nll_test(generator, a, "x") == nll.nll_test(generator, b, "x")
    one, other = scoring.texts_of(a, EOS), scoring.texts_of(b, EOS)
    assert one.digest() == other.digest()
    assert not (one.ids == EOS).any()
    for scores in (self_sentence_scores, lambda t: sentence_scores(t, References(one))):
        assert all((x == y).all() for x, y in zip(scores(one).values(), scores(other).values(), strict=True))
    assert torch.equal(lm.without_duplicates(a).lengths, lm.without_duplicates(b).lengths)
    clean, dirty = ragged_corpus(False), ragged_corpus(True)
    assert clean.decode(a.ids, a.lengths) == dirty.decode(b.ids, b.lengths)
