"""Worlds with one constraint that spans a chosen distance, and exact probabilities: agreement, copying, brackets.

All sequences have T tokens and no end token. A rule says how probable every next token is given the prefix; the world
draws from it, and with probability NOISE a token is any one, drawn evenly. So every sequence has a probability that is
exact and above 0, and what the rule alone could not have drawn is known token by token. A world is a generator like any
other (models/generator.py), so that it is sampled from and scores samples as the oracle does.

agreement: units of reach + 1 tokens: an opener, fillers by a Markov chain, the closer of that very opener.
copying: units of 2 reach tokens: a word of `reach` letters, and the same word again.
brackets: balanced brackets of several kinds, nested at most `reach` deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from seqforge.data.corpus import Corpus, Split, words_tokenizer
from seqforge.models.generator import State
from seqforge.sampling import sample, uniform

NOISE = 0.02  # share of tokens that are drawn evenly from all
LENGTH = 24  # tokens, where data.max_length is not given
SIZES = {"agreement": 40, "copying": 20, "brackets": 20}  # token types, where data.vocab_size is not given
NAMES = tuple(SIZES)
KINDS = 8  # of openers and closers in agreement


@dataclass(frozen=True)
class WorldState:
    """memory (B,M): what the rule remembers of each prefix; position (B,): tokens read."""

    memory: Tensor
    position: Tensor

    def select(self, rows: Tensor) -> WorldState:
        return WorldState(self.memory[rows], self.position[rows])

    @classmethod
    def cat(cls, states: Sequence[WorldState]) -> WorldState:
        return cls(torch.cat([s.memory for s in states]), torch.cat([s.position for s in states]))


class World(nn.Module):
    """A rule with noise, as a generator without parameters.

    name: agreement, copying or brackets; reach: how far, long or deep the constraint goes; vocab_size V and length T,
    by default SIZES and LENGTH; seed: of the agreement's fillers. Raises ValueError for sizes that the rule cannot
    fill.
    """

    eos_id: int | None = None
    start_id = 0

    def __init__(self, name: str, reach: int, vocab_size: int | None = None, length: int | None = None, seed: int = 0):
        super().__init__()
        self.name, self.reach, self.length = name, reach, length or LENGTH
        self.vocab_size = vocab_size or SIZES[name]
        self.rule: Rule = RULES[name](reach, self.vocab_size, self.length, seed)
        self.source = f"{name}:reach{reach}:v{self.vocab_size}:t{self.length}:seed{seed}"

    def start(self, batch: int, context: object = None) -> tuple[Tensor, WorldState]:
        assert context is None, "a world takes no context"
        device = self.rule.weights.device
        zeros = torch.zeros(batch, self.rule.remembers, dtype=torch.long, device=device)
        state = WorldState(zeros, zeros.new_zeros(batch))
        return self._logits(state), state

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, WorldState]:
        assert isinstance(state, WorldState)
        logits = self.rule.weights.new_empty(*tokens.shape, self.vocab_size)
        for t in range(tokens.shape[1]):
            after = WorldState(self.rule.read(state.memory, state.position, tokens[:, t]), state.position + 1)
            reads = None if lengths is None else lengths > t
            state = after if reads is None else _where(reads, after, state)
            logits[:, t] = self._logits(state)
        return logits, state

    def _logits(self, state: WorldState) -> Tensor:
        return torch.log((1 - NOISE) * self.rule.probs(state.memory, state.position) + NOISE / self.vocab_size)

    def allowed(self, ids: Tensor) -> Tensor:
        """(B,T) bool: the rule could have drawn this token after what came before it, right or wrong."""
        _, state = self.start(len(ids))
        found = []
        for t in range(ids.shape[1]):
            p = self.rule.probs(state.memory, state.position)
            found.append(p.gather(1, ids[:, t : t + 1]).squeeze(1) > 0)
            state = WorldState(self.rule.read(state.memory, state.position, ids[:, t]), state.position + 1)
        return torch.stack(found, dim=1)

    def well_formed(self, ids: Tensor) -> Tensor:
        """(B,) bool: the rule could have drawn every token."""
        return self.allowed(ids).all(1)


def _where(rows: Tensor, a: WorldState, b: WorldState) -> WorldState:
    return WorldState(torch.where(rows[:, None], a.memory, b.memory), torch.where(rows, a.position, b.position))


class Rule(Protocol):
    """probs: (B,V) of the next token, given memory (B,M) and position (B,); read: the memory after one more (B,)."""

    weights: Tensor
    remembers: int  # M
    words: list[str]

    def probs(self, memory: Tensor, position: Tensor) -> Tensor: ...
    def read(self, memory: Tensor, position: Tensor, token: Tensor) -> Tensor: ...


class Agreement(nn.Module):
    """Ids: openers 0..K-1, their closers K..2K-1, fillers from 2K on. Memory: the opener's kind, the last token."""

    remembers = 2
    weights: Tensor

    def __init__(self, reach: int, vocab_size: int, length: int, seed: int):
        super().__init__()
        if not 1 <= reach < length or vocab_size <= 2 * KINDS:
            raise ValueError(
                f"agreement of reach {reach} needs 1 <= data.reach < data.max_length ({length}) and data.vocab_size "
                f"(here {vocab_size}) above {2 * KINDS}"
            )
        self.reach, self.vocab_size = reach, vocab_size
        chain = torch.randn(vocab_size, vocab_size - 2 * KINDS, generator=torch.Generator().manual_seed(seed))
        weights = torch.zeros(vocab_size, vocab_size)
        weights[:, 2 * KINDS :] = torch.softmax(1.5 * chain, dim=1)
        self.register_buffer("weights", weights, persistent=False)
        fillers = [f"f{i}" for i in range(vocab_size - 2 * KINDS)]
        self.words = [f"open{i}" for i in range(KINDS)] + [f"close{i}" for i in range(KINDS)] + fillers

    def probs(self, memory: Tensor, position: Tensor) -> Tensor:
        at, p = position % (self.reach + 1), self.weights[memory[:, 1]]
        opening = torch.zeros_like(p)
        opening[:, :KINDS] = 1 / KINDS
        closing = torch.zeros_like(p).scatter(1, KINDS + memory[:, :1], 1.0)
        p = torch.where((at == 0)[:, None], opening, p)
        return torch.where((at == self.reach)[:, None], closing, p)

    def read(self, memory: Tensor, position: Tensor, token: Tensor) -> Tensor:
        kind = torch.where(position % (self.reach + 1) == 0, token % KINDS, memory[:, 0])
        return torch.stack([kind, token], dim=1)


class Copying(nn.Module):
    """Letters by Zipf's law; the memory holds the word."""

    weights: Tensor

    def __init__(self, reach: int, vocab_size: int, length: int, seed: int):
        super().__init__()
        if not 1 <= reach < length or vocab_size < 2:
            raise ValueError(
                f"copying of reach {reach} needs 1 <= data.reach < data.max_length ({length}) and data.vocab_size "
                f"(here {vocab_size}) of 2 or more"
            )
        self.reach, self.remembers = reach, reach
        self.register_buffer("weights", zipf(vocab_size), persistent=False)
        self.words = [f"w{i}" for i in range(vocab_size)]

    def probs(self, memory: Tensor, position: Tensor) -> Tensor:
        at = position % (2 * self.reach)
        letter = memory.gather(1, (at % self.reach)[:, None])
        fresh = self.weights.expand(len(memory), -1)
        again = torch.zeros_like(fresh).scatter(1, letter, 1.0)
        return torch.where((at < self.reach)[:, None], fresh, again)

    def read(self, memory: Tensor, position: Tensor, token: Tensor) -> Tensor:
        at = position % (2 * self.reach)
        new = memory.scatter(1, (at % self.reach)[:, None], token[:, None])
        return torch.where((at < self.reach)[:, None], new, memory)


class Brackets(nn.Module):
    """Ids: 2k opens a bracket of kind k, 2k + 1 closes one; kinds by Zipf's law. Where a bracket may open and close, it
    does either with probability 1/2. Memory: the kinds of the open brackets, outermost first, and how many.

    A closing bracket of a wrong kind closes the innermost one all the same.
    """

    weights: Tensor

    def __init__(self, reach: int, vocab_size: int, length: int, seed: int):
        super().__init__()
        if not 1 <= reach <= length // 2 or vocab_size % 2 or length % 2:
            raise ValueError(
                f"brackets of depth {reach} need 1 <= data.reach <= data.max_length / 2, and even data.max_length "
                f"(here {length}) and data.vocab_size (here {vocab_size})"
            )
        self.reach, self.length, self.remembers = reach, length, length + 1
        self.register_buffer("weights", zipf(vocab_size // 2), persistent=False)
        self.words = [w for k in range(vocab_size // 2) for w in (f"({k}", f"{k})")]

    def probs(self, memory: Tensor, position: Tensor) -> Tensor:
        depth, left = memory[:, -1], self.length - position
        must_close, may_close = depth >= left, depth > 0
        may_open = ~must_close & (depth < self.reach) & ((depth + 1 < left) | ~may_close)
        opens = may_open.float() / (1 + (may_open & may_close).float())
        inner = memory.gather(1, (depth - 1).clamp_min(0)[:, None])
        p = self.weights.new_zeros(len(memory), 2 * len(self.weights))
        p[:, 0::2] = opens[:, None] * self.weights
        return p.scatter(1, 2 * inner + 1, (1 - opens)[:, None])

    def read(self, memory: Tensor, position: Tensor, token: Tensor) -> Tensor:
        depth, opening = memory[:, -1], token % 2 == 0
        pushed = memory.scatter(1, depth[:, None], (token // 2)[:, None])
        memory = torch.where(opening[:, None], pushed, memory)
        after = torch.where(opening, depth + 1, (depth - 1).clamp_min(0))
        return torch.cat([memory[:, :-1], after[:, None]], dim=1)


RULES = {"agreement": Agreement, "copying": Copying, "brackets": Brackets}


def zipf(n: int) -> Tensor:
    """(n,) probabilities that fall as 1/rank."""
    weights = 1 / torch.arange(1, n + 1)
    return weights / weights.sum()


def world_corpus(world: World, sizes: tuple[int, int, int], seed: int) -> Corpus:
    """Training, validation and test sets drawn once, each from a stream of its own, as an oracle's are."""
    splits = []
    for stream, n in enumerate(sizes):
        drawn = sample(world, uniform((n, world.length), torch.Generator().manual_seed(seed * 3 + stream)))
        splits.append(Split(drawn.ids, drawn.lengths))
    return Corpus(
        *splits,
        vocab_size=world.vocab_size,
        max_length=world.length,
        start_id=world.start_id,
        eos_id=None,
        tokenizer=words_tokenizer(world.rule.words),
        source=world.source,
        digest=splits[0].digest(),
        oracle=world,
        kind="word",
    )
