"""ScratchGAN's generator and discriminator against their equations in numpy."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from worlds import garbled, rng

from seqforge.likelihood import log_probs, sequence_nll
from seqforge.models.generator import HeadedGenerator
from seqforge.models.skip_lstm import SkipLSTMGenerator
from seqforge.models.token_discriminator import TokenDiscriminator, position_signal
from seqforge.sampling import sample, uniform

V, T = 11, 7


def made(layers: int = 2, **options) -> SkipLSTMGenerator:
    return SkipLSTMGenerator(V, pretrained=3, trainable=4, hidden=5, layers=layers, seed=1, **options).eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().double().numpy() for k, v in module.state_dict().items()}


# --- the networks -------------------------------------------------------------------------------------------------


def generator_by_hand(p: dict, layers: int, tokens: list[int]) -> np.ndarray:
    """Logits after each token, one row, one step at a time: gates i, f, g, o as torch stores them."""
    hidden = p["into.weight"].shape[0]
    h, c, out = np.zeros((layers, hidden)), np.zeros((layers, hidden)), []
    for token in tokens:
        x = p["into.weight"] @ p["head.weight"][token]
        for k in range(layers):
            read = x if k == 0 else np.concatenate([x, h[k - 1]])
            name = f"cells.{k}."
            gates = p[name + "weight_ih_l0"] @ read + p[name + "weight_hh_l0"] @ h[k] + p[name + "bias_ih_l0"]
            i, f, g, o = np.split(gates, 4)
            c[k] = sigmoid(f + 1) * c[k] + sigmoid(i) * np.tanh(g)
            h[k] = sigmoid(o) * np.tanh(c[k])
        out.append(p["head.weight"] @ (p["out.weight"] @ h.reshape(-1)) + p["head.bias"])
    return np.stack(out)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_generator_is_its_equations(layers):
    generator = made(layers, start_id=4)
    torch.nn.init.normal_(generator.head.bias, generator=rng(2))
    tokens = torch.randint(V, (3, T), generator=rng(3))
    first, state = generator.start(3)
    later, _ = generator.extend(tokens, state)
    ours = torch.cat([first[:, None], later], 1)
    for row, found in zip(tokens, ours, strict=True):
        truth = generator_by_hand(arrays(generator), layers, [4, *row.tolist()])
        assert np.abs(found.detach().numpy() - truth).max() <= 1e-5


def test_generator_keeps_the_protocol():
    generator = made(eos_id=2)
    assert isinstance(generator, HeadedGenerator)
    drawn = sample(generator, uniform((40, T), rng(1)))
    assert int(drawn.lengths.min()) < T
    assert (drawn.logp + sequence_nll(generator, drawn.ids, drawn.lengths)).abs().max() <= 1e-5
    assert (log_probs(generator, drawn.ids, drawn.lengths) - drawn.logp).abs().max() <= 1e-5
    lengths = torch.tensor([3, 0, 5])
    tokens = torch.randint(V, (3, 5), generator=rng(3))
    _, before = generator.start(3)
    ragged, state = generator.extend(tokens, before, lengths)
    again, _ = generator.extend(torch.tensor([[1], [2], [3]]), state)
    for row, n in enumerate(lengths.tolist()):
        one = torch.cat([tokens[row, :n], torch.tensor([row + 1])])[None]
        plain, _ = generator.extend(one, generator.start(1)[1])
        assert (ragged[row, :n] - plain[0, :n]).abs().max() <= 1e-5 if n else True
        assert (again[row, 0] - plain[0, -1]).abs().max() <= 1e-5
    assert generator.extend(tokens[:, :0], before)[0].shape == (3, 0, V)


def test_starts_as_sonnet_does():
    generator = SkipLSTMGenerator(400, pretrained=300, trainable=64, hidden=100, seed=1)
    table = generator.head.weight.detach()
    assert float(table[:, :300].std()) == pytest.approx(0.3836, rel=0.01)
    assert float(table[:, 300:].std()) == pytest.approx(0.3836, rel=0.02)  # of one scale with the vectors beside them
    plain = SkipLSTMGenerator(400, trainable=64, hidden=8, seed=1).head.weight.detach()
    assert float(plain.abs().max()) <= 2 / 8
    assert float(plain.std()) == pytest.approx(0.8796 / 8, rel=0.02)
    weight = torch.cat([generator.cells[1].weight_ih_l0, generator.cells[1].weight_hh_l0], 1).detach()
    assert weight.shape == (400, 300)
    assert float(weight.abs().max()) <= 2 / math.sqrt(300)
    assert float(weight.std()) == pytest.approx(0.8796 / math.sqrt(300), rel=0.02)  # that of a normal cut off at 2
    own, second = generator.cells[0].bias_ih_l0, generator.cells[0].bias_hh_l0
    assert (own.requires_grad, second.requires_grad) == (True, False)  # what l2 draws to 0 is beside the 1
    assert float(own.detach().abs().sum()) == 0
    assert second.tolist() == [0.0] * 100 + [1.0] * 100 + [0.0] * 200
    same = SkipLSTMGenerator(400, pretrained=300, trainable=64, hidden=100, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), same.parameters(), strict=True))


def discriminator_by_hand(p: dict, layer_norm: bool, tokens: list[int], horizon: int) -> list[float]:
    hidden = p["into.weight"].shape[0]
    h = c = np.zeros(hidden)
    periods = np.exp(np.linspace(np.log(2), np.log(horizon), 8))
    out = []
    for t, token in enumerate(tokens):
        signal = np.cos(np.pi * (t / periods + np.linspace(0, 2, 8)))
        x = p["into.weight"] @ np.concatenate([p["table"][token], signal]) + p["into.bias"]
        gates = p["read.weight"] @ x + p["recur.weight"] @ h
        if layer_norm:
            gates = (gates - gates.mean()) / np.sqrt(gates.var() + 1e-5) * p["scale"]
        i, j, f, o = np.split(gates + p["bias"], 4)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        out.append(float(p["out.weight"][0] @ h + p["out.bias"][0]))
    return out


@pytest.mark.parametrize("layer_norm", [True, False])
def test_discriminator_is_its_equations_and_sees_nothing_past_the_end(layer_norm):
    discriminator = TokenDiscriminator(V, T, 3, 4, hidden=5, layer_norm=layer_norm, seed=1).eval()
    for p in (discriminator.bias, discriminator.scale):
        if p is not None:
            torch.nn.init.normal_(p, 1.0, 0.3, generator=rng(2))
    ids, lengths = torch.randint(V, (4, T), generator=rng(3)), torch.tensor([7, 1, 4, 6])
    logit = discriminator(ids, lengths).detach()
    for row, n, found in zip(ids, lengths.tolist(), logit, strict=True):
        truth = discriminator_by_hand(arrays(discriminator), layer_norm, row[:n].tolist(), T)
        assert np.abs(found[:n].numpy() - truth).max() <= 1e-5
        assert float(found[n:].abs().sum()) == 0
    assert torch.equal(discriminator(garbled(ids, lengths, V), lengths), logit)
    short = discriminator(ids[[1, 2]], lengths[[1, 2]])  # no step past the longest
    assert (short - logit[[1, 2]]).abs().max() <= 1e-6


def test_table_dropout_is_one_for_all_rows_and_off_in_eval():
    discriminator = TokenDiscriminator(V, T, 0, 30, hidden=5, dropout=0.5, seed=1)
    ids, lengths = torch.full((2, T), 3), torch.full((2,), T)
    torch.manual_seed(0)
    once, again = discriminator(ids, lengths), discriminator(ids, lengths)
    assert (once[0] - once[1]).abs().max() <= 1e-6
    assert (once - again).abs().max() > 1e-3
    assert torch.equal(discriminator.eval()(ids, lengths), discriminator(ids, lengths))


def test_position_signal():
    signal = position_signal(52)
    assert signal.shape == (52, 8)
    for t, k in itertools.product((0, 1, 30, 51), range(8)):
        period = math.exp(math.log(2) + k / 7 * (math.log(52) - math.log(2)))
        assert float(signal[t, k]) == pytest.approx(math.cos(math.pi * (t / period + 2 * k / 7)), abs=1e-5)


def test_frozen_vectors_stay_and_the_rest_moves():
    """In a copy as well: a run's MLE counterpart is one."""
    for make in (
        made(freeze=True),
        copy.deepcopy(made(freeze=True)),
        TokenDiscriminator(V, T, 3, 4, hidden=5, freeze=True),
    ):
        table = make.head.weight if isinstance(make, SkipLSTMGenerator) else make.table
        before = table.detach().clone()
        optimizer = torch.optim.Adam([p for p in make.parameters() if p.requires_grad], lr=0.1)
        ids, lengths = torch.randint(V, (4, T), generator=rng(3)), torch.full((4,), T)
        out = log_probs(make, ids, lengths) if isinstance(make, SkipLSTMGenerator) else make(ids, lengths)
        out.sum().backward()
        optimizer.step()
        assert torch.equal(table[:, :3], before[:, :3])
        assert not torch.equal(table[:, 3:], before[:, 3:])
