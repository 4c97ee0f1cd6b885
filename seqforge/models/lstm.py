"""The SeqGAN generator: embedding, LSTM, linear (Yu et al. 2017, section 3.2; authors' sizes are the defaults)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from seqforge import ranges
from seqforge.models.generator import State

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of a layer of torch's LSTM
CELL_ROWS = 128  # up to which a token is faster by the cell


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes of an LSTM generator.

    Args:
        embedding: width of the token embedding (SeqGAN: 32)
        hidden: width of the LSTM (SeqGAN: 32)
        layers: LSTM layers (SeqGAN: 1)
        dropout: share of units dropped on embeddings and outputs while training by likelihood (SeqGAN: 0)
        init_std: every parameter starts from N(0, init_std^2), biases included (SeqGAN: 0.1)
    """

    group: ClassVar[str] = "generator"  # what the options are called

    embedding: int = 32
    hidden: int = 32
    layers: int = 1
    dropout: float = 0.0
    init_std: float = 0.1

    def __post_init__(self):
        ranges.check(self, f"{self.group}.", embedding="at least 1", hidden="at least 1", layers="at least 1")
        ranges.check(self, f"{self.group}.", dropout="[0, 1)", init_std="above 0")


@dataclass(frozen=True)
class LSTMState:
    """h, c: (layers, B, H) after the tokens read so far."""

    h: Tensor
    c: Tensor

    def select(self, rows: Tensor) -> LSTMState:
        return LSTMState(self.h[:, rows], self.c[:, rows])

    @classmethod
    def cat(cls, states: Sequence[LSTMState]) -> LSTMState:
        return cls(torch.cat([s.h for s in states], 1), torch.cat([s.c for s in states], 1))


def run_lstm(lstm: nn.LSTM, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
    """`lstm`, which puts the batch first, over x (B,t,E) after `state`: (B,t,H), and the state after the last.

    On a CPU torch's layer arranges its weights anew at every call, which is most of the time of a token of few rows;
    its cell does not, but is the slower one for many.
    """
    if x.shape[1] > 1 or len(x) > CELL_ROWS or lstm.num_layers > 1 or x.device.type != "cpu":
        out, (h, c) = lstm(x, (state.h, state.c))
        return out, LSTMState(h, c)
    h, c = torch.lstm_cell(x[:, 0], (state.h[0], state.c[0]), *(lstm.get_parameter(f"{name}_l0") for name in NAMES))
    return h[:, None], LSTMState(h[None], c[None])


class LSTMGenerator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-generation", "lstm"],
):
    """An LSTM language model. One bias a gate is trained, as in the paper; torch's second one stays at zero.

    Args:
        vocab_size: V
        start_id: token read before the first; SeqGAN's oracle tasks use 0, which is a word as well
        eos_id: token that ends a sequence, or None where all sequences have the full length
    """

    def __init__(
        self,
        vocab_size: int,
        embedding: int = 32,
        hidden: int = 32,
        layers: int = 1,
        dropout: float = 0.0,
        init_std: float = 0.1,
        start_id: int = 0,
        eos_id: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but must be at least 1")
        LSTMConfig(embedding, hidden, layers, dropout, init_std)  # checks
        self.vocab_size, self.start_id, self.eos_id = vocab_size, start_id, eos_id
        self.embed = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, vocab_size)
        self.drop = nn.Dropout(dropout)
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            second_bias = "bias_hh" in name
            p.requires_grad_(not second_bias)
            nn.init.zeros_(p) if second_bias else nn.init.normal_(p, 0.0, init_std, generator=rng)

    @classmethod
    def of(cls, config: LSTMConfig, vocab_size: int, eos_id: int | None, start_id: int, seed: int) -> LSTMGenerator:
        """The generator a run's configuration names."""
        return cls(vocab_size, **asdict(config), eos_id=eos_id, start_id=start_id, seed=seed)

    def train(self, mode: bool = True) -> LSTMGenerator:
        super().train(mode)
        self.lstm.train()  # cuDNN refuses a backward pass in eval mode; the only dropout here is self.drop
        return self

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        hidden, state = self.start_hidden(batch, context)
        return self.head(hidden), state

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        hidden, state = self.extend_hidden(tokens, state, lengths)
        return self.head(hidden), state

    def start_hidden(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        assert context is None, "an LSTM generator takes no context"
        zeros = self.embed.weight.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        start = torch.full((batch, 1), self.start_id, device=zeros.device)
        hidden, state = self.extend_hidden(start, LSTMState(zeros, zeros))
        return hidden[:, 0], state

    def extend_hidden(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, LSTMState)
        if not tokens.shape[1]:  # nothing to read; torch's LSTM refuses it
            return self.embed.weight.new_empty(len(tokens), 0, self.lstm.hidden_size), state
        x = self.drop(self.embed(tokens))  # (B,t,E)
        if lengths is None:
            out, after = run_lstm(self.lstm, x, state)
        else:  # rows of unequal length: the state is the one after each row's own last token
            out, after = self._ragged(x, state, lengths)
        return self.drop(out), after

    def _ragged(self, x: Tensor, before: LSTMState, lengths: Tensor) -> tuple[Tensor, LSTMState]:
        read = lengths.clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, read, batch_first=True, enforce_sorted=False)
        packed_out, (h, c) = self.lstm(packed, (before.h, before.c))
        out, _ = nn.utils.rnn.pad_packed_sequence(packed_out, batch_first=True, total_length=x.shape[1])
        nothing = (lengths < 1)[None, :, None]  # rows that read nothing stay where they were
        return out, LSTMState(torch.where(nothing, before.h, h), torch.where(nothing, before.c, c))
