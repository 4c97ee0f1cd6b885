"""The CNN discriminator against conv1d and autograd, and its training step against a hand-made one."""

import copy
import json
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worlds import far, garbled, gradients, rng

from seqforge import discriminate
from seqforge.models.discriminators import PUBLISHED_FILTERS, PUBLISHED_WIDTHS, CNNConfig, CNNDiscriminator

V, T = 30, 12
WIDTHS, FILTERS = [1, 2, 3, 5, 12], [4, 3, 6, 2, 5]


def small(**sizes):
    sizes = {"embedding": 7, "widths": WIDTHS, "filters": FILTERS, "dropout": 0.0, "seed": 1, **sizes}
    return CNNDiscriminator(V, T, **sizes)


def batch(rows=16, seed=2):
    """Rows of 1 to T tokens, the shortest and the longest among them."""
    lengths = torch.randint(1, T + 1, (rows,), generator=rng(seed))
    lengths[:5] = torch.tensor([T, 1, 2, 4, T - 1])
    ids = torch.randint(V, (rows, T), generator=rng(seed + 1))
    return ids * (torch.arange(T)[None, :] < lengths[:, None]), lengths


def reference(d, ids, lengths):
    """Logit of being real by torch's own convolution, one row and width at a time."""
    features = []
    for row, n in zip(ids, lengths.tolist(), strict=True):
        x = d.embed.weight[row[:n]].T[None]  # (1,E,n): padding is cut off, not masked
        parts = []
        biases = d.kernel_bias.split([k.shape[2] for k in d.kernels])
        for w, kernel, bias in zip(d.widths, d.kernels, biases, strict=True):
            if w > n:
                parts.append(torch.zeros_like(bias))
            else:
                parts.append(F.relu(F.conv1d(x, kernel.permute(2, 1, 0), bias)).amax(2)[0])
        features.append(torch.cat(parts))
    x = torch.stack(features)
    gate = torch.sigmoid(x @ d.gate.weight.T + d.gate.bias)
    mixed = gate * F.relu(x @ d.highway.weight.T + d.highway.bias) + (1 - gate) * x
    return (mixed @ d.out.weight.T + d.out.bias)[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_and_gradients_equal_conv1d_with_autograd(dtype):
    d = small().to(dtype)
    with torch.no_grad():  # biases that differ, so that none can stand in for another
        for p in (d.kernel_bias, d.highway.bias, d.gate.bias):
            p.add_(0.3 * torch.randn(p.shape, generator=rng(4)))
    ids, lengths = batch()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    logit, expected = d(ids, lengths), reference(d, ids, lengths)
    assert logit.shape == (16,)
    assert float((logit - expected).detach().abs().max()) <= tolerance
    assert float(expected.detach().std()) > 0.02
    weight = torch.randn(16, generator=rng(5), dtype=dtype)
    truth = gradients((weight * expected).sum(), d)
    assert all(bool(g.any()) for g in truth.values())
    assert far(gradients((weight * logit).sum(), d), truth) <= tolerance


def test_the_published_network_equals_conv1d_with_autograd():
    d = CNNDiscriminator(50, 20, seed=3)
    d.eval()
    ids = torch.randint(50, (4, 20), generator=rng(6))
    lengths = torch.tensor([20, 20, 9, 14])
    logit, expected = d(ids, lengths), reference(d, ids, lengths)
    assert float((logit - expected).detach().abs().max()) <= 1e-5
    assert far(gradients(logit.mean(), d), gradients(expected.mean(), d)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_full_length_alone_equal_conv1d_as_well(dtype):
    d = small(seed=6).to(dtype)
    ids, lengths = torch.randint(V, (8, T), generator=rng(14)), torch.full((8,), T)
    logit, expected = d(ids, lengths), reference(d, ids, lengths)
    assert float((logit - expected).detach().abs().max()) <= 1e-5
    assert far(gradients(logit.sum(), d), gradients(expected.sum(), d)) <= 1e-5


def test_windows_that_tie_share_the_gradient_as_in_amax():
    d = small(widths=[2], filters=[5]).double()
    ids = torch.tensor([[3, 4, 3, 4, 3, 4, 9, 9, 9, 9, 0, 0]])
    lengths = torch.tensor([10])
    assert far(gradients(d(ids, lengths).sum(), d), gradients(reference(d, ids, lengths).sum(), d)) <= 1e-12


def test_the_published_network_has_1720_filters_and_7043681_parameters():
    assert sum(PUBLISHED_FILTERS) == 1720
    assert dict(zip(PUBLISHED_WIDTHS, PUBLISHED_FILTERS, strict=True)) == {
        **{1: 100, 2: 200, 3: 200, 4: 200, 5: 200, 6: 100, 7: 100, 8: 100, 9: 100, 10: 100},
        **{15: 160, 20: 160},
    }
    published = CNNConfig(64, list(PUBLISHED_WIDTHS), list(PUBLISHED_FILTERS), 0.25)
    d = CNNDiscriminator.of(published, vocab_size=5000, max_length=20, seed=0)
    windows = 1 * 100 + (2 + 3 + 4 + 5) * 200 + (6 + 7 + 8 + 9 + 10) * 100 + (15 + 20) * 160
    assert windows == 12_500
    count = 5000 * 64 + windows * 64 + 1720 + 2 * (1720 * 1720 + 1720) + (1720 + 1)
    assert count == 7_043_681
    assert sum(p.numel() for p in d.parameters() if p.requires_grad) == count
    assert d.drop.p == 0.25


def test_parameters_start_as_the_authors_do():
    d = CNNDiscriminator(2000, 20, seed=0).requires_grad_(False)
    assert float(d.embed.weight.abs().max()) <= 1
    assert float(d.embed.weight.std()) == pytest.approx(1 / 3**0.5, rel=0.01)  # U(-1,1)
    kernels = torch.cat([k.flatten() for k in d.kernels])
    assert float(kernels.abs().max()) <= 0.2  # cut at two standard deviations
    assert float(kernels.std()) == pytest.approx(0.1 * 0.8796, rel=0.01)  # of a normal so cut
    assert torch.equal(d.kernel_bias, torch.full((1720,), 0.1))
    assert float(d.out.bias) == pytest.approx(0.1)
    for layer in (d.highway, d.gate):  # Glorot
        assert float(layer.weight.abs().max()) == pytest.approx((6 / 3440) ** 0.5, rel=1e-3)
        assert not layer.bias.any()
    assert torch.equal(d.embed.weight, CNNDiscriminator(2000, 20, seed=0).embed.weight)


def test_a_sequence_shorter_than_every_window_has_no_features():
    d = small(widths=[3, 5], filters=[4, 4])
    ids, _ = batch()
    logit = d(ids[:3], torch.tensor([1, 2, 2]))
    empty = torch.zeros(8)
    gate = torch.sigmoid(d.gate(empty))
    expected = d.out(gate * F.relu(d.highway(empty)) + (1 - gate) * empty)
    assert torch.allclose(logit, expected.expand(3), atol=1e-6)
    assert not gradients(logit.sum(), d)["embed.weight"].any()


def test_padding_changes_no_logit_and_no_gradient():
    d = small()
    ids, lengths = batch()
    other = garbled(ids, lengths, V)
    a, b = d(ids, lengths), d(other, lengths)
    assert torch.equal(a, b)
    assert far(gradients(a.sum(), d), gradients(b.sum(), d)) <= 1e-6
    score = discriminate.Score(d)
    assert torch.equal(score(ids, lengths), score(other, lengths))
    assert not torch.equal(a, d(ids, (lengths + 1).clamp_max(T)))  # a padding token that counts is another sequence


def test_batches_and_their_order_change_nothing():
    d = small()
    ids, lengths = batch()
    whole = d(ids, lengths)
    alone = torch.cat([d(ids[i : i + 1], lengths[i : i + 1]) for i in range(16)])
    assert torch.allclose(whole, alone, atol=1e-6)
    order = torch.randperm(16, generator=rng(7))
    assert torch.allclose(d(ids[order], lengths[order]), whole[order], atol=1e-6)


@pytest.mark.parametrize(
    ("widths", "filters", "left"),
    [([1, 2, 15, 20], [3, 4, 5, 6], ([1, 2], [3, 4])), ([15, 2, 20, 1], [5, 4, 6, 3], ([2, 1], [4, 3]))],
)
def test_windows_wider_than_sequences_are_refused_with_a_remedy_that_works(widths, filters, left):
    with pytest.raises(ValueError, match="has 20, but sequences have at most 12 tokens") as error:
        small(widths=widths, filters=filters)
    told = [json.loads(found) for found in re.findall(r"\[[\d, ]+\]", str(error.value))]
    assert told == list(left)
    assert "--discriminator.widths" in str(error.value)
    assert "--discriminator.filters" in str(error.value)
    small(widths=told[0], filters=told[1])


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("embedding", 0), ("widths", []), ("widths", [0, 1]), ("filters", [3]), ("filters", [3, 0]), ("dropout", 1.0)],
)
def test_sizes_that_mean_nothing_are_refused(wrong, value):
    with pytest.raises(ValueError, match=rf"discriminator\.{wrong} is {re.escape(str(value))}, but must"):
        CNNConfig(**{"widths": [1, 2], "filters": [3, 3], wrong: value})


def test_bfloat16_moves_p_real_by_two_thousandths():
    """What 8-bit products cost: on the published network, its logits brought to mean 0 and deviation 1 over 256 rows,
    p(real) moves by 0.0019 on average and 0.008 at most (measured), beside a deviation of 0.21 between sequences.
    """
    d = CNNDiscriminator(500, 20, seed=5).eval()
    ids = torch.randint(500, (256, 20), generator=rng(8))
    lengths = torch.full((256,), 20)
    with torch.no_grad():
        logit = d(ids, lengths)
        d.out.weight.div_(logit.std())
        d.out.bias.sub_(logit.mean()).div_(logit.std())
    full, half = (discriminate.Score(d, precision)(ids, lengths) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    difference = (full - half).abs()
    assert 2e-4 < float(difference.mean()) < 0.004
    assert float(difference.max()) < 0.02
    assert 0.15 < float(full.std()) < 0.25
    with discriminate.autocast(ids.device, "bf16"):
        rounded = gradients(d(ids, lengths).float().mean(), d)
    for name, exact in gradients(d(ids, lengths).mean(), d).items():  # 5 % at most, in the embedding (measured)
        assert rounded[name].dtype == torch.float32
        assert float((rounded[name] - exact).norm() / exact.norm()) < 0.1, name


def test_a_saved_discriminator_comes_back_whole(tmp_path):
    d = small().eval()
    d.save_pretrained(tmp_path)
    found = CNNDiscriminator.from_pretrained(tmp_path)
    assert torch.equal(d(*batch()), found(*batch()))


# --- training it ---------------------------------------------------------------------------------------------------


def test_scores_are_p_real_without_dropout_or_gradient_and_leave_the_mode_alone():
    d = small(dropout=0.5)
    ids, lengths = batch()
    for training in (True, False):
        d.train(training)
        p = discriminate.Score(d)(ids, lengths)
        assert d.training is training
        assert not p.requires_grad
        assert torch.allclose(p, torch.sigmoid(reference(d, ids, lengths)), atol=1e-6)
    many = ids.repeat(200, 1), lengths.repeat(200)  # more rows than are scored at once
    assert torch.allclose(discriminate.Score(d)(*many), p.repeat(200), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("order", ["full", "ragged", "unsorted"])
def test_completions_of_a_prefix_score_as_any_other_sequences(order, precision, monkeypatch):
    """Windows within a prefix are looked at once a group, shorter or longer than every width; groups are cut
    where their prefixes change, and where they are more than are scored at once.
    """
    for name, value in (("SCORE_ROWS", 9), ("ALIKE", 3), ("ALIKE_ROWS", 1)):
        monkeypatch.setattr(discriminate, name, value)
    d, n = small(), 3
    read = torch.arange(1, T).repeat_interleave(5)  # (K,)
    if order == "unsorted":
        read = read[torch.randperm(len(read), generator=rng(4))]
    ids = torch.randint(V, (len(read), n, T), generator=rng(5))
    inside = torch.arange(T) < read[:, None]
    ids = torch.where(inside[:, None], ids[:, :1], ids)
    lengths = read[:, None] + 1 + torch.randint(T, (len(read), n), generator=rng(6)) % (T - read[:, None])
    lengths = torch.full_like(lengths, T) if order == "full" else lengths
    score, rows = discriminate.Score(d, precision), []
    monkeypatch.setattr(CNNDiscriminator, "pooled", noting(CNNDiscriminator.pooled, rows))
    found = score.of_completions(ids, lengths, read)
    assert sum(rows) == len(read) * (1 + n)
    assert torch.allclose(found, score(ids.flatten(0, 1), lengths.flatten()).view(-1, n), atol=1e-6)
    assert float(found.std()) > 0.005
    rows.clear()
    monkeypatch.setattr(discriminate, "ALIKE", 4)
    assert torch.allclose(score.of_completions(ids, lengths, read), found, atol=1e-6)
    assert sum(rows) == len(read) * n  # too few to be worth it


def noting(plain, rows: list[int]):
    def pooled(self, ids, lengths, after=0):
        rows.append(len(ids))
        return plain(self, ids, lengths, after)

    return pooled


def test_a_step_descends_the_cross_entropy_and_the_penalty_of_the_output_layer_alone():
    d = small()
    twin = copy.deepcopy(d)
    (ids, lengths), l2, lr = batch(), 0.4, 0.1
    real, fake = (ids[:10], lengths[:10]), (ids[10:], lengths[10:])
    loss, accuracy, gap = discriminate.step(d, torch.optim.SGD(d.parameters(), lr=lr), real, fake, l2, "fp32").tolist()
    logit = reference(twin, ids, lengths)
    p = torch.sigmoid(logit)
    cross_entropy = -(p[:10].log().sum() + (1 - p[10:]).log().sum()) / 16
    assert loss == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert accuracy == pytest.approx((int((p[:10] > 0.5).sum()) + int((p[10:] <= 0.5).sum())) / 16)
    assert gap == pytest.approx((p[:10].mean() - p[10:].mean()).item(), abs=1e-6)
    penalty = l2 / 2 * (twin.out.weight.square().sum() + twin.out.bias.square().sum())
    slope = gradients(cross_entropy + penalty, twin)
    moved = {k: v.detach() - lr * slope[k] for k, v in twin.named_parameters()}
    assert far(moved, {k: v.detach() for k, v in d.named_parameters()}) <= 1e-6


def test_half_the_authors_penalty_on_one_logit_is_theirs_on_two():
    """At the optimum of 0.2/2 (|a|^2 + |b|^2) under a fixed difference w = b - a: a = -w/2, b = w/2, so 0.1/2 |w|^2."""
    w = torch.randn(6, generator=rng(9))
    assert float(0.2 / 2 * 2 * (w / 2).square().sum()) == pytest.approx(float(0.1 / 2 * w.square().sum()))


class Recorder(nn.Module):
    """A discriminator that notes what it is shown: logit = first id."""

    def __init__(self):
        super().__init__()
        self.out, self.seen = nn.Linear(1, 1), []
        nn.init.ones_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, ids, lengths):
        assert torch.equal(lengths, ids[:, 0].abs())  # rows keep their lengths
        self.seen.append(ids[:, 0].tolist())
        return self.out(ids[:, :1].float()).squeeze(1)


@pytest.mark.parametrize(("n_real", "n_fake"), [(10, 10), (10, 7), (7, 10)])
def test_an_epoch_shows_each_row_once_half_real_half_fake(n_real, n_fake):
    real, fake = torch.arange(1, n_real + 1)[:, None], -torch.arange(1, n_fake + 1)[:, None]
    d = Recorder()
    optimizer = torch.optim.SGD(d.parameters(), lr=0.0)
    sides = (real, real[:, 0]), (fake, -fake[:, 0])
    stats = discriminate.epoch(d, optimizer, *sides, 8, rng(10))
    assert d.training
    n = min(n_real, n_fake)
    assert [len(b) for b in d.seen] == ([8, 8, 4] if n == 10 else [8, 6])
    for shown in d.seen:
        half = len(shown) // 2
        assert all(x > 0 for x in shown[:half])
        assert all(x < 0 for x in shown[half:])
    shown = [x for b in d.seen for x in b]
    assert len(set(shown)) == 2 * n
    logit = torch.tensor(shown).float()
    loss = F.softplus(-logit.abs()).mean()  # real ids are above 0, fakes below
    assert stats["d_loss"] == pytest.approx(float(loss), rel=1e-5)  # the short last batch counts by its rows
    assert stats["d_accuracy"] == 1.0
    p = torch.sigmoid(logit)
    assert stats["d_gap"] == pytest.approx(float(p[logit > 0].mean() - p[logit < 0].mean()), rel=1e-5)
    first = d.seen
    d.seen = []
    discriminate.epoch(d, optimizer, *sides, 8, rng(10))
    assert d.seen == first
    discriminate.epoch(d, optimizer, *sides, 8, rng(11))
    assert d.seen[len(first) :] != first


def test_held_out_accuracy_counts_each_side_half():
    real, fake = torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5, 0.7])
    found = discriminate.held_out_accuracy(lambda p, _: p, (real, real), (fake, fake))
    assert found == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_it_learns_to_tell_two_worlds_apart():
    d = small(dropout=0.25)
    real, fake = torch.randint(0, 15, (64, T), generator=rng(12)), torch.randint(10, 30, (64, T), generator=rng(13))
    n = torch.full((64,), T)
    optimizer = torch.optim.Adam(d.parameters(), lr=3e-3)
    stats = [discriminate.epoch(d, optimizer, (real, n), (fake, n), 32, rng(i)) for i in range(15)]
    assert stats[-1]["d_loss"] < 0.2 < 0.5 < stats[0]["d_loss"]
    assert stats[-1]["d_gap"] > 0.7
    assert discriminate.held_out_accuracy(discriminate.Score(d), (real, n), (fake, n)) > 0.95
