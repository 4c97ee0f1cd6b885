"""LeakGAN's generator against a reference written out from its definition: prefix by prefix, goal by goal, O_t w_t."""

import json
import math

import pytest
import torch
from worlds import alive, every_sequence, rng

from seqforge import checkpoint, loading
from seqforge.hierarchy import principal_path
from seqforge.likelihood import log_probs, sequence_nlls
from seqforge.models import leaked
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.hierarchical import HierarchicalConfig, HierarchicalGenerator
from seqforge.models.leaked import Arranged
from seqforge.sampling import Filter, Fork, begin, begin_with, complete, sample, uniform

SIZES = {"embedding": 3, "hidden": 4, "goal": 2, "init_std": 1.0}


def judge(vocab=3, length=4, seed=1, dtype=torch.float64) -> CNNDiscriminator:
    """A small discriminator whose biases are not zero, so that the empty prefix has a feature too."""
    d = CNNDiscriminator(vocab, length, embedding=3, widths=[1, 2, 4], filters=[2, 3, 2], dropout=0.0, seed=seed)
    with torch.no_grad():
        for p in d.parameters():
            p.mul_(2).add_(0.3 * torch.randn(p.shape, generator=rng(seed + 7)))
    return d.to(dtype)


def made(goals="window", eos_id=None, step=2, seed=3, dtype=torch.float64, vocab=3, length=4):
    d = judge(vocab, length, dtype=dtype)
    config = HierarchicalConfig(**SIZES, step=step, goals=goals)
    g = HierarchicalGenerator.of(config, d.float(), eos_id, 0, seed).to(dtype)
    g.leak(d.to(dtype))
    return g.eval(), d


def cell(lstm, x, h, c):
    i, f, g, o = (x @ lstm.weight_ih_l0.T + h @ lstm.weight_hh_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def feature(d, ids):
    """F of a whole prefix, by the discriminator itself on nothing but its tokens."""
    if not len(ids):
        return d.mixed(torch.zeros(d.features, dtype=d.out.weight.dtype))
    return d.mixed(d.pooled(ids[None], torch.tensor([len(ids)])))[0]


def written_out(g, d, ids, step):
    """log p(y_t | y_<t) (T,), goals (T,F), features (T+1,F) of one sequence."""
    hidden = g.worker.hidden_size
    h, c, mh, mc = (g.head.weight.new_zeros(hidden) for _ in range(4))
    first = g.first_goal / g.first_goal.norm()
    first = first.detach() if g.by_block else first  # the manager's there, the worker's here
    goals, features, logp, token = [], [], [], g.start_id
    for t in range(len(ids)):
        features.append(feature(d, ids[:t]).detach())
        mh, mc = cell(g.manager, features[-1], mh, mc)
        raw = g.goal(mh)
        goals.append(raw / raw.norm())
        h, c = cell(g.worker, g.embed.weight[token], h, c)
        now = t // step * step if g.by_block else t  # where the goals that drive this token end
        window = [goals[j].detach() if j >= 0 else first for j in range(now - step, now)]  # the worker's loss ends here
        w = g.psi.weight @ torch.stack(window).sum(0)
        o = (g.head.weight.view(g.vocab_size, -1, hidden + 1) * torch.cat([h, h.new_ones(1)])).sum(2)  # (V,k)
        logp.append(torch.log_softmax(o @ (w / w.norm()), 0)[ids[t]])
        token = ids[t]
    features.append(feature(d, ids).detach())
    return torch.stack(logp), torch.stack(goals), torch.stack(features)


@pytest.mark.parametrize("goals", ["window", "block"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_every_probability_is_the_written_out_one(goals, step):
    g, d = made(goals, step=step)
    ids, lengths = every_sequence()
    expected = torch.stack([written_out(g, d, row, step)[0] for row in ids])
    assert float((log_probs(g, ids, lengths) - expected).detach().abs().max()) <= 1e-9
    assert float(log_probs(g, ids, lengths).sum(1).exp().sum()) == pytest.approx(1, abs=1e-9)
    other = torch.stack([written_out(g, d, row, step % 4 + 1)[0] for row in ids])
    assert float((expected - other).abs().max()) > 1e-3  # another step would be seen


def test_the_two_ways_of_driving_differ():
    ids, lengths = every_sequence()
    window, block = (log_probs(made(kind)[0], ids, lengths) for kind in ("window", "block"))
    assert torch.allclose(window[:, 0], block[:, 0])  # both start from the initial goal
    assert float((window - block)[:, 3].abs().max()) > 1e-3


@pytest.mark.parametrize("goals", ["window", "block"])
@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_sampled_is_teacher_forced_at_any_batch_size(goals, eos_id, rows):
    g, _ = made(goals, eos_id, dtype=torch.float32)
    noise = uniform((rows, 4), rng(5))
    drawn = sample(g, noise)
    forced = log_probs(g, drawn.ids, drawn.lengths)
    assert float((drawn.logp - forced).abs().max()) <= 1e-5
    chunked = -sequence_nlls(g, drawn.ids, drawn.lengths, [1.0, 0.5])
    assert float((chunked[0] - forced).abs().max()) <= 1e-5
    assert float((chunked[1] - log_probs(g, drawn.ids, drawn.lengths, 0.5)).abs().max()) <= 1e-5
    alone = sample(g, noise[:1])
    assert torch.equal(alone.ids, drawn.ids[:1])
    assert torch.allclose(alone.logp, drawn.logp[:1], atol=1e-6)


@pytest.mark.parametrize("goals", ["window", "block"])
def test_reading_at_once_is_reading_piece_by_piece_and_states_are_values(goals):
    g, _ = made(goals, step=3)
    ids = torch.randint(3, (5, 4), generator=rng(2))
    _, empty = g.start_hidden(5)
    whole, _ = g.extend_hidden(ids, empty)
    for cut in range(5):
        first, state = g.extend_hidden(ids[:, :cut], empty)
        second, after = g.extend_hidden(ids[:, cut:], state)
        assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-12)
        again, _ = g.extend_hidden(ids[:, cut:], state)  # an old state, once more
        assert torch.equal(again, second)
        rows = torch.tensor([4, 0, 0])
        picked, _ = g.extend_hidden(ids[rows, cut:], state.select(rows))
        assert torch.allclose(picked, second[rows], atol=1e-12)
        if cut == 4:
            assert after is state  # nothing was read


@pytest.mark.parametrize("goals", ["window", "block"])
def test_rows_at_different_positions_go_on_side_by_side(goals):
    g, _ = made(goals, step=3)
    ids = torch.randint(3, (4, 4), generator=rng(3))
    _, empty = g.start_hidden(4)
    states = [g.extend_hidden(ids[:, :t], empty)[1].select(torch.tensor([t])) for t in range(4)]
    token = torch.stack([ids[t, t] for t in range(4)])[:, None]
    together, _ = g.extend_hidden(token, type(empty).cat(states))
    whole, _ = g.extend_hidden(ids, empty)
    for t in range(4):
        assert torch.allclose(together[t, 0], whole[t, t], atol=1e-12)
    lengths = torch.tensor([0, 2, 4, 1])  # prompts of unequal length: the state stands after each row's own last token
    _, ragged = g.extend_hidden(ids, empty, lengths)
    onward, _ = g.extend_hidden(torch.ones(4, 1, dtype=torch.long), ragged)
    for b, n in enumerate(lengths.tolist()):
        alone = torch.cat([ids[b : b + 1, :n], torch.ones(1, 1, dtype=torch.long)], 1)
        expected, _ = g.extend_hidden(alone, empty.select(torch.tensor([b])))
        assert torch.allclose(onward[b, 0], expected[0, -1], atol=1e-12)


def test_features_of_every_prefix_are_those_computed_from_the_start():
    d = judge(11, 9, dtype=torch.float32)
    reader = leaked.LeakedFeatures(d)
    ids = torch.randint(11, (20, 9), generator=rng(4))
    found, state = [], None
    start, state = reader.start(20)
    assert torch.allclose(start[0], feature(d, ids[0, :0]), atol=1e-6)
    for t in range(9):
        features, state = reader.extend(ids[:, t : t + 1], state)
        found.append(features[:, 0])
        expected = d.mixed(d.pooled(ids, torch.full((20,), t + 1)))
        assert float((found[-1] - expected).abs().max()) <= 1e-5
    at_once, _ = reader.extend(ids, reader.start(20)[1])
    assert float((at_once - torch.stack(found, 1)).abs().max()) <= 1e-5
    assert float((found[-1] - found[0]).abs().max()) > 0.1


def test_a_token_costs_the_same_however_long_the_prefix():
    """Rows that pass the highway: one for each token read and one for all before the first, so that a sequence costs
    its length and not its square; and of the features those that are not 0 in all rows.
    """
    counts = {}
    for length in (6, 12):
        d = CNNDiscriminator(5, length, embedding=3, widths=[1, 2], filters=[2, 3], dropout=0.0)
        g = HierarchicalGenerator.of(HierarchicalConfig(**SIZES), d, None, 0, 1).eval()
        seen, widths = [], []
        plain = Arranged._mixed

        def mixed(arranged, pooled, found):
            seen.append(pooled.numel() // d.features)  # noqa: B023
            widths.append(found)  # noqa: B023
            return plain(arranged, pooled, found)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Arranged, "_mixed", mixed)
            sample(g, uniform((10, length), rng(1)))
        counts[length] = sum(seen)
        assert widths == [0, 2] + [5] * (length - 2)
    assert counts == {6: 51, 12: 111}


def test_a_prompt_and_a_temperature_go_through_the_shared_sampler():
    g, d = made(eos_id=2)
    prompt = torch.tensor([[1, 0]]).repeat(4000, 1)
    drawn = complete(g, begin_with(g, prompt), uniform((4000, 4), rng(6)).double(), Filter(temperature=0.5))
    third = torch.stack([written_out(g, d, torch.tensor([1, 0, v]), 2)[0][2] for v in range(3)])
    p = torch.softmax(third * 2, 0)
    share = torch.bincount(drawn.ids[:, 2], minlength=3) / 4000
    assert float((share - p).abs().max()) < 4.5 * 0.5 / math.sqrt(4000)
    assert float((torch.softmax(third, 0) - p).abs().max()) > 0.05


def test_leaking_takes_the_features_of_that_moment():
    g, d = made(dtype=torch.float32)
    ids, lengths = every_sequence()
    before = log_probs(g, ids, lengths)
    with torch.no_grad():
        d.highway.weight.add_(0.5)
    assert torch.equal(log_probs(g, ids, lengths), before)
    g.leak(d)
    moved = log_probs(g, ids, lengths)
    assert float((moved - before).abs().max()) > 1e-3
    g.leak(d, "bf16")
    rounded = log_probs(g, ids, lengths)
    assert 0 < float((rounded - moved).abs().max()) < 0.05
    assert all(p.dtype == torch.float32 for p in g.state_dict().values() if p.is_floating_point())


def test_neither_loss_reaches_the_features_and_the_worker_stops_at_the_goals():
    for kind in ("window", "block"):
        g, _ = made(kind)
        ids, _ = every_sequence()
        seen = g.unroll(ids)
        worker, manager = g.worker_parameters(), g.manager_parameters()
        assert {id(p) for p in worker} | {id(p) for p in manager} == {id(p) for p in g.parameters() if p.requires_grad}
        assert not {id(p) for p in worker} & {id(p) for p in manager}
        assert all(
            x is None for x in torch.autograd.grad(seen.hidden.sum(), manager, allow_unused=True, retain_graph=True)
        )
        assert all(x is None for x in torch.autograd.grad(seen.goals.sum(), worker, allow_unused=True))
        assert not seen.features.requires_grad
        assert any(p is g.first_goal for p in (manager if kind == "block" else worker))


def test_saved_and_loaded_it_is_the_same(tmp_path):
    g, _ = made("block", 2, dtype=torch.float32)
    ids, lengths = every_sequence(eos_id=2)
    g.save_pretrained(tmp_path / "hub")
    again = HierarchicalGenerator.from_pretrained(tmp_path / "hub").eval()
    assert torch.equal(log_probs(again, ids, lengths), log_probs(g, ids, lengths))
    checkpoint.write(tmp_path / "step-1", {"generator": g}, {}, {}, "final")
    loaded = loading.load_generator(tmp_path / "step-1")
    assert isinstance(loaded, HierarchicalGenerator)
    assert torch.equal(log_probs(loaded, ids, lengths), log_probs(g, ids, lengths))


def test_a_fork_of_the_sampling_goes_on_as_the_sampling_did():
    g, _ = made("block", 2, step=3)
    noise, trail = uniform((30, 4), rng(8)).double(), []
    drawn = complete(g, begin(g, 30), noise, trail=trail)
    rows = torch.cat([r for r, _ in trail])
    forks = Fork.cat([f for _, f in trail])
    tails = complete(g, forks, noise[rows])
    from_there = ~(torch.arange(4) < forks.position[:, None]) & alive(drawn.lengths[rows])
    assert torch.equal(tails.ids[from_there], drawn.ids[rows][from_there])
    assert torch.equal(tails.lengths, drawn.lengths[rows])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"step": 5}, "generator.step is 5, but sequences have at most 4 tokens"),
        ({"goal": 8}, "generator.goal is 8, but the discriminator has 7 features"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config, told):
    with pytest.raises(ValueError, match=told):
        HierarchicalGenerator.of(HierarchicalConfig(**{**SIZES, **config}), judge().float(), None, 0, 1)


@pytest.mark.parametrize("bad", [{"step": 0}, {"goal": 0}, {"goals": "both"}, {"dropout": 1.0}, {"init_std": 0.0}])
def test_sizes_out_of_range_are_named(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"generator.{name} is"):
        HierarchicalConfig(**bad)


def test_the_path_of_features_lies_on_its_principal_axes():
    """Points along (3,4) with a little along (4,-3): the axes are found, whatever their sign."""
    t, u = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), torch.tensor([0.1, -0.1, 0.0, -0.1, 0.1])
    points = t[:, None] * torch.tensor([3.0, 4.0]) + u[:, None] * torch.tensor([4.0, -3.0]) + 7
    path, share = principal_path(points)
    assert torch.allclose(path[:, 0].abs(), 5 * t.abs().double(), atol=1e-5)
    assert torch.allclose(path[:, 1].abs(), 5 * u.abs().double(), atol=1e-5)
    assert share.tolist() == pytest.approx([10 / 10.04, 0.04 / 10.04], abs=1e-6)
    assert principal_path(torch.ones(1, 3))[0].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kinds", [["Transformer"], ["LSTMGenerator", "HierarchicalGenerator"]])
def test_a_generator_of_a_kind_that_is_not_known_is_named(kinds, tmp_path):
    g, _ = made(dtype=torch.float32)
    checkpoint.write(tmp_path / "step-1", {"generator": g}, {}, {}, "final")
    path = tmp_path / "step-1" / "generator" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": kinds}))
    with pytest.raises(ValueError, match="config.json: a generator of kind '" + r"\+".join(kinds)):
        loading.load_generator(tmp_path / "step-1")
