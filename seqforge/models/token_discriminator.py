"""ScratchGAN's discriminator: a logit of being real for every token, given those before it (de Masson d'Autume et al.
2019; authors' discriminator_nets.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqforge import ranges
from seqforge.models.skip_lstm import fill_table, truncated

SIGNALS = 8


@dataclass(frozen=True)
class TokenDiscriminatorConfig:
    """Sizes of ScratchGAN's discriminator. The widths of its embedding are the generator's.

    Args:
        hidden: width of the LSTM and of what it reads (ScratchGAN: 512)
        dropout: share of the entries of the embedding table dropped in an update, alike for all rows (ScratchGAN: 0.1)
        layer_norm: normalise the LSTM's gates before their bias (ScratchGAN: true)
    """

    hidden: int = 128
    dropout: float = 0.1
    layer_norm: bool = True

    def __post_init__(self):
        ranges.check(self, "discriminator.", hidden="at least 1", dropout="[0, 1)")


class TokenDiscriminator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-classification", "discriminator", "scratchgan"],
):
    """x_t = W [table[y_t], position signal of t]; an LSTM over x; a logit a step."""

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        pretrained: int = 0,
        trainable: int = 64,
        hidden: int = 128,
        dropout: float = 0.1,
        layer_norm: bool = True,
        freeze: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        TokenDiscriminatorConfig(hidden, dropout, layer_norm)  # checks
        self.hidden, self.dropout, self.layer_norm = hidden, dropout, layer_norm
        rng = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.empty(vocab_size, pretrained + trainable))
        fill_table(self.table, pretrained, freeze, rng)
        self.position: Tensor
        self.register_buffer("position", position_signal(max_length), persistent=False)
        self.into = nn.Linear(pretrained + trainable + SIGNALS, hidden)
        self.read = nn.Linear(hidden, 4 * hidden, bias=False)
        self.recur = nn.Linear(hidden, 4 * hidden, bias=False)
        self.scale = nn.Parameter(torch.ones(4 * hidden)) if layer_norm else None
        self.bias = nn.Parameter(torch.zeros(4 * hidden))  # the layer norm's offset as well
        self.out = nn.Linear(hidden, 1)
        for layer in (self.into, self.out):
            truncated(layer.weight, rng)
            nn.init.zeros_(layer.bias)
        together = torch.empty(4 * hidden, 2 * hidden)
        truncated(together, rng)
        with torch.no_grad():
            self.read.weight.copy_(together[:, :hidden])
            self.recur.weight.copy_(together[:, hidden:])

    @classmethod
    def of(
        cls,
        config: TokenDiscriminatorConfig,
        widths: tuple[int, int],
        vocab_size: int,
        max_length: int,
        seed: int,
        freeze: bool,
    ) -> TokenDiscriminator:
        """The discriminator a run's configuration names; widths: of the pretrained and the trainable embedding."""
        sizes = {"pretrained": widths[0], "trainable": widths[1]}
        return cls(vocab_size, max_length, **sizes, **asdict(config), freeze=freeze, seed=seed)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B,T) of each token being a real sequence's; 0 past the end. Rows are sorted by length inside, and one
        that has ended takes no more steps.
        """
        packed = pack_padded_sequence(ids, lengths.cpu(), batch_first=True, enforce_sorted=False)
        rows = packed.batch_sizes  # (t,) of each step, the longest sequences first
        table = F.dropout(self.table, self.dropout, self.training)
        x = F.embedding(packed.data, table)  # (N,E) of all steps' tokens, step by step
        position = self.position[: len(rows)].to(x.dtype).repeat_interleave(rows.to(x.device), dim=0)
        gates = self.read(self.into(torch.cat([x, position], dim=-1)))  # (N,4H): the inputs' share of every step
        h = c = gates.new_zeros(len(ids), self.hidden)
        out = []
        for now in gates.split(rows.tolist()):
            h, c = self.cell(now + self.recur(h[: len(now)]), c[: len(now)])
            h = h.to(gates.dtype)
            out.append(h)
        logits = packed._replace(data=self.out(torch.cat(out)))
        return pad_packed_sequence(logits, batch_first=True, total_length=ids.shape[1])[0].squeeze(-1)

    def cell(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c (N,H) after a step, of the gates' inputs (N,4H), not yet normalised, and the c before it."""
        if self.scale is not None:
            gates = F.layer_norm(gates, gates.shape[-1:], self.scale.to(gates.dtype))
        i, j, f, o = (gates + self.bias).chunk(4, dim=-1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(j)
        return torch.sigmoid(o) * torch.tanh(c), c

    @torch.no_grad()
    def of_candidates(self, ids: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Logits (B,T,K) of each of `candidates` (B,T,K) in the place of its token, after the tokens before it; 0 past
        the end. No prefix is read twice, and what a token has to say to the gates is worked out once for all places.
        """
        packed = pack_padded_sequence(ids, lengths.cpu(), batch_first=True, enforce_sorted=False)
        rows, order = packed.batch_sizes.tolist(), packed.sorted_indices
        assert order is not None
        into, out = self.into.weight, self.table.new_zeros(candidates.shape)
        words = F.linear(self.table @ into[:, : self.table.shape[1]].t(), self.read.weight)  # (V,4H)
        places = self.read(self.into.bias + self.position @ into[:, self.table.shape[1] :].t())  # (T,4H)
        h = c = words.new_zeros(len(ids), self.hidden)
        for t, n in enumerate(rows):
            at = order[:n]
            gates = places[t] + self.recur(h[:n])  # (n,4H)
            each = gates[:, None] + F.embedding(candidates[at, t], words)  # (n,K,4H)
            then, _ = self.cell(each, c[:n, None])
            out[at, t] = self.out(then).squeeze(-1)
            h, c = self.cell(gates + F.embedding(ids[at, t], words), c[:n])
        return out


def position_signal(horizon: int) -> Tensor:
    """cos(pi (t / period_p + shift_p)) (T,8): periods from 2 to T, evenly spaced in their logarithm; shifts 0 to 2."""
    period = torch.linspace(math.log(2), math.log(max(horizon, 2)), SIGNALS).exp()
    shift = torch.linspace(0, 2, SIGNALS)
    return torch.cos(math.pi * (torch.arange(horizon)[:, None] / period + shift))
