"""ScratchGAN's generator: stacked LSTMs with skip connections, input and output embedding one table (de Masson d'Autume
et al. 2019; authors' generators.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge import ranges
from seqforge.models.generator import State
from seqforge.models.lstm import NAMES, LSTMState, run_lstm

MISSING_STD = 0.3836  # of the rows of words that a file of vectors does not have, as published


@dataclass(frozen=True)
class SkipLSTMConfig:
    """Sizes of ScratchGAN's generator.

    Args:
        pretrained: width of the part of the embedding that a file of word vectors fills; 0: none (ScratchGAN: 300)
        trainable: width of its other part (ScratchGAN: 64)
        hidden: width of each LSTM and of what it reads (ScratchGAN: 512)
        layers: LSTMs; each after the first also reads what the first does (ScratchGAN: 2)
        dropout: share of units dropped from what the LSTMs read and put out, in updates (ScratchGAN: 0)
    """

    pretrained: int = 0
    trainable: int = 64
    hidden: int = 128
    layers: int = 2
    dropout: float = 0.0

    def __post_init__(self):
        counts = {"pretrained": 0, "trainable": 0, "hidden": 1, "layers": 1}
        ranges.check(self, "generator.", **ranges.at_least(counts), dropout="[0, 1)")
        if not self.pretrained + self.trainable:
            raise ValueError("generator.pretrained and generator.trainable are 0; an embedding needs one of them")


class TiedHead(nn.Module):
    """Logits x . table^T + bias: x (..., E) -> (..., V). What the shared code asks of nn.Linear, on a table that is
    the input embedding as well.
    """

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.in_features, self.out_features = width, vocab_size
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class SkipLSTMGenerator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-generation", "scratchgan"],
):
    """e = table[token], x = e W_in, h_1 = LSTM(x), h_k = LSTM([x, h_{k-1}]), logits = ([h_1 .. h_L] W_out) table^T + b.

    The first `pretrained` columns of the table are the word vectors'.

    Args:
        vocab_size: V
        freeze: whether those columns stay as they are
        start_id: token read before the first (ScratchGAN: the padding, which is its end token)
        eos_id: token that ends a sequence, or None where all sequences have the full length
    """

    def __init__(
        self,
        vocab_size: int,
        pretrained: int = 0,
        trainable: int = 64,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        freeze: bool = False,
        start_id: int = 0,
        eos_id: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but must be at least 1")
        SkipLSTMConfig(pretrained, trainable, hidden, layers, dropout)  # checks
        self.vocab_size, self.start_id, self.eos_id, self.hidden = vocab_size, start_id, eos_id, hidden
        self.frozen, width = pretrained if freeze else 0, pretrained + trainable
        self.head = TiedHead(vocab_size, width)
        self.into = nn.Linear(width, hidden, bias=False)
        self.cells = nn.ModuleList(nn.LSTM(hidden * min(k, 2), hidden, batch_first=True) for k in range(1, layers + 1))
        self.out = nn.Linear(hidden * layers, width, bias=False)
        self.drop = nn.Dropout(dropout)
        rng = torch.Generator().manual_seed(seed)
        fill_table(self.head.weight, pretrained, freeze, rng)
        for layer in (self.into, self.out):
            truncated(layer.weight, rng)
        for cell in self.cells:
            assert isinstance(cell, nn.LSTM)
            sonnet_lstm(cell, rng)

    @classmethod
    def of(
        cls, config: SkipLSTMConfig, vocab_size: int, eos_id: int | None, start_id: int, seed: int, freeze: bool
    ) -> SkipLSTMGenerator:
        """The generator a run's configuration names."""
        return cls(vocab_size, **asdict(config), freeze=freeze, eos_id=eos_id, start_id=start_id, seed=seed)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        hold(self.head.weight, self.frozen)  # of a copy

    def train(self, mode: bool = True) -> SkipLSTMGenerator:
        super().train(mode)
        self.cells.train()  # cuDNN refuses a backward pass in eval mode; the only dropout here is self.drop
        return self

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        hidden, state = self.start_hidden(batch, context)
        return self.head(hidden), state

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        hidden, state = self.extend_hidden(tokens, state, lengths)
        return self.head(hidden), state

    def start_hidden(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        assert context is None, "this generator takes no context"
        zeros = self.head.weight.new_zeros(len(self.cells), batch, self.hidden)
        start = torch.full((batch, 1), self.start_id, device=zeros.device)
        hidden, state = self.extend_hidden(start, LSTMState(zeros, zeros))
        return hidden[:, 0], state

    def extend_hidden(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, LSTMState)
        if not tokens.shape[1]:
            return self.head.weight.new_empty(len(tokens), 0, self.head.in_features), state
        if lengths is not None:
            return self._ragged(tokens, state, lengths)
        x = self.drop(self.into(F.embedding(tokens, self.head.weight)))  # (B,t,H)
        outs, h, c = [], [], []
        for k, cell in enumerate(self.cells):
            assert isinstance(cell, nn.LSTM)
            read = x if not outs else torch.cat([x, outs[-1]], dim=-1)
            out, after = run_lstm(
                cell, read, LSTMState(state.h[k : k + 1].contiguous(), state.c[k : k + 1].contiguous())
            )
            outs.append(out)
            h.append(after.h)
            c.append(after.c)
        return self.out(self.drop(torch.cat(outs, dim=-1))), LSTMState(torch.cat(h), torch.cat(c))

    def _ragged(self, tokens: Tensor, state: LSTMState, lengths: Tensor) -> tuple[Tensor, State]:
        """Rows of unequal length, a token at a time: each row's state stays where its own tokens end."""
        found = []
        for t in range(tokens.shape[1]):
            hidden, after = self.extend_hidden(tokens[:, t : t + 1], state)
            assert isinstance(after, LSTMState)
            found.append(hidden)
            going = (t < lengths)[None, :, None]
            state = LSTMState(torch.where(going, after.h, state.h), torch.where(going, after.c, state.c))
        return torch.cat(found, dim=1), state


def fill_table(table: nn.Parameter, pretrained: int, freeze: bool, rng: torch.Generator) -> None:
    """Start an embedding (V,E): all as words without a vector where some columns are pretrained, which are then of one
    scale with the others (as their code has it); else truncated normal.
    """
    if pretrained:
        nn.init.normal_(table.data, 0.0, MISSING_STD, generator=rng)
    else:
        std = 1 / math.sqrt(table.shape[1])
        nn.init.trunc_normal_(table.data, 0.0, std, -2 * std, 2 * std, generator=rng)
    hold(table, pretrained if freeze else 0)


def hold(table: nn.Parameter, columns: int) -> None:
    """The first columns of an embedding (V,E) get no gradient, so that no optimiser without weight decay moves them. A
    copy of the parameter forgets it.
    """
    if columns and table.requires_grad:
        moved = (torch.arange(table.shape[1]) >= columns).to(table.dtype)
        table.register_hook(lambda grad: grad * moved.to(grad.device, grad.dtype))


def truncated(weight: Tensor, rng: torch.Generator) -> None:
    """Truncated normal of standard deviation 1 / sqrt(fan in), sonnet's default. weight (out, in)."""
    std = 1 / math.sqrt(weight.shape[1])
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator=rng)


def sonnet_lstm(cell: nn.LSTM, rng: torch.Generator) -> None:
    """Sonnet's start: one weight on [input, h], and one bias a gate. Its forget gates are open by 1 beside their bias:
    that stands in torch's second bias, which is not trained.
    """
    read, recur, bias, second = (cell.get_parameter(f"{name}_l0") for name in NAMES)
    together = torch.empty(len(read), cell.input_size + cell.hidden_size)
    truncated(together, rng)
    with torch.no_grad():
        read.copy_(together[:, : cell.input_size])
        recur.copy_(together[:, cell.input_size :])
        bias.zero_()
        second.zero_()
        second[cell.hidden_size : 2 * cell.hidden_size] = 1.0
    second.requires_grad_(False)
