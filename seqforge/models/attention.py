"""Layers of a Transformer (Vaswani et al. 2017), for generators and discriminators alike.

Shapes: B batch, t tokens read now, S keys in all, H hidden width, h heads, d = H / h.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["pre", "post"]
Cross = Literal["none", "own", "shared"]
Pair = tuple[Tensor, Tensor]  # keys and values, (B,h,S,d) each


def sinusoids(position: Tensor, width: int) -> Tensor:
    """position (...) -> (..., width): sines at even places, cosines at odd ones (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, width, 2, device=position.device) * (-math.log(10000.0) / width))
    angle = position[..., None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]


@functools.lru_cache(64)
def _signal(rows: int, width: int, device: torch.device) -> Tensor:
    """The sinusoids of positions 0 .. rows - 1, made once: (rows, width)."""
    with torch.inference_mode(False):
        return sinusoids(torch.arange(rows, device=device), width)


class Embedding(nn.Module):
    """table[token] * sqrt(E) + sinusoids, dropout, and a linear map to H where that is not E (factorised)."""

    def __init__(self, vocab_size: int, width: int, hidden: int, dropout: float):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.widen = nn.Linear(width, hidden) if width != hidden else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, most: int | None = None) -> Tensor:
        """tokens (B,t), position (B,t) or (t,), each below `most` where that is known -> (B,t,H)."""
        width, weight = self.table.embedding_dim, self.table.weight
        most = int(position.max()) + 1 if most is None else most
        signal = _signal(1 << (most - 1).bit_length(), width, weight.device)[position]
        return self.widen(self.drop(self.table(tokens) * math.sqrt(width) + signal.to(weight.dtype)))


class Attention(nn.Module):
    """Multi-head attention. One matrix makes queries, keys and values; of another sequence, keys and values alone."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def _part(self, x: Tensor, first: int, count: int) -> tuple[Tensor, ...]:
        """Of queries 0, keys 1, values 2: `count` from `first` on, (B,h,t,d) each."""
        width = self.out.in_features
        rows = slice(first * width, (first + count) * width)
        made = F.linear(x, self.into.weight[rows], self.into.bias[rows])
        return made.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self._part(x, 0, 3)
        return query, key, value

    def query(self, x: Tensor) -> Tensor:
        return self._part(x, 0, 1)[0]

    def remember(self, x: Tensor) -> Pair:
        """Keys and values of x (B,S,H)."""
        key, value = self._part(x, 1, 2)
        return key, value

    def attend(self, query: Tensor, pair: Pair, see: Tensor | None, causal: bool = False) -> Tensor:
        """(B,t,H) from query (B,h,t,d); see: which keys, broadcastable to (B,h,t,S), None for all."""
        found = F.scaled_dot_product_attention(query, *pair, attn_mask=see, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """Self-attention, attention to a source where there is one, feed-forward (GELU); each with its residual and norm.

    cross: none, own, or shared: attention to the source uses the weights of self-attention.
    """

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float, norm: Norm, cross: Cross = "none"):
        super().__init__()
        self.pre, self.shared = norm == "pre", cross == "shared"
        self.attention = Attention(hidden, heads)
        self.cross = Attention(hidden, heads) if cross == "own" else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2 if cross == "none" else 3))
        self.grow, self.shrink = nn.Linear(hidden, feedforward), nn.Linear(feedforward, hidden)
        self.drop = nn.Dropout(dropout)

    @property
    def to_source(self) -> Attention:
        assert self.shared or self.cross is not None, "this layer reads no source"
        return self.attention if self.cross is None else self.cross

    def forward(
        self,
        x: Tensor,
        see: Tensor | None = None,
        causal: bool = False,
        past: Pair | None = None,
        source: Pair | None = None,
        see_source: Tensor | None = None,
    ) -> tuple[Tensor, Pair]:
        """x (B,t,H) -> (B,t,H), and the keys and values of `past` and of x, side by side."""
        query, *new = self.attention.project(self._read(x, 0))
        pair = (new[0], new[1])
        if past is not None:
            pair = (torch.cat([past[0], pair[0]], dim=2), torch.cat([past[1], pair[1]], dim=2))
        x = self._add(x, self.attention.attend(query, pair, see, causal), 0)
        if source is not None:
            asked = self.to_source.query(self._read(x, 1))
            x = self._add(x, self.to_source.attend(asked, source, see_source), 1)
        last = len(self.norms) - 1
        return self._add(x, self.shrink(F.gelu(self.grow(self._read(x, last)))), last), pair

    def _read(self, x: Tensor, place: int) -> Tensor:
        return self.norms[place](x) if self.pre else x

    def _add(self, x: Tensor, found: Tensor, place: int) -> Tensor:
        x = x + (self.drop(found) if self.training else found)
        return x if self.pre else self.norms[place](x)


class Stack(nn.Module):
    """Layers one after the other; `share`: the same layer so many times, as in ALBERT (Lan et al. 2020). Pre-norm ends
    with a norm of its own.
    """

    def __init__(
        self,
        layers: int,
        share: bool,
        hidden: int,
        heads: int,
        feedforward: int,
        dropout: float,
        norm: Norm,
        cross: Cross = "none",
    ):
        super().__init__()
        self.depth = layers
        self.own = nn.ModuleList(
            Layer(hidden, heads, feedforward, dropout, norm, cross) for _ in range(1 if share else layers)
        )
        self.last = nn.LayerNorm(hidden) if norm == "pre" else nn.Identity()

    def layer(self, depth: int) -> Layer:
        layer = self.own[depth % len(self.own)]
        assert isinstance(layer, Layer)
        return layer

    def remember(self, source: Tensor) -> tuple[Pair, ...]:
        """What each layer of its own weights keeps of a source (B,S,H); layers that share weights share it."""
        return tuple(self.layer(k).to_source.remember(source) for k in range(len(self.own)))

    def forward(
        self,
        x: Tensor,
        see: Tensor | None = None,
        causal: bool = False,
        past: tuple[Pair, ...] = (),
        source: tuple[Pair, ...] = (),
        see_source: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Pair, ...]]:
        """x (B,t,H) -> (B,t,H), and keys and values by depth."""
        kept = []
        for k in range(self.depth):
            before = past[k] if past else None
            asked = source[k % len(self.own)] if source else None
            x, pair = self.layer(k)(x, see, causal, before, asked, see_source)
            kept.append(pair)
        return self.last(x), tuple(kept)


def check_sizes(player: str, hidden: int, heads: int, dropout: float, **others: int) -> None:
    """Raises ValueError naming an option of a player, generator or discriminator, that makes no layers."""
    for name, value in {**others, "hidden": hidden, "heads": heads}.items():
        least = 0 if name == "feedforward" else 1  # 0: twice hidden
        if value < least:
            raise ValueError(f"{player}.{name} is {value}, but must be at least {least}")
    if hidden % heads:
        raise ValueError(
            f"{player}.heads is {heads}, which does not divide {player}.hidden {hidden}; give a divisor of it"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"{player}.dropout is {dropout}, but must lie in [0, 1)")


def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Xavier-uniform matrices, of queries, keys and values each by itself; biases 0; tables N(0, 1/E)."""
    joined = {part.into for part in module.modules() if isinstance(part, Attention)}
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, 0.0, part.embedding_dim**-0.5, generator=rng)
        elif isinstance(part, nn.Linear):
            for matrix in part.weight.data.chunk(3 if part in joined else 1):
                nn.init.xavier_uniform_(matrix, generator=rng)
            nn.init.zeros_(part.bias)
