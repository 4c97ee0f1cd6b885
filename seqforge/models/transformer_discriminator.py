"""Transformer discriminators: of a sequence, or of a reply that attends to its source. A logit, nothing after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from seqforge.models.attention import Embedding, Norm, Stack, check_sizes, initialise
from seqforge.models.generator import Context
from seqforge.models.transformer import Source


@dataclass(frozen=True)
class TransformerDiscriminatorConfig:
    """Sizes of a Transformer discriminator.

    Args:
        embedding: width of its own token embedding (published: 128)
        hidden: width of the layers (published: 256)
        layers: how many times a layer is gone through, for the source and for the reply each (published: 3)
        heads: attention heads; they divide hidden (published: 8)
        feedforward: width of the feed-forward part; 0: twice hidden (published: 512)
        dropout: share of units dropped after the embedding, each part of a layer and the mean, in updates
        share: all layers of a stack have the same weights (published: true)
        norm: before or after each part of a layer (published: post)
    """

    embedding: int = 64
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    feedforward: int = 0
    dropout: float = 0.2
    share: bool = True
    norm: Norm = "pre"

    def __post_init__(self):
        sizes = {"embedding": self.embedding, "layers": self.layers, "feedforward": self.feedforward}
        check_sizes("discriminator", self.hidden, self.heads, self.dropout, **sizes)


class TransformerDiscriminator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-classification", "discriminator"],
):
    """ids (B,T), lengths (B,), and with `pair` a source -> logit (B,) of being real. Tokens see each other both ways;
    the reply's attend to the source in every layer; their mean goes through one hidden layer (GELU).

    Padding of either side changes nothing.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding: int = 64,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 0,
        dropout: float = 0.2,
        share: bool = True,
        norm: Norm = "pre",
        pair: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but must be at least 1")
        TransformerDiscriminatorConfig(embedding, hidden, layers, heads, feedforward, dropout, share, norm)  # checks
        sizes = (layers, share, hidden, heads, feedforward or 2 * hidden, dropout, norm)
        self.embed = Embedding(vocab_size, embedding, hidden, dropout)
        self.source = Stack(*sizes) if pair else None
        self.reply = Stack(*sizes, cross="own" if pair else "none")
        self.mix = nn.Linear(hidden, hidden)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 1)
        initialise(self, torch.Generator().manual_seed(seed))

    @classmethod
    def of(
        cls, config: TransformerDiscriminatorConfig, vocab_size: int, seed: int, pair: bool = False
    ) -> TransformerDiscriminator:
        """The discriminator a run's configuration names."""
        return cls(vocab_size, **asdict(config), pair=pair, seed=seed)

    def forward(self, ids: Tensor, lengths: Tensor, source: Context | None = None) -> Tensor:
        """Logit (B,) of being real, or of being the real reply to `source`."""
        assert (source is None) == (self.source is None), "a discriminator of pairs takes a source, another none"
        reply, kept, see = Source.of(Source(ids, lengths)), (), None
        if source is not None and self.source is not None:
            asked = Source.of(source)
            see = asked.mask[:, None, None, :]
            kept = self.reply.remember(self.source(self._read(asked), see)[0])
        x, _ = self.reply(self._read(reply), reply.mask[:, None, None, :], source=kept, see_source=see)
        inside = reply.mask[..., None]
        mean = x.masked_fill(~inside, 0.0).sum(1) / lengths[:, None]
        return self.out(self.drop(nn.functional.gelu(self.mix(mean)))).squeeze(-1)

    def _read(self, side: Source) -> Tensor:
        return self.embed.bind()(side.ids, self.embed.signal(side.ids.shape[1]))
