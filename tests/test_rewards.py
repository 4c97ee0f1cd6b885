"""Rollouts against the true action values of a tiny world, and controls that carry no information."""

import pytest
import torch
from scipy import stats
from worlds import (
    Headless,
    alive,
    every_sequence,
    fork_logits,
    garbled,
    plain_log_probs,
    rng,
    table_score,
    tiny,
    true_q,
)

from seqforge.likelihood import log_probs
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.rewards import (
    constant_reward,
    policy_trail,
    random_reward,
    rollout_q,
    sample_with_trail,
    shuffled_reward,
)
from seqforge.sampling import Samples, sample, uniform

ROWS, ROLLOUTS = 8, 2000


def rolled(generator, policy=None, rows=ROWS, rollouts=ROLLOUTS, seed=1, score=None):
    """Sampled sequences, and the action values that rollouts of `policy` find for them."""
    policy = policy or generator
    samples, trail = sample_with_trail(generator, uniform((rows, 4), rng(seed)))
    noise = uniform((rows, 3, rollouts, 4), rng(seed + 1))
    trail = policy_trail(policy, generator, samples, trail)
    return samples, rollout_q(policy, samples, trail, score or table_score(), noise)


def truth(policy, samples, eos_id):
    """True action values (B,T) of the sampled sequences under the policy, and the spread of one rollout's score."""
    ids, lengths = every_sequence(eos_id=eos_id)
    p = plain_log_probs(policy, ids, lengths).detach().sum(1).exp()
    q, spread = true_q(p, table_score()(ids, lengths), ids, lengths)
    rows = [
        next(s for s in range(len(ids)) if lengths[s] == n and torch.equal(ids[s], row))
        for row, n in zip(samples.ids, samples.lengths, strict=True)
    ]
    return q[rows], spread[rows]


def within(q, expected, spread, rollouts=ROLLOUTS):
    """Every entry within 4.5 standard errors; entries that need no rollout have none."""
    return bool(((q - expected).abs() <= 4.5 * spread / rollouts**0.5 + 1e-6).all())


@pytest.mark.parametrize("eos_id", [None, 2, 0])
@pytest.mark.parametrize("lagged", [False, True])
def test_rollouts_find_the_true_action_values(eos_id, lagged):
    generator = tiny(3, eos_id)
    policy = tiny(4, eos_id) if lagged else generator
    samples, q = rolled(generator, policy)
    expected, spread = truth(policy, samples, eos_id)
    assert within(q, expected, spread)
    last = (torch.arange(ROWS), samples.lengths - 1)
    assert torch.equal(q[last], table_score()(samples.ids, samples.lengths).float())
    assert not q[~alive(samples.lengths)].any()
    assert len(set(samples.lengths.tolist())) >= (1 if eos_id is None else 2)
    # the bound tells these from the truth: one position late, rows exchanged, the other policy
    shifted = torch.where(alive(samples.lengths - 1), torch.roll(expected, -1, 1), expected)
    assert not within(shifted, expected, spread)
    assert not within(torch.roll(expected, 1, 0), expected, spread)
    assert not within(truth(tiny(5, eos_id), samples, eos_id)[0], expected, spread)


def test_the_rollouts_of_a_token_depend_on_its_own_numbers_alone():
    """noise[b, t] belongs to row b after t+1 tokens: other numbers there change q[b, t] and nothing else."""
    generator = tiny(6)
    samples, trail = sample_with_trail(generator, uniform((5, 4), rng(2)))
    noise = uniform((5, 3, 40, 4), rng(3))
    before = rollout_q(generator, samples, trail, table_score(), noise)
    for b in range(5):
        for t in range(3):
            other = noise.clone()
            other[b, t] = uniform((40, 4), rng(4))
            changed = rollout_q(generator, samples, trail, table_score(), other) != before
            assert changed.nonzero().tolist() == [[b, t]]


def test_one_rollout_is_the_continuation_that_its_numbers_name():
    """With N=1 and the sampling's own numbers, every rollout completes a sequence to itself: q is its score."""
    generator = tiny(7, eos_id=2)
    noise = uniform((30, 4), rng(5))
    samples, trail = sample_with_trail(generator, noise)
    same = noise[:, None, None, :].expand(30, 3, 1, 4)
    q = rollout_q(generator, samples, trail, table_score(), same)
    score = table_score()(samples.ids, samples.lengths).float()
    assert torch.allclose(q, score[:, None] * alive(samples.lengths), atol=1e-6)


def test_every_prefix_is_kept_and_completed_as_often_as_asked():
    """N completions of each of the prefixes of 1, 2, 3 tokens, the first token in all of them, 0 past their ends."""
    generator = tiny(8, eos_id=2, init_std=0.3)
    seen = []

    def score(ids, lengths):
        seen.extend(zip(ids.tolist(), lengths.tolist(), strict=True))
        return torch.zeros(len(ids))

    samples, _ = rolled(generator, rows=1, rollouts=50, seed=3, score=score)
    row, n = samples.ids[0].tolist(), int(samples.lengths[0])
    assert n == 4
    assert all(not any(ids[k:]) for ids, k in seen)
    for t in range(1, 4):  # 50 for every fork at or after t keep t tokens; earlier forks may by chance
        assert sum(ids[:t] == row[:t] for ids, _ in seen) >= 50 * (4 - t)
    assert {tuple(ids[:1]) for ids, _ in seen} == {tuple(row[:1])}
    assert len({tuple(ids[:2]) for ids, _ in seen}) > 1


@pytest.mark.parametrize("eos_id", [None, 2])
def test_without_rollouts_every_token_shares_the_score_of_its_sentence(eos_id):
    samples, q = rolled(tiny(10, eos_id), rollouts=0)
    score = table_score()(samples.ids, samples.lengths).float()
    assert torch.equal(q, score[:, None] * alive(samples.lengths))


def test_action_values_of_a_row_do_not_depend_on_its_batch():
    generator = tiny(11, eos_id=2, dtype=torch.float32)
    noise, more = uniform((12, 4), rng(6)), uniform((12, 3, 7, 4), rng(7))
    samples, trail = sample_with_trail(generator, noise)
    q = rollout_q(generator, samples, trail, table_score(), more)
    for b in range(12):
        one, trail = sample_with_trail(generator, noise[b : b + 1])
        assert torch.allclose(rollout_q(generator, one, trail, table_score(), more[b : b + 1])[0], q[b], atol=1e-6)


def test_sequences_of_one_token_need_no_rollout():
    generator = tiny(12)
    samples, trail = sample_with_trail(generator, uniform((6, 1), rng(8)))
    score = table_score(horizon=1)
    q = rollout_q(generator, samples, trail, score, torch.zeros(6, 0, 16, 1))
    assert torch.equal(q[:, 0], score(samples.ids, samples.lengths).float())


def test_a_generator_without_a_linear_head_has_the_same_action_values():
    generator = tiny(16, eos_id=2)
    _, q = rolled(generator, rollouts=30)
    _, same = rolled(Headless(generator), rollouts=30)
    _, lagged = rolled(generator, tiny(17, eos_id=2), rollouts=30)
    _, lagged_too = rolled(Headless(generator), Headless(tiny(17, eos_id=2)), rollouts=30)
    assert torch.allclose(q, same, atol=1e-6)
    assert torch.allclose(lagged, lagged_too, atol=1e-6)
    assert not torch.allclose(q, lagged, atol=1e-2)


def test_what_lies_past_the_end_changes_no_reward():
    generator = tiny(13, eos_id=2)
    discriminator = CNNDiscriminator(3, 4, embedding=4, widths=[1, 2, 3], filters=[3, 3, 3], dropout=0.0)
    samples, trail = sample_with_trail(generator, uniform((20, 4), rng(9)))
    other = Samples(garbled(samples.ids, samples.lengths), samples.lengths, samples.logp)
    noise = uniform((20, 3, 5, 4), rng(10))
    for score in (table_score(), torch.no_grad()(discriminator)):
        a = rollout_q(generator, samples, trail, score, noise)
        assert torch.equal(a, rollout_q(generator, other, trail, score, noise))
        lagged = policy_trail(tiny(14, eos_id=2), generator, other, trail)
        assert torch.isfinite(rollout_q(generator, other, lagged, score, noise)).all()


def test_sampling_with_a_trail_is_sampling_and_its_forks_are_the_models_own_predictions():
    generator = tiny(15, eos_id=2)
    noise = uniform((25, 4), rng(11))
    samples, trail = sample_with_trail(generator, noise)
    plain = sample(generator, noise)
    assert torch.equal(samples.ids, plain.ids)
    assert torch.equal(samples.lengths, plain.lengths)
    for rows, fork in trail:
        t = int(fork.position[0])
        for token in range(3):
            ids = samples.ids[rows].clone()
            ids[:, t] = token
            expected = log_probs(generator, ids, torch.full((len(rows),), 4))[:, t]
            assert torch.allclose(torch.log_softmax(fork_logits(generator, fork), 1)[:, token], expected, atol=1e-10)


# --- null controls -------------------------------------------------------------------------------------------------

LENGTHS = torch.tensor([4, 1, 3, 4, 2, 4, 3, 4] * 50)


def test_where_nothing_is_rolled_out_no_state_is_kept():
    """A Transformer's states hold all keys and values anew at every step: 4 GB that nobody asked for."""
    generator, noise = tiny(eos_id=2), uniform((ROWS, 4), rng(1))
    samples, trail = sample_with_trail(generator, noise, rollouts=0)
    kept, whole = sample_with_trail(generator, noise)
    assert trail == []
    assert len(whole) == 3
    assert torch.equal(samples.ids, kept.ids)
    assert torch.equal(samples.logp, kept.logp)


def test_the_constant_control_is_one_number_for_every_token():
    mask = alive(LENGTHS)
    assert torch.equal(constant_reward(mask), 0.5 * mask)
    assert torch.equal(constant_reward(mask, 2.0), 2.0 * mask)


def test_the_random_control_is_uniform_and_knows_nothing_of_the_tokens():
    mask = alive(torch.full((5000,), 4))
    reward = random_reward(mask, rng(12))
    assert float(reward.min()) >= 0
    assert float(reward.max()) < 1
    assert stats.kstest(reward.flatten().numpy(), "uniform").pvalue > 1e-3
    assert float(torch.corrcoef(reward.T).fill_diagonal_(0).abs().max()) < 5 / 5000**0.5
    short = alive(LENGTHS)
    reward = random_reward(short, rng(12))
    assert not reward[~short].any()
    assert float(reward[short].min()) > 0
    assert torch.equal(reward, random_reward(short, rng(12)))  # from its generator and the mask, nothing else
    assert not torch.equal(reward, random_reward(short, rng(13)))


def test_the_shuffled_control_keeps_the_values_of_each_position_and_deals_them_anew():
    mask = alive(LENGTHS)
    q = torch.rand(mask.shape, generator=rng(14)) * mask
    kept = q.clone()
    out = shuffled_reward(q, mask, rng(15))
    assert torch.equal(q, kept)
    assert not out[~mask].any()
    for t in range(4):
        rows = mask[:, t]
        assert torch.equal(out[rows, t].sort().values, q[rows, t].sort().values)
        r = torch.corrcoef(torch.stack([out[rows, t], q[rows, t]]))[0, 1]
        assert abs(float(r)) < 4 / int(rows.sum()) ** 0.5
    whole = mask.all(1)
    rank = [q[whole, t].argsort().argsort()[out[whole, t].argsort().argsort()] for t in (0, 1)]
    assert not torch.equal(rank[0], rank[1])  # each position is dealt on its own


def test_shuffling_deals_every_order_alike():
    q, mask = torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3, 1, dtype=torch.bool)
    generator, count = rng(16), {}
    for _ in range(1200):
        order = tuple(shuffled_reward(q, mask, generator).flatten().tolist())
        count[order] = count.get(order, 0) + 1
    assert len(count) == 6
    assert stats.chisquare(list(count.values())).pvalue > 1e-3
