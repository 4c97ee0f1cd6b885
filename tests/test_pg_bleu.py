"""PG-BLEU: its reward against nltk, its gradient against that of the expected BLEU of a tiny world, its runs."""

import dataclasses
import functools
import json
import warnings
from pathlib import Path

import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from test_resume import Cut, assert_same, cut_at, short_report  # noqa: F401
from worlds import alive, every_sequence, far, garbled, gradients, plain_log_probs, rng, tiny, true_q

from seqforge import checkpoint, likelihood, rewards
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.evaluate import EvaluateConfig
from seqforge.likelihood import weighted_nll
from seqforge.methods import pg_bleu
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MLETrainConfig, MonitorConfig
from seqforge.methods.pg_bleu import PGBLEUConfig, bleu_scorer
from seqforge.models.lstm import LSTMConfig
from seqforge.objectives import advantage, reinforce_weight
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Samples, retrace, uniform
from seqforge.training import RunConfig, resume, train

# --- the reward ---------------------------------------------------------------------------------------------------


def words(ids: torch.Tensor, lengths: torch.Tensor, eos_id: int | None) -> list[list[str]]:
    """The tokens before each end as words; the end token, always the last, is none."""
    rows = [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    return [[str(i) for i in (row[:-1] if row[-1] == eos_id else row)] for row in rows]


def nltk_bleu(hypotheses: list, references: list, order: int, smoothing: str) -> list[float]:
    method = SmoothingFunction().method1 if smoothing == "method1" else SmoothingFunction().method0
    weights = (1 / order,) * order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # counts of 0
        return [float(sentence_bleu(references, h, weights, method)) for h in hypotheses]


def sequences(n: int, seed: int, vocab: int, horizon: int, eos_id: int | None) -> Split:
    """Random ones; without an end token all of the full length, with one of any, the longest cut off before theirs."""
    ids = torch.randint(vocab, (n, horizon), generator=rng(seed))
    if eos_id is None:
        return Split(ids, torch.full((n,), horizon))
    ids[ids == eos_id] = (eos_id + 1) % vocab
    lengths = torch.randint(2, horizon + 3, (n,), generator=rng(seed + 1))
    rows = torch.arange(n)[lengths <= horizon]
    ids[rows, lengths[rows] - 1] = eos_id
    lengths = lengths.clamp_max(horizon)
    return Split(ids * alive(lengths, horizon), lengths)


@pytest.mark.parametrize("eos_id", [None, 0, 3])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("smoothing", ["method1", "none"])
def test_the_reward_is_nltks_sentence_bleu_without_end_tokens(eos_id, order, smoothing):
    real, fake = sequences(12, 1, 5, 7, eos_id), sequences(60, 5, 5, 7, eos_id)
    score = bleu_scorer(real, order, smoothing, eos_id)
    found = score(fake.ids, fake.lengths)
    expected = nltk_bleu(words(fake.ids, fake.lengths, eos_id), words(real.ids, real.lengths, eos_id), order, smoothing)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert found.max() > 0.5
    assert score(real.ids, real.lengths).tolist() == pytest.approx(
        nltk_bleu(words(real.ids, real.lengths, eos_id), words(real.ids, real.lengths, eos_id), order, smoothing),
        rel=1e-6,
    )
    if eos_id is not None:
        other = bleu_scorer(Split(garbled(real.ids, real.lengths, 5), real.lengths), order, smoothing, eos_id)
        assert torch.equal(other(garbled(fake.ids, fake.lengths, 5, 1), fake.lengths), found)
        with_ends = bleu_scorer(real, order, smoothing, None)(fake.ids, fake.lengths)
        assert not torch.allclose(with_ends, found, atol=1e-2)  # end tokens that count would be seen


def test_a_sequence_of_nothing_but_its_end_has_no_bleu():
    real = sequences(12, 1, 5, 7, 3)
    score = bleu_scorer(real, 3, "method1", 3)
    assert score(torch.tensor([[3, 1, 1, 1, 1, 1, 1]]), torch.tensor([1])).tolist() == [0.0]


# --- the gradient -------------------------------------------------------------------------------------------------


@functools.cache
def world(eos_id: int | None):
    """A generator, all its sequences, their probabilities, their BLEU-2 by nltk, and d E[BLEU] / d parameters."""
    generator = tiny(1, eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    real = Split(ids[4::16], lengths[4::16])
    texts = words(ids, lengths, eos_id)
    bleu = torch.tensor(nltk_bleu(texts, words(real.ids, real.lengths, eos_id), 2, "method1"), dtype=torch.float64)
    logp = plain_log_probs(generator, ids, lengths).sum(1)
    truth = gradients((logp.exp() * bleu).sum(), generator)
    return generator, ids, lengths, logp.detach().exp(), real, bleu, truth


def estimated(eos_id: int | None, rollouts: int, seed: int = 0):
    """The action values that pg_bleu's reward gives every sequence, and the expectation of its gradient over them."""
    generator, ids, lengths, p, real, _, _ = world(eos_id)
    samples = Samples(ids, lengths, torch.zeros(ids.shape, dtype=torch.float64))
    score, mask = bleu_scorer(real, 2, "method1", eos_id), alive(lengths)
    noise = uniform((len(ids), 3, rollouts, 4), rng(seed))
    q = rewards.rollout_q(generator, samples, retrace(generator, ids, lengths), score, noise)
    weight = p[:, None] * reinforce_weight(advantage(q, mask), mask)
    return q, gradients(-weighted_nll(generator, ids, lengths, weight)[0], generator)


@pytest.mark.parametrize("eos_id", [None, 2])
def test_without_rollouts_the_expected_gradient_is_that_of_the_expected_bleu(eos_id):
    _, ids, lengths, _, _, bleu, truth = world(eos_id)
    q, found = estimated(eos_id, 0)
    assert torch.allclose(q, bleu[:, None] * alive(lengths), atol=1e-7)
    assert far(found, truth) <= 1e-6
    assert max(float(g.abs().max()) for g in truth.values()) > 1e-2
    assert len(set(bleu.tolist())) > 4
    assert len(ids) == (81 if eos_id is None else 31)


@pytest.mark.parametrize("eos_id", [None, 2])
def test_with_rollouts_it_is_the_same_gradient_on_average(eos_id):
    """400 rollouts, ten times: each action value within its own standard error, and the mean gradient near the true."""
    _, ids, lengths, p, _, bleu, truth = world(eos_id)
    expected, spread = true_q(p, bleu, ids, lengths)
    found = [estimated(eos_id, 400, seed) for seed in range(10)]
    q = torch.stack([q for q, _ in found]).mean(0)
    assert bool(((q - expected).abs() <= 4.5 * spread / 4000**0.5 + 1e-6).all())
    assert float((bleu[:, None] * alive(lengths) - expected).abs().max()) > 0.1  # a rollout is not the whole's score
    mean = {k: torch.stack([g[k] for _, g in found]).mean(0) for k in truth}
    error = {k: torch.stack([g[k] for _, g in found]).std(0) / 10**0.5 for k in truth}
    for k in truth:
        assert bool(((mean[k] - truth[k]).abs() <= 5 * error[k] + 1e-6).all()), k
    assert far(mean, truth) < 0.02 * max(float(g.abs().max()) for g in truth.values())


# --- a run --------------------------------------------------------------------------------------------------------

VOCAB, EOS = 6, 3
SIZES = {
    "generator": LSTMConfig(embedding=5, hidden=6, init_std=0.5),
    "mle": MLEConfig(epochs=1, batch=16, patience=0),
    "monitor": MonitorConfig(every=0, samples=16, lines=2),
}


def corpus() -> Corpus:
    splits = [sequences(50, 1, VOCAB, 6, EOS), sequences(20, 3, VOCAB, 6, EOS), sequences(20, 5, VOCAB, 6, EOS)]
    sizes = {"vocab_size": VOCAB, "max_length": 6, "start_id": EOS, "eos_id": EOS}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(VOCAB), source="toy", digest=splits[0].digest())


def watched(folder: Path, config: PGBLEUConfig, patch: pytest.MonkeyPatch, seed: int = 3):
    """A run, its references, and the losses of its rounds as (ids, lengths, weight)."""
    losses, references = [], []

    def weighted(generator, ids, lengths, weight, **kwargs):
        losses.append((ids, lengths, weight))
        return likelihood.weighted_nll(generator, ids, lengths, weight, **kwargs)

    def scorer(real, *args):
        references.append(real)
        return bleu_scorer(real, *args)

    patch.setattr(pg_bleu, "weighted_nll", weighted)
    patch.setattr(pg_bleu, "bleu_scorer", scorer)
    run = Run.create(folder, {"method": "pg_bleu"}, seed=seed, saving=CheckpointConfig(seconds=1e9))
    pg_bleu.train(config, corpus(), run)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return run, references, losses, [r for r in records if r["phase"] == "policy gradient" and r["kind"] == "train"]


def test_every_token_of_a_sample_weighs_what_its_sentence_scores(tmp_path, monkeypatch):
    """Without rollouts: the weight in the loss is nltk's BLEU against the references, which are 40 % of the data."""
    config = PGBLEUConfig(**SIZES, rounds=3, batch=40, rollouts=0)
    run, references, losses, records = watched(tmp_path / "run", config, monkeypatch)
    (real,) = references
    assert len(real) == 20
    rows = {tuple(r) for r in corpus().train.ids.tolist()}
    assert {tuple(r) for r in real.ids.tolist()} <= rows
    assert len(losses) == len(records) == 3
    for (ids, lengths, weight), record in zip(losses, records, strict=True):
        bleu = torch.tensor(nltk_bleu(words(ids, lengths, EOS), words(real.ids, real.lengths, EOS), 3, "method1"))
        assert torch.allclose(weight, bleu[:, None] * alive(lengths, 6), atol=1e-6)
        assert record["bleu"] == pytest.approx(float(bleu.mean()), rel=1e-5)
        assert record["gradient_norm"] > 0
    assert run.tokens == int(corpus().train.lengths.sum()) + sum(int(n.sum()) for _, n, _ in losses)
    entropies = [r["entropy"] for r in records]
    assert all(0 < e < 1.8 for e in entropies)  # log 6 nats at most


def test_references_are_of_the_seed_and_as_many_as_asked_for(tmp_path, monkeypatch):
    found = []
    for i, (seed, share) in enumerate([(3, 0.4), (3, 0.4), (4, 0.4), (3, 1.0), (3, 0.001)]):
        config = PGBLEUConfig(**SIZES, rounds=0, references=share)
        found.append(watched(tmp_path / str(i), config, monkeypatch, seed)[1][0])
    assert [len(r) for r in found] == [20, 20, 20, 50, 1]
    assert torch.equal(found[0].ids, found[1].ids)
    assert not torch.equal(found[0].ids, found[2].ids)


def test_it_raises_the_bleu_that_it_climbs(tmp_path, monkeypatch):
    data = {"rounds": 30, "batch": 64, "rollouts": 1, "lr": 0.05, "baseline": "leave-one-out", "reduction": "mean"}
    _, _, _, records = watched(tmp_path / "run", PGBLEUConfig(**SIZES, **data), monkeypatch)
    bleu = [r["bleu"] for r in records]
    assert sum(bleu[-5:]) / 5 > sum(bleu[:3]) / 3 + 0.15


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"references": 0.0}, r"references is 0.0, but must lie in \(0, 1\]"),
        ({"references": 1.1}, "references is 1.1"),
        ({"order": 0}, "order is 0, but must be at least 1"),
        ({"batch": 0}, "batch is 0"),
        ({"rollouts": -1}, "rollouts is -1"),
        ({"lr": 0.0}, "lr is 0.0, but must be above 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        PGBLEUConfig(**wrong)


DATA = DataConfig(
    vocab_size=12, max_length=5, oracle_embedding=3, oracle_hidden=3, train_size=96, valid_size=32, test_size=32
)
RUN = RunConfig(data=DATA, checkpoint=CheckpointConfig(seconds=0), evaluate=EvaluateConfig(16, [1.0]))
WHOLE = PGBLEUConfig(
    LSTMConfig(embedding=4, hidden=4, dropout=0.3),
    MLEConfig(epochs=2, batch=32),
    MonitorConfig(every=2, samples=16, lines=2),
    **{"rounds": 4, "batch": 8, "rollouts": 2, "baseline": "leave-one-out", "teacher_forcing": 1},
)


@functools.cache
def unbroken(folder: Path) -> Path:
    return train("pg_bleu", RUN, WHOLE, folder / "unbroken-pg")


@pytest.fixture
def whole(tmp_path_factory):
    """The run that nothing interrupts, made once."""
    return unbroken(tmp_path_factory.getbasetemp())


@pytest.mark.filterwarnings("ignore:.*starting again from config.yaml")
@pytest.mark.parametrize(("name", "call"), [("log", 3), ("log", 7), ("checkpoint", 3), ("log", 11)])
def test_cut_off_and_resumed_is_never_stopped(name, call, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, name, call)
        with pytest.raises(Cut):
            train("pg_bleu", RUN, WHOLE, tmp_path / "run")
    assert resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_it_takes_over_a_run_by_likelihood(tmp_path):
    """`--from` a run of `mle`: its generator at the start, no epoch of likelihood here, and only the rounds trained."""
    likelihood = MLETrainConfig(WHOLE.generator, WHOLE.mle, WHOLE.monitor)
    source = train("mle", RUN, likelihood, tmp_path / "mle")
    alone = dataclasses.replace(WHOLE, counterpart=CounterpartConfig(epochs=0))
    folder = train("pg_bleu", RUN, alone, tmp_path / "pg", start=source)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records if r["kind"] == "train"] == ["policy gradient"] * 4
    there = checkpoint.newest(source / "checkpoints", tag="final") / "generator" / "model.safetensors"
    here = checkpoint.newest(folder / "checkpoints", tag="pre-trained") / "generator" / "model.safetensors"
    assert there.read_bytes() == here.read_bytes()
    final = checkpoint.newest(folder / "checkpoints", tag="final") / "generator" / "model.safetensors"
    assert final.read_bytes() != here.read_bytes()
    names = [g["name"] for g in json.loads((folder / "scores.json").read_text())["generators"]]
    assert names == ["pre-trained", "final"]


@pytest.mark.parametrize("reward", ["constant", "random", "shuffled"])
def test_a_null_control_starts_from_the_same_generator_and_goes_elsewhere(reward, tmp_path):
    """The reward alone differs: pre-training and samples of the first step are those of BLEU."""
    sizes = "--data.vocab_size=20 --data.max_length=6 --data.train_size=128 --data.valid_size=32 --data.test_size=32"
    small = (
        "--generator.hidden=8 --mle.epochs=1 --rounds=2 --batch=8 --evaluate.samples=32 --evaluate.temperatures=[1.0]"
    )
    logs = {}
    for name in ("bleu", reward):
        argv = ["train", "pg_bleu", *sizes.split(), *small.split(), "--monitor.samples=32", "--reward", name]
        assert main([*argv, "--out", str(tmp_path / name)]) == 0
        records = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        logs[name] = [(r["bleu"], r["entropy"], r["gradient_norm"]) for r in records if "bleu" in r]
    assert logs["bleu"][0][:2] == logs[reward][0][:2]
    assert logs["bleu"][0][2] != logs[reward][0][2]
    assert logs["bleu"][1] != logs[reward][1]
