"""The feature that a CNN discriminator takes of an unfinished sequence, kept up token by token (Guo et al. 2018).

F(y_1 .. y_t) is the highway's output on max-pooled windows. A new token brings only the windows that end at it, and the
maximum over time is updated by those, so that all prefixes of a sequence cost as much as the sequence itself.
Shapes: B rows, t tokens, F features, E the discriminator's embedding, W its widest window.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

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


class LeakedFeatures(nn.Module):
    """A frozen copy of a discriminator as a reader of prefixes. `leak` renews it; a state is valid until then."""

    def __init__(self, discriminator: CNNDiscriminator):
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator).requires_grad_(False)
        self.features = discriminator.features
        self.widest = max(discriminator.widths)
        self.width_of: Tensor  # (F,)
        width_of = [
            w for w, k in zip(discriminator.widths, discriminator.kernels, strict=True) for _ in range(k.shape[2])
        ]
        self.register_buffer("width_of", torch.tensor(width_of), persistent=False)
        self._compute = (self.discriminator,)  # in a tuple, so that a copy of low precision is no part of the weights

    def leak(self, discriminator: nn.Module, precision: str = "fp32") -> None:
        """Take over the discriminator's weights as they are now; bf16 reads with a rounded copy of them."""
        self.discriminator.load_state_dict(discriminator.state_dict())
        low = precision == "bf16"
        self._compute = (copy.deepcopy(self.discriminator).to(torch.bfloat16) if low else self.discriminator,)

    def _apply(self, fn, recurse: bool = True) -> "LeakedFeatures":
        """Moved to another device, it reads there."""
        low = self._compute[0].embed.weight.dtype == torch.bfloat16
        super()._apply(fn, recurse)
        self.leak(self.discriminator, "bf16" if low else "fp32")
        return self

    @torch.no_grad()
    def start(self, batch: int) -> tuple[Tensor, PrefixState]:
        """F of the empty prefix (B,F), float32, and the state there."""
        model = self._compute[0]
        pooled = model.embed.weight.new_zeros(batch, self.features)  # features are ReLUs: 0 is "absent"
        nothing = torch.zeros(batch, self.widest - 1, dtype=torch.long, device=pooled.device)
        position = torch.zeros(batch, dtype=torch.long, device=pooled.device)
        return model.mixed(pooled).to(self.discriminator.embed.weight.dtype), PrefixState(pooled, nothing, position)

    @torch.no_grad()
    def extend(self, tokens: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """F of the prefix after each of tokens (B,t): (B,t,F), float32, and the state after the last."""
        model, t = self._compute[0], tokens.shape[1]
        ids = torch.cat([state.recent, tokens], dim=1)  # (B,W-1+t)
        read = state.position[:, None] + torch.arange(1, t + 1, device=tokens.device)  # (B,t) tokens in each prefix
        ending = self._ending(model, model.embed(ids), t, int(read.max()))
        if int(read.min()) < self.widest:  # windows that would begin before the sequence
            ending = ending.masked_fill(self.width_of > read[..., None], 0.0)
        pooled = torch.empty_like(ending)
        best = state.pooled
        for i in range(t):
            best = torch.maximum(best, ending[:, i], out=pooled[:, i])
        features = model.mixed(pooled).to(self.discriminator.embed.weight.dtype)
        recent = ids[:, ids.shape[1] - self.widest + 1 :]
        return features, PrefixState(best, recent, read[:, -1])

    def _ending(self, model: CNNDiscriminator, x: Tensor, t: int, read: int) -> Tensor:
        """Filters (B,t,F) on the windows that end at each of the last t tokens of x (B,W-1+t,E), of which at most
        `read` are of a sequence: no wider window has begun in one, and what stands in its place means nothing.
        """
        found = [
            (windows(x[:, self.widest - w :], w) @ kernel.flatten(0, 1)).unflatten(0, (len(x), t))
            if w <= read
            else x.new_zeros(len(x), t, kernel.shape[2])
            for w, kernel in zip(model.widths, model.kernels, strict=True)
        ]
        return F.relu(torch.cat(found, dim=-1) + model.kernel_bias)
