"""Several generators as one: its next-token distribution is the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from seqforge.models.generator import Generator, State
from seqforge.models.heads import mean_of


@dataclass(frozen=True)
class EnsembleState:
    """The members' states, in their order."""

    parts: tuple[State, ...]

    def select(self, rows: Tensor) -> EnsembleState:
        return EnsembleState(tuple(s.select(rows) for s in self.parts))

    @classmethod
    def cat(cls, states: Sequence[EnsembleState]) -> EnsembleState:
        members = zip(*(s.parts for s in states), strict=True)
        return cls(tuple(type(same[0]).cat(same) for same in members))


class Ensemble(nn.Module):
    """p(v | y_<t) = the mean over members of p_k(v | y_<t): its logits are the logarithms of that.

    Raises ValueError for members of unlike vocabularies or ends, and for none at all.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        kinds = {(g.vocab_size, g.eos_id) for g in self.parts}
        if len(kinds) != 1:
            raise ValueError(f"an ensemble of (vocab_size, eos_id) {sorted(kinds, key=str)}; they must be one")
        self.vocab_size, self.eos_id = next(iter(kinds))

    @property
    def parts(self) -> list[Generator]:
        found = list(self.members)
        assert all(isinstance(g, Generator) for g in found)
        return found  # pyright: ignore[reportReturnType]

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        return _together([g.start(batch, context) for g in self.parts])

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, EnsembleState)
        pairs = zip(self.parts, state.parts, strict=True)
        return _together([g.extend(tokens, s, lengths) for g, s in pairs])


def _together(found: list[tuple[Tensor, State]]) -> tuple[Tensor, State]:
    logits, states = zip(*found, strict=True)
    return mean_of(logits), EnsembleState(states)
