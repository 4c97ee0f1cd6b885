"""LeakGAN's losses against their written-out definition over all sequences of a tiny world; its rewards; whole runs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_hierarchical import made, written_out
from worlds import every_sequence, far, plain_log_probs, rng, table_score, tiny, true_q

from seqforge.data.corpus import Split
from seqforge.methods.leakgan import LeakGANConfig, Modules, adversarial_loss, likelihood_loss
from seqforge.objectives import goal_cosine, intrinsic_reward, rank_rescale
from seqforge.rewards import block_values, sample_with_trail
from seqforge.sampling import uniform

STEP = 2


def grads(loss, g):
    named = {k: p for k, p in g.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if x is None else x for (k, p), x in zip(named.items(), found, strict=True)}


def cos(a, b):
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-8)


def aims(g, goals):
    """What is held to the change of the feature from t on: g_t, or in blocks the sum that drives the block."""
    if not g.by_block:
        return goals
    first = g.first_goal / g.first_goal.norm()
    sums = [STEP * first, *(goals[k : k + STEP].sum(0) for k in range(0, len(goals), STEP))]
    return torch.stack([sums[t // STEP] for t in range(len(goals))])


def by_hand(g, d, ids, lengths, reward, extrinsic=0.0):
    """Manager's and worker's loss, sentence by sentence and token by token."""
    manager = worker = 0.0
    blocks = sum(math.ceil(n / STEP) for n in lengths.tolist())
    for b, n in enumerate(lengths.tolist()):
        logp, goals, f = written_out(g, d, ids[b, :n], STEP)
        aim = aims(g, goals)
        for k, t in enumerate(range(0, n, STEP)):
            manager = manager - reward[b, k] * cos(f[min(t + STEP, n)] - f[t], aim[t]) / blocks
        for t in range(1, n + 1):  # the token y_t
            if g.by_block:
                begun = (t - 1) // STEP * STEP
                own = cos(f[t] - f[begun], aim[begun])
            else:
                own = sum(cos(f[t] - f[t - i], aim[t - i]) for i in range(1, min(STEP, t) + 1)) / min(STEP, t)
            weight = (own + extrinsic * reward[b, (t - 1) // STEP]).detach()
            worker = worker - weight * logp[t - 1] / lengths.sum()
    return manager, worker


@pytest.mark.parametrize("goals", ["window", "block"])
@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("extrinsic", [0.0, 0.5])
def test_the_gradients_of_both_modules_are_the_written_out_ones(goals, eos_id, extrinsic):
    g, d = made(goals, eos_id, STEP)
    ids, lengths = every_sequence(eos_id=eos_id)
    mask = torch.arange(0, 4, STEP) < lengths[:, None]
    reward = 4.0 * (torch.rand(len(ids), 2, generator=rng(4)) < 0.3).double() * mask  # few stand out
    config = LeakGANConfig(extrinsic=extrinsic)
    loss, _, _ = adversarial_loss(g, g.unroll(ids), ids, lengths, reward, config)
    found = grads(loss, g)
    manager, worker = by_hand(g, d, ids, lengths, reward, extrinsic)
    assert far(found, grads(manager + worker, g)) <= 1e-6
    assert loss.item() == pytest.approx((manager + worker).item(), abs=1e-9)
    assert all(float(found[k].abs().max()) > 1e-4 for k in ("goal.weight", "manager.weight_ih_l0", "head.weight"))
    # the reward reaches the manager, and by `extrinsic` the worker: dealt to other sentences, it gives other gradients
    other = reward.roll(7, 0) * mask
    moved = grads(adversarial_loss(g, g.unroll(ids), ids, lengths, other, config)[0], g)
    assert float((moved["goal.weight"] - found["goal.weight"]).abs().max()) > 1e-4
    assert (float((moved["head.weight"] - found["head.weight"]).abs().max()) > 1e-4) == bool(extrinsic)
    # means of everything, multiplied, as in the authors' code, would be seen
    seen = g.unroll(ids)
    cosine = goal_cosine(seen.goals, seen.features, lengths, STEP)[:, ::STEP]
    authors = grads(-(reward.sum() / mask.sum()) * cosine.sum() / mask.sum(), g)
    assert float((authors["goal.weight"] - found["goal.weight"]).abs().max()) > 1e-3
    inside = torch.arange(4) < lengths[:, None]
    own = intrinsic_reward(seen.goals, seen.features, inside, STEP, g.by_block).sum().detach() / lengths.sum()
    logp = torch.cat([written_out(g, d, row[:n], STEP)[0] for row, n in zip(ids, lengths.tolist(), strict=True)])
    authors = grads(-own * logp.mean(), g)
    assert float((authors["head.weight"] - found["head.weight"]).abs().max()) > 1e-3


def test_a_baseline_is_taken_off_the_workers_rewards_alone():
    g, d = made("window", 2, STEP)
    ids, lengths = every_sequence(eos_id=2)
    inside = torch.arange(4) < lengths[:, None]
    reward = torch.rand(len(ids), 2, generator=rng(4)).double() * (torch.arange(0, 4, STEP) < lengths[:, None])

    def of(baseline):
        return grads(
            adversarial_loss(g, g.unroll(ids), ids, lengths, reward, LeakGANConfig(baseline=baseline))[0],
            g,
        )

    known = [written_out(g, d, row[:n], STEP) for row, n in zip(ids, lengths.tolist(), strict=True)]
    own = torch.zeros(len(ids), 4, dtype=torch.float64)
    for b, (_, goals, f) in enumerate(known):
        for t in range(1, len(goals) + 1):
            last = range(1, min(STEP, t) + 1)
            own[b, t - 1] = sum(cos(f[t] - f[t - i], goals[t - i]) for i in last).detach() / len(last)
    worker = 0.0
    for b, (logp, _, _) in enumerate(known):
        for t in range(len(logp)):
            others = [c for c in range(len(ids)) if c != b and inside[c, t]]
            worker = worker - (own[b, t] - own[others, t].mean()) * logp[t] / lengths.sum()
    found, plain, expected = of("leave-one-out"), of("none"), grads(worker, g)
    workers = [k for k in found if not k.startswith(("manager", "goal"))]
    assert far({k: found[k] for k in workers}, {k: expected[k] for k in workers}) <= 1e-6
    assert far({k: plain[k] for k in workers}, {k: found[k] for k in workers}) > 1e-3
    assert all(torch.equal(plain[k], found[k]) for k in found if k not in workers)


@pytest.mark.parametrize("goals", ["window", "block"])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_pre_training_descends_the_written_out_losses(goals, eos_id):
    g, d = made(goals, eos_id, STEP)
    ids, lengths = every_sequence(eos_id=eos_id)
    loss, logp, cosine = likelihood_loss(g, Split(ids, lengths))
    nll, total, count = 0.0, 0.0, 0
    for b, n in enumerate(lengths.tolist()):
        own, said, f = written_out(g, d, ids[b, :n], STEP)
        aim = aims(g, said)
        nll = nll - own.sum() / lengths.sum()
        for t in range(0, n, STEP if g.by_block else 1):
            total, count = total + cos(f[min(t + STEP, n)] - f[t], aim[t]), count + 1
    assert far(grads(loss, g), grads(nll - total / count, g)) <= 1e-6
    assert cosine.item() == pytest.approx((total / count).item(), abs=1e-9)
    assert float(-logp.sum() / lengths.sum()) == pytest.approx(nll.item(), abs=1e-9)


def test_the_intrinsic_reward_by_hand():
    """One feature per axis: F moves along x, then along y; goals are x, x, y. c = 2."""
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    features = torch.stack([0 * x, x, 3 * x, 3 * x + y])[None]
    goals = torch.stack([x, x, y])[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    lean = 2 / math.sqrt(5)  # the last change over two steps, (2,1), against the goal x
    assert torch.allclose(intrinsic_reward(goals, features, mask, 2), torch.tensor([[1.0, 1.0, (1 + lean) / 2]]))
    assert torch.allclose(intrinsic_reward(goals, features, mask, 2, by_block=True), torch.tensor([[1.0, 1.0, 1.0]]))
    toward = goal_cosine(goals, features, torch.tensor([3]), 2)
    assert torch.allclose(toward, torch.tensor([[1.0, lean, 1.0]]))
    assert torch.equal(goal_cosine(goals, features, torch.tensor([1]), 2), torch.tensor([[1.0, 0.0, 0.0]]))


# --- rescaling ----------------------------------------------------------------------------------------------------

columns = st.lists(st.integers(-50, 50), min_size=1, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))
slopes = st.floats(0.5, 20)


def rescaled(values, delta=16.0, mask=None):
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return rank_rescale(values[:, None], mask[:, None], delta)[:, 0]


@given(columns, slopes)
def test_rescaling_knows_ranks_only(values, delta):
    assert torch.equal(rescaled(values, delta), rescaled(values**3 + 2 * values - 4, delta))
    order = torch.randperm(len(values), generator=rng(1))
    assert torch.allclose(rescaled(values[order], delta), rescaled(values, delta)[order], rtol=0, atol=1e-15)


@given(columns, slopes)
def test_rescaling_is_monotone_and_ties_share(values, delta):
    found = rescaled(values, delta)
    for a, u in zip(values, found, strict=True):
        for b, v in zip(values, found, strict=True):
            assert (a > b) == (u > v + 1e-12)
            assert (a == b) == ((u - v).abs() <= 1e-12)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12, unique=True))
def test_without_ties_mean_and_spread_are_fixed(drawn):
    values, n = torch.tensor(drawn, dtype=torch.float64), len(drawn)
    expected = torch.sigmoid(16 * (0.5 - torch.arange(1, n + 1).double() / n))
    assert torch.allclose(rescaled(values).sort(descending=True).values, expected)


def test_rescaling_by_hand():
    """B = 4, delta = 16: sigmoid(4), sigmoid(0), sigmoid(-4), sigmoid(-8) from the best to the worst."""
    sigmoid = [1 / (1 + math.exp(-z)) for z in (4, 0, -4, -8)]
    found = rescaled(torch.tensor([0.2, 0.9, 0.3, 0.4]))
    assert found.tolist() == pytest.approx([sigmoid[3], sigmoid[0], sigmoid[2], sigmoid[1]], abs=1e-6)
    tied = rescaled(torch.tensor([0.5, 0.5, 0.1, 0.9]))  # ranks 2.5, 2.5, 4, 1
    assert tied.tolist() == pytest.approx(
        [1 / (1 + math.exp(2)), 1 / (1 + math.exp(2)), sigmoid[3], sigmoid[0]], abs=1e-6
    )
    some = torch.tensor([True, False, True, True])
    left = rescaled(torch.tensor([0.2, 0.9, 0.3, 0.4]), mask=some)
    assert left[1] == 0
    assert torch.equal(left[some], rescaled(torch.tensor([0.2, 0.3, 0.4])))


tables = st.integers(1, 7).flatmap(lambda rows: st.lists(st.integers(1, 3), min_size=rows, max_size=rows))


@given(tables, slopes, st.integers(0, 1000))
def test_rows_without_the_block_play_no_part_in_it(rows, delta, seed):
    """Three columns of small numbers with many ties; row b reaches the first rows[b] of them."""
    value = torch.randint(5, (len(rows), 3), generator=rng(seed)).double()
    mask = torch.arange(3) < torch.tensor(rows)[:, None]
    found = rank_rescale(value, mask, delta)
    assert torch.equal(found, rank_rescale(torch.where(mask, value, 99.0), mask, delta))
    assert not found[~mask].any()
    for k in range(3):
        there = value[mask[:, k], k].tolist()
        for v, got in zip(there, found[mask[:, k], k].tolist(), strict=True):
            places = [i + 1 for i, w in enumerate(sorted(there, reverse=True)) if w == v]
            mean = sum(places) / len(places)
            assert got == pytest.approx(1 / (1 + math.exp(-delta * (0.5 - mean / len(there)))), rel=1e-9)


# --- rewards of blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_values_of_blocks_are_the_true_action_values_where_they_end(eos_id, step):
    generator, rollouts = tiny(3, eos_id), 3000
    samples, trail = sample_with_trail(generator, uniform((12, 4), rng(1)))
    value, mask = block_values("discriminator", generator, samples, trail, table_score(), rollouts, step, rng_of(2))
    ids, lengths = every_sequence(eos_id=eos_id)
    p = plain_log_probs(generator, ids, lengths).detach().sum(1).exp()
    q, spread = true_q(p, table_score()(ids, lengths), ids, lengths)
    seen = 0
    for b, n in enumerate(samples.lengths.tolist()):
        (row,) = [s for s in range(len(ids)) if lengths[s] == n and torch.equal(ids[s], samples.ids[b])]
        for k in range(value.shape[1]):
            assert bool(mask[b, k]) == (k * step < n)
            if k * step < n:
                end = min((k + 1) * step, n) - 1
                assert abs(value[b, k] - q[row, end]) <= 4.5 * spread[row, end] / rollouts**0.5 + 1e-6
                seen += abs(value[b, k] - q[row, (end + 1) % n]) > 4.5 * spread[row, end] / rollouts**0.5 + 1e-6
            else:
                assert value[b, k] == 0
    assert seen >= 4  # a neighbour's value would be told apart


def rng_of(seed):
    streams = {}
    return lambda name: streams.setdefault(name, torch.Generator().manual_seed(seed + len(streams)))


def test_controls_of_blocks_carry_nothing():
    generator = tiny(3, 2)
    samples, trail = sample_with_trail(generator, uniform((40, 4), rng(1)))

    def of(reward):
        return block_values(reward, generator, samples, trail, table_score(), 3, 2, rng_of(2))

    value, mask = of("discriminator")
    shuffled, _ = of("shuffled")
    for k in range(2):
        assert torch.equal(value[mask[:, k], k].sort().values, shuffled[mask[:, k], k].sort().values)
    assert not torch.equal(value, shuffled)
    assert torch.equal(of("constant")[0], mask * 0.5)
    noise = of("random")[0]
    assert torch.equal(noise > 0, mask)
    assert len(noise[mask].unique()) == int(mask.sum())


# --- updates ---------------------------------------------------------------------------------------


def test_each_module_is_clipped_by_its_own_norm():
    g, _ = made("window", None, STEP)
    ids, lengths = every_sequence()
    players, before = Modules(g, 0.01), {k: p.clone() for k, p in g.named_parameters()}
    norms = players.update(likelihood_loss(g, Split(ids, lengths))[0], 1e-3)
    assert norms[0] != norms[1]
    assert min(norms) > 1e-3  # both were clipped
    for part in players.parts:
        assert torch.stack([p.grad.norm() for p in part]).norm() == pytest.approx(1e-3, rel=1e-3)
    assert all(not torch.equal(p, before[k]) for k, p in g.named_parameters() if p.requires_grad)
    assert all(torch.equal(p, before[k]) for k, p in g.named_parameters() if not p.requires_grad)
