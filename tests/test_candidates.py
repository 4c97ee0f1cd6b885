"""ScratchGAN's candidates and its beginnings of real sequences: drawn, judged, and what they change of an update."""

import itertools
import json

import pytest
import torch
from test_scratchgan import EOS, corpus, run_of, small_world
from test_scratchgan_networks import T, V, made
from torch.nn import functional as F
from worlds import far, gradients, rng

from seqforge import objectives
from seqforge.candidates import relative_worth, share_worth
from seqforge.data.corpus import Split
from seqforge.likelihood import log_probs
from seqforge.methods import scratchgan
from seqforge.methods.scratchgan import ScratchGANConfig, discriminator_step
from seqforge.models.token_discriminator import TokenDiscriminator
from seqforge.sampling import Prompts, Samples, mask_of, sample, uniform

# --- candidates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_norm", [True, False])
def test_candidates_are_judged_as_the_sequences_that_hold_them(layer_norm):
    discriminator = TokenDiscriminator(V, T, 3, 4, hidden=6, layer_norm=layer_norm, seed=2).eval()
    torch.nn.init.normal_(discriminator.bias, generator=rng(4))
    torch.nn.init.normal_(discriminator.into.bias, generator=rng(5))
    lengths = torch.tensor([3, T, 1, 5, T])
    ids = torch.randint(V, (5, T), generator=rng(1)) * mask_of(lengths, T)
    candidates = torch.randint(V, (5, T, 4), generator=rng(2))
    found = discriminator.of_candidates(ids, lengths, candidates)
    for row, n in enumerate(lengths.tolist()):
        assert not found[row, n:].any()
        for t, k in itertools.product(range(n), range(4)):
            other = ids[row : row + 1, : t + 1].clone()
            other[0, t] = candidates[row, t, k]
            one = discriminator(F.pad(other, (0, T - t - 1)), torch.tensor([t + 1]))[0, t]
            assert abs(found[row, t, k].item() - one.item()) <= 1e-5


def test_candidates_are_drawn_from_what_the_token_was():
    generator = made(eos_id=2)
    noise = uniform((1, T), rng(6))
    one = sample(generator, noise)
    n = int(one.lengths)
    assert n >= 3
    more = uniform((4000, T, 5), rng(2))
    many = sample(generator, torch.cat([noise[..., None].expand(4000, -1, -1), more], -1), rows=1700)
    assert torch.equal(many.ids, one.ids.expand(4000, -1))
    assert (many.logp - one.logp).abs().max() <= 1e-6
    drawn = many.candidates
    assert torch.equal(drawn[..., 0], many.ids)
    assert not drawn[:, n:].any()
    first, state = generator.start(1)
    later, _ = generator.extend(one.ids[:, :-1], state)
    p = torch.cat([first[:, None], later], 1)[0].softmax(-1)  # (T,V)
    for t in range(n):
        shares = torch.bincount(drawn[:, t, 1:].flatten(), minlength=V) / 20_000
        assert ((shares - p[t]).abs() <= 4 * (p[t] * (1 - p[t]) / 20_000).sqrt() + 1e-4).all()


def test_candidates_expected_gradient_is_that_of_one_draw():
    """At one place, all K-tuples of draws weighted by their probability: the gradient of the expected reward."""
    logits = torch.randn(4, generator=rng(1), dtype=torch.double).requires_grad_()
    reward = torch.randn(4, generator=rng(2), dtype=torch.double)
    p = logits.softmax(0)
    (truth,) = torch.autograd.grad((p * reward).sum(), logits, retain_graph=True)
    total = torch.zeros(())
    for each in itertools.product(range(4), repeat=3):
        at = torch.tensor(each)
        weight = relative_worth(reward[at])
        assert abs(float(weight.sum())) <= 1e-12
        total = total + p.detach()[at].prod() * (weight * logits[at]).sum()
    (ours,) = torch.autograd.grad(total, logits)
    assert (ours - truth).abs().max() <= 1e-12


@pytest.mark.parametrize(("gamma", "absorbing"), [(1.0, False), (0.23, False), (0.23, True)])
def test_candidates_leave_the_expected_update_of_whole_sequences_as_it_is(gamma, absorbing):
    """All sequences of V=3, T=4, and at every place all of what a second candidate may be: with and without candidates
    the expected gradient of the loss is one.
    """
    generator, discriminator, ids, lengths, mask, reward = small_world()
    with torch.no_grad():
        first, state = generator.start(len(ids))
        later, _ = generator.extend(ids[:, :-1], state)
        chance = torch.cat([first[:, None], later], 1).softmax(-1)  # (B,T,V)
        p = log_probs(generator, ids, lengths).sum(1).exp()[:, None]
    returns = objectives.discounted_return(reward, mask, gamma, absorbing)
    truth = gradients(scratchgan.weighted_nll(generator, ids, lengths, p * returns)[0], generator)
    ours = scratchgan.weighted_nll(generator, ids, lengths, p * (returns - reward - 0.4) * mask)[0]
    for a in range(3):
        candidates = torch.stack([ids, torch.full_like(ids, a)], -1)
        logit = discriminator.of_candidates(ids, lengths, candidates)
        each = objectives.token_reward(logit, mask[..., None].expand_as(candidates))
        weight = relative_worth(each) * (p * chance[..., a])[..., None]
        ours = ours + scratchgan.weighted_nll(generator, ids, lengths, 0 * p * mask, others=(candidates, weight))[0]
    assert far(gradients(ours, generator), truth) <= 1e-10
    assert max(float(g.abs().max()) for g in truth.values()) > 1e-3


def test_shares_of_many_candidates_are_likelihood_on_the_data():
    """With logits log p/q of the best discriminator the expected gradient of log q is that of the data's next token."""
    data, logits = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.9, 0.1, -0.4, 0.3])
    q = logits.softmax(0)
    drawn = torch.multinomial(q, 400 * 512, replacement=True, generator=rng(1)).view(400, 512)
    weight = share_worth((data / q).log()[drawn] + torch.randn(400, 1, generator=rng(2)))  # the prefix's own cancels
    assert weight.sum(1).abs().max() <= 1e-5
    ours = torch.zeros(400, 4).scatter_add(1, drawn, weight).mean(0)  # d sum_k weight_k log q(a_k) / d logits
    assert (ours - (data - q)).abs().max() <= 0.005
    assert (data - q).abs().max() >= 0.1


@pytest.mark.parametrize(
    ("reward", "form"),
    [("discriminator", "probability"), ("discriminator", "ratio"), ("constant", "ratio"), ("shuffled", "logit")],
)
def test_a_run_with_candidates_and_a_slow_start(reward, form, tmp_path, monkeypatch):
    seen, plain = [], scratchgan.generator_step

    def watch(generator, optimizer, fake, advantage, config, precision, others):
        seen.append((optimizer.param_groups[0]["lr"], fake, *others))
        return plain(generator, optimizer, fake, advantage, config, precision, others)

    monkeypatch.setattr(scratchgan, "generator_step", watch)
    powers, judged = [], scratchgan.candidate_rewards
    monkeypatch.setattr(scratchgan, "candidate_rewards", lambda *a: (powers.append(a[-1]), judged(*a))[1])
    ratio = {"power": 0.5, "ramp": 4} if form == "ratio" else {}
    options = {"candidates": 3, "reward_form": form, **ratio, "warmup": 3, "cooldown": 0.5, "lr": 0.012}
    _, run = run_of(tmp_path / reward, rounds=2, steps=3, reward=reward, **options)
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    if form == "ratio":  # what is logged, and what is still to come, is in probabilities
        assert all(-1 <= r["reward"] <= 1 for r in logged if r["kind"] == "train")
    assert [lr for lr, *_ in seen] == pytest.approx([0.004, 0.008, 0.012, 0.012, 0.008, 0.004])
    assert powers == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5] if ratio else [1.0] * 6)
    for _, fake, candidates, weight in seen:
        assert torch.equal(candidates[..., 0], fake.ids)
        assert weight.sum(-1).abs().max() <= 1e-5
        assert bool(weight.any()) == (reward != "constant")
        assert not weight[~mask_of(fake.lengths, weight.shape[1])].any()


# --- beginnings of real sequences -----------------------------------------------------------------------------------


def test_what_is_given_stays_and_what_follows_is_drawn_after_it():
    generator = made(eos_id=2)
    ids = torch.randint(3, V, (50, T), generator=rng(1))
    prompts = Prompts(ids, torch.arange(50) % T)
    noise = uniform((50, T), rng(2))
    drawn = sample(generator, noise, prompts=prompts)
    assert torch.equal(drawn.given, prompts.lengths)
    given = mask_of(prompts.lengths, T)
    assert torch.equal(drawn.ids[given], ids[given])
    assert not drawn.logp[given].any()
    truth = log_probs(generator, drawn.ids, drawn.lengths) * scratchgan.drawn_mask(drawn)
    assert (truth - drawn.logp).abs().max() <= 1e-5
    cut = sample(generator, noise, rows=7, prompts=prompts)
    assert all(torch.equal(getattr(cut, n), getattr(drawn, n)) for n in ("ids", "lengths", "given"))
    free = sample(generator, noise)
    assert torch.equal(free.ids[::T], drawn.ids[::T])  # those that were given nothing


def test_neither_player_learns_from_what_was_given(tmp_path, monkeypatch):
    seen, plain = [], scratchgan.weighted_nll

    def watch(generator, ids, lengths, weight, precision, others):
        seen.append((ids, lengths, weight, others))
        return plain(generator, ids, lengths, weight, precision=precision, others=others)

    monkeypatch.setattr(scratchgan, "weighted_nll", watch)
    begun, all_of_them = [], scratchgan.beginnings
    monkeypatch.setattr(scratchgan, "beginnings", lambda *a: (begun.append(all_of_them(*a)), begun[-1])[1])
    run_of(tmp_path / "run", rounds=1, steps=3, prompts=0.7, candidates=3)
    for (_, _, weight, others), prompts in zip(seen, begun[1::2], strict=True):  # the discriminator's come first
        given = mask_of(prompts.lengths, weight.shape[1])
        assert 0 < int((prompts.lengths > 0).sum()) < len(given)
        assert not weight[given].any()
        assert not others[1][given].any()
    discriminator = TokenDiscriminator(V, T, 0, 4, hidden=5, dropout=0.0, seed=2)
    real, ids = torch.randint(V, (8, T), generator=rng(3)), torch.randint(V, (8, T), generator=rng(4))
    full, given = torch.full((8,), T), torch.arange(8) % T
    fake = Samples(ids, full, torch.zeros(8, T), given=given)
    still = torch.optim.SGD(discriminator.parameters(), lr=0.0)
    found = discriminator_step(discriminator, still, Split(real, full), fake, ScratchGANConfig(batch=8), "fp32")
    grads = {k: v.grad.clone() for k, v in discriminator.named_parameters()}
    nll = (
        -F.logsigmoid(discriminator(real, full)).sum()
        - (F.logsigmoid(-discriminator(ids, full)) * ~mask_of(given, T)).sum()
    )
    truth = gradients(0.5 * nll / (8 * T), discriminator)
    decayed = {k: truth[k] + 1e-6 * v for k, v in discriminator.named_parameters()}
    assert far(grads, decayed) <= 1e-6
    assert found["d_loss"].item() == pytest.approx(0.5 * nll.item() / (8 * T), rel=1e-5)


def test_beginnings_are_of_the_training_set_and_leave_the_last_token(tmp_path):
    _, run = run_of(tmp_path / "run", rounds=0)
    train = corpus().train
    found = scratchgan.beginnings(train, ScratchGANConfig(batch=4000, prompts=0.5), run)
    rows = {tuple(r) for r in train.ids.tolist()}
    assert {tuple(r) for r in found.ids.tolist()} <= rows
    ends = (found.ids == EOS).float().argmax(1)
    assert (found.lengths <= ends).all()
    assert float((found.lengths == 0).float().mean()) > 0.5  # those asked for none, and those that drew 0
    assert bool((found.lengths == ends).any())
