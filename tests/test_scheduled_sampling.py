"""Scheduled sampling: the share of truth by hand, what is read by enumeration, the loss against plain autograd."""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from test_resume import Cut, assert_same, cut_at, short_report  # noqa: F401
from torch import nn
from worlds import Headless, alive, every_sequence, far, gradients, plain_log_probs, rng, tiny

from seqforge import checkpoint, likelihood, objectives
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.evaluate import EvaluateConfig
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle, scheduled_sampling
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.methods.scheduled_sampling import ScheduledSamplingConfig, true_share
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.run import CheckpointConfig, Run, derive_seed
from seqforge.sampling import mask_of, read_own, uniform
from seqforge.training import RunConfig, resume, train

# --- the share of truth -------------------------------------------------------------------------------------------

SHARES = [
    ({"decay": "linear", "slope": 0.25}, {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0, 9: 0.0}),
    ({"decay": "linear"}, {0: 1.0, 1: 0.998, 250: 0.5}),
    ({"decay": "linear", "slope": 0.0}, {0: 1.0, 1000: 1.0}),
    ({"decay": "linear", "slope": 0.1, "least": 0.3}, {6: 0.4, 7: 0.3, 8: 0.3, 100: 0.3}),
    ({"decay": "exponential", "k": 0.5}, {0: 1.0, 1: 0.5, 2: 0.25, 5: 0.03125}),
    ({"decay": "exponential", "k": 0.5, "least": 0.2}, {2: 0.25, 3: 0.2}),
    ({"decay": "inverse-sigmoid", "k": 1.0}, {0: 0.5, 1: 1 / (1 + math.e), 2: 1 / (1 + math.e**2)}),
    ({"decay": "inverse-sigmoid", "k": 10.0}, {0: 10 / 11, 10: 0.78627, 100: 0.000453794}),
    ({"decay": "inverse-sigmoid", "k": 1.0, "least": 0.1}, {10**6: 0.1}),
]


@pytest.mark.parametrize(("options", "expected"), SHARES)
def test_the_share_of_truth_by_hand(options, expected):
    config = ScheduledSamplingConfig(**options)
    assert {i: true_share(config, i) for i in expected} == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("options", [o for o, _ in SHARES])
def test_the_share_of_truth_never_rises_and_is_a_probability(options):
    shares = [true_share(ScheduledSamplingConfig(**options), i) for i in range(3000)]
    assert all(0 <= b <= a <= 1 for a, b in itertools.pairwise(shares))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"slope": -0.1}, "slope is -0.1"),
        ({"least": 1.5}, r"least is 1.5, but must lie in \[0, 1\]"),
        ({"least": -0.5}, "least is -0.5"),
        ({"decay": "exponential", "k": 1.5}, "k is 1.5"),
        ({"decay": "exponential", "k": 0.0}, "k is 0.0"),
        ({"decay": "inverse-sigmoid"}, "k is 0.99, but must be at least 1"),
        ({"decay": "cosine"}, "decay is 'cosine', but must be linear, exponential or inverse-sigmoid"),
    ],
)
def test_a_decay_that_means_nothing_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        ScheduledSamplingConfig(**wrong)


# --- what is read -------------------------------------------------------------------------------------------------

HORIZON = 3
MASKS = [m for m in itertools.product([False, True], repeat=HORIZON) if any(m[:-1])]


def next_probability(generator, prefix: tuple[int, ...]) -> np.ndarray:
    """p(. | prefix) (V,), the end token ruled out and the rest renormalised; by the written-out LSTM."""
    ids = torch.tensor([[*prefix, v] for v in range(3)])
    p = plain_log_probs(generator, ids, torch.full((3,), len(prefix) + 1))[:, -1].detach().exp().numpy().copy()
    if generator.eos_id is not None:
        p[generator.eos_id] = 0
    return p / p.sum()


@pytest.mark.parametrize("eos_id", [None, 1])
@pytest.mark.parametrize("own", MASKS)
@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_what_is_read_follows_the_generators_own_probabilities(eos_id, own, kind):
    """Every mixed prefix as often as the product of p(own token | what was read before it); the truth elsewhere."""
    generator = tiny(11, eos_id, init_std=0.8)
    truth, n = [2, 0, 2], 6000
    ids = torch.tensor([truth]).repeat(n, 1)
    read = read_own(kind(generator), ids, torch.tensor([own]).repeat(n, 1), uniform((n, HORIZON), rng(1)))
    expected = {(): 1.0}
    for t in range(HORIZON - 1):
        choice = [v for v in range(3) if v != eos_id] if own[t] else [truth[t]]
        expected = {
            (*prefix, v): p * (next_probability(generator, prefix)[v] if own[t] else 1)
            for prefix, p in expected.items()
            for v in choice
        }
    assert sum(expected.values()) == pytest.approx(1)
    keys = list(expected)
    count = np.zeros(len(keys))
    for row in read[:, : HORIZON - 1].tolist():
        count[keys.index(tuple(row))] += 1
    p = np.array([expected[k] for k in keys])
    assert stats.chisquare(count, n * p).pvalue > 1e-3
    assert stats.chisquare(count, n * np.roll(p, 1)).pvalue < 1e-6  # the test has the power to tell
    assert torch.equal(ids, torch.tensor([truth]).repeat(n, 1))  # the data are as they were


def test_each_row_has_its_own_mask_and_its_own_noise():
    generator = tiny(5, eos_id=2, vocab=7)
    ids, noise = torch.randint(7, (20, 6), generator=rng(1)), uniform((20, 6), rng(2))
    own = uniform((20, 6), rng(3)) < 0.5
    read = read_own(generator, ids, own, noise)
    assert torch.equal(read[:, :-1][~own[:, :-1]], ids[:, :-1][~own[:, :-1]])
    assert not torch.equal(read, ids)
    assert not read[:, :-1][own[:, :-1]].eq(2).any()
    for r in range(20):
        assert torch.equal(read_own(generator, ids[r : r + 1], own[r : r + 1], noise[r : r + 1])[0], read[r])
    assert torch.equal(read_own(generator, ids, torch.zeros_like(own), noise), ids)


def test_the_end_token_is_never_read_though_the_generator_says_nothing_else():
    generator = tiny(6, eos_id=2, vocab=5)
    with torch.no_grad():
        generator.head.bias[2] += 30.0
    ids = torch.zeros(200, 5, dtype=torch.long)
    read = read_own(generator, ids, torch.ones_like(ids, dtype=torch.bool), uniform((200, 5), rng(1)))
    assert not read.eq(2).any()
    assert len(read[:, 0].unique()) > 1


# --- the loss -----------------------------------------------------------------------------------------------------


def autograd_loss(generator: LSTMGenerator, ids, lengths, read):
    """Mean -log p(y_t | read_<t) over the tokens, by torch's own embedding, LSTM and cross-entropy."""
    inputs = torch.cat([torch.full((len(ids), 1), generator.start_id), read[:, :-1]], 1)
    logits = generator.head(generator.lstm(generator.embed(inputs))[0])
    each = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
    return (each * alive(lengths, ids.shape[1])).sum() / lengths.sum()


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_loss_and_gradient_are_those_of_the_mixed_inputs(kind):
    generator = tiny(7, eos_id=2)
    ids, lengths = every_sequence(eos_id=2)
    own, noise = uniform(tuple(ids.shape), rng(1)) < 0.6, uniform(tuple(ids.shape), rng(2))
    read = read_own(generator, ids, own, noise)
    weight = objectives.mle_weight(mask_of(lengths, 4))
    loss, logp = weighted_nll(kind(generator), ids, lengths, weight, read)
    truth = autograd_loss(generator, ids, lengths, read)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
    assert far(gradients(loss, generator), gradients(autograd_loss(generator, ids, lengths, read), generator)) <= 1e-6
    assert -float(logp.sum() / lengths.sum()) == pytest.approx(truth.item(), rel=1e-6)
    forced = autograd_loss(generator, ids, lengths, ids)
    assert abs(float(forced.detach() - truth.detach())) > 1e-2  # the mixture is not teacher forcing
    same, _ = weighted_nll(kind(generator), ids, lengths, weight, ids)
    assert same.item() == pytest.approx(forced.item(), rel=1e-6)


# --- a run --------------------------------------------------------------------------------------------------------

VOCAB, EOS = 6, 3


def corpus(n: int = 60) -> Corpus:
    def split(count: int, seed: int) -> Split:
        lengths = torch.randint(2, 6, (count,), generator=rng(seed))
        ids = torch.randint(VOCAB, (count, 5), generator=rng(seed + 1))
        ids[ids == EOS] = 0
        ids[torch.arange(count), lengths - 1] = EOS
        return Split(ids * alive(lengths, 5), lengths)

    splits = [split(n, 1), split(20, 3), split(20, 5)]
    sizes = {"vocab_size": VOCAB, "max_length": 5, "start_id": EOS, "eos_id": EOS}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(VOCAB), source="toy", digest=splits[0].digest())


def config(**options) -> ScheduledSamplingConfig:
    sizes = LSTMConfig(embedding=5, hidden=6, init_std=0.4)
    return ScheduledSamplingConfig(
        sizes, MLEConfig(epochs=4, batch=16, patience=0), MonitorConfig(every=0, samples=16, lines=2), **options
    )


def run_of(folder, options: ScheduledSamplingConfig, seed: int = 3) -> tuple[LSTMGenerator, Run]:
    run = Run.create(folder, {"method": "scheduled_sampling"}, seed=seed, saving=CheckpointConfig(seconds=1e9))
    return scheduled_sampling.train(options, corpus(), run), run


def test_a_share_of_one_is_teacher_forcing_bit_for_bit(tmp_path):
    """The generator that likelihood alone makes of the same start and the same order of batches."""
    generator, _ = run_of(tmp_path / "run", config(slope=0.0))
    plain = LSTMGenerator(VOCAB, 5, 6, init_std=0.4, start_id=EOS, eos_id=EOS, seed=derive_seed(3, "generator"))
    optimizer = torch.optim.AdamW(mle.trainable(plain), lr=0.01, weight_decay=0.0, fused=True)
    order, real = torch.Generator().manual_seed(derive_seed(3, "order")), corpus().train
    for _ in range(4):
        for rows in torch.randperm(60, generator=order).split(16):
            loss, _ = mle.likelihood_loss(plain, real[rows])
            mle.update(plain, optimizer, loss, 5.0)
    mixed, _ = run_of(tmp_path / "mixed", config(slope=0.5))
    for name, p in plain.state_dict().items():
        assert torch.equal(p, generator.state_dict()[name]), name
    assert not torch.equal(mixed.head.weight, generator.head.weight)


def test_every_batch_reads_its_own_tokens_as_often_as_the_share_says(tmp_path, monkeypatch):
    """Slope 0.5: all truth in epoch 0, half of it in epoch 1, none later; never the end token; logged as it was."""
    seen, plain = [], likelihood.weighted_nll

    def watch(generator, ids, lengths, weight, read, *args, **kwargs):
        seen.append((ids, lengths, read, generator.training))
        return plain(generator, ids, lengths, weight, read, *args, **kwargs)

    asked = []
    monkeypatch.setattr(scheduled_sampling, "weighted_nll", watch)
    monkeypatch.setattr(
        scheduled_sampling,
        "read_own",
        lambda g, ids, own, u: (asked.append((own, g.training)), read_own(g, ids, own, u))[1],
    )
    _, run = run_of(tmp_path / "run", config(slope=0.5))
    assert len(seen) == len(asked) == 4 * 4
    shares = [float(torch.cat([own for own, _ in asked[4 * e : 4 * e + 4]]).float().mean()) for e in range(4)]
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.5, abs=0.1)  # 300 coins: 3.5 standard errors
    assert shares[2:] == [1, 1]
    assert all(training for *_, training in seen)
    assert not any(training for _, training in asked)  # it draws as it samples: without dropout
    for (ids, _, read, _), (own, _) in zip(seen, asked, strict=True):
        inner = own[:, :-1]
        assert torch.equal(read[:, :-1][~inner], ids[:, :-1][~inner])
        assert not read[:, :-1][inner].eq(EOS).any()
    lines = [r for r in log(run) if r["kind"] == "train"]
    assert [r["true_share"] for r in lines] == [1.0, 0.5, 0.0, 0.0]
    assert [r["epoch"] for r in lines] == [0, 1, 2, 3]
    assert run.tokens == 4 * int(corpus().train.lengths.sum())


def log(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def test_the_figures_logged_are_the_mean_over_the_tokens(tmp_path, monkeypatch):
    """With a step size of nearly 0 every batch is scored by the generator it started from."""
    still = dataclasses.replace(config(slope=0.0), mle=MLEConfig(epochs=1, batch=16, patience=0, lr=1e-12))
    generator, run = run_of(tmp_path / "run", still)
    first = next(r for r in log(run) if r["kind"] == "train")
    data = corpus()
    for name, split in (("nll_read", data.train), ("nll_valid", data.valid)):
        truth = -plain_log_probs(generator, split.ids, split.lengths).sum() / split.lengths.sum()
        assert first[name] == pytest.approx(truth.item(), rel=1e-5)


def test_patience_stops_it_and_takes_the_best_epoch(tmp_path):
    options = dataclasses.replace(config(slope=0.5), mle=MLEConfig(epochs=40, batch=16, patience=2, lr=0.1))
    generator, run = run_of(tmp_path / "run", options)
    found = [r["nll_valid"] for r in log(run) if r["kind"] == "train"]
    assert len(found) < 40
    assert len(found) - 1 - int(np.argmin(found)) == 2
    assert mle.validation_nll(generator, corpus().valid) == pytest.approx(min(found), abs=1e-9)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    runs = [run_of(tmp_path / str(i), config(slope=0.4), seed)[0].state_dict() for i, seed in enumerate((3, 3, 4))]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert not torch.equal(runs[0]["head.weight"], runs[2]["head.weight"])


DATA = DataConfig(
    vocab_size=12, max_length=5, oracle_embedding=3, oracle_hidden=3, train_size=96, valid_size=32, test_size=32
)
RUN = RunConfig(data=DATA, checkpoint=CheckpointConfig(seconds=0), evaluate=EvaluateConfig(16, [1.0]))
WHOLE = ScheduledSamplingConfig(
    LSTMConfig(embedding=4, hidden=4, dropout=0.3),
    MLEConfig(epochs=5, batch=32, lr=0.1, lr_decay=0.5, patience=4),
    MonitorConfig(every=2, samples=16, lines=2),
    decay="inverse-sigmoid",
    k=1.0,
)


@functools.cache
def unbroken(folder: Path) -> Path:
    return train("scheduled_sampling", RUN, WHOLE, folder / "unbroken")


@pytest.fixture
def whole(tmp_path_factory):
    """The run that nothing interrupts, made once."""
    return unbroken(tmp_path_factory.getbasetemp())


@pytest.mark.filterwarnings("ignore:.*starting again from config.yaml")
@pytest.mark.parametrize(("name", "call"), [("log", 2), ("log", 5), ("checkpoint", 3), ("log", 9)])
def test_cut_off_and_resumed_is_never_stopped(name, call, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, name, call)
        with pytest.raises(Cut):
            train("scheduled_sampling", RUN, WHOLE, tmp_path / "run")
    assert resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_the_run_holds_its_best_weights_and_its_streams_of_noise(whole):
    state = checkpoint.load_training(checkpoint.newest(whole / "checkpoints", tag="final"))
    assert {"order", "coin", "own"} <= state["rngs"].keys()
    assert state["kept"]["best"]["nll"] > 0
