"""The generator of the methods that take any: an LSTM, or a decoder-only Transformer, by `--generator.kind`."""

from dataclasses import dataclass, fields
from typing import Literal

from seqforge.models.attention import Norm, check_sizes
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.models.transformer import TransformerConfig, TransformerGenerator

Kind = Literal["lstm", "transformer"]
AnyGenerator = LSTMGenerator | TransformerGenerator
FOREIGN = {"lstm": ("heads", "feedforward", "share", "norm"), "transformer": ("init_std",)}


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
        defaults = {f.name: f.default for f in fields(self)}
        for name in FOREIGN.get(self.kind, ()):
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"{self.group}.{name} is {value}, but a {self.group} of kind {self.kind} has none; leave it out"
                )
        if self.kind == "transformer":
            check_sizes(self.group, self.hidden, self.heads, self.dropout, feedforward=self.feedforward)


def transformer(config: GeneratorConfig) -> TransformerConfig:
    names = {f.name for f in fields(TransformerConfig)} & {f.name for f in fields(GeneratorConfig)}
    return TransformerConfig(**{name: getattr(config, name) for name in names})


def make(config: LSTMConfig, vocab_size: int, eos_id: int | None, start_id: int, seed: int) -> AnyGenerator:
    """The generator a run's configuration names."""
    if isinstance(config, GeneratorConfig) and config.kind == "transformer":
        return TransformerGenerator.of(transformer(config), vocab_size, eos_id, start_id, seed)
    sizes = LSTMConfig(**{f.name: getattr(config, f.name) for f in fields(LSTMConfig)})
    return LSTMGenerator.of(sizes, vocab_size, eos_id, start_id, seed)
