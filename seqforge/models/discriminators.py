"""Discriminators: ids (B,T), lengths (B,) -> one logit (B,) of being real. No activation after it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field, replace

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge import ranges

PUBLISHED_WIDTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20]
PUBLISHED_FILTERS = [100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160]


@dataclass(frozen=True)
class CNNConfig:
    """Sizes of the CNN discriminator.

    Args:
        embedding: width of its own token embedding (SeqGAN: 64)
        widths: window widths in tokens (SeqGAN: 1 to 10, 15, 20); those wider than any sequence are left out
        filters: filters of each width (SeqGAN: 1,720 in all)
        dropout: share of features dropped after the highway while it trains (SeqGAN: 0.25)
    """

    embedding: int = 64
    widths: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    filters: list[int] = field(default_factory=lambda: [64, 128, 128, 64, 64])
    dropout: float = 0.5

    def __post_init__(self):
        ranges.check(self, "discriminator.", embedding="at least 1", dropout="[0, 1)")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"discriminator.widths is {self.widths}, but must name window widths of at least 1")
        if len(self.widths) != len(self.filters) or min(self.filters) < 1:
            raise ValueError(
                f"discriminator.filters is {self.filters}, but must give one number of at least 1 "
                f"for each of the {len(self.widths)} widths {self.widths}"
            )


class _ConvMax(torch.autograd.Function):
    """max over the valid windows of (window . kernel): x (B,T,E), kernel (w,E,n), valid (B,P) or None for all,
    P = T-w+1 -> (B,n).

    As conv1d and a max, but in one matrix product each way on unfolded windows, which a CPU does two to three times
    faster here, in bfloat16 above all. Rows without a valid window give 0. Ties share the gradient, as in torch.amax.
    """

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, valid: Tensor | None) -> Tensor:
        out = (windows(x, kernel.shape[0]) @ kernel.flatten(0, 1)).unflatten(0, (len(x), -1))  # (B,P,n)
        if valid is not None:
            out.masked_fill_(~valid[..., None], -torch.inf)
        best = out.amax(1)
        ctx.save_for_backward(x, kernel, out, best)
        return best if valid is None else best.masked_fill(best == -torch.inf, 0.0)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        x, kernel, out, best = ctx.saved_tensors
        w = kernel.shape[0]
        at = torch.eq(
            out, best[:, None], out=torch.empty_like(out)
        )  # 0 and 1; by way of bool it takes four times as long
        grad = (grad_outputs[0] / at.sum(1)).masked_fill(best == -torch.inf, 0.0)
        d_out = at.mul_(grad[:, None]).flatten(0, 1)  # (B*P,n)
        d_kernel = (windows(x, w).t() @ d_out).view(kernel.shape)
        d_windows = (d_out @ kernel.flatten(0, 1).t()).view(len(x), -1, w, x.shape[2])  # (B,P,w,E)
        d_x = torch.zeros_like(x)
        for j in range(w):
            d_x[:, j : j + d_windows.shape[1]] += d_windows[:, :, j]
        return d_x, d_kernel, None


def windows(x: Tensor, w: int) -> Tensor:
    """x (B,T,E) -> all windows of w tokens, (B*P, w*E), P = T-w+1. A window's tokens lie side by side in memory."""
    b, t, e = x.shape
    return x.contiguous().as_strided((b, t - w + 1, w * e), (t * e, e, 1)).reshape(-1, w * e)


class CNNDiscriminator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-classification", "discriminator"],
):
    """Text CNN with max-over-time pooling and a highway layer (Yu et al. 2017, section 3.3 and appendix).

    Only windows that lie inside the sequence count: padding changes nothing, and a sequence shorter than a window has
    feature 0 there (features are ReLUs, so 0 is "absent"). Widths above `max_length` are refused.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        embedding: int = 64,
        widths: list[int] = PUBLISHED_WIDTHS,
        filters: list[int] = PUBLISHED_FILTERS,
        dropout: float = 0.25,
        seed: int = 0,
    ):
        super().__init__()
        CNNConfig(embedding, widths, filters, dropout)  # checks
        if max(widths) > max_length:
            kept = [(w, n) for w, n in zip(widths, filters, strict=True) if w <= max_length]
            raise ValueError(
                f"discriminator.widths has {max(widths)}, but sequences have at most {max_length} tokens; "
                f"use --discriminator.widths {[w for w, _ in kept]} --discriminator.filters {[n for _, n in kept]}"
            )
        self.widths, self.features = list(widths), sum(filters)
        self.sizes = {"vocab_size": vocab_size, "max_length": max_length, "embedding": embedding}
        self.sizes |= {"widths": list(widths), "filters": list(filters), "dropout": dropout}
        self.embed = nn.Embedding(vocab_size, embedding)
        self.kernels = nn.ParameterList(
            nn.Parameter(torch.empty(w, embedding, n)) for w, n in zip(widths, filters, strict=True)
        )
        self.kernel_bias = nn.Parameter(torch.full((self.features,), 0.1))
        self.highway = nn.Linear(self.features, self.features)
        self.gate = nn.Linear(self.features, self.features)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(self.features, 1)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, rng: torch.Generator) -> None:
        nn.init.uniform_(self.embed.weight, -1.0, 1.0, generator=rng)
        for kernel in [*self.kernels, self.out.weight]:
            nn.init.trunc_normal_(kernel, std=0.1, a=-0.2, b=0.2, generator=rng)
        for layer in (self.highway, self.gate):
            nn.init.xavier_uniform_(layer.weight, generator=rng)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.out.bias, 0.1)

    @classmethod
    def of(cls, config: CNNConfig, vocab_size: int, max_length: int, seed: int) -> CNNDiscriminator:
        """The discriminator a run's configuration names, less the windows wider than any sequence."""
        kept = [(w, n) for w, n in zip(config.widths, config.filters, strict=True) if w <= max_length]
        if not kept:
            raise ValueError(f"discriminator.widths is {config.widths}, but no sequence is longer than {max_length}")
        if len(kept) < len(config.widths):
            wide = [w for w in config.widths if w > max_length]
            warnings.warn(f"discriminator: no windows of {wide} tokens, as sequences have {max_length}", stacklevel=2)
            config = replace(config, widths=[w for w, _ in kept], filters=[n for _, n in kept])
        return cls(vocab_size, max_length, **asdict(config), seed=seed)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logit (B,) of being real."""
        return self._judged(self.pooled(ids, lengths))

    def of_completions(self, ids: Tensor, lengths: Tensor, read: int) -> Tensor:
        """Logits (K,N) of sequences ids (K,N,T), lengths (K,N) above `read`: those of a group of N have their first
        `read` tokens in common, and the windows within those are looked at once a group. As `forward` in all else.
        """
        k, n = lengths.shape
        begun = self.pooled(ids[:, 0, :read], torch.full((k,), read, device=ids.device))
        rest = self.pooled(ids.flatten(0, 1), lengths.flatten(), read)
        return self._judged(torch.maximum(begun.repeat_interleave(n, 0), rest)).view(k, n)

    def _judged(self, pooled: Tensor) -> Tensor:
        return self.out(self.drop(self.mixed(pooled))).squeeze(-1)

    def mixed(self, pooled: Tensor) -> Tensor:
        """The highway on pooled features (..., F) -> (..., F): what LeakGAN's discriminator leaks."""
        gate = torch.sigmoid(self.gate(pooled))
        return gate * F.relu(self.highway(pooled)) + (1 - gate) * pooled

    def pooled(self, ids: Tensor, lengths: Tensor, after: int = 0) -> Tensor:
        """Max-pooled ReLU features (B, sum of filters) of the windows that end after the first `after` tokens."""
        kind = ids.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.embed.weight.dtype
        x = self.embed(ids).to(dtype)  # (B,T,E)
        x = F.pad(x, (0, 0, 0, max(0, max(self.widths) - ids.shape[1])))  # a batch cut to its longest sequence
        length = lengths[:, None]
        full = bool((lengths == x.shape[1]).all())  # then every window is inside, and nothing needs a mask
        best, inside = [], []
        for w, kernel in zip(self.widths, self.kernels, strict=True):
            first = max(0, after - w + 1)
            start = torch.arange(first, x.shape[1] - w + 1, device=ids.device)[None, :]
            best.append(_ConvMax.apply(x[:, first:], kernel.to(dtype), None if full else start + w <= length))
            inside.append((w <= length).expand_as(best[-1]))
        features = F.relu(torch.cat(best, dim=1) + self.kernel_bias.to(dtype))
        return features if full else features * torch.cat(inside, dim=1)
