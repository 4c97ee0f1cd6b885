"""The players of the methods that take any, by `--generator.kind` (an LSTM, or a decoder-only Transformer) and
`--discriminator.kind` (a CNN, or a Transformer).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from seqforge.models.attention import Norm, check_sizes
from seqforge.models.discriminators import CNNConfig, CNNDiscriminator
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.models.transformer import TransformerConfig, TransformerGenerator
from seqforge.models.transformer_discriminator import TransformerDiscriminator, TransformerDiscriminatorConfig

Kind = Literal["lstm", "transformer"]
Judge = Literal["cnn", "transformer"]
AnyGenerator = LSTMGenerator | TransformerGenerator
AnyDiscriminator = CNNDiscriminator | TransformerDiscriminator
FOREIGN = {"lstm": ("heads", "feedforward", "share", "norm"), "transformer": ("init_std",)}
FOREIGN_TO_CNN = ("hidden", "layers", "heads", "feedforward", "share", "norm")  # a recipe's widths are nobody's mistake


@dataclass(frozen=True)
class GeneratorConfig(LSTMConfig):
    """Sizes of a generator.

    Args:
        embedding: width of the token embedding (SeqGAN: 32)
        hidden: width of the LSTM, or of the Transformer's layers (SeqGAN: 32)
        layers: layers (SeqGAN: 1)
        dropout: share of units dropped while training by likelihood: of an LSTM on embeddings and outputs, of a
            Transformer on embeddings and after each part of a layer (SeqGAN: 0)
        init_std: every parameter of an LSTM starts from N(0, init_std^2), biases included (SeqGAN: 0.1)
        kind: lstm, or transformer: a decoder that attends to all it has written
        heads: a Transformer's attention heads; they divide hidden
        feedforward: width of a Transformer's feed-forward part; 0: twice hidden
        share: a Transformer's layers all have the same weights
        norm: where a Transformer normalises: before or after each part of a layer
    """

    kind: Kind = "lstm"
    heads: int = 4
    feedforward: int = 0
    share: bool = False
    norm: Norm = "pre"

    def __post_init__(self):
        super().__post_init__()
        _check_own(self, self.group, FOREIGN.get(self.kind, ()))
        if self.kind == "transformer":
            check_sizes(self.group, self.hidden, self.heads, self.dropout, feedforward=self.feedforward)


@dataclass(frozen=True)
class DiscriminatorConfig(CNNConfig):
    """Sizes of a discriminator of sequences.

    Args:
        embedding: width of its own token embedding (SeqGAN: 64)
        widths: window widths of a CNN in tokens (SeqGAN: 1 to 10, 15, 20); those wider than any sequence are left out
        filters: filters of each width (SeqGAN: 1,720 in all)
        dropout: share of units dropped while it trains: of a CNN after the highway (SeqGAN: 0.25), of a Transformer
            after the embedding, each part of a layer and the mean
        kind: cnn, or transformer: tokens see each other both ways, and their mean is judged
        hidden: width of a Transformer's layers
        layers: a Transformer's layers
        heads: a Transformer's attention heads; they divide hidden
        feedforward: width of a Transformer's feed-forward part; 0: twice hidden
        share: a Transformer's layers all have the same weights
        norm: where a Transformer normalises: before or after each part of a layer
    """

    kind: Judge = "cnn"
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    feedforward: int = 0
    share: bool = True
    norm: Norm = "pre"

    def __post_init__(self):
        super().__post_init__()
        if self.kind == "cnn":
            _check_own(self, "discriminator", FOREIGN_TO_CNN)
        else:
            narrowed(self, TransformerDiscriminatorConfig)  # checks


def _check_own(config: Any, group: str, foreign: Sequence[str]) -> None:
    """Raises ValueError for an option of another kind."""
    plain = {f.name: f.default for f in fields(config)}
    for name in foreign:
        if (value := getattr(config, name)) != plain[name]:
            raise ValueError(f"{group}.{name} is {value}, but a {group} of kind {config.kind} has none; leave it out")


def narrowed(config: Any, kind: Any) -> Any:
    """The configuration of one kind, from the options of the same names."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind) if hasattr(config, f.name)})


def make(config: LSTMConfig, vocab_size: int, eos_id: int | None, start_id: int, seed: int) -> AnyGenerator:
    """The generator a run's configuration names."""
    if isinstance(config, GeneratorConfig) and config.kind == "transformer":
        return TransformerGenerator.of(narrowed(config, TransformerConfig), vocab_size, eos_id, start_id, seed)
    return LSTMGenerator.of(narrowed(config, LSTMConfig), vocab_size, eos_id, start_id, seed)


def make_discriminator(config: CNNConfig, vocab_size: int, max_length: int, seed: int) -> AnyDiscriminator:
    """The discriminator of sequences that a run's configuration names."""
    if isinstance(config, DiscriminatorConfig) and config.kind == "transformer":
        return TransformerDiscriminator.of(narrowed(config, TransformerDiscriminatorConfig), vocab_size, seed)
    return CNNDiscriminator.of(narrowed(config, CNNConfig), vocab_size, max_length, seed)
