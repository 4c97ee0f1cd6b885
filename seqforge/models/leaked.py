"""The feature that a CNN discriminator takes of an unfinished sequence, kept up token by token (Guo et al. 2018).

F(y_1 .. y_t) is the highway's output on max-pooled windows. A new token brings only the windows that end at it, and the
maximum over time is updated by those, so that all prefixes of a sequence cost as much as the sequence itself.
Shapes: B rows, t tokens, F features, E the discriminator's embedding, W its widest window. Inside, features come first
and rows last: a product of weights with few rows then takes six sevenths of the time, and parts of the features lie
in one piece.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge.models.discriminators import CNNDiscriminator


@dataclass(frozen=True)
class PrefixState:
    """What the features of a prefix are made of: pooled (F,B), its last tokens (B,W-1), position (B,) tokens read."""

    pooled: Tensor
    recent: Tensor
    position: Tensor

    def select(self, rows: Tensor) -> "PrefixState":
        return PrefixState(self.pooled[:, rows], self.recent[rows], self.position[rows])

    @classmethod
    def cat(cls, states: Sequence["PrefixState"]) -> "PrefixState":
        pooled = torch.cat([s.pooled for s in states], dim=1)
        return cls(pooled, *(torch.cat([getattr(s, name) for s in states]) for name in ("recent", "position")))


SPAN = 5  # widths w to w+4 are multiplied in one product; more zeros in front of the narrower cost more than calls


@dataclass(frozen=True)
class Bank:
    """Kernels of neighbouring widths as one (filters, widest*E), zeros in front of the narrower, and the place of their
    features. biases (W+1,filters,1): after 0, 1, .. W tokens, -inf where a window is wider than that.
    """

    widest: int
    narrowest: int
    kernel: Tensor
    place: slice
    biases: Tensor


@dataclass(frozen=True)
class Arranged:
    """A discriminator's weights as a token at a time is multiplied with them, in few products of few rows each.

    embed (V,E); banks: of neighbouring widths; mix (2F,F) and mix_bias (2F,1): the highway's gate, then its layer;
    found_of: after 0, 1, .. W tokens, how many features may be other than 0.
    """

    embed: Tensor
    banks: list[Bank]
    mix: Tensor
    mix_bias: Tensor
    found_of: list[int]

    @classmethod
    def of(cls, model: CNNDiscriminator, dtype: torch.dtype) -> "Arranged":
        gathered: list[list[Tensor]] = []  # kernels (w,E,n) of each bank
        for kernel in model.kernels:
            near = gathered and len(gathered[-1][0]) <= len(kernel) < len(gathered[-1][0]) + SPAN
            gathered[-1].append(kernel) if near else gathered.append([kernel])
        widest, banks, at = max(model.widths), [], 0
        tokens = torch.arange(widest + 1, device=model.kernel_bias.device)
        for kernels in gathered:
            width_of = torch.cat([tokens.new_full((k.shape[2],), len(k)) for k in kernels])
            own = max(len(k) for k in kernels)
            padded = torch.cat([F.pad(k, (0, 0, 0, 0, own - len(k), 0)).flatten(0, 1) for k in kernels], dim=1)
            place = slice(at, at + padded.shape[1])
            bias = model.kernel_bias[place].masked_fill(width_of > tokens[:, None], -torch.inf)[..., None]
            banks.append(Bank(own, len(kernels[0]), padded.t().contiguous().to(dtype), place, bias.to(dtype)))
            at = place.stop
        mix = torch.cat([model.gate.weight, model.highway.weight]).to(dtype)
        mix_bias = torch.cat([model.gate.bias, model.highway.bias]).to(dtype)[:, None]
        ends = list(accumulate(k.shape[2] for k in model.kernels))
        begun = [[e for w, e in zip(model.widths, ends, strict=True) if w <= n] for n in range(widest + 1)]
        found_of = [max(e, default=0) for e in begun]
        return cls(model.embed.weight.to(dtype), banks, mix, mix_bias, found_of)

    def pooled(self, x: Tensor, before: Tensor, read: Tensor, least: int, most: int) -> Tensor:
        """Max-pooled features (F,t,B) of the prefixes of `read` (B,t) tokens, `least` to `most`, from those `before`
        (F,B) and the embedded tokens x (B,.,E), of which the last t end them. They are ReLUs, as `before` is 0 or more.
        """
        t, last = read.shape[1], len(self.found_of) - 1
        pooled = before[:, None].repeat(1, t, 1)
        for bank in self.banks:
            if bank.narrowest > most:
                continue
            # windows that would begin before the sequence: -inf by the bias, where all rows have read as much
            bias = bank.biases[min(most, last) if least == most else -1]
            ending = torch.addmm(bias, bank.kernel, _ending(x, bank.widest, t).t()).unflatten(1, (t, -1))
            if least < most and least < bank.widest:
                known = bank.biases[read.t().clamp_max(last), :, 0].isfinite().movedim(-1, 0)
                ending = ending.masked_fill_(~known, -torch.inf)
            best = before[bank.place]
            for i in range(t):
                best = torch.maximum(best, ending[:, i], out=pooled[bank.place, i])
        return pooled

    def mixed(self, pooled: Tensor, read: Tensor, least: int, most: int) -> Tensor:
        """`CNNDiscriminator.mixed` of pooled features (F,t,B) of prefixes of `read` (B,t) tokens, `least` to `most`.
        What no window is wide enough for yet is 0 and not multiplied, row by row: so that no row's rounding depends on
        the others.
        """
        last, columns = len(self.found_of) - 1, pooled.flatten(1)  # (F,t*B)
        if least == most or least >= last:
            return self._mixed(columns, self.found_of[min(least, last)]).view_as(pooled)
        out = torch.empty_like(columns)
        for found, at in self._groups(read):
            out[:, at] = self._mixed(columns[:, at], found)
        return out.view_as(pooled)

    def _groups(self, read: Tensor) -> Iterator[tuple[int, slice | Tensor]]:
        """How many features may be other than 0, and the columns of t*B where so: slices if all rows read alike."""
        rows, last = len(read), len(self.found_of) - 1
        if bool((read == read[:1]).all()):
            steps = enumerate(self.found_of[min(n, last)] for n in read[0].tolist())
            for found, group in groupby(steps, lambda step: step[1]):
                at = [i for i, _ in group]
                yield found, slice(at[0] * rows, (at[-1] + 1) * rows)
            return
        each = torch.tensor(self.found_of, device=read.device)[read.t().flatten().clamp_max(last)]
        for found in each.unique().tolist():
            yield found, each == found

    def _mixed(self, pooled: Tensor, found: int) -> Tensor:
        """Of columns (F,.) in which all but the first `found` features are 0."""
        gate, other = torch.addmm(self.mix_bias, self.mix[:, :found], pooled[:found]).chunk(2)
        return torch.lerp(pooled, other.relu_(), gate.sigmoid_())


def _ending(x: Tensor, w: int, t: int) -> Tensor:
    """The windows of w tokens that end at the last t of x (B,.,E), (t*B, w*E)."""
    b, n, e = x.shape
    first = (n - t - w + 1) * e
    return x.as_strided((t, b, w * e), (e, n * e, 1), x.storage_offset() + first).reshape(-1, w * e)


class LeakedFeatures(nn.Module):
    """A frozen copy of a discriminator as a reader of prefixes. `leak` renews it; a state is valid until then."""

    def __init__(self, discriminator: CNNDiscriminator):
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator).requires_grad_(False)
        self.features, self.low = discriminator.features, False
        self.widest = max(discriminator.widths)
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
        pooled = self.weights.embed.new_zeros(self.features, batch)  # features are ReLUs: 0 is "absent"
        nothing = torch.zeros(batch, self.widest - 1, dtype=torch.long, device=pooled.device)
        position = torch.zeros(batch, dtype=torch.long, device=pooled.device)
        feature = self.weights.mixed(pooled[:, None, :1], position[:1, None], 0, 0)[:, 0, 0]  # every row's
        feature = feature.to(self.discriminator.embed.weight.dtype).expand(batch, -1)
        return feature, PrefixState(pooled, nothing, position)

    @torch.no_grad()
    def extend(self, tokens: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """F of the prefix after each of tokens (B,t): (B,t,F), as `start`, and the state after the last."""
        t = tokens.shape[1]
        ids = torch.cat([state.recent, tokens], dim=1)  # (B,W-1+t)
        read = state.position[:, None] + torch.arange(1, t + 1, device=tokens.device)  # (B,t) tokens in each prefix
        least, most = (int(x) for x in read.aminmax())
        needed = max((bank.widest for bank in self.weights.banks if bank.narrowest <= most), default=1)
        x = F.embedding(ids[:, self.widest - needed :], self.weights.embed)  # (B,needed-1+t,E)
        pooled = self.weights.pooled(x, state.pooled, read, least, most)
        features = self.weights.mixed(pooled, read, least, most).permute(2, 1, 0)
        features = features if t == 1 else features.contiguous()
        features = features.to(self.discriminator.embed.weight.dtype)
        recent = ids[:, ids.shape[1] - self.widest + 1 :]
        return features, PrefixState(pooled[:, -1], recent, read[:, -1])


def _arrange_anew(leaked: LeakedFeatures, _: object) -> None:
    """Of weights that were loaded. A function of the module, so that a generator can be pickled."""
    leaked.arrange()
