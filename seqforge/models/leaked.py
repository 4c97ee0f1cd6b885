"""The feature that a CNN discriminator takes of an unfinished sequence, kept up token by token (Guo et al. 2018).

F(y_1 .. y_t) is the highway's output on max-pooled windows. A new token brings only the windows that end at it, and the
maximum over time is updated by those, so that all prefixes of a sequence cost as much as the sequence itself.
Shapes: B rows, t tokens, F features, E the discriminator's embedding, W its widest window.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge.models.discriminators import CNNDiscriminator, windows


@dataclass(frozen=True)
class PrefixState:
    """What the features of a prefix are made of: pooled (B,F), its last tokens (B,W-1), position (B,) tokens read."""

    pooled: Tensor
    recent: Tensor
    position: Tensor

    def select(self, rows: Tensor) -> "PrefixState":
        return PrefixState(self.pooled[rows], self.recent[rows], self.position[rows])

    @classmethod
    def cat(cls, states: Sequence["PrefixState"]) -> "PrefixState":
        return cls(*(torch.cat([getattr(s, name) for s in states]) for name in ("pooled", "recent", "position")))


SPAN = 5  # widths w to w+4 are multiplied in one product; more zeros in front of the narrower cost more than calls


@dataclass(frozen=True)
class Arranged:
    """A discriminator's weights as a token at a time is multiplied with them, in few products of few rows each.

    embed (V,E); banks: (widest, narrowest, kernel (widest*E, filters)) of neighbouring widths, zeros in front of the
    narrower; mix (2F,F) and mix_bias (2F,): the highway's gate, then its layer; found_of: after 0, 1, .. tokens, up to
    the widest width, how many features may be other than 0.
    """

    embed: Tensor
    banks: list[tuple[int, int, Tensor]]
    kernel_bias: Tensor
    mix: Tensor
    mix_bias: Tensor
    found_of: Tensor

    @classmethod
    def of(cls, model: CNNDiscriminator, dtype: torch.dtype) -> "Arranged":
        gathered: list[list[Tensor]] = []  # kernels (w,E,n) of each bank
        for kernel in model.kernels:
            near = gathered and len(gathered[-1][0]) <= len(kernel) < len(gathered[-1][0]) + SPAN
            gathered[-1].append(kernel) if near else gathered.append([kernel])
        banks = []
        for kernels in gathered:
            widest = max(len(k) for k in kernels)
            padded = [F.pad(k, (0, 0, 0, 0, widest - len(k), 0)).flatten(0, 1) for k in kernels]
            banks.append((widest, len(kernels[0]), torch.cat(padded, dim=1).to(dtype)))
        mix = torch.cat([model.gate.weight, model.highway.weight]).to(dtype)
        mix_bias = torch.cat([model.gate.bias, model.highway.bias]).to(dtype)
        ends = list(accumulate(k.shape[2] for k in model.kernels))
        begun = [[e for w, e in zip(model.widths, ends, strict=True) if w <= n] for n in range(max(model.widths) + 1)]
        found_of = torch.tensor([max(e, default=0) for e in begun], device=mix.device)
        return cls(model.embed.weight.to(dtype), banks, model.kernel_bias.to(dtype), mix, mix_bias, found_of)

    def mixed(self, pooled: Tensor, read: Tensor, least: int, most: int) -> Tensor:
        """`CNNDiscriminator.mixed` of pooled features (B,t,F) of prefixes of `read` (B,t) tokens, `least` to `most`.
        What no window is wide enough for yet is 0 and not multiplied, row by row: so that no row's rounding depends on
        the others.
        """
        last = len(self.found_of) - 1
        if least == most or least >= last:
            return self._mixed(pooled, int(self.found_of[min(least, last)]))
        found = self.found_of[read.clamp_max(last)]
        counts = found.unique().tolist()
        out = torch.empty_like(pooled)
        for count in counts:
            out[found == count] = self._mixed(pooled[found == count], count)
        return out

    def _mixed(self, pooled: Tensor, found: int) -> Tensor:
        """Of rows (..., F) in which all but the first `found` features are 0."""
        seen = pooled[..., :found].contiguous()
        gate, other = F.linear(seen, self.mix[:, :found], self.mix_bias).chunk(2, dim=-1)
        return torch.lerp(pooled, F.relu(other), torch.sigmoid(gate))


class LeakedFeatures(nn.Module):
    """A frozen copy of a discriminator as a reader of prefixes. `leak` renews it; a state is valid until then."""

    def __init__(self, discriminator: CNNDiscriminator):
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator).requires_grad_(False)
        self.features, self.low = discriminator.features, False
        self.widest = max(discriminator.widths)
        self.width_of: Tensor  # (F,)
        width_of = [
            w for w, k in zip(discriminator.widths, discriminator.kernels, strict=True) for _ in range(k.shape[2])
        ]
        self.register_buffer("width_of", torch.tensor(width_of), persistent=False)
        self.arrange()
        self.register_load_state_dict_post_hook(_arrange_anew)

    def leak(self, discriminator: nn.Module, precision: str = "fp32") -> None:
        """Take over the discriminator's weights as they are now; bf16 reads with a rounded copy of them."""
        self.discriminator.load_state_dict(discriminator.state_dict())
        self.arrange(precision)

    @torch.no_grad()
    def arrange(self, precision: str | None = None) -> None:
        """Read with the weights that the copy has now; at the precision so far, if none is named."""
        self.low = self.low if precision is None else precision == "bf16"
        dtype = torch.bfloat16 if self.low else self.discriminator.out.weight.dtype
        self.weights = Arranged.of(self.discriminator, dtype)

    def _apply(self, fn, recurse: bool = True) -> "LeakedFeatures":
        """Moved to another device, it reads there."""
        super()._apply(fn, recurse)
        self.arrange()
        return self

    @torch.no_grad()
    def start(self, batch: int) -> tuple[Tensor, PrefixState]:
        """F of the empty prefix (B,F), of the discriminator's type whatever it is read in, and the state there."""
        pooled = self.weights.embed.new_zeros(batch, self.features)  # features are ReLUs: 0 is "absent"
        nothing = torch.zeros(batch, self.widest - 1, dtype=torch.long, device=pooled.device)
        position = torch.zeros(batch, dtype=torch.long, device=pooled.device)
        feature = self.weights.mixed(pooled[:1, None], position[:1, None], 0, 0)[:, 0]  # every row's
        feature = feature.to(self.discriminator.embed.weight.dtype).expand(batch, -1)
        return feature, PrefixState(pooled, nothing, position)

    @torch.no_grad()
    def extend(self, tokens: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """F of the prefix after each of tokens (B,t): (B,t,F), as `start`, and the state after the last."""
        t = tokens.shape[1]
        ids = torch.cat([state.recent, tokens], dim=1)  # (B,W-1+t)
        read = state.position[:, None] + torch.arange(1, t + 1, device=tokens.device)  # (B,t) tokens in each prefix
        least, most = int(read.min()), int(read.max())
        ending = self._ending(F.embedding(ids, self.weights.embed), t, most)
        if least < self.widest:  # windows that would begin before the sequence
            ending = ending.masked_fill(self.width_of > read[..., None], 0.0)
        pooled = torch.empty_like(ending)
        best = state.pooled
        for i in range(t):
            best = torch.maximum(best, ending[:, i], out=pooled[:, i])
        features = self.weights.mixed(pooled, read, least, most).to(self.discriminator.embed.weight.dtype)
        recent = ids[:, ids.shape[1] - self.widest + 1 :]
        return features, PrefixState(best, recent, read[:, -1])

    def _ending(self, x: Tensor, t: int, longest: int) -> Tensor:
        """Filters (B,t,F) on the windows that end at each of the last t tokens of x (B,W-1+t,E), of which at most
        `longest` are of a sequence: no wider window has begun in one, and what stands in its place means nothing.
        """
        found = [
            (windows(x[:, self.widest - w :], w) @ kernel).unflatten(0, (len(x), t))
            if narrowest <= longest
            else x.new_zeros(len(x), t, kernel.shape[1])
            for w, narrowest, kernel in self.weights.banks
        ]
        return F.relu(torch.cat(found, dim=-1) + self.weights.kernel_bias)


def _arrange_anew(leaked: LeakedFeatures, _: object) -> None:
    """Of weights that were loaded. A function of the module, so that a generator can be pickled."""
    leaked.arrange()
