"""The world of `--data dialogues`: conversations from a grammar that ships, which also judges a reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

from seqforge import pairs
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus
from seqforge.grammars import END, Grammar
from seqforge.pairs import Pair

BETWEEN = "/"  # the word that stands between two turns of a sentence of the grammar


class DialogueWorld:
    """Conversations of a grammar whose sentences are turns with `/` between them; every second turn is an answer."""

    def __init__(self, grammar: Grammar):
        self.grammar = grammar

    def sample(self, n: int, seed: int) -> list[list[str]]:
        """n conversations, each a list of turns."""
        return [" ".join(words).split(f" {BETWEEN} ") for words in self.grammar.sample(n, seed)]

    def right(self, before: Sequence[str], reply: str) -> bool:
        """Whether a conversation that begins with these turns and this reply has a probability above 0."""
        words = [w for turn in before for w in [*turn.split(), BETWEEN]] + reply.split()
        said = reply.split()
        return bool(said) and BETWEEN not in said and bool({BETWEEN, END} & self.grammar.next_probs(words).keys())

    def probability(self, before: Sequence[str], reply: str) -> float:
        """p(reply | the turns before), exactly."""
        prefix = [w for turn in before for w in [*turn.split(), BETWEEN]]
        found = 1.0
        for word in reply.split():
            found *= self.grammar.next_probs(prefix).get(word, 0.0)
            prefix = [*prefix, word]
        ends = self.grammar.next_probs(prefix)
        return found * (ends.get(BETWEEN, 0.0) + ends.get(END, 0.0))


@cache
def shipped() -> DialogueWorld:
    """The world of `--data dialogues`, read once."""
    text = (files("seqforge") / "data" / "dialogue_grammar.txt").read_text(encoding="utf-8")
    return DialogueWorld(Grammar(text, "dialogue_grammar.txt"))


def load(config: DataConfig) -> Corpus:
    """train_size, valid_size and test_size answers with their sources; the world itself is the corpus's judge."""
    if config.condition == "label":
        raise ValueError("--data dialogues has no labels; use --data.condition turns")
    world = shipped()
    sizes = {"train": config.train_size, "valid": config.valid_size, "test": config.test_size}
    found = {}
    for stream, (name, n) in enumerate(sizes.items()):
        answers: list[Pair] = []
        for i, turns in enumerate(world.sample(n, config.seed * 3 + stream)):
            for t in range(1, len(turns), 2):
                history = tuple(turns[max(0, t - config.history) : t])
                answers.append(Pair(history, turns[t], tuple(turns[:t]), f"dialogues {name}:{i + 1}"))
        found[name] = answers[:n]
    words = [" ".join(word for word in world.grammar.words if word != BETWEEN)]
    corpus = pairs.build(found, config, "dialogues", words, key=None)
    return replace(corpus, source=f"dialogues:{corpus.digest}", judge=world)
