"""Sampling and scoring against all sequences of a tiny world, numpy, and a written-out LSTM."""

import itertools

import numpy as np
import pytest
import torch
from ragged import ragged
from scipy import stats
from torch import nn
from worlds import Headless, every_sequence, far, fork_logits, garbled, gradients, plain_log_probs, rng, tiny

from seqforge import likelihood
from seqforge.likelihood import log_probs, sequence_nll, weighted_nll
from seqforge.models.heads import Head
from seqforge.models.transformer import TransformerGenerator
from seqforge.sampling import Filter, begin, complete, draw, mask_of, retrace, sample, sample_chunks, uniform

ENDS = [None, 2, 0]  # end token: none; one of its own; the one that padding also uses


def plain_loss(generator, ids, lengths, weight):
    return -(weight * plain_log_probs(generator, ids, lengths)).sum()


# --- probabilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos_id", ENDS)
def test_the_probabilities_of_all_sequences_sum_to_one(eos_id):
    ids, lengths = every_sequence(eos_id=eos_id)
    assert len(ids) == (81 if eos_id is None else 31)
    for temperature in (1.0, 0.6):
        p = log_probs(tiny(eos_id=eos_id), ids, lengths, temperature).detach().sum(1).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("eos_id", ENDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_sequence_nll_equal_a_written_out_lstm(eos_id, temperature):
    generator = tiny(3, eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    expected = plain_log_probs(generator, ids, lengths, temperature)
    got = log_probs(generator, ids, lengths, temperature)
    assert torch.allclose(got, expected, atol=1e-10)
    assert far(gradients(got.sum(), generator), gradients(expected.sum(), generator)) <= 1e-8
    for kind, rows in itertools.product((generator, Headless(generator)), (None, 1, 7)):
        assert torch.allclose(-sequence_nll(kind, ids, lengths, temperature, rows), expected, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("eos_id", ENDS)
def test_weighted_nll_equals_autograd_for_weights_of_either_sign(eos_id, bias):
    generator = tiny(4, eos_id)
    if not bias:
        generator.head = nn.Linear(4, 3, bias=False, dtype=torch.float64)
        nn.init.normal_(generator.head.weight, generator=rng(1))
    ids, lengths = every_sequence(eos_id=eos_id)
    weight = torch.randn(ids.shape, generator=rng(2), dtype=torch.float64)
    expected, truth = plain_log_probs(generator, ids, lengths), plain_loss(generator, ids, lengths, weight)
    loss, logp = weighted_nll(generator, ids, lengths, weight)
    assert loss.item() == pytest.approx(truth.item(), abs=1e-9)
    assert torch.allclose(logp, expected, atol=1e-10)
    assert not logp.requires_grad
    assert far(gradients(loss, generator), gradients(truth, generator)) <= 1e-8
    part, _ = weighted_nll(generator, ids, lengths, weight)  # of another loss
    scaled = gradients(-2.5 * plain_loss(generator, ids, lengths, weight), generator)
    assert far(gradients(-2.5 * part, generator), scaled) <= 1e-7
    loss, same = weighted_nll(Headless(generator), ids, lengths, weight)
    assert torch.allclose(same, logp, atol=1e-10)
    assert far(gradients(-2.5 * loss, generator), scaled) <= 1e-7


@pytest.mark.parametrize("n", [128, 300])
def test_rows_read_in_groups_of_like_length_are_those_read_one_by_one(n):
    generator = tiny(6, vocab=9)
    drawn = ragged(n, 1)
    weight = torch.randn(drawn.ids.shape, generator=rng(2), dtype=torch.float64)
    assert len(likelihood._alike(drawn.lengths)) == n // 64
    assert len(likelihood._alike(torch.full((n,), 5))) == 1  # of one length
    loss, logp = weighted_nll(generator, drawn.ids, drawn.lengths, weight)
    assert torch.allclose(logp, plain_log_probs(generator, drawn.ids, drawn.lengths), atol=1e-10)
    assert torch.allclose(-sequence_nll(generator, drawn.ids, drawn.lengths), logp, atol=1e-10)
    truth = gradients(plain_loss(generator, drawn.ids, drawn.lengths, weight), generator)
    assert far(gradients(loss, generator), truth) <= 1e-8
    asked = ragged(n, 5)
    answering = TransformerGenerator(9, 8, 12, 1, 2, encoder=True, seed=3).double().eval()
    both = weighted_nll(answering, drawn.ids, drawn.lengths, weight, context=asked)
    for row in range(0, n, 13):
        one = torch.tensor([row])
        _, alone = weighted_nll(answering, drawn.ids[one], drawn.lengths[one], weight[one], context=asked[one])
        assert torch.allclose(both[1][one], alone, atol=1e-10)


@pytest.mark.parametrize("rows", [3, 40])
def test_a_head_without_bias_gives_the_same_logits_packed_or_not(rows):
    linear = nn.Linear(12, 50, bias=False)
    head, hidden = Head.of(linear), torch.randn(40, 12, generator=rng(3))
    assert (head.packed is not None) == torch.backends.mkldnn.is_available()
    found = torch.cat([head.logits(hidden, rows)(slice(lo, lo + rows)) for lo in range(0, 40, rows)])
    assert torch.allclose(found, linear(hidden), atol=1e-6)
    assert not found.requires_grad
    assert Head.of(nn.Linear(12, 50)).packed is None  # its draws stay as they are, bit for bit


def test_weighted_nll_is_right_where_the_vocabulary_takes_it_in_chunks():
    generator = tiny(5, vocab=41_000, embedding=2, hidden=2)
    ids = torch.randint(41_000, (10, 5), generator=rng(3))
    lengths = torch.tensor([5] * 9 + [2])
    weight = torch.randn(ids.shape, generator=rng(4), dtype=torch.float64)
    loss, logp = weighted_nll(generator, ids, lengths, weight)
    assert torch.allclose(logp, plain_log_probs(generator, ids, lengths), atol=1e-9)
    for rows in (None, 1, 4):
        nll = sequence_nll(generator, ids, lengths, 0.7, rows)
        assert torch.allclose(-nll, plain_log_probs(generator, ids, lengths, 0.7), atol=1e-9)
    truth = gradients(plain_loss(generator, ids, lengths, weight), generator)
    assert far(gradients(loss, generator), truth) <= 1e-8


def test_weighted_nll_in_float32_is_as_good_as_autograd_even_for_hopeless_tokens():
    generator = tiny(6, dtype=torch.float32)
    with torch.no_grad():
        generator.head.bias.copy_(torch.tensor([0.0, 3.0, -200.0]))  # log p of token 2 is beyond float32's softmax
    ids, lengths = every_sequence()
    weight = torch.randn(ids.shape, generator=rng(5))
    loss, logp = weighted_nll(generator, ids, lengths, weight)
    assert bool(torch.isfinite(logp).all())
    truth = gradients(plain_loss(generator, ids, lengths, weight), generator)
    assert far(gradients(loss, generator), truth) <= 1e-4 * max(float(g.abs().max()) for g in truth.values())


def test_the_nll_of_a_hopeless_token_is_not_cut_off():
    """A held-out token at -200 nats counts as that, not as the 87.3 at which float32's softmax ends."""
    generator = tiny(6, dtype=torch.float32)
    with torch.no_grad():
        generator.head.bias.copy_(torch.tensor([0.0, 3.0, -200.0]))
    ids, lengths = every_sequence()
    for temperature in (1.0, 0.5):
        expected = plain_log_probs(generator, ids, lengths, temperature).detach()
        assert float(expected.min()) < -195
        for kind in (generator, Headless(generator)):
            nll = sequence_nll(kind, ids, lengths, temperature)
            assert torch.allclose(-nll, expected, atol=1e-3, rtol=1e-5)
        assert torch.allclose(log_probs(generator, ids, lengths, temperature), expected, atol=1e-3, rtol=1e-5)


def test_a_sequence_of_one_token_has_a_likelihood():
    """`extend` was asked to read no token, which torch's LSTM refuses."""
    generator = tiny()
    ids, lengths = torch.tensor([[0], [1], [2]]), torch.ones(3, dtype=torch.long)
    assert float(sample(generator, uniform((5, 1), rng())).logp.max()) < 0
    assert float(torch.exp(-sequence_nll(generator, ids, lengths)).sum()) == pytest.approx(1, abs=1e-12)


def test_what_lies_past_the_end_changes_no_likelihood_and_no_gradient():
    generator = tiny(7, eos_id=2)
    ids, lengths = every_sequence(eos_id=2)
    other = garbled(ids, lengths)
    assert torch.equal(log_probs(generator, ids, lengths), log_probs(generator, other, lengths))
    assert torch.equal(sequence_nll(generator, ids, lengths), sequence_nll(generator, other, lengths))
    weight = torch.randn(ids.shape, generator=rng(6), dtype=torch.float64)
    heavier = torch.where(mask_of(lengths, 4), weight, torch.full_like(weight, 1e3))
    (a, logp_a), (b, logp_b) = (
        weighted_nll(generator, ids, lengths, weight),
        weighted_nll(generator, other, lengths, heavier),
    )
    assert torch.equal(logp_a, logp_b)
    assert a.item() == pytest.approx(b.item(), abs=1e-12)
    assert far(gradients(a, generator), gradients(b, generator)) <= 1e-12


# --- samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eos_id", "temperature"), [(None, 1.0), (None, 0.6), (2, 1.0), (0, 1.5)])
def test_samples_occur_as_often_as_their_probability_says(eos_id, temperature):
    generator = tiny(11, eos_id, init_std=0.7)
    ids, lengths = every_sequence(eos_id=eos_id)
    p = plain_log_probs(generator, ids, lengths, temperature).sum(1).exp().detach().numpy()
    n = 40_000
    drawn = sample(generator, uniform((n, 4), rng(12)), Filter(temperature=temperature))
    place = {tuple(row[:k]): i for i, (row, k) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True))}
    rows = zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)
    count = np.bincount([place[tuple(row[:k])] for row, k in rows], minlength=len(p))
    assert np.all(np.abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1)
    assert stats.chisquare(count, n * p).pvalue > 1e-3
    wrong = np.roll(p, 1)
    assert stats.chisquare(count, n * wrong / wrong.sum()).pvalue < 1e-30  # the test has the power to tell


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_the_first_two_tokens_have_the_temperature_of_the_opening(kind, eos_id):
    """Of a sequence, not of a call: what goes on from a prefix of one token has one such token left."""
    generator = tiny(11, eos_id, init_std=0.7)
    ids, lengths = every_sequence(eos_id=eos_id)
    at_first, later = (plain_log_probs(generator, ids, lengths, t) for t in (0.4, 1.5))
    p = torch.cat([at_first[:, :2], later[:, 2:]], dim=1).sum(1).exp().detach().numpy()
    n, filter = 40_000, Filter(temperature=1.5, opening=0.4)
    drawn = sample(kind(generator), uniform((n, 4), rng(12)), filter)
    place = {tuple(row[:k]): i for i, (row, k) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True))}
    rows = zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)
    at = np.array([place[tuple(row[:k])] for row, k in rows])
    assert stats.chisquare(np.bincount(at, minlength=len(p)), n * p).pvalue > 1e-3
    assert np.allclose(drawn.logp.sum(1).exp(), p[at], atol=1e-5)
    noise, trail = uniform((50, 4), rng(13)), []
    whole = complete(kind(generator), begin(kind(generator), 50), noise, filter, trail)
    rows, fork = trail[0]
    rest = complete(kind(generator), fork, noise[rows], filter)
    assert torch.equal(rest.ids[:, 1:], whole.ids[rows, 1:])


@pytest.mark.parametrize("v", [1, 2, 3, 7, 13, 97, 100, 1009, 5000, 4999])
def test_draw_is_the_inverse_of_the_running_sum(v):
    p = torch.softmax(3 * torch.randn(400, v, generator=rng(v)), 1)
    p[torch.rand(p.shape, generator=rng(v + 1)) < 0.3] = 0.0
    p[:, v // 2] += 1e-3  # a row must have something
    u = torch.rand(400, generator=rng(v + 2))
    cdf = np.cumsum(p.double().numpy(), 1)
    target = u.double().numpy() * cdf[:, -1]
    expected = np.array([np.searchsorted(row, x, side="right") for row, x in zip(cdf, target, strict=True)])
    got = draw(p, u).numpy()
    assert (got == expected).mean() >= 0.98
    rows = np.arange(400)  # the rest lie within rounding of a boundary
    below = np.where(got > 0, cdf[rows, got - 1], 0.0)
    assert np.all((below - 1e-6 <= target) & (target <= cdf[rows, got] + 1e-6))
    assert bool((p[rows, got] > 0).all())


def test_draw_hands_every_token_its_share_of_the_unit_interval():
    p = torch.tensor([0.05, 0.0, 0.3, 0.125, 0.0, 0.5, 0.025])
    u = (torch.arange(8000) + 0.5) / 8000
    count = torch.bincount(draw(p.expand(8000, 7), u), minlength=7)
    assert count.tolist() == pytest.approx([400, 0, 2400, 1000, 0, 4000, 200], abs=1)


@pytest.mark.parametrize("v", [1, 2, 3, 7, 49, 50, 97, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margins", [True, False])
def test_draw_at_the_ends_of_the_unit_interval_takes_the_first_and_the_last_possible_token(v, dtype, margins):
    p = torch.rand(64, v, generator=rng(v)) + 0.01
    first, last = (v // 3, v - 1 - v // 4) if margins else (0, v - 1)
    p[:, :first], p[:, last + 1 :] = 0.0, 0.0
    nearly_one = torch.nextafter(torch.ones(64, dtype=dtype), torch.zeros(64, dtype=dtype))
    assert draw(p, torch.zeros(64, dtype=dtype)).eq(first).all()
    assert draw(p, nearly_one).eq(last).all()


@pytest.mark.parametrize("v", [9, 30, 49, 100])
def test_draw_never_takes_an_impossible_token_even_at_the_boundaries(v):
    width = int(v**0.5)
    for trial in range(10):
        p = torch.rand(64, v, generator=rng(trial)) ** (8 if trial % 2 else 40)
        p[:, ::width] = 0.0
        running = p.double().cumsum(1)
        at = running / running[:, -1:]
        for near in (at, torch.nextafter(at, at - 1), torch.nextafter(at, at + 1)):
            for column in range(v):
                token = draw(p, near[:, column].clamp(0, 1 - 2.0**-53))
                assert bool((p.gather(1, token[:, None]) > 0).all())


@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("filter", [Filter(), Filter(0.8, 12, 0.9)])
def test_the_size_of_chunks_changes_no_sample(eos_id, filter):
    generator = tiny(13, eos_id, vocab=20, hidden=8, dtype=torch.float32)
    noise = uniform((50, 9), rng(14))
    whole = sample(generator, noise, filter)
    for rows in (1, 7, 50, 64):
        cut = sample(generator, noise, filter, rows)
        assert torch.equal(whole.ids, cut.ids)
        assert torch.equal(whole.lengths, cut.lengths)
        assert torch.allclose(whole.logp, cut.logp, atol=1e-5)
    assert [len(s.ids) for s in sample_chunks(generator, noise, filter, 20)] == [20, 20, 10]


def test_rows_that_end_early_change_no_other_row():
    generator = tiny(15, eos_id=1, vocab=6)
    noise = uniform((40, 12), rng(16))
    together = sample(generator, noise)
    assert len(set(together.lengths.tolist())) > 1
    assert int(together.lengths.min()) < 4
    for r in range(40):
        alone = sample(generator, noise[r : r + 1])
        assert torch.equal(alone.ids[0], together.ids[r])
        assert int(alone.lengths) == int(together.lengths[r])
    order = torch.randperm(40, generator=rng(17))
    assert torch.equal(sample(generator, noise[order]).ids, together.ids[order])


@pytest.mark.parametrize("eos_id", [None, 2])
def test_a_row_stops_at_its_first_end_token_and_holds_zeros_after(eos_id):
    drawn = sample(tiny(18, eos_id, vocab=5), uniform((200, 7), rng(19)))
    for row, n, logp in zip(drawn.ids.tolist(), drawn.lengths.tolist(), drawn.logp.tolist(), strict=True):
        ends = [t for t, token in enumerate(row) if token == eos_id]
        assert n == (ends[0] + 1 if ends else 7)
        assert row[n:] == [0] * (7 - n)
        assert logp[n:] == [0.0] * (7 - n)
        assert max(logp[:n]) < 0


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("eos_id", [None, 3])
def test_the_log_probabilities_of_samples_are_those_of_teacher_forcing(eos_id, temperature):
    generator = tiny(20, eos_id, vocab=50, hidden=8, dtype=torch.float32)
    drawn = sample(generator, uniform((100, 12), rng(21)), Filter(temperature=temperature))
    forced = log_probs(generator, drawn.ids, drawn.lengths, temperature).detach()
    assert float((drawn.logp - forced).abs().max()) <= 1e-5
    other = log_probs(generator, drawn.ids, drawn.lengths, temperature * 1.05).detach()
    assert float((drawn.logp - other).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_completing_a_fork_keeps_to_the_noise_of_each_position(kind):
    generator = kind(tiny(22, eos_id=2, vocab=6))
    noise = uniform((30, 8), rng(23))
    trail = []
    whole = complete(generator, begin(generator, 30), noise, trail=trail)
    for t, (rows, fork) in enumerate(trail, 1):
        assert fork.position.tolist() == [t] * len(rows)
        assert rows.tolist() == (whole.lengths > t).nonzero().flatten().tolist()
        rest = complete(generator, fork, noise[rows])
        assert torch.equal(rest.ids[:, t:], whole.ids[rows, t:])
        assert not rest.ids[:, :t].any()
        assert torch.equal(rest.lengths, whole.lengths[rows])


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_retracing_leaves_the_trail_that_sampling_left(kind):
    generator = kind(tiny(24, eos_id=2, vocab=6))
    trail = []
    whole = complete(generator, begin(generator, 30), uniform((30, 8), rng(25)), trail=trail)
    again = retrace(generator, garbled(whole.ids, whole.lengths, 6), whole.lengths)
    assert len(again) == len(trail) == int(whole.lengths.max()) - 1
    for (rows_a, a), (rows_b, b) in zip(trail, again, strict=True):
        assert torch.equal(rows_a, rows_b)
        assert torch.equal(a.position, b.position)
        assert torch.allclose(fork_logits(generator, a), fork_logits(generator, b), atol=1e-12)
        assert torch.allclose(a.state.c, b.state.c, atol=1e-12)


@pytest.mark.parametrize("filter", [Filter(), Filter(0.8, 3, 0.9)])
def test_a_generator_without_a_linear_head_is_sampled_alike(filter):
    generator, noise = tiny(29, eos_id=2, vocab=6), uniform((30, 8), rng(30))
    a, b = sample(generator, noise, filter), sample(Headless(generator), noise, filter)
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.lengths, b.lengths)
    assert torch.allclose(a.logp, b.logp, atol=1e-6)


# --- filters -------------------------------------------------------------------------------------------------------


def filtered(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """One row at a time, in words: sharpen; keep the k likeliest; keep the likeliest until their sum reaches p."""
    out = np.zeros_like(logits)
    for row, x in zip(out, logits, strict=True):
        weight = np.exp(x / temperature - np.max(x / temperature))
        order = list(np.argsort(-weight))[:top_k]
        kept = sum(weight[k] for k in order)
        reached = 0.0
        for k in order:
            if top_p is not None and reached >= top_p:
                break
            row[k] = weight[k]
            reached += weight[k] / kept
        row /= row.sum()
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 11, 50])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.6, 0.95, 1.0])
def test_a_filter_is_temperature_then_top_k_then_top_p(temperature, top_k, top_p):
    logits = 2 * torch.randn(30, 11, generator=rng(26), dtype=torch.float64)
    got = Filter(temperature, top_k, top_p).probabilities(logits)
    expected = filtered(logits.numpy(), temperature, top_k, top_p)
    assert np.abs(got.numpy() - expected).max() <= 1e-6
    assert got.dtype == torch.float32


def test_filters_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert Filter().probabilities(logits)[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert Filter(top_k=2).probabilities(logits)[0].tolist() == pytest.approx([0.625, 0.375, 0])
    assert Filter(top_p=0.7).probabilities(logits)[0].tolist() == pytest.approx([0.625, 0.375, 0])
    assert Filter(top_p=0.4).probabilities(logits)[0].tolist() == pytest.approx([1, 0, 0])
    assert Filter(0.5).probabilities(logits)[0].tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38])
    both = Filter(0.5, 2, 0.7).probabilities(logits)[0]  # after top-k the first has 25/34 > 0.7
    assert both.tolist() == pytest.approx([1, 0, 0])


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        *[("temperature", 0.0), ("temperature", -1.0), ("temperature", float("nan"))],
        *[("top_k", 0), ("top_k", -3), ("top_p", 0.0), ("top_p", 1.5), ("top_p", float("nan"))],
    ],
)
def test_a_filter_that_means_nothing_is_refused(wrong, value):
    with pytest.raises(ValueError, match=f"{wrong} is {value}"):
        Filter(**{wrong: value})


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_no_samples_or_no_length_is_refused(shape):
    with pytest.raises(ValueError, match=f"asked for {shape[0]} samples of length {shape[1]}"):
        sample(tiny(), torch.zeros(shape))


def test_noise_comes_from_its_generator_alone():
    torch.manual_seed(1)
    a = uniform((3, 5), rng(27))
    torch.manual_seed(2)
    assert torch.equal(a, uniform((3, 5), rng(27)))
    assert not torch.equal(a, uniform((3, 5), rng(28)))
    assert float(a.min()) >= 0
    assert float(a.max()) < 1
