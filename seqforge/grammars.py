"""Grammars as exact judges: is a sentence grammatical, what is its true probability, what is the entropy.

A finite probabilistic context-free grammar (no symbol leads back to itself) is read as a deterministic automaton. A
state is a weighted set of stacks: what may still have to come after a prefix, and how probable each is given the
prefix. So probabilities of sentences and of next words and the entropy are exact, for ambiguous grammars too.
Source: prefix probabilities of a probabilistic grammar (Jelinek and Lafferty 1991), here without recursion.
"""

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from itertools import accumulate, product
from math import exp, inf, log
from random import Random
from typing import NamedTuple

import numpy as np

END = ""  # stands for the end of the sentence among the words of `next_probs`

Symbols = tuple[str, ...]
Rows = list[dict[str, str]]  # what the variables of a `let` stand for together
Belief = dict[Symbols, float]  # stacks, their first symbol to come first -> probability given the prefix

_SYMBOL = re.compile(r"[A-Z]\w*(\[\w+(,\w+)*\])?")
_WEIGHT = re.compile(r"-?\d+(\.\d+)?")


class State:
    """A node of the automaton. moves: word -> (log-probability given the prefix, state after), empty until asked for;
    end: the log-probability that the sentence ends here."""

    def __init__(self, belief: Belief):
        self.belief = belief
        self.end = log(belief[()]) if () in belief else -inf
        self.moves: dict[str, tuple[float, State]] = {}


_NOWHERE = (-inf, State({}))  # where a word leads that cannot come next


class Grammar:
    """Sentences from the symbol S of a grammar text; seqforge/data/demo_grammar.txt explains the notation.

    rules: symbol -> [(probability, what it becomes)]; words: sorted; longest: tokens of the longest sentence.
    Raises ValueError `source:line: what; remedy` for a line that is no rule, a symbol without rules or without use,
    a weight that is not above 0, and a recursion.
    """

    def __init__(self, text: str, source: str = "grammar"):
        read = read_rules(text, source)
        order = _bottom_up(read, source)
        self.rules: dict[str, list[tuple[float, Symbols]]] = {}
        longest: dict[str, int] = {}
        for symbol in order:
            weights = read.weights[symbol]
            self.rules[symbol] = [(w / sum(weights.values()), right) for right, w in weights.items()]
            longest[symbol] = max(sum(longest.get(item, 1) for item in right) for right in weights)
        self.longest = longest["S"]
        self.words = sorted({w for s in order for right in read.weights[s] for w in right if not _is_symbol(w)})
        self._bounds = {s: list(accumulate(p for p, _ in found))[:-1] for s, found in self.rules.items()}
        self._states: dict[frozenset, State] = {}
        self._first: dict[str, list[tuple[float, str, Symbols]]] = {}
        self.start = self._state({("S",): 1.0})

    def derive(self, rng: Random) -> tuple[list[str], list[tuple[str, int]]]:
        """A sentence, drawn, and its leftmost derivation: (symbol, index into rules[symbol]), in order of expansion."""
        words, steps, stack = [], [], ["S"]
        while stack:
            symbol = stack.pop()
            if symbol not in self.rules:
                words.append(symbol)
                continue
            choice = bisect(self._bounds[symbol], rng.random())
            steps.append((symbol, choice))
            stack.extend(reversed(self.rules[symbol][choice][1]))
        return words, steps

    def sample(self, n: int, seed: int) -> list[list[str]]:
        """n sentences, drawn independently; a longer draw from the same seed begins with the shorter one."""
        rng = Random(seed)
        return [self.derive(rng)[0] for _ in range(n)]

    def log_prob(self, tokens: Sequence[str]) -> float:
        """Log-probability of a sentence in nats, over all its derivations; -inf where it is not grammatical."""
        logp, state = self._read(tokens)
        return logp + state.end

    def log_probs(self, sentences: Sequence[Sequence[str]]) -> np.ndarray:
        """(N,) float64: `log_prob` of each."""
        return np.array([self.log_prob(s) for s in sentences], dtype=np.float64)

    def is_grammatical(self, tokens: Sequence[str]) -> bool:
        return self.log_prob(tokens) > -inf

    def next_probs(self, prefix: Sequence[str]) -> dict[str, float]:
        """Probabilities of what follows a prefix, END being the end; empty where no sentence begins with it."""
        state = self._read(prefix)[1]
        ends = {END: exp(state.end)} if state.end > -inf else {}
        return ends | {word: exp(logp) for word, (logp, _) in self._moves(state).items()}

    def entropy(self) -> float:
        """Of the distribution over sentences, nats per sentence; over `expected_length()` it is nats per token."""
        return self.expect(lambda logp: -logp, lambda logp: -logp)

    def expected_length(self) -> float:
        """Mean tokens per sentence, the final mark included."""
        return self.expect(lambda logp: 1.0, lambda logp: 0.0)

    def expect(self, of_word: Callable[[float], float], of_end: Callable[[float], float]) -> float:
        """The exact mean over sentences of a sum over tokens: of_word(log-probability of a word given its prefix) and,
        once, of_end(that of the end). One pass over the states, however many prefixes lead to each."""
        known: dict[State, float] = {}

        def value(state: State) -> float:
            if state not in known:
                found = exp(state.end) * of_end(state.end) if state.end > -inf else 0.0
                for logp, after in self._moves(state).values():
                    found += exp(logp) * (of_word(logp) + value(after))
                known[state] = found
            return known[state]

        return value(self.start)

    def _read(self, tokens: Sequence[str]) -> tuple[float, State]:
        """The log-probability of a prefix and the state after it."""
        total, state = 0.0, self.start
        for word in tokens:
            logp, state = self._moves(state).get(word, _NOWHERE)
            total += logp
        return total, state

    def _state(self, belief: Belief) -> State:
        """The state of these stacks, weights made to sum to 1; it is the same one where weights agree in 12 digits."""
        total = sum(belief.values())
        belief = {stack: weight / total for stack, weight in belief.items()}
        key = frozenset((stack, f"{weight:.12g}") for stack, weight in belief.items())
        return self._states.get(key) or self._states.setdefault(key, State(belief))

    def _after(self, belief: Belief) -> dict[str, Belief]:
        """Word class -> the stacks behind it and their joint weights with it."""
        after: dict[str, Belief] = defaultdict(lambda: defaultdict(float))
        for stack, weight in belief.items():
            for p, head, rest in self._firsts(stack[0]) if stack else ():
                after[head][rest + stack[1:]] += weight * p
        return after

    def _moves(self, state: State) -> dict[str, tuple[float, State]]:
        if state.moves:
            return state.moves
        after = self._after(state.belief)
        origins: dict[str, list[tuple[float, str]]] = defaultdict(list)  # word -> the classes it may come from
        for head in after:
            for p, (word,) in self.rules.get(head, [(1.0, (head,))]):
                origins[word].append((p, head))
        alone = {head: (sum(belief.values()), self._state(belief)) for head, belief in after.items()}
        for word, found in origins.items():
            if len(found) == 1:  # nearly all: then the state after is the same for the whole class
                p, (mass, target) = found[0][0], alone[found[0][1]]
                state.moves[word] = log(mass * p), target
            else:
                mixed: Belief = defaultdict(float)
                for p, head in found:
                    for stack, weight in after[head].items():
                        mixed[stack] += p * weight
                state.moves[word] = log(sum(mixed.values())), self._state(mixed)
        return state.moves

    def _firsts(self, symbol: str) -> list[tuple[float, str, Symbols]]:
        """How a symbol may begin: (probability, word class or word, what follows it)."""
        if symbol not in self._first:
            found: dict[tuple[str, Symbols], float] = defaultdict(float)
            alternatives = self.rules.get(symbol, [])
            if all(len(right) == 1 and not _is_symbol(right[0]) for _, right in alternatives):
                found[symbol, ()] = 1.0  # a class of words, or a word
            else:
                for p, right in alternatives:
                    for q, head, rest in self._firsts(right[0]):
                        found[head, rest + right[1:]] += p * q
            self._first[symbol] = [(p, head, rest) for (head, rest), p in found.items()]
        return self._first[symbol]


@cache
def demo_grammar() -> Grammar:
    """The grammar of `--data demo`, read once."""
    return Grammar((files("seqforge") / "data" / "demo_grammar.txt").read_text(encoding="utf-8"), "demo_grammar.txt")


class Rules(NamedTuple):
    """weights: symbol -> {what it becomes: weight}; defined, used: symbol -> the line where it first is."""

    weights: dict[str, dict[Symbols, float]]
    defined: dict[str, int]
    used: dict[str, int]


def _is_symbol(item: str) -> bool:
    return item[0].isupper()


def read_rules(text: str, source: str = "grammar") -> Rules:
    """A grammar text, its variables filled in. Raises ValueError naming the line."""
    read = Rules(defaultdict(lambda: defaultdict(float)), {}, {"S": 1})
    groups: list[Rows] = []  # one a `let`
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        try:
            if line.startswith("let "):
                groups.append(_variables(line[4:], groups))
            elif line:
                for weight, left, right in _alternatives(line):
                    if not _is_symbol(left):
                        raise ValueError(f"{left!r} stands on the left, but is a word; begin a symbol with a capital")
                    for bound in _bindings(groups, " ".join((left, *right))):
                        name, *items = (_fill(item, bound) for item in (left, *right))
                        read.weights[name][tuple(items)] += weight
                        read.defined.setdefault(name, number)
                        for item in filter(_is_symbol, items):
                            read.used.setdefault(item, number)
        except ValueError as e:
            raise ValueError(f"{source}:{number}: {e}") from None
    return read


def _variables(text: str, groups: list[Rows]) -> Rows:
    """`k,n = m,sg f,sg` -> a row of values for each."""
    left, equals, right = text.partition(" = ")
    names = left.strip().split(",")
    rows = [entry.split(",") for entry in right.split()]
    if not equals or not rows or any(len(row) != len(names) for row in rows):
        raise ValueError(f"`let {text}` does not give every variable its values; write `let k,n = m,sg f,sg`")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    taken = {v for group in [*groups, found] for row in group for v in row.values()} | {n for g in groups for n in g[0]}
    if taken & set(names) or len(set(names)) < len(names):
        raise ValueError(f"`let {text}` gives a name that is a value or a variable already; choose another")
    return found


def _alternatives(line: str) -> Iterator[tuple[float, str, Symbols]]:
    """(weight, symbol, what it becomes) for every alternative of a line, variables as they stand."""
    items = line.split()
    if len(items) > 2 and items[1] == "->":
        for part in " ".join(items[2:]).split(" | "):
            weight, right = 1.0, tuple(part.split())
            if _WEIGHT.fullmatch(right[0]):
                weight, right = float(right[0]), right[1:]
            if not right or "|" in right or not 0 < weight < inf:
                raise ValueError(f"alternative {part!r} has no words or a weight that is not above 0; write `3 A b`")
            yield weight, _symbol(items[0]), tuple(map(_symbol, right))
    elif "=" in items and items.index("=") in range(1, len(items) - 1):
        lefts, entries = items[: items.index("=")], items[items.index("=") + 1 :]
        for i, entry in enumerate(entries, 1):
            words = entry.split(",") if len(lefts) > 1 else [entry]
            if len(words) != len(lefts) or any(not w or _is_symbol(w) for w in words):
                raise ValueError(f"{entry!r} is not {len(lefts)} words in small letters; give one for every symbol")
            yield from ((1 / (1 + i), _symbol(left), (_symbol(word),)) for left, word in zip(lefts, words, strict=True))
    else:
        raise ValueError(f"{line[:60]!r} is no rule; write `X -> 2 Y z | w`, `X = w w` or `let k = a b`")


def _symbol(item: str) -> str:
    if not (_SYMBOL.fullmatch(item) if _is_symbol(item) else not set("[]") & set(item)):
        raise ValueError(f"{item!r} is neither a symbol such as NP[k,0] nor a word in small letters; mend it")
    return item


def _bindings(groups: list[Rows], text: str) -> Iterator[dict[str, str]]:
    """The values that the variables in a rule take together: each combination once."""
    named = set(re.findall(r"\w+", " ".join(re.findall(r"\[(.*?)\]", text))))
    rows = [{tuple((k, v) for k, v in row.items() if k in named): None for row in group} for group in groups]
    return (dict(pair for pairs in chosen for pair in pairs) for chosen in product(*rows))


def _fill(item: str, bound: dict[str, str]) -> str:
    name, bracket, rest = item.partition("[")
    return name + bracket + re.sub(r"\w+", lambda m: bound.get(m[0], m[0]), rest)


def _bottom_up(read: Rules, source: str) -> list[str]:
    """Symbols in an order in which each comes after all it leads to. Raises ValueError where there is none."""
    for symbol, line in read.used.items():
        if symbol not in read.weights:
            raise ValueError(f"{source}:{line}: {symbol} has no rule; add one, or begin a word with a small letter")
    for symbol, line in read.defined.items():
        if symbol not in read.used:
            raise ValueError(f"{source}:{line}: {symbol} is used in no rule; use it or remove it")
    leads_to = {s: [i for right in found for i in right if _is_symbol(i)] for s, found in read.weights.items()}
    try:
        return list(TopologicalSorter(leads_to).static_order())
    except CycleError as e:
        symbol = min(e.args[1], key=lambda s: read.defined[s])
        where = f"{source}:{read.defined[symbol]}"
        raise ValueError(f"{where}: {symbol} leads back to itself; number the levels, as in X[2] -> X[1]") from None
