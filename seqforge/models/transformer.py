"""A Transformer that generates: decoder only, or with an encoder for the source that it answers. Its layers may share
one set of weights. Keys and values of what it has read are its state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge.models.attention import Embedding, Norm, Pair, Stack, check_sizes, initialise
from seqforge.models.generator import Context, State


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a Transformer generator.

    Args:
        embedding: width of the token embedding; another than hidden: factorised (published: 128)
        hidden: width of the layers (published: 256)
        layers: how many times a layer is gone through, in the encoder and in the decoder each (published: 3)
        heads: attention heads; they divide hidden (published: 8)
        feedforward: width of the feed-forward part; 0: twice hidden (published: 512)
        dropout: share of units dropped after the embedding and each part of a layer, in updates (published: .1)
        share: all layers of the encoder, and all of the decoder, have the same weights (published: true)
        share_attention: attention to the source has the weights of self-attention (published: true)
        norm: post: after each part, as published; pre: before it, which trains deep stacks more easily
    """

    embedding: int = 64
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    feedforward: int = 0
    dropout: float = 0.1
    share: bool = True
    share_attention: bool = False
    norm: Norm = "pre"

    def __post_init__(self):
        sizes = {"embedding": self.embedding, "layers": self.layers, "feedforward": self.feedforward}
        check_sizes("generator", self.hidden, self.heads, self.dropout, **sizes)


@dataclass(frozen=True)
class Source:
    """What is answered: ids (B,S), of which row b has its first lengths[b], at least 1; the others mean nothing."""

    ids: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, context: Context) -> Source:
        """No wider than its longest row."""
        return cls(context.ids[:, : int(context.lengths.max())], context.lengths)

    def __getitem__(self, rows: Tensor) -> Source:
        return Source(self.ids[rows], self.lengths[rows])

    @property
    def mask(self) -> Tensor:
        """(B,S) bool."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


@dataclass(frozen=True)
class TransformerState:
    """The keys and values of what was read, a pair (B,h,S,d) a layer. Rows stand at the right: the last position[b] of
    the S columns are row b's; `full`: all of them are, of every row (False: perhaps not). `source`: what the layers
    keep of the source; `see_source` (B,S'): which of its columns count, None for all.
    """

    past: tuple[Pair, ...]
    position: Tensor
    full: bool = True
    source: tuple[Pair, ...] = ()
    see_source: Tensor | None = None

    @property
    def held(self) -> int:
        """S."""
        return self.past[0][0].shape[2]

    def select(self, rows: Tensor) -> TransformerState:
        see = None if self.see_source is None else self.see_source[rows]
        return TransformerState(_pick(self.past, rows), self.position[rows], self.full, _pick(self.source, rows), see)

    @classmethod
    def cat(cls, states: Sequence[TransformerState]) -> TransformerState:
        full = all(s.full for s in states) and len({s.held for s in states}) == 1
        past = _beside([s.past for s in states], left=True)
        source = _beside([s.source for s in states], left=False)
        see = _see_beside(states, source[0][0].shape[2]) if source else None
        return cls(past, torch.cat([s.position for s in states]), full, source, see)

    def visible(self, count: int) -> Tensor | None:
        """Which keys each of `count` new tokens attends to, (count, S+count) or (B,1,count,S+count); None for all."""
        if count == 1 and self.full:
            return None
        held = self.held
        column = torch.arange(held + count, device=self.position.device)
        causal = column <= held + torch.arange(count, device=column.device)[:, None]
        if self.full:
            return causal
        own = column[None, :] >= held - self.position[:, None]  # (B, S+count): not the filling at the left
        return causal & own[:, None, None, :]

    def shortened(self, unread: Tensor) -> TransformerState:
        """Without the last unread[b] (B,) columns of each row: the others move to the right end."""
        column = torch.arange(self.held, device=unread.device)
        at = (column - unread[:, None]).clamp_min(0)[:, None, :, None]  # (B,1,S,1)

        def moved(x: Tensor) -> Tensor:
            return x.gather(2, at.expand_as(x))

        past = tuple((moved(k), moved(v)) for k, v in self.past)
        return replace(self, past=past, position=self.position - unread, full=False)


def _pick(pairs: tuple[Pair, ...], rows: Tensor) -> tuple[Pair, ...]:
    return tuple((k[rows], v[rows]) for k, v in pairs)


def _beside(many: list[tuple[Pair, ...]], left: bool) -> tuple[Pair, ...]:
    """Rows of several states, filled up to the widest with zeros at the left or at the right."""
    if not many[0]:
        return ()
    widest = max(pairs[0][0].shape[2] for pairs in many)

    def filled(x: Tensor) -> Tensor:
        missing = widest - x.shape[2]
        return F.pad(x, (0, 0, missing, 0) if left else (0, 0, 0, missing)) if missing else x

    return tuple(
        (torch.cat([filled(pairs[k][0]) for pairs in many]), torch.cat([filled(pairs[k][1]) for pairs in many]))
        for k in range(len(many[0]))
    )


def _see_beside(states: Sequence[TransformerState], widest: int) -> Tensor | None:
    """`see_source` (B,widest) of several states side by side."""
    if all(s.see_source is None and s.source[0][0].shape[2] == widest for s in states):
        return None
    masks = []
    for s in states:
        rows, width = s.source[0][0].shape[0], s.source[0][0].shape[2]
        see = s.position.new_ones(rows, width, dtype=torch.bool) if s.see_source is None else s.see_source
        masks.append(F.pad(see, (0, widest - width)))
    return torch.cat(masks)


class TransformerGenerator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-generation", "transformer"],
):
    """p(y_t | y_<t), or p(y_t | y_<t, source) with `encoder`: then `start` takes the source as its context. One
    embedding serves source and reply; the output layer is a matrix of its own.

    Args:
        vocab_size: V
        encoder: whether it answers a source
        start_id: token read before the first
        eos_id: token that ends a sequence, or None where all sequences have the full length
    """

    def __init__(
        self,
        vocab_size: int,
        embedding: int = 64,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 0,
        dropout: float = 0.1,
        share: bool = True,
        share_attention: bool = False,
        norm: Norm = "pre",
        encoder: bool = False,
        start_id: int = 0,
        eos_id: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but must be at least 1")
        TransformerConfig(
            embedding, hidden, layers, heads, feedforward, dropout, share, share_attention, norm
        )  # checks
        self.vocab_size, self.start_id, self.eos_id = vocab_size, start_id, eos_id
        sizes = (layers, share, hidden, heads, feedforward or 2 * hidden, dropout, norm)
        self.embed = Embedding(vocab_size, embedding, hidden, dropout)
        self.encoder = Stack(*sizes) if encoder else None
        self.decoder = Stack(*sizes, cross=("shared" if share_attention else "own") if encoder else "none")
        self.head = nn.Linear(hidden, vocab_size)
        initialise(self, torch.Generator().manual_seed(seed))

    @classmethod
    def of(
        cls,
        config: TransformerConfig,
        vocab_size: int,
        eos_id: int | None,
        start_id: int,
        seed: int,
        encoder: bool = False,
    ) -> TransformerGenerator:
        """The generator a run's configuration names."""
        return cls(vocab_size, **asdict(config), encoder=encoder, eos_id=eos_id, start_id=start_id, seed=seed)

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        hidden, state = self.start_hidden(batch, context)
        return self.head(hidden), state

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        hidden, state = self.extend_hidden(tokens, state, lengths)
        return self.head(hidden), state

    def start_hidden(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        device, dtype = self.head.weight.device, self.head.weight.dtype
        heads = self.decoder.layer(0).attention.heads
        nothing = torch.zeros(batch, heads, 0, self.head.in_features // heads, device=device, dtype=dtype)
        position = torch.zeros(batch, dtype=torch.long, device=device)
        state = TransformerState(((nothing, nothing),) * self.decoder.depth, position)
        if self.encoder is None:
            assert context is None, "this generator takes no context"
        else:
            assert isinstance(context, Context), "this generator answers: give start a source"
            assert len(context) == batch
            source = Source.of(context)
            see = None if bool((source.lengths == source.ids.shape[1]).all()) else source.mask
            state = replace(state, source=self.encode(source), see_source=see)
        start = torch.full((batch, 1), self.start_id, device=device)
        hidden, state = self.extend_hidden(start, state)
        return hidden[:, 0], state

    def encode(self, source: Source) -> tuple[Pair, ...]:
        """What the decoder's layers keep of a source."""
        assert self.encoder is not None
        x = self.embed.bind()(source.ids, self.embed.signal(source.ids.shape[1]))
        found, _ = self.encoder(x, source.mask[:, None, None, :])
        return self.decoder.remember(found)

    def extend_hidden(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        count = tokens.shape[1]
        if not count:
            return self.head.weight.new_empty(len(tokens), 0, self.head.in_features), state
        x, after = self.bind()(tokens, state)
        if lengths is None:
            return x, after
        assert isinstance(after, TransformerState)
        return x, after.shortened(count - lengths.clamp(0, count))

    def bind(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        embed, decoder, signal_of = self.embed.bind(), self.decoder.bind(), self.embed.signal

        def read(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            assert isinstance(state, TransformerState)
            held, count = state.held, tokens.shape[1]
            signal = signal_of(held + count)
            if state.full:
                signal = signal[held:]
            else:
                signal = signal[state.position[:, None] + torch.arange(count, device=tokens.device)]
            see = None if state.see_source is None else state.see_source[:, None, None, :]
            x, past = decoder(embed(tokens, signal), state.visible(count), False, state.past, state.source, see)
            return x, TransformerState(past, state.position + count, state.full, state.source, state.see_source)

        return read
