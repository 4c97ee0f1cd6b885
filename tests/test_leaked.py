"""Features of prefixes, kept up token by token, against the discriminator itself; and what is made of them."""

import copy
import pickle

import pytest
import torch
from test_hierarchical import SIZES, feature, judge, made, written_out
from worlds import every_sequence, far, gradients, rng

from seqforge import checkpoint, settings
from seqforge.likelihood import log_probs, sequence_nll, weighted_nll
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.hierarchical import HierarchicalConfig, HierarchicalGenerator
from seqforge.models.leaked import LeakedFeatures, PrefixState
from seqforge.rewards import rollout_q, sample_with_trail
from seqforge.sampling import Fork, Samples, retrace, sample, uniform

WIDTHS = [
    ([1], [3]),
    ([1, 6], [2, 3]),
    ([1, 3, 2], [2, 1, 3]),
    ([3], [4]),
    ([2, 5], [2, 3]),
    ([4, 1, 2], [1, 2, 3]),
    ([6], [2]),
]


def feature_of_all(d, ids, t):
    with torch.no_grad():
        return d.mixed(d.pooled(ids[:, :t], torch.full((len(ids),), t)))


def reader_of(widths, filters, dtype=torch.float64, length=6):
    d = CNNDiscriminator(7, length, embedding=3, widths=widths, filters=filters, dropout=0.5, seed=2)
    with torch.no_grad():
        for p in d.parameters():
            p.mul_(2).add_(0.3 * torch.randn(p.shape, generator=rng(3)))
    d = d.to(dtype).eval()
    return LeakedFeatures(d), d


@pytest.mark.parametrize(("widths", "filters"), WIDTHS)
def test_in_any_pieces_and_with_any_widths_it_is_the_feature_of_the_prefix(widths, filters):
    """Also widths out of order, one width alone, and windows as long as the sequence; token 0 is a word like others."""
    reader, d = reader_of(widths, filters)
    ids = torch.randint(7, (9, 6), generator=rng(1)) * (torch.rand((9, 6), generator=rng(2)) < 0.7)
    expected = torch.stack([torch.stack([feature(d, row[:t]) for t in range(7)]) for row in ids])
    assert all(p.requires_grad for p in d.parameters())  # what is frozen is the copy
    first, empty = reader.start(9)
    assert torch.allclose(first, expected[:, 0], atol=1e-12)
    for cuts in ([6], [1] * 6, [1, 5], [5, 1], [2, 3, 1], [3, 3]):
        state, found = empty, []
        for part in ids.split(cuts, 1):
            features, state = reader.extend(part, state)
            found.append(features)
        assert torch.allclose(torch.cat(found, 1), expected[:, 1:], atol=1e-12), cuts
        assert state.position.tolist() == [6] * 9
    assert float((expected[:, -1] - expected[:, 2]).detach().abs().max()) > 0.1


def test_prefixes_of_different_lengths_side_by_side_and_old_states_again():
    reader, d = reader_of([2, 5], [2, 3])
    ids = torch.randint(7, (6, 6), generator=rng(4))
    _, empty = reader.start(6)
    states = [reader.extend(ids[:, :t], empty)[1] if t else empty for t in range(5)]
    kept = [(s.pooled.clone(), s.recent.clone(), s.position.clone()) for s in states]
    mixed = PrefixState.cat([s.select(torch.tensor([t, t])) for t, s in enumerate(states)])
    token = torch.tensor([[3], [5]]).repeat(5, 1)
    found, after = reader.extend(token, mixed)
    for t in range(5):
        for k in range(2):
            expected = feature(d, torch.cat([ids[t, :t], token[k]]))
            assert torch.allclose(found[2 * t + k, 0], expected, atol=1e-12)
    assert after.position.tolist() == [t + 1 for t in range(5) for _ in range(2)]
    for state, (pooled, recent, position) in zip(states, kept, strict=True):
        assert torch.equal(state.pooled, pooled)
        assert torch.equal(state.recent, recent)
        assert torch.equal(state.position, position)


def test_windows_are_multiplied_once_a_token(monkeypatch):
    """Rows of windows for a sequence of T tokens: T for each bank of widths, whatever the pieces; none of the bank of 7
    and 8 for a piece before the seventh token.
    """
    from seqforge.models import leaked

    reader, _ = reader_of([1, 3, 7, 8], [2, 3, 2, 2], length=12)
    plain, rows = leaked._ending, []

    def ending(x, w, t):
        out = plain(x, w, t)
        rows.append(len(out))
        return out

    monkeypatch.setattr(leaked, "_ending", ending)
    for length in (9, 12):
        for each, unread in ((1, 6), (3, 6), (length, 0)):
            rows.clear()
            _, state = reader.start(10)
            for part in torch.randint(7, (10, length), generator=rng(5)).split(each, 1):
                _, state = reader.extend(part, state)
            assert sum(rows) == 10 * (2 * length - unread)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_the_published_width_a_rows_feature_is_the_same_in_any_company(precision):
    """Rounding included: read whole or token by token, alone or beside rows that stand elsewhere."""
    if precision == "bf16" and settings.precision("auto", "cpu") != "bf16":
        pytest.skip("this processor does not compute in bfloat16")
    d = CNNDiscriminator(50, 20, seed=1).eval()
    reader = LeakedFeatures(d)
    reader.leak(d, precision)
    ids = torch.randint(50, (12, 20), generator=rng(1))
    _, state = reader.start(12)
    whole, _ = reader.extend(ids, state)
    assert float((whole[:, 9] - feature_of_all(d, ids, 10)).abs().max()) < (1e-5 if precision == "fp32" else 0.05)
    states = []
    for t in range(19):
        found, state = reader.extend(ids[:, t : t + 1], state)
        assert float((found[:, 0] - whole[:, t]).abs().max()) <= 1e-5
        states.append(state)
    rows = torch.arange(12)
    beside = PrefixState.cat([states[4 * n].select(rows[n : n + 1]) for n in range(5)])
    found, _ = reader.extend(torch.stack([ids[n, 4 * n + 1] for n in range(5)])[:, None], beside)
    assert float((found[:, 0] - torch.stack([whole[n, 4 * n + 1] for n in range(5)])).abs().max()) <= 1e-5


# --- probabilities and losses of the generator that reads them ------------------------------------------------------


@pytest.mark.parametrize("goals", ["window", "block"])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_weighted_losses_and_their_gradients_are_the_written_out_ones(goals, eos_id):
    g, d = made(goals, eos_id, step=3)
    ids, lengths = every_sequence(eos_id=eos_id)
    weight = torch.randn(ids.shape, generator=rng(6), dtype=torch.float64)
    logp = [written_out(g, d, row[:n], 3)[0] for row, n in zip(ids, lengths.tolist(), strict=True)]
    expected = -torch.stack([(weight[b, : len(lp)] * lp).sum() for b, lp in enumerate(logp)]).sum()
    named = {k: p for k, p in g.named_parameters() if p.requires_grad}
    truth = torch.autograd.grad(expected, list(named.values()), allow_unused=True)
    mine = {k: x for k, x in zip(named, truth, strict=True) if x is not None}
    assert set(mine) == set(named) - {k for k in named if k.startswith(("manager", "goal"))} - (
        {"first_goal"} if goals == "block" else set()
    )
    loss, each = weighted_nll(g, ids, lengths, weight)
    found = torch.autograd.grad(loss, [named[k] for k in mine])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert far(dict(zip(mine, found, strict=True)), mine) <= 1e-9
    for rows in (None, 1, 7):
        nll = sequence_nll(g, ids, lengths, rows=rows)
        for b, lp in enumerate(logp):
            assert torch.allclose(nll[b, : len(lp)], -lp, atol=1e-9)
            assert torch.allclose(each[b, : len(lp)], lp, atol=1e-9)
            assert not nll[b, len(lp) :].any()


def test_one_row_of_a_batch_is_that_row_alone():
    for goals in ("window", "block"):
        g, _ = made(goals, step=3, dtype=torch.float32)
        ids = torch.randint(3, (64, 4), generator=rng(7))
        together = log_probs(g, ids, torch.full((64,), 4))
        for b in (0, 1, 63):
            assert torch.allclose(log_probs(g, ids[b : b + 1], torch.tensor([4]))[0], together[b], atol=1e-5)


@pytest.mark.parametrize("goals", ["window", "block"])
def test_with_rounded_features_sampling_is_still_teacher_forcing(goals):
    g, d = made(goals, 2, dtype=torch.float32)
    g.leak(d, "bf16")
    drawn = sample(g, uniform((500, 4), rng(8)))
    forced = log_probs(g, drawn.ids, drawn.lengths)
    assert float((drawn.logp - forced).detach().abs().max()) <= 1e-5  # both read the same rounded copy
    rounded = g.unroll(drawn.ids).features
    g.leak(d)
    assert 1e-3 < float((g.unroll(drawn.ids).features - rounded).abs().max()) < 0.2
    plain = log_probs(g, drawn.ids, drawn.lengths)
    assert 0 < float((plain - forced).detach().abs().max()) < 0.1


def test_a_generator_can_be_pickled():
    g, _ = made(dtype=torch.float32)
    ids, lengths = every_sequence()
    assert torch.equal(log_probs(pickle.loads(pickle.dumps(g)), ids, lengths), log_probs(g, ids, lengths))


def test_a_copy_and_a_conversion_keep_their_own_features():
    g, d = made(dtype=torch.float32)
    ids, lengths = every_sequence()
    before = log_probs(g, ids, lengths)
    other = copy.deepcopy(g)
    with torch.no_grad():
        d.highway.bias.add_(1.0)
    other.leak(d)
    assert torch.equal(log_probs(g, ids, lengths), before)
    assert float((log_probs(other, ids, lengths) - before).detach().abs().max()) > 1e-3
    assert torch.allclose(log_probs(g.double(), ids, lengths), before.double(), atol=1e-5)
    assert not any(p.requires_grad for p in g.leaked.parameters())


def test_a_checkpoints_folder_is_read_by_from_pretrained_as_well(tmp_path):
    g, _ = made("block", 2, step=3, dtype=torch.float32)
    ids, lengths = every_sequence(eos_id=2)
    checkpoint.write(tmp_path / "step-1", {"generator": g}, {}, {}, "final")
    again = HierarchicalGenerator.from_pretrained(tmp_path / "step-1" / "generator").eval()
    assert torch.equal(log_probs(again, ids, lengths), log_probs(g, ids, lengths))


@pytest.mark.parametrize("goals", ["window", "block"])
def test_rollouts_go_on_where_the_prefix_stopped(goals):
    """With the sampling's own numbers every completion is the sequence itself; a retraced trail is the trail."""
    g, _ = made(goals, 2, step=3)
    noise = uniform((30, 4), rng(9)).double()
    samples, trail = sample_with_trail(g, noise)
    own = retrace(g, samples.ids, samples.lengths)
    for (rows, fork), (same, again) in zip(trail, own, strict=True):
        assert torch.equal(rows, same)
        assert torch.allclose(fork.output, again.output, atol=1e-12)
        assert torch.allclose(fork.state.drive, again.state.drive, atol=1e-12)
    value = torch.rand(30, generator=rng(10))
    words = {tuple(row[:n]): v for row, n, v in zip(samples.ids.tolist(), samples.lengths.tolist(), value, strict=True)}

    def score(ids, lengths):
        return torch.stack([words[tuple(row[:n])] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)])

    q = rollout_q(g, samples, trail, score, noise[:, None, None, :].expand(30, 3, 2, 4))
    expected = score(samples.ids, samples.lengths)[:, None] * (torch.arange(4) < samples.lengths[:, None])
    assert torch.allclose(q, expected.to(q.dtype), atol=1e-6)
    assert isinstance(samples, Samples)
    assert isinstance(trail[0][1], Fork)


def test_only_the_workers_side_has_dropout_and_it_is_off_in_eval():
    d = judge().float()
    config = HierarchicalConfig(**SIZES, step=2, dropout=0.5)
    g = HierarchicalGenerator.of(config, d, None, 0, 3)
    ids, _ = every_sequence()
    quiet = g.eval().unroll(ids)
    assert torch.equal(g.unroll(ids).hidden, quiet.hidden)
    torch.manual_seed(0)
    loud = g.train().unroll(ids)
    assert not torch.allclose(loud.hidden, quiet.hidden)
    assert torch.equal(loud.goals, quiet.goals)
    assert torch.equal(loud.features, quiet.features)
    assert far(gradients(g.unroll(ids).goals[..., 0].sum(), g.goal), gradients(quiet.goals[..., 0].sum(), g.goal)) == 0
