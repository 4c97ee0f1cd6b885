"""The generator protocol: what was read in pieces counts as what was read at once; and the LSTM that fills it."""

import math
import socket

import pytest
import torch
from torch import nn
from worlds import far, gradients, plain_log_probs, rng, tiny

from seqforge.likelihood import sequence_nll
from seqforge.models.generator import Generator, HeadedGenerator
from seqforge.models.heads import (
    head_divergence,
    head_log_probs,
    head_weighted_nll,
    log_softmax_at,
)
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.sampling import sample, uniform

V, T = 11, 9


@pytest.fixture(params=[1, 2], ids=["one layer", "two layers"])
def generator(request):
    return tiny(1, vocab=V, embedding=5, hidden=6, layers=request.param, dtype=torch.float32).requires_grad_(False)


def tokens(rows=4, length=T, seed=2):
    return torch.randint(V, (rows, length), generator=rng(seed))


def after(generator, prompt):
    """Logits (V,) after a prompt of one row read token by token."""
    logits, state = generator.start(1)
    for token in prompt:
        logits, state = generator.extend(torch.tensor([[int(token)]]), state)
        logits = logits[:, -1]
    return logits[0]


def close(a, b):
    return a.shape == b.shape and (not a.numel() or float((a - b).detach().abs().max()) <= 1e-5)


def test_an_lstm_fills_the_protocol(generator):
    assert isinstance(generator, Generator)
    assert isinstance(generator, HeadedGenerator)
    logits, state = generator.start(3)
    assert logits.shape == (3, V)
    logits, _ = generator.extend(tokens(3), state)
    assert logits.shape == (3, T, V)


def test_reading_token_by_token_equals_reading_at_once(generator):
    ids = tokens()
    first, state = generator.start(4)
    whole, end = generator.extend(ids, state)
    assert close(first[0], after(generator, []))
    for t in range(T):
        step, state = generator.extend(ids[:, t : t + 1], state)
        assert close(step[:, 0], whole[:, t])
    assert close(state.h, end.h)
    assert close(state.c, end.c)
    assert not close(whole[:, 1:], whole[:, :-1])


def test_reading_in_two_parts_equals_reading_at_once(generator):
    ids = tokens()
    whole, _ = generator.extend(ids, generator.start(4)[1])
    for cut in range(1, T):
        a, state = generator.extend(ids[:, :cut], generator.start(4)[1])
        b, _ = generator.extend(ids[:, cut:], state)
        assert close(torch.cat([a, b], 1), whole)


def test_a_later_token_changes_no_earlier_logits(generator):
    ids = tokens()
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % V
    a, b = (generator.extend(x, generator.start(4)[1])[0] for x in (ids, changed))
    assert torch.equal(a[:, :5], b[:, :5])
    assert not close(a[:, 5], b[:, 5])


def test_an_old_state_used_again_gives_the_same_numbers(generator):
    _, state = generator.extend(tokens(), generator.start(4)[1])
    before, _ = generator.extend(tokens(seed=3), state)
    generator.extend(tokens(seed=4), state)
    generator.extend(tokens(2, 1, seed=5), state.select(torch.tensor([3, 0])))
    generator.extend(tokens(seed=6), state, torch.tensor([0, 3, 9, 1]))
    again, _ = generator.extend(tokens(seed=3), state)
    assert torch.equal(before, again)


def test_rows_are_repeated_left_out_and_reordered(generator):
    ids, then = tokens(), tokens(5, 2, seed=7)
    _, state = generator.extend(ids, generator.start(4)[1])
    rows = torch.tensor([2, 2, 0, 3, 2])
    got, _ = generator.extend(then, state.select(rows))
    for i, r in enumerate(rows.tolist()):
        assert close(got[i, -1], after(generator, [*ids[r], *then[i]]))
    assert len(got[0, 0]) == V
    assert not close(got[0, -1], got[2, -1])


def test_rows_at_different_positions_stand_side_by_side(generator):
    ids, then = tokens(), tokens(7, 3, seed=8)
    _, at2 = generator.extend(ids[:, :2], generator.start(4)[1])
    _, at6 = generator.extend(ids[:, :6], generator.start(4)[1])
    state = type(at2).cat([at6.select(torch.tensor([3, 1])), at2, generator.start(1)[1]])
    prompts = [ids[3, :6], ids[1, :6], *ids[:, :2], ids[0, :0]]
    got, _ = generator.extend(then, state)
    for i, prompt in enumerate(prompts):
        assert close(got[i, -1], after(generator, [*prompt, *then[i]]))


@pytest.mark.parametrize("lengths", [[0, 2, 9, 1], [0, 0, 0, 0], [3, 3, 3, 3], [9, 0, 1, 8]])
@pytest.mark.parametrize("behind", [0, 3])
def test_prompts_of_unequal_length_are_each_read_alone(generator, lengths, behind):
    """Rows stand where their own prompt ends, be it empty, and what lies past it was not read."""
    ids, then, before = tokens(), tokens(4, 1, seed=9), tokens(4, behind, seed=10)
    state = generator.start(4)[1]
    if behind:
        _, state = generator.extend(before, state)
    n = torch.tensor(lengths)
    logits, state = generator.extend(ids, state, n)
    assert logits.shape == (4, T, V)
    following, _ = generator.extend(then, state)
    for b, k in enumerate(lengths):
        for t in range(k):
            assert close(logits[b, t], after(generator, [*before[b], *ids[b, : t + 1]]))
        assert close(following[b, 0], after(generator, [*before[b], *ids[b, :k], then[b, 0]]))
    garbage = torch.where(torch.arange(T)[None, :] < n[:, None], ids, (ids + 1) % V)
    start = generator.start(4)[1] if not behind else generator.extend(before, generator.start(4)[1])[1]
    _, same = generator.extend(garbage, start, n)
    assert torch.equal(same.h, state.h)


def test_the_empty_prompt_leaves_everyone_at_the_start(generator):
    """`extend` by no tokens at all, as a one-token sequence needs for its likelihood."""
    _, state = generator.start(4)
    logits, same = generator.extend(tokens(length=0), state)
    assert logits.shape == (4, 0, V)
    step, _ = generator.extend(tokens(length=1), same)
    expected, _ = generator.extend(tokens(length=1), state)
    assert torch.equal(step, expected)


def test_hidden_vectors_with_the_head_are_the_logits(generator):
    ids, n = tokens(), torch.tensor([0, 2, 9, 1])
    first, state = generator.start(4)
    hidden, same = generator.start_hidden(4)
    assert close(generator.head(hidden), first)
    later, end = generator.extend(ids, state)
    hidden, same_end = generator.extend_hidden(ids, same)
    assert close(generator.head(hidden), later)
    assert close(same_end.c, end.c)
    ragged, at = generator.extend_hidden(ids, same, n)
    for b, k in enumerate(n.tolist()):
        assert torch.allclose(ragged[b, :k], hidden[b, :k], atol=1e-5)
    assert close(at.h, generator.extend(ids, state, n)[1].h)


def test_the_fused_head_equals_cross_entropy():
    head = nn.Linear(6, V)
    hidden = torch.randn(5, 3, 6, generator=rng(11), requires_grad=True)
    targets, weight = tokens(5, 3), torch.randn(5, 3, generator=rng(12))
    loss, logp = head_weighted_nll(head, hidden, targets, weight)
    expected = log_softmax_at(head(hidden), targets)
    plain = torch.log_softmax(head(hidden), -1).gather(-1, targets[..., None]).squeeze(-1)
    assert close(expected, plain)
    assert close(logp, expected)
    truth = torch.autograd.grad(-(weight * plain).sum(), [hidden, head.weight, head.bias])
    for got, exact in zip(torch.autograd.grad(loss, [hidden, head.weight, head.bias]), truth, strict=True):
        assert close(got, exact)


@pytest.fixture(params=["1 thread", "2 threads", "2 threads, one sum"])
def threads(request, monkeypatch):
    """Each thread has its own rows of the head's products, and its own sum of the head's gradient unless that is large
    (49,000 floats here, so that the limit lies below it).
    """
    if "one sum" in request.param:
        monkeypatch.setattr("seqforge.models.heads.CORE_FLOATS", 40_000)
    torch.set_num_threads(int(request.param[0]))
    yield request.param
    torch.set_num_threads(1)


@pytest.mark.parametrize("shift", [0.0, 60.0, 150.0, -150.0])
def test_logits_whose_exponentials_leave_float32_give_the_same_probabilities(threads, shift):
    """The head skips the shift by the maximum where it may. 301 rows are more than one chunk, the last one ragged."""
    torch.manual_seed(18)
    head = nn.Linear(6, 7000)
    hidden = torch.randn(301, 6, generator=rng(13))
    hidden[:2] *= 100  # beyond exp in any case: ever one chunk of the two is done anew
    hidden.requires_grad_()
    with torch.no_grad():
        head.bias += shift
    targets, weight = torch.randint(7000, (301,), generator=rng(14)), torch.randn(301, generator=rng(15))
    exact = torch.log_softmax(head.double()(hidden.double()), -1).gather(-1, targets[:, None]).squeeze(-1)
    truth = torch.autograd.grad(-(weight * exact).sum(), [hidden, head.weight, head.bias])
    loss, logp = head_weighted_nll(head.float(), hidden, targets, weight)
    assert torch.allclose(logp.double(), exact, atol=1e-4, rtol=1e-5)
    for got, wanted in zip(torch.autograd.grad(loss, [hidden, head.weight, head.bias]), truth, strict=True):
        assert float((got - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
    scored = head_log_probs(head, hidden.detach(), targets, (1.0, 0.5))
    assert torch.allclose(scored[0].double(), exact, atol=1e-4, rtol=1e-5)
    assert bool(scored.isfinite().all())


@pytest.mark.parametrize("large", [False, True])
def test_what_bfloat16_products_with_the_head_change(threads, large):
    """Of a likelihood with logits of some size: log-probabilities by .06 at most, gradients by half a percent. Where
    exponentials leave what floats hold, a chunk's logits are made anew, and are those of float32.
    """
    torch.manual_seed(18)
    head, hidden = nn.Linear(16, 7000), torch.randn(301, 16, generator=rng(13))
    with torch.no_grad():
        head.weight *= 6
    hidden[:1] *= 100 if large else 1
    hidden.requires_grad_()
    targets, weight = torch.randint(7000, (301,), generator=rng(14)), torch.full((301,), 1 / 301)
    params = [hidden, head.weight, head.bias]
    loss, logp = head_weighted_nll(head, hidden, targets, weight, "bf16")
    plain_loss, plain = head_weighted_nll(head, hidden, targets, weight)
    assert loss.dtype == logp.dtype == torch.float32
    apart = (logp - plain).abs()
    assert 1e-3 < float(apart[250:].max()) < 0.06
    assert float(apart[0]) < (1e-3 if large else 0.06)
    assert float((loss - plain_loss).abs()) < 0.003
    truth = torch.autograd.grad(plain_loss, params)
    for got, wanted in zip(torch.autograd.grad(loss, params), truth, strict=True):
        assert got.dtype == torch.float32
        assert 1e-4 < float((got - wanted).norm() / wanted.norm()) < 0.006


@pytest.mark.parametrize("shift", [0.0, 60.0, 150.0, -150.0])
@pytest.mark.parametrize("others", [1, 2])
@pytest.mark.parametrize("covering", [False, True])
def test_logits_whose_exponentials_leave_float32_give_the_same_divergence(threads, covering, others, shift):
    torch.manual_seed(18)
    heads = [nn.Linear(6, 7000) for _ in range(1 + others)]
    hiddens = [torch.randn(151, 6, generator=rng(17 + k)) for k in range(1 + others)]
    for k, (head, hidden) in enumerate(zip(heads, hiddens, strict=True)):
        head.requires_grad_(k == 0)
        hidden[k : k + 2] *= 100  # beyond exp in any case: ever one chunk of the two is done anew
        with torch.no_grad():
            head.bias += shift
    hidden, weight = hiddens[0].requires_grad_(), torch.randn(151, generator=rng(15))
    logs = [torch.log_softmax(h.double()(x.double()), -1) for h, x in zip(heads, hiddens, strict=True)]
    p, q = logs[0], torch.logsumexp(torch.stack(logs[1:]), 0) - math.log(others)
    exact = (q.exp() * (q - p)).sum(1) if covering else (p.exp() * (p - q)).sum(1)
    truth = torch.autograd.grad((weight * exact).sum(), [hidden, heads[0].weight, heads[0].bias])
    single = [h.float() for h in heads]
    theirs = list(zip(single[1:], hiddens[1:], strict=True))
    loss, kl = head_divergence(single[0], hidden, theirs, weight, covering)
    assert torch.allclose(kl.double(), exact, atol=3e-4, rtol=1e-5)  # logits of 150 and more end at 1.5e-5
    found = torch.autograd.grad(loss, [hidden, heads[0].weight, heads[0].bias])
    bounds = (1e-4, 1e-4, 1e-4) if covering else (1e-4, 5e-3, 1e-3)  # p (log p - log q - KL), the logarithms 200 apart
    for got, wanted, bound in zip(found, truth, bounds, strict=True):
        assert float((got - wanted).abs().max()) <= bound * float(wanted.abs().max())


def test_logits_whose_exponentials_leave_float32_give_the_same_samples(threads):
    generator = tiny(3, vocab=7000, hidden=6, dtype=torch.float32)
    noise = uniform((300, T), rng(16))
    plain = sample(generator, noise)
    with torch.no_grad():
        generator.head.bias += 150.0
    shifted = sample(generator, noise)
    assert float((plain.ids != shifted.ids).float().mean()) < 0.01  # a rounding may pass a draw's edge
    same = (plain.ids == shifted.ids).all(1)
    assert torch.allclose(plain.logp[same], shifted.logp[same], atol=1e-4)


def test_a_head_without_a_bias_gives_the_samples_of_one_with_zeros(threads):
    generator = tiny(3, vocab=7000, hidden=6, dtype=torch.float32)
    noise = uniform((300, T), rng(16))
    with torch.no_grad():
        generator.head.bias.zero_()
    zeros = sample(generator, noise)
    weight, generator.head = generator.head.weight, nn.Linear(6, 7000, bias=False)
    generator.head.weight = weight
    none = sample(generator, noise)
    assert float((zeros.ids != none.ids).float().mean()) < 0.01
    same = (zeros.ids == none.ids).all(1)
    assert torch.allclose(zeros.logp[same], none.logp[same], atol=1e-5)


# --- the LSTM itself -----------------------------------------------------------------------------------------------


def test_the_published_sizes_have_333320_parameters():
    """5000*32 + 4*(32*32*2 + 32) + 32*5000 + 5000; torch's second bias a gate stays at zero and is not trained."""
    generator = LSTMGenerator.of(LSTMConfig(), vocab_size=5000, eos_id=None, start_id=0, seed=0)
    assert sum(p.numel() for p in generator.parameters() if p.requires_grad) == 333_320
    untrained = {k for k, p in generator.named_parameters() if not p.requires_grad}
    assert untrained == {"lstm.bias_hh_l0"}
    assert not generator.lstm.bias_hh_l0.any()
    values = torch.cat([p.detach().flatten() for p in generator.parameters() if p.requires_grad])
    assert float(values.mean()) == pytest.approx(0, abs=5 * 0.1 / 333_320**0.5)
    assert float(values.std()) == pytest.approx(0.1, rel=0.01)
    for p in (generator.lstm.bias_ih_l0, generator.head.bias):  # biases included
        assert float(p.detach().std()) == pytest.approx(0.1, rel=0.25)


def test_a_seed_names_the_parameters_and_nothing_ambient_does():
    torch.manual_seed(1)
    a = tiny(5)
    torch.manual_seed(2)
    assert far(dict(a.named_parameters()), dict(tiny(5).named_parameters())) == 0
    assert far(dict(a.named_parameters()), dict(tiny(6).named_parameters())) > 0.1


def test_the_start_token_is_read_before_the_first():
    zero, two = tiny(7), LSTMGenerator(3, 3, 4, init_std=1.0, seed=7, start_id=2).double().eval()
    ids, lengths = torch.tensor([[1, 0, 2]]), torch.tensor([3])
    for generator in (zero, two):
        assert torch.allclose(-sequence_nll(generator, ids, lengths), plain_log_probs(generator, ids, lengths))
    assert not close(zero.start(1)[0], two.start(1)[0])
    read_on, _ = zero.extend(torch.tensor([[0]]), zero.start(1)[1])
    assert not close(read_on[:, 0], zero.start(1)[0])  # word 0 later on is not the start again


def test_dropout_acts_in_training_only():
    generator = tiny(8, dropout=0.5)
    a, b = (generator.start(2)[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(a, tiny(8).start(2)[0])
    generator.train()
    hidden = generator.start_hidden(400)[0].detach()
    assert float((hidden == 0).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 1600**0.5)  # of the outputs
    assert len(set(hidden[:, 0].tolist())) == 1 + 2**3  # and of the embedding's three units, in each combination


def test_every_trained_parameter_gets_a_gradient():
    generator = tiny(9, layers=2)
    logits, _ = generator.extend(torch.tensor([[1, 2]]), generator.start(1)[1])
    found = gradients(logits.square().sum(), generator)
    assert all(bool(g.any()) for g in found.values())
    assert {k.split("_l")[0] for k in found if "bias" in k} == {"lstm.bias_ih", "head.bias"}


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("embedding", 0), ("hidden", -1), ("layers", 0), ("dropout", 1.0), ("dropout", -0.1), ("init_std", 0.0)],
)
def test_sizes_that_mean_nothing_are_refused(wrong, value):
    with pytest.raises(ValueError, match=rf"generator\.{wrong} is {value}, but must"):
        LSTMConfig(**{wrong: value})
    with pytest.raises(ValueError, match=rf"generator\.{wrong} is {value}, but must"):
        LSTMGenerator(5, **{wrong: value})
    with pytest.raises(ValueError, match="vocab_size is 0, but must be at least 1"):
        LSTMGenerator(0)


def test_a_saved_generator_comes_back_whole_without_a_network(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    saved = LSTMGenerator(V, 5, 6, layers=2, dropout=0.25, init_std=1.0, start_id=3, eos_id=4, seed=10).eval()
    saved.save_pretrained(tmp_path / "model")
    assert {"config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "model").iterdir()}
    found = LSTMGenerator.from_pretrained(tmp_path / "model")
    assert (found.vocab_size, found.start_id, found.eos_id, found.drop.p) == (V, 3, 4, 0.25)
    assert far(dict(saved.named_parameters()), dict(found.named_parameters())) == 0
    assert [p.requires_grad for p in saved.parameters()] == [p.requires_grad for p in found.parameters()]
    noise = uniform((6, 8), rng(11))
    assert not found.training
    assert torch.equal(sample(saved, noise).ids, sample(found, noise).ids)


def test_the_lstm_stays_in_training_mode_for_cudnn():
    """cuDNN refuses a backward pass through an LSTM in eval mode, where the policy gradient takes one."""
    generator = LSTMGenerator(5, dropout=0.5).eval()
    assert generator.lstm.training
    assert not generator.drop.training
    assert generator.lstm.dropout == 0
