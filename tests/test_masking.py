"""What stands past the end of a sequence changes no loss, reward, gradient or metric; what is masked is never drawn."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import (
    Headless,
    alive,
    every_sequence,
    far,
    fork_logits,
    garbled,
    gradients,
    plain_log_probs,
    rng,
    table_score,
    tiny,
)

from seqforge import checkpoint, discriminate, evaluate, likelihood, objectives, rewards, sampling, scoring, training
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.evaluate import EvaluateConfig
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.cot import CoTConfig
from seqforge.methods.dialogue import DialogueConfig
from seqforge.methods.distillation import DistillationConfig
from seqforge.methods.leakgan import LeakGANConfig
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MLETrainConfig, MonitorConfig
from seqforge.methods.mle_search import MLESearchConfig
from seqforge.methods.pg_bleu import PGBLEUConfig, bleu_scorer
from seqforge.methods.scheduled_sampling import ScheduledSamplingConfig
from seqforge.methods.scratchgan import ScratchGANConfig
from seqforge.methods.seqgan import SeqGANConfig
from seqforge.metrics import lm, nll
from seqforge.metrics.bleu import sentence_scores
from seqforge.metrics.ngrams import References
from seqforge.metrics.self_bleu import self_sentence_scores
from seqforge.models.discriminators import CNNConfig, CNNDiscriminator
from seqforge.models.hierarchical import HierarchicalConfig
from seqforge.models.kinds import GeneratorConfig
from seqforge.models.lstm import LSTMConfig
from seqforge.models.skip_lstm import SkipLSTMConfig
from seqforge.models.token_discriminator import TokenDiscriminatorConfig
from seqforge.models.transformer import TransformerConfig
from seqforge.models.transformer_discriminator import TransformerDiscriminatorConfig
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Filter, Samples, begin, begin_with, complete, mask_of, sample, uniform

# --- every method, whole ------------------------------------------------------------------------------------------

VOCAB, HORIZON, EOS = 9, 7, 4  # the end token in the middle, so that garbage past the ends holds it too
SIZES = {
    "generator": LSTMConfig(embedding=6, hidden=6, dropout=0.2, init_std=0.3),
    "mle": MLEConfig(epochs=2, batch=16, lr_decay=0.5, patience=1),
    "monitor": MonitorConfig(every=1, samples=32, lines=8),
}
CNN = CNNConfig(embedding=6, widths=[1, 2, 4], filters=[4, 4, 4], dropout=0.2)
ROUNDS = {**SIZES, "rounds": 2, "batch": 12}
PLAYERS = {**ROUNDS, "discriminator": CNN, "d_pretrain": 1, "d_batch": 16, "d_lr": 0.01}
COOPERATIVE = {**SIZES, "mediator": LSTMConfig(embedding=6, hidden=6, dropout=0.2, init_std=0.3), "rounds": 2}
COOPERATIVE |= {"steps": 2, "batch": 12, "patience": 1}
COUNTERPART = CounterpartConfig(epochs=1, batch=12)
TAUGHT = {**SIZES, "teacher": COOPERATIVE["mediator"], "rounds": 2, "steps": 2, "batch": 12}
FROM_SCRATCH = {
    "generator": SkipLSTMConfig(trainable=5, hidden=6, dropout=0.2),
    "discriminator": TokenDiscriminatorConfig(hidden=6, dropout=0.2),
    "monitor": SIZES["monitor"],
    "counterpart": COUNTERPART,
    **{"rounds": 2, "steps": 2, "batch": 12, "lr": 0.01, "d_lr": 0.01},
}
MANAGED = HierarchicalConfig(embedding=6, hidden=6, goal=3, step=2, dropout=0.2, init_std=0.3)
HIERARCHY = {**{k: v for k, v in PLAYERS.items() if k != "generator"}, "d_every": 1}
ATTENTIVE = GeneratorConfig(kind="transformer", embedding=6, hidden=6, heads=2, layers=2, dropout=0.2)
ANSWERS = {k: v for k, v in PLAYERS.items() if k not in ("generator", "discriminator")}
ANSWERS["generator"] = TransformerConfig(embedding=6, hidden=6, heads=2, dropout=0.2)
ANSWERS["discriminator"] = TransformerDiscriminatorConfig(embedding=6, hidden=6, heads=2)
TINY = {
    "mle": [
        MLETrainConfig(**SIZES),
        MLETrainConfig(**{**SIZES, "mle": MLEConfig(epochs=2, batch=16, label_smoothing=0.2, average=0.9)}),
        MLETrainConfig(**{**SIZES, "generator": ATTENTIVE}),
    ],
    "mle_search": [MLESearchConfig(monitor=SIZES["monitor"], budget=7, epochs=2, hidden=[6, 4], batch=[16])],
    "scheduled_sampling": [ScheduledSamplingConfig(**SIZES, slope=0.5)],
    "pg_bleu": [
        PGBLEUConfig(**ROUNDS, rollouts=2, baseline="leave-one-out"),
        PGBLEUConfig(**ROUNDS, rollouts=0, baseline="step", reduction="mean", teacher_forcing=1),
    ],
    "seqgan": [
        SeqGANConfig(**PLAYERS, rollouts=2, rollout_lag=0.5, reduction="mean"),
        SeqGANConfig(**PLAYERS, rollouts=0, teacher_forcing=1, g_steps=2),
        SeqGANConfig(**PLAYERS, rollouts=1, reward="shuffled"),
        SeqGANConfig(**PLAYERS, reward="random", baseline="step"),
        SeqGANConfig(**PLAYERS, reward="constant", baseline="none"),
        SeqGANConfig(**{**PLAYERS, "generator": ATTENTIVE}, rollouts=2),
    ],
    "leakgan": [
        LeakGANConfig(**HIERARCHY, generator=MANAGED, rollouts=2, mle_every=1, mle_steps=1, extrinsic=0.5),
        LeakGANConfig(
            **HIERARCHY, generator=dataclasses.replace(MANAGED, goals="block"), rollouts=1, d_temperature=0.7
        ),
        LeakGANConfig(**HIERARCHY, generator=MANAGED, rollouts=0, reward="shuffled", baseline="leave-one-out"),
    ],
    "scratchgan": [
        ScratchGANConfig(**FROM_SCRATCH, accumulate=5, l2=0.01),
        ScratchGANConfig(**FROM_SCRATCH, reward_at="end", gamma=1.0, moving="slow", clip=0.1),
        ScratchGANConfig(**FROM_SCRATCH, reward="shuffled", moving="none"),
    ],
    "dialogue": [
        DialogueConfig(**ANSWERS, rollouts=2),
        DialogueConfig(**ANSWERS, adversary="penalty", teacher=0.0, decode="greedy"),
        DialogueConfig(**ANSWERS, reward="shuffled", value="log"),
    ],
    "cot": [
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, m_pretrain=1, average=0.9),
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, gradient="whole", mediator_reads="real", g_steps=2),
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, gradient="whole", baseline="none", m_steps=2, lr_decay=0.5),
    ],
    "distillation": [
        DistillationConfig(**TAUGHT, teachers=2, average=0.9),
        DistillationConfig(**TAUGHT, reads="real", patience=1, lr_decay=0.5),
        DistillationConfig(**TAUGHT, reads="both"),
    ],
}


def tiny_configurations(method: str) -> list:
    if method not in TINY:
        pytest.fail(f"add a tiny configuration for {method} to TINY in {Path(__file__).name}")
    return TINY[method]


def ragged(n: int, seed: int) -> Split:
    """n sequences of 1 to 7 tokens, most of which end with the end token; 0 past the ends."""
    lengths = torch.randint(1, HORIZON + 1, (n,), generator=rng(seed))
    ids = torch.randint(VOCAB, (n, HORIZON), generator=rng(seed + 1))
    ids[ids == EOS] = 0
    ends = (lengths < HORIZON) | (torch.rand(n, generator=rng(seed + 2)) < 0.5)
    ids[ends, lengths[ends] - 1] = EOS
    return Split(ids * alive(lengths, HORIZON), lengths)


def ragged_corpus(garbage: bool, pairs: bool = False) -> Corpus:
    """The same three sets of sequences with zeros or with any ids past their ends; of pairs, sources of the like."""
    if pairs:
        plain, asked = ragged_corpus(garbage), [ragged(n, 10 * n + 5) for n in (48, 24, 30)]
        if garbage:
            asked = [Split(garbled(s.ids, s.lengths, VOCAB, seed=4), s.lengths) for s in asked]
        sets = dict(zip(("train", "valid", "test"), asked, strict=True))
        both = {k: dataclasses.replace(getattr(plain, k), source=s) for k, s in sets.items()}
        return dataclasses.replace(plain, **both)
    splits = [ragged(n, 10 * n) for n in (48, 24, 30)]
    if garbage:
        splits = [Split(garbled(s.ids, s.lengths, VOCAB, seed=3), s.lengths) for s in splits]
    sizes = {"vocab_size": VOCAB, "max_length": HORIZON, "start_id": EOS, "eos_id": EOS}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(VOCAB), source="ragged", digest=splits[0].digest())


def garble_samples(patch: pytest.MonkeyPatch) -> None:
    """Whatever is sampled has other tokens past its end, wherever `complete` has been imported to."""
    plain = sampling.complete

    def complete(*args, **kwargs):
        drawn = plain(*args, **kwargs)
        noise = torch.randint(VOCAB, drawn.ids.shape, generator=rng(5))
        return Samples(
            torch.where(mask_of(drawn.lengths, drawn.ids.shape[1]), drawn.ids, noise), drawn.lengths, drawn.logp
        )

    for name, module in list(sys.modules.items()):
        if name.startswith("seqforge") and getattr(module, "complete", None) is plain:
            patch.setattr(module, "complete", complete)


def watch_weights(patch: pytest.MonkeyPatch) -> list[float]:
    """The largest weight past an end in each loss that is taken, wherever `weighted_nll` has been imported to."""
    plain, plain_of, seen = likelihood.weighted_nll, likelihood.weighted_nll_of, []

    def note(lengths, weight):
        seen.append(float((weight * ~mask_of(lengths, weight.shape[1])).abs().max()))

    def weighted_nll(generator, ids, lengths, weight, *args, **kwargs):
        note(lengths, weight)
        return plain(generator, ids, lengths, weight, *args, **kwargs)

    def weighted_nll_of(head, hidden, ids, lengths, weight, *args):
        note(lengths, weight)
        return plain_of(head, hidden, ids, lengths, weight, *args)

    for name, module in list(sys.modules.items()):
        if name.startswith("seqforge") and getattr(module, "weighted_nll", None) is plain:
            patch.setattr(module, "weighted_nll", weighted_nll)
        if name.startswith("seqforge") and getattr(module, "weighted_nll_of", None) is plain_of:
            patch.setattr(module, "weighted_nll_of", weighted_nll_of)
    return seen


def trained(method: str, config, folder: Path, garbage: bool) -> dict:
    """All that a run leaves: parameters, random states, log, samples and scores."""
    corpus = ragged_corpus(garbage, getattr(type(config), "pairs", False))
    with pytest.MonkeyPatch.context() as patch:
        if garbage:
            garble_samples(patch)
        weights = watch_weights(patch)
        run = Run.create(folder, {"method": method}, seed=1, saving=CheckpointConfig(seconds=1e9))
        training.METHODS[method][1](config, corpus, run)
        assert max(weights, default=0.0) == 0, "a loss gave weight to what stands past an end"
        final = checkpoint.newest(folder / "checkpoints", tag="final")
        config = EvaluateConfig(samples=40, temperatures=[1.0], metrics=["bleu"])
        scores = evaluate.sweep(evaluate.load_generator(final), corpus, config)
    lines = (folder / "log.jsonl").read_text().splitlines()
    return {
        "log": [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines],
        "models": {str(p.relative_to(final)): p.read_bytes() for p in sorted(final.rglob("*.safetensors"))},
        "kept": repr(checkpoint.load_training(final)["kept"]),
        "samples": {p.name: p.read_text() for p in sorted((folder / "samples").iterdir())},
        "scores": scores,
    }


CASES = [
    pytest.param(method, i, marks=[pytest.mark.slow] if i else [])
    for method in training.METHODS
    for i in range(len(TINY.get(method, [None])))
]


@pytest.mark.parametrize(("method", "which"), CASES)
def test_padding_changes_nothing_in_any_method(method, which, tmp_path):
    config = tiny_configurations(method)[which]
    clean, dirty = (trained(method, config, tmp_path / str(g), g) for g in (False, True))
    assert clean["models"]
    assert any(r["kind"] == "train" for r in clean["log"])
    for what, found in clean.items():
        assert found == dirty[what], f"{what} of {method} depends on what stands past the ends"


def test_the_twins_differ_past_their_ends_alone_and_a_token_within_them_would_be_seen(tmp_path):
    clean, dirty = ragged_corpus(False), ragged_corpus(True)
    for name in ("train", "valid", "test"):
        a, b = getattr(clean, name), getattr(dirty, name)
        inside = alive(a.lengths, HORIZON)
        assert torch.equal(a.ids[inside], b.ids[inside])
        assert (a.ids[~inside] != b.ids[~inside]).float().mean() > 0.5
        assert b.ids[~inside].eq(EOS).any()
        assert 1 in a.lengths
        assert HORIZON in a.lengths
    config = TINY["mle"][0]
    found = trained("mle", config, tmp_path / "a", False)
    changed = ragged_corpus(False)
    changed.train.ids[0, 0] = (changed.train.ids[0, 0] + 1) % VOCAB
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "ragged_corpus", lambda *_: changed)
        other = trained("mle", config, tmp_path / "b", False)
    assert all(found[k] != other[k] for k in ("log", "models", "kept", "scores"))


def test_a_method_without_a_configuration_here_is_named(monkeypatch):
    monkeypatch.setitem(training.METHODS, "newgan", training.METHODS["mle"])
    with pytest.raises(pytest.fail.Exception, match="add a tiny configuration for newgan"):
        tiny_configurations("newgan")


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


# --- tokens that are masked out of the draw -----------------------------------------------------------------------


def filtered_world(generator, filter: Filter, horizon: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every sequence, its length, and log p of each token (S,T) where what may not be drawn was ruled out by hand."""
    ids, lengths = every_sequence(eos_id=generator.eos_id)
    logp = torch.zeros(ids.shape, dtype=torch.float64)
    for s, t in itertools.product(range(len(ids)), range(horizon)):
        if t >= lengths[s]:
            continue
        rows = ids[s].repeat(3, 1)
        rows[:, t] = torch.arange(3)
        p = plain_log_probs(generator, rows, torch.full((3,), horizon), filter.temperature)[:, t].detach().exp()
        p[list(filter.banned)] = 0
        if generator.eos_id is not None and t + 1 < filter.min_length:
            p[generator.eos_id] = 0
        logp[s, t] = (p[ids[s, t]] / p.sum()).log()
    return ids, lengths, logp


def place_of(ids: torch.Tensor, lengths: torch.Tensor) -> dict:
    return {tuple(row[:k]): i for i, (row, k) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True))}


FILTERS = [
    Filter(min_length=3),
    Filter(min_length=1),
    Filter(banned=(1,)),
    Filter(banned=(2,)),
    Filter(0.7, banned=(0,), min_length=2),
    Filter(min_length=9),
]


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_what_is_masked_is_never_drawn_and_the_rest_is_renormalised(filter, kind):
    generator = tiny(11, 2, init_std=0.7)
    ids, lengths, logp = filtered_world(generator, filter)
    p = logp.sum(1).exp().numpy()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    n = 20_000
    drawn = sample(kind(generator), uniform((n, 4), rng(12)), filter)
    where = place_of(ids, lengths)
    at = [where[tuple(r[:k])] for r, k in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)]
    count = np.bincount(at, minlength=len(p))
    possible = p > 0
    assert not count[~possible].any()
    if possible.sum() > 1:
        assert stats.chisquare(count[possible], n * p[possible]).pvalue > 1e-3
    assert torch.allclose(drawn.logp.double(), logp[at], atol=1e-5)  # of the distribution drawn from
    for rows in (1, 3, 64):
        few = sample(kind(generator), uniform((n, 4), rng(12))[:90], filter, rows)
        assert torch.equal(few.ids, drawn.ids[:90])
        assert torch.equal(few.lengths, drawn.lengths[:90])
        assert torch.allclose(few.logp, drawn.logp[:90], atol=1e-6)


def test_a_mask_goes_before_top_k_and_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    banned = Filter(top_k=2, banned=(0,)).probabilities(logits)[0]
    assert banned.tolist() == pytest.approx([0, 2 / 3, 1 / 3, 0])
    banned = Filter(top_p=0.5, banned=(0, 2)).probabilities(logits)[0]  # 6/7 of what is left
    assert banned.tolist() == pytest.approx([0, 1, 0, 0])
    assert logits[0].exp().tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05])  # as it was


def test_masks_in_chunks_of_the_head_touch_the_rows_they_are_meant_for():
    """Rows of one batch stand at different positions after a ragged fork: some are too early to end, others are not."""
    generator = tiny(7, eos_id=2, vocab=20_000, embedding=2, hidden=2)  # 16 rows a chunk
    with torch.no_grad():
        generator.head.bias[2] = 50.0  # it would end at once
    early = sample(generator, uniform((40, 6), rng(1)), Filter(min_length=4))
    assert early.lengths.eq(4).all()
    assert not early.ids[:, :3].eq(2).any()
    fork = begin_with(generator, torch.tensor([[5]]).expand(20, 1))
    mixed = sampling.Fork.cat([begin(generator, 20), fork])
    drawn = complete(generator, mixed, uniform((40, 6), rng(2)), Filter(min_length=2))
    assert drawn.lengths.eq(2).all()
    assert not drawn.ids[:20, 0].eq(2).any()


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("prompt", [[1], [0, 1], [1, 1, 0]])
def test_completions_of_a_prompt_follow_the_conditional_distribution(prompt, kind):
    generator = tiny(11, 2, init_std=0.7)
    ids, lengths = every_sequence(eos_id=2)
    t = len(prompt)
    logp = plain_log_probs(generator, ids, lengths).detach()
    same = (ids[:, :t] == torch.tensor(prompt)).all(1) & (lengths > t)
    ids, lengths, logp = ids[same], lengths[same], logp[same]
    p = logp[:, t:].sum(1).exp().numpy()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    n = 8000
    fork = begin_with(kind(generator), torch.tensor([prompt]).repeat(n, 1))
    assert fork.position.tolist() == [t] * n
    drawn = complete(kind(generator), fork, uniform((n, 4), rng(3)))
    assert not drawn.ids[:, :t].any()
    where = place_of(ids[:, t:], lengths - t)
    at = [where[tuple(r[t:k])] for r, k in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)]
    assert stats.chisquare(np.bincount(at, minlength=len(p)), n * p).pvalue > 1e-3
    assert torch.allclose(drawn.logp[:, t:].double(), logp[at][:, t:], atol=1e-5)
    assert not drawn.logp[:, :t].any()


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_a_prompt_read_at_once_is_one_read_token_by_token(kind):
    generator = tiny(4, 2, layers=2)
    prompt = torch.randint(3, (6, 5), generator=rng(4))
    fork = begin_with(kind(generator), prompt)
    _, state = generator.start(6)
    for t in range(5):
        logits, state = generator.extend(prompt[:, t : t + 1], state)
    assert torch.allclose(fork_logits(kind(generator), fork), logits[:, -1], atol=1e-12)
    assert torch.allclose(fork.state.h, state.h, atol=1e-12)
    assert torch.allclose(fork.state.c, state.c, atol=1e-12)
    assert not fork.output.requires_grad
