"""The generator protocol: what sampling, rollouts, losses and metrics may ask of any sequence model.

Shapes: B batch (rows), T time, V vocabulary, H hidden width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Context(Protocol):
    """What a generator answers, row by row: the first lengths[b] ids of row b of (B,S)."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def lengths(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> Self: ...


class State(Protocol):
    """What a generator remembers of the prefix of every row. A value: using an old one again gives the same numbers."""

    def select(self, rows: Tensor) -> Self:
        """Rows (K,) of this state, in that order; a row may be named many times or not at all."""
        ...

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """The rows of several states side by side; they may stand at different positions."""
        ...


@runtime_checkable
class Generator(Protocol):
    """An autoregressive model p(y_1 .. y_T) = prod_t p(y_t | y_<t)."""

    vocab_size: int
    eos_id: int | None  # the token that ends a sequence (it belongs to the sequence); None: all have the full length

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        """Logits (B,V) of the first token, and the state before it. The generator owns its start token."""
        ...

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Read tokens (B,t) after `state`: logits (B,t,V) of the token after each, and the state after the last.

        `lengths` (B,): only the first lengths[b] tokens of row b are read; the state stands there, and the
        logits past it mean nothing.
        """
        ...


@runtime_checkable
class HeadedGenerator(Generator, Protocol):
    """A generator whose logits are a linear map of hidden vectors; then all logits never need to exist at once."""

    head: nn.Linear

    def start_hidden(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        """As `start`, before the head: (B,H)."""
        ...

    def extend_hidden(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """As `extend`, before the head: (B,t,H)."""
        ...


@runtime_checkable
class Bindable(HeadedGenerator, Protocol):
    """A generator that can look its weights up once for many tokens, which spares it most of a small step's calls."""

    def bind(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """`extend_hidden` of at least one token; valid until the weights, their type or the mode change."""
        ...


def reader(generator: Generator) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    """What reads token after token while the weights stay as they are: `extend`, or with a head `extend_hidden`."""
    if isinstance(generator, Bindable):
        return generator.bind()
    return generator.extend_hidden if isinstance(generator, HeadedGenerator) else generator.extend
