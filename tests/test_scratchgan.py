"""ScratchGAN: rewards, losses and gradients written out, runs."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from test_scratchgan_networks import T, V, made, sigmoid
from torch.nn import functional as F
from worlds import Headless, every_sequence, far, gradients, rng

from seqforge import objectives
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.likelihood import log_probs
from seqforge.methods import mle, scratchgan
from seqforge.methods.mle import CounterpartConfig, MonitorConfig
from seqforge.methods.scratchgan import Moving, ScratchGANConfig, discriminator_step, generator_step
from seqforge.models.skip_lstm import SkipLSTMConfig, SkipLSTMGenerator
from seqforge.models.token_discriminator import TokenDiscriminator, TokenDiscriminatorConfig
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Samples, mask_of, sample, uniform

# --- rewards, returns, losses -------------------------------------------------------------------------------------


def test_returns_are_the_written_out_sums():
    reward = torch.rand(5, T, generator=rng(1), dtype=torch.float64) - 0.5
    lengths = torch.tensor([7, 1, 3, 6, 2])
    mask = mask_of(lengths, T)
    for gamma in (0.0, 0.23, 1.0):
        found = objectives.discounted_return(reward, mask, gamma)
        for b, t in itertools.product(range(5), range(T)):
            n = int(lengths[b])
            truth = sum(gamma ** (s - t) * float(reward[b, s]) for s in range(t, n)) if t < n else 0.0
            assert float(found[b, t]) == pytest.approx(truth, abs=1e-12)


def test_absorbing_returns_go_on_past_the_end():
    reward = torch.rand(5, T, generator=rng(1), dtype=torch.float64) - 0.5
    lengths = torch.tensor([7, 1, 3, 6, 2])
    found = objectives.discounted_return(reward, mask_of(lengths, T), 0.23, absorbing=True)
    for b, t in itertools.product(range(5), range(T)):
        n = int(lengths[b])
        truth = sum(0.23 ** (s - t) * float(reward[b, min(s, n - 1)]) for s in range(t, t + 60)) if t < n else 0.0
        assert float(found[b, t]) == pytest.approx(truth, abs=1e-12)
    same = objectives.discounted_return(torch.full((5, T), -0.4), mask_of(lengths, T), 0.23, absorbing=True)
    assert torch.allclose(same, -0.4 / 0.77 * mask_of(lengths, T))  # where all rewards are alike, so are all lengths
    for wrong in ({"gamma": 1.0}, {"reward_at": "end"}):
        with pytest.raises(ValueError, match="absorbing needs a gamma below 1"):
            ScratchGANConfig(absorbing=True, **wrong)


def test_reward_and_discriminator_loss():
    logit = torch.randn(6, T, generator=rng(1), dtype=torch.float64)
    lengths = torch.tensor([7, 1, 3, 6, 2, 4])
    mask, label = mask_of(lengths, T), torch.tensor([True] * 3 + [False] * 3)
    reward = objectives.token_reward(logit, mask)
    logits = objectives.token_reward(logit, mask, "logit")
    loss = objectives.token_discriminator_loss(logit, mask, label, 3 * T)
    total = 0.0
    for b, t in itertools.product(range(6), range(T)):
        p = sigmoid(float(logit[b, t]))
        assert float(reward[b, t]) == pytest.approx(2 * p - 1 if t < lengths[b] else 0.0, abs=1e-12)
        assert float(logits[b, t]) == (float(logit[b, t]) if t < lengths[b] else 0.0)
        total -= 0.5 * math.log(p if label[b] else 1 - p) if t < lengths[b] else 0.0
    assert float(loss) == pytest.approx(total / (3 * T), rel=1e-6)


def test_moving_baselines():
    mask = mask_of(torch.tensor([2, 1]), 4)
    returns = torch.tensor([[1.0, 3.0, 0, 0], [2.0, 0, 0, 0]])  # 6 over 8 places, 3 tokens
    coded, slow, none = (Moving(kind, 0.08) for kind in ("published", "slow", "none"))
    assert coded.update(returns, mask) == pytest.approx(0.92 * 0.75)
    assert coded.update(returns, mask) == pytest.approx(0.08 * 0.92 * 0.75 + 0.92 * 0.75)
    assert slow.update(returns, mask) == pytest.approx(0.08 * 2)
    assert slow.update(returns, mask) == pytest.approx(0.92 * 0.08 * 2 + 0.08 * 2)
    assert none.update(returns, mask) == 0
    again = Moving("slow", 0.08)
    again.load_state_dict(slow.state_dict())
    assert again.value == slow.value


def small_world():
    """Both players of V=3, T=4 in double precision, all sequences there are, and the reward of every token."""
    generator = SkipLSTMGenerator(3, 0, 3, hidden=4, eos_id=2, seed=1).double().eval()
    torch.nn.init.normal_(generator.head.weight, generator=rng(1))
    discriminator = TokenDiscriminator(3, 4, 0, 3, hidden=4, seed=2).double().eval()
    ids, lengths = every_sequence(eos_id=2)
    mask = mask_of(lengths, 4)
    with torch.no_grad():
        reward = objectives.token_reward(discriminator(ids, lengths), mask)
    return generator, discriminator, ids, lengths, mask, reward


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_the_expected_gradient_is_the_true_one(kind):
    """gamma 1, all sequences of V=3, T=4 with an end token: sum_s p(s) (gradient of s's loss) = -d E[sum_t r_t] / T."""
    generator, _, ids, lengths, mask, reward = small_world()
    p = log_probs(generator, ids, lengths).sum(1).exp()
    truth = gradients(-(p * reward.sum(1)).sum() / 4, generator)
    returns = objectives.discounted_return(reward, mask, 1.0) - 0.37  # any baseline
    weight = p.detach()[:, None] * returns * mask
    fake = Samples(ids, lengths, torch.zeros(ids.shape))
    wrapped = kind(generator)
    loss, _ = scratchgan.weighted_nll(wrapped, ids, lengths, weight / 4)
    assert far(gradients(loss, generator), truth) <= 1e-10
    assert max(float(g.abs().max()) for g in truth.values()) > 1e-3
    if kind is not Headless:  # the step takes the mean over batch times length of it
        still = torch.optim.SGD(generator.parameters(), lr=0.0)
        generator_step(
            generator, still, fake, p.detach()[:, None] * returns * mask * len(ids), ScratchGANConfig(batch=31)
        )
        found = {k: v.grad for k, v in generator.named_parameters() if v.requires_grad}
        assert far(found, truth) <= 1e-10


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_a_batch_in_parts_is_the_same_update(accumulate):
    ids = torch.randint(V, (12, T), generator=rng(3))
    lengths = torch.randint(1, T + 1, (12,), generator=rng(4))
    other = torch.randint(V, (12, T), generator=rng(5))
    advantage = torch.randn(12, T, generator=rng(6)) * mask_of(lengths, T)
    found = []
    for parts in (1, accumulate):
        config = ScratchGANConfig(batch=12, accumulate=parts, d_l2=0.1, l2=0.1)
        generator, discriminator = made(), TokenDiscriminator(V, T, 3, 4, hidden=5, dropout=0.0, seed=1)
        still = [torch.optim.SGD(m.parameters(), lr=0.0) for m in (generator, discriminator)]
        fake = Samples(other, lengths.flip(0), torch.zeros(12, T))
        stats = discriminator_step(discriminator, still[1], Split(ids, lengths), fake, config, "fp32")
        stats |= generator_step(generator, still[0], Samples(ids, lengths, advantage), advantage, config)
        grads = {f"{i}{k}": p.grad for i, m in enumerate((generator, discriminator)) for k, p in m.named_parameters()}
        found.append((stats, {k: g for k, g in grads.items() if g is not None}))
    assert far(found[0][1], found[1][1]) <= 1e-6
    for name in found[0][0]:
        assert float(found[0][0][name]) == pytest.approx(float(found[1][0][name]), abs=1e-6)


def test_l2_is_half_the_squared_norm_of_all_parameters():
    model = made()
    loss = lambda m: m.into.weight.square().sum()  # noqa: E731
    loss(model).backward()
    scratchgan.decay(model, 0.3)
    twin = made()
    (loss(twin) + 0.15 * twin.into.weight.square().sum()).backward()
    frozen = made(freeze=True)
    scratchgan.decay(frozen, 0.3)
    assert float(frozen.head.weight.grad[:, :3].abs().max()) == 0
    assert (frozen.head.weight.grad[:, 3:] - 0.3 * frozen.head.weight.detach()[:, 3:]).abs().max() <= 1e-6
    assert (model.into.weight.grad - twin.into.weight.grad).abs().max() <= 1e-6


# --- runs ---------------------------------------------------------------------------------------------------------

VOCAB, EOS = 6, 3


def corpus(n: int = 240) -> Corpus:
    """Runs of one token, 2 to 4 long, and the end."""

    def split(count: int, seed: int) -> Split:
        token = torch.tensor([0, 1, 2, 4, 5])[torch.randint(5, (count,), generator=rng(seed))]
        lengths = torch.randint(3, 6, (count,), generator=rng(seed + 1))
        ids = token[:, None] * mask_of(lengths, 5)
        ids[torch.arange(count), lengths - 1] = EOS
        return Split(ids, lengths)

    splits = [split(n, 1), split(60, 3), split(60, 5)]
    sizes = {"vocab_size": VOCAB, "max_length": 5, "start_id": EOS, "eos_id": EOS}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(VOCAB), source="toy", digest=splits[0].digest())


def run_of(folder, seed: int = 3, **options):
    small = {
        "generator": SkipLSTMConfig(trainable=8, hidden=16),
        "discriminator": TokenDiscriminatorConfig(hidden=16),
        "monitor": MonitorConfig(every=0, samples=16, lines=2),
        "counterpart": CounterpartConfig(epochs=0),
        **{"batch": 64, "lr": 0.003, "d_lr": 0.003},
    }
    run = Run.create(folder, {"method": "scratchgan"}, seed=seed, saving=CheckpointConfig(seconds=1e9))
    return scratchgan.train(ScratchGANConfig(**{**small, **options}), corpus(), run), run


def share_right(generator) -> float:
    """Of 500 samples, those of one token, ended in time."""
    drawn = sample(generator, uniform((500, 5), rng(9)))
    rows = [row[: n - 1] for row, n in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)]
    ended = drawn.ids[torch.arange(500), drawn.lengths - 1] == EOS
    return float(np.mean([len(set(r)) == 1 and len(r) > 1 and bool(e) for r, e in zip(rows, ended, strict=True)]))


@pytest.mark.parametrize("reward", ["constant", "random", "frozen", "shuffled"])
def test_a_control_that_asks_no_discriminator_trains_none(reward, tmp_path):
    _, run = run_of(tmp_path / reward, rounds=1, steps=2, reward=reward)
    last = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert ("p_real" in next(r for r in last if r["kind"] == "train")) == (reward == "shuffled")


@pytest.mark.slow
def test_it_learns_from_scratch_and_its_control_does_not(tmp_path):
    learnt, run = run_of(tmp_path / "run", rounds=12, steps=25)
    before, _ = run_of(tmp_path / "start", rounds=0)
    constant, _ = run_of(tmp_path / "constant", rounds=12, steps=25, reward="constant")
    assert share_right(before) < 0.1
    assert share_right(learnt) > max(0.2, 3 * share_right(constant))  # .4 to .8, by the machine's arithmetic
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    rounds = [r for r in lines if r["kind"] == "train"]
    assert rounds[-1]["nll_valid"] < rounds[0]["nll_valid"]
    assert all(-1 <= r["reward"] <= 1 and 0 < r["p_real"] < 1 for r in rounds)


def test_frozen_and_rewards_at_the_end(tmp_path, monkeypatch):
    seen = []
    plain = objectives.discounted_return
    monkeypatch.setattr(
        scratchgan.objectives, "discounted_return", lambda r, m, *a: (seen.append((r, m)), plain(r, m, *a))[1]
    )
    _, run = run_of(tmp_path / "run", rounds=1, steps=2, reward="frozen", reward_at="end")
    for reward, mask in seen:
        at = reward != 0
        assert (at.sum(1) == 1).all()
        assert torch.equal(at.float().argmax(1), mask.sum(1) - 1)
    assert "d_loss" not in json.loads((run.folder / "log.jsonl").read_text().splitlines()[-2])


def test_the_discriminator_takes_as_many_updates_as_asked_on_sequences_of_their_own(tmp_path, monkeypatch):
    seen, plain = [], scratchgan.discriminator_step

    def watch(discriminator, optimizer, real, fake, *args):
        seen.append((real.ids.tolist(), fake.ids.tolist()))
        return plain(discriminator, optimizer, real, fake, *args)

    monkeypatch.setattr(scratchgan, "discriminator_step", watch)
    run_of(tmp_path / "run", rounds=1, steps=2, d_steps=3)
    assert len(seen) == 2 * 3
    for side in zip(*seen, strict=True):
        assert all(a != b for a, b in itertools.combinations(side, 2))


def test_the_average_of_the_weights_is_kept_and_the_learner_goes_on_without_it(tmp_path, monkeypatch):
    seen, plain = [], mle.follow
    monkeypatch.setattr(mle, "follow", lambda a, m, d, step: (seen.append((d, step)), plain(a, m, d, step)))
    plainly, _ = run_of(tmp_path / "plain", rounds=2, steps=3)
    assert not seen
    mean, run = run_of(tmp_path / "mean", rounds=2, steps=3, average=0.9)
    assert seen == [(0.9, n) for n in range(6)]
    learner = run._models["learner"]
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), plainly.parameters(), strict=True))
    assert not torch.equal(mean.head.weight, plainly.head.weight)
    rounds = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    found = [r["nll_valid"] for r in rounds if r["kind"] == "train"]
    assert mle.validation_nll(mean, corpus().valid) == pytest.approx(found[-1], abs=1e-9)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch": 4, "accumulate": 5}, "accumulate is 5"),
        ({"steps": 0}, "steps is 0"),
        ({"d_steps": 0}, "d_steps is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"candidates": 4, "reward_at": "end"}, "candidates is 4"),
        ({"reward_form": "ratio"}, "of which there is 1"),
        ({"power": 0.0, "candidates": 2, "reward_form": "ratio"}, "power is 0"),
        ({"power": 0.5}, "not probability"),
        ({"ramp": 5, "reward_form": "logit"}, "not logit"),
        ({"warmup": -1}, "warmup is -1"),
        ({"ramp": -1}, "ramp is -1"),
        ({"prompts": 1.1}, "prompts is 1.1"),
        ({"cooldown": 1.5}, "cooldown is 1.5"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"beta1": 1.0}, "beta1 is 1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"d_l2": -1.0}, "d_l2 is -1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ScratchGANConfig(**options)


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="needs one of them"):
        SkipLSTMConfig(pretrained=0, trainable=0)
    with pytest.raises(ValueError, match=r"generator\.layers is 0"):
        SkipLSTMConfig(layers=0)
    with pytest.raises(ValueError, match=r"discriminator\.hidden is 0"):
        TokenDiscriminatorConfig(hidden=0)


def test_loss_of_a_batch_of_no_padding_is_torchs_own():
    logit = torch.randn(8, T, generator=rng(1))
    label = torch.arange(8) < 4
    mask = torch.ones(8, T, dtype=torch.bool)
    truth = F.binary_cross_entropy_with_logits(logit, label[:, None].float().expand_as(logit))
    assert float(objectives.token_discriminator_loss(logit, mask, label, 4 * T)) == pytest.approx(
        float(truth), rel=1e-5
    )
