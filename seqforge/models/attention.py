"""Layers of a Transformer (Vaswani et al. 2017), for generators and discriminators alike.

Shapes: B batch, t tokens read now, S keys in all, H hidden width, h heads, d = H / h.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["pre", "post"]
Cross = Literal["none", "own", "shared"]
Pair = tuple[Tensor, Tensor]  # keys and values, (B,h,S,d) each
Step = Callable[[Tensor, Tensor | None, bool, Pair | None, Pair | None, Tensor | None], tuple[Tensor, Pair]]


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

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens (B,t), position (B,t) or (t,) -> (B,t,H)."""
        return self.bind()(tokens, self.signal(int(position.max()) + 1)[position])

    def signal(self, count: int) -> Tensor:
        """The sinusoids of the first `count` positions, (count,E)."""
        weight = self.table.weight
        return _signal(1 << (count - 1).bit_length(), weight.shape[1], weight.device)[:count].to(weight.dtype)

    def bind(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A function of tokens (B,t) and of their positions' sinusoids (B,t,E) or (t,E), its weights looked up."""
        table, widen = self.table.weight, self.widen if isinstance(self.widen, nn.Linear) else None
        scale, dropout = math.sqrt(table.shape[1]), self.drop.p if self.training else 0.0

        def embed(tokens: Tensor, signal: Tensor) -> Tensor:
            x = torch.add(signal, torch.embedding(table, tokens), alpha=scale)
            x = F.dropout(x, dropout) if dropout else x
            return x if widen is None else F.linear(x, widen.weight, widen.bias)

        return embed


class Attention(nn.Module):
    """Multi-head attention. One matrix makes queries, keys and values; of another sequence, keys and values alone."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def part(self, first: int, count: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """A function x (B,t,H) -> `count` tensors (B,h,t,d), from the `first` of (queries, keys, values) on."""
        width, heads = self.out.in_features, self.heads
        rows = slice(first * width, (first + count) * width)
        weight, bias = self.into.weight[rows], self.into.bias[rows]
        inner = (count, heads, width // heads)

        def make(x: Tensor) -> tuple[Tensor, ...]:
            made = F.linear(x, weight, bias).view(*x.shape[:2], *inner)
            return made.permute(2, 0, 3, 1, 4).unbind(0)

        return make

    def remember(self, x: Tensor) -> Pair:
        """Keys and values of x (B,S,H)."""
        key, value = self.part(1, 2)(x)
        return key, value

    def attend(self) -> Callable[[Tensor, Pair, Tensor | None, bool], Tensor]:
        """A function (query (B,h,t,d), pair, see, causal) -> (B,t,H); see: which keys, broadcastable to (B,h,t,S), None
        for all; causal: later ones are hidden.
        """
        weight, bias = self.out.weight, self.out.bias

        def attend(query: Tensor, pair: Pair, see: Tensor | None, causal: bool) -> Tensor:
            found = F.scaled_dot_product_attention(query, *pair, attn_mask=see, is_causal=causal)
            return F.linear(found.transpose(1, 2).flatten(2), weight, bias)

        return attend


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
        return self.bind()(x, see, causal, past, source, see_source)

    def bind(self) -> Step:
        """`forward`, its weights looked up. A step of few rows is little more than its calls: read many tokens one by
        one through one of these.
        """
        pre, dropout = self.pre, self.drop.p if self.training else 0.0
        norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in self._norms()]
        project, attend = self.attention.part(0, 3), self.attention.attend()
        reads = self.shared or self.cross is not None
        ask, attend_source = (self.to_source.part(0, 1), self.to_source.attend()) if reads else (None, None)
        (grow, grow_bias), (shrink, shrink_bias) = ((m.weight, m.bias) for m in (self.grow, self.shrink))

        def read(x: Tensor, place: int) -> Tensor:
            return torch.layer_norm(x, *norms[place]) if pre else x

        def add(x: Tensor, found: Tensor, place: int) -> Tensor:
            x = x + (F.dropout(found, dropout) if dropout else found)
            return x if pre else torch.layer_norm(x, *norms[place])

        def step(
            x: Tensor,
            see: Tensor | None,
            causal: bool,
            past: Pair | None,
            source: Pair | None,
            see_source: Tensor | None,
        ) -> tuple[Tensor, Pair]:
            query, key, value = project(read(x, 0))
            if past is not None:
                key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
            x = add(x, attend(query, (key, value), see, causal), 0)
            if source is not None:
                assert ask is not None
                assert attend_source is not None
                (query,) = ask(read(x, 1))
                x = add(x, attend_source(query, source, see_source, False), 1)
            hidden = F.gelu(F.linear(read(x, -1), grow, grow_bias))
            return add(x, F.linear(hidden, shrink, shrink_bias), -1), (key, value)

        return step

    def _norms(self) -> list[nn.LayerNorm]:
        return [norm for norm in self.norms if isinstance(norm, nn.LayerNorm)]


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
        return self.bind()(x, see, causal, past, source, see_source)

    def bind(self) -> Callable[..., tuple[Tensor, tuple[Pair, ...]]]:
        """`forward`, its weights looked up."""
        steps, last = [layer.bind() for layer in self.own if isinstance(layer, Layer)], self.last

        def read(
            x: Tensor,
            see: Tensor | None,
            causal: bool,
            past: tuple[Pair, ...],
            source: tuple[Pair, ...],
            see_source: Tensor | None,
        ) -> tuple[Tensor, tuple[Pair, ...]]:
            kept = []
            for k in range(self.depth):
                before = past[k] if past else None
                asked = source[k % len(steps)] if source else None
                x, pair = steps[k % len(steps)](x, see, causal, before, asked, see_source)
                kept.append(pair)
            return last(x), tuple(kept)

        return read


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
