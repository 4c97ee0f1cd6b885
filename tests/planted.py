"""Generators whose frontiers are known exactly: a grammar as a table of next-token probabilities, and spoilt copies."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.frontier import between, frontier
from seqforge.grammars import Grammar
from seqforge.sampling import sample, uniform

TEXT = """
let n = sg pl
S -> NP[n] VP[n] | 2 NP[n] VP[n] and CL
CL -> NP[n] VP[n]
NP[n] -> 3 D[n] N[n] | D[n] A N[n]
VP[n] -> V[n] | 2 V[n] NP[sg] | V[n] NP[pl]
D[sg] = a every this one
D[pl] = some all these two
A = old new small red green
N[sg] = dog cat bird man tree car
N[pl] = dogs cats birds men trees cars
V[sg] = sees likes takes finds
V[pl] = see like take find
"""
HORIZON = 14
TEMPERATURES = [1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5]


@dataclass(frozen=True)
class Place:
    """The states (B,) of the automaton."""

    at: Tensor

    def select(self, rows: Tensor) -> "Place":
        return Place(self.at[rows])

    @classmethod
    def cat(cls, states) -> "Place":
        return cls(torch.cat([s.at for s in states]))


class Table(nn.Module):
    """logits (S,V) of the next token in each state, and the state after it (S,V)."""

    def __init__(self, logits: Tensor, after: Tensor):
        super().__init__()
        self.logits, self.after = logits, after
        self.vocab_size, self.eos_id = logits.shape[1], logits.shape[1] - 1

    def start(self, batch: int, context=None):
        return self.logits[:1].expand(batch, -1), Place(torch.zeros(batch, dtype=torch.long))

    def extend(self, tokens: Tensor, state: Place, lengths=None):
        at, out = state.at, []
        for token in tokens.T:
            at = self.after[at, token]
            out.append(self.logits[at])
        return torch.stack(out, 1), Place(at)

    def sharpened(self, by: float) -> "Table":
        return Table(self.logits * by, self.after)

    def spoilt(self, by: float, seed: int = 0) -> "Table":
        noise = torch.randn(self.logits.shape, generator=torch.Generator().manual_seed(seed))
        return Table(self.logits + by * noise, self.after)


@functools.cache
def truth(rest: float = 0.02) -> Table:
    """The grammar; `rest` of the probability is spread over all tokens, so that none is impossible anywhere."""
    grammar = Grammar(TEXT)
    words = [*grammar.words, ""]
    states, todo = {grammar.start: 0}, [grammar.start]
    moves = []
    while todo:
        state = todo.pop(0)
        row = grammar._moves(state)
        for _, after in row.values():
            if after not in states:
                states[after] = len(states)
                todo.append(after)
        moves.append((state, row))
    p, after = torch.zeros(len(states), len(words)), torch.zeros(len(states), len(words), dtype=torch.long)
    for state, row in moves:
        here = states[state]
        after[here] = here  # a word that cannot come leaves all as it was
        p[here, -1] = torch.tensor(state.end).exp()
        for word, (logp, target) in row.items():
            p[here, words.index(word)], after[here, words.index(word)] = torch.tensor(logp).exp(), states[target]
    return Table(torch.log((1 - rest) * p + rest / len(words)), after)


def exact(generator: Table, temperature: float) -> tuple[float, float]:
    """NLL_test and NLL_oracle of the whole distributions, by following the probability of every state."""
    real, mine = (torch.log_softmax(x.double(), 1) for x in (truth().logits, generator.logits / temperature))
    return _cross(real, mine, generator.after), _cross(mine, real, generator.after)


def _cross(draws: Tensor, judges: Tensor, after: Tensor) -> float:
    at = torch.zeros(len(draws), dtype=torch.float64)
    at[0], total, tokens = 1.0, 0.0, 0.0
    for _ in range(HORIZON):
        joint = at[:, None] * draws.exp()
        total, tokens = total - float((joint * judges).sum()), tokens + float(at.sum())
        at = torch.zeros_like(at).index_add(0, after[:, :-1].flatten(), joint[:, :-1].flatten())
    return total / tokens


def exact_gap(mine: Table, theirs: Table) -> float:
    """What the verdict estimates."""
    curves = [frontier({t: (*exact(g, t), 0.0, 0.0) for t in TEMPERATURES}) for g in (mine, theirs)]
    found = between(*curves)
    assert found is not None
    return found.gap


@functools.cache
def counterpart() -> Table:
    return truth().spoilt(0.8)


@functools.cache
def apart(gap: float) -> Table:
    """A generator whose frontier lies `gap` beside the counterpart's (below 0: better), to within .001."""
    low, high = 0.0, 3.0
    while True:
        by = (low + high) / 2
        found = exact_gap(truth().spoilt(by), counterpart())
        if abs(found - gap) < 0.001:
            return truth().spoilt(by)
        low, high = (low, by) if found > gap else (by, high)


def corpus(seed: int, test: int = 2000, train: int = 0) -> Corpus:
    """Drawn from the grammar; with a training set it is text whose truth is unknown, else an oracle's."""
    splits = []
    for stream, n in enumerate((train or 8, 8, test)):
        noise = uniform((n, HORIZON), torch.Generator().manual_seed(1000 * seed + stream))
        drawn = sample(truth(), noise)
        splits.append(Split(drawn.ids, drawn.lengths))
    v = truth().vocab_size
    return Corpus(
        *splits, v, HORIZON, 0, v - 1, ids_tokenizer(v - 1, "<eos>"), "planted", "-", oracle=None if train else truth()
    )
