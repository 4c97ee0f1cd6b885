"""Sequences from a trained generator, as text or JSON lines; a stream, so that any number fits the memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from seqforge.data.corpus import decode
from seqforge.models.generator import Context, Generator
from seqforge.sampling import Filter, begin, begin_with, chunk_rows, complete, uniform

DRAWS_FOR_EACH = 200  # tries for every distinct sequence asked for, before `unique` gives up
LEAST_DRAWN = 64  # rows at once where `unique` looks for its last few


@dataclass(frozen=True)
class Drawn:
    """One sequence: its text (the prompt included), its ids, and the log-probability (nats) of every token drawn."""

    text: str
    ids: list[int]
    logp: list[float]

    def as_json(self) -> str:
        each = [round(x, 6) for x in self.logp]
        record = {"text": self.text, "logp": round(sum(self.logp), 6), "tokens": len(self.ids), "logp_tokens": each}
        return json.dumps({**record, "ids": self.ids}, ensure_ascii=False)


def generate(
    generator: Generator,
    tokenizer: Tokenizer,
    n: int,
    max_length: int,
    filter: Filter,
    seed: int,
    prompt: list[int] | None = None,
    unique: bool = False,
    context: Context | None = None,
) -> Iterator[Drawn]:
    """n sequences of at most max_length tokens (prompt and end token included); the same seed gives the same ones.
    context: one row, which all of them answer; it goes with no prompt.

    Raises ValueError where the prompt leaves no room, or where `unique` finds no further sequence.
    """
    prompt = prompt or []
    assert context is None or not prompt
    if len(prompt) >= max_length:
        raise ValueError(f"--prompt has {len(prompt)} tokens, but sequences have at most {max_length}; shorten it")
    rng, each = torch.Generator().manual_seed(seed), chunk_rows(generator, torch.device("cpu"))
    seen: set[str] = set()
    given = drawn = 0
    while given < n:
        rows = min(each, max(n - given, LEAST_DRAWN if unique else 0))
        for one in _chunk(generator, tokenizer, rows, max_length, filter, rng, prompt, context):
            drawn += 1
            if unique and one.text in seen:
                continue
            seen |= {one.text} if unique else set()
            given += 1
            yield one
            if given == n:
                return
        if unique and drawn >= DRAWS_FOR_EACH * n:
            raise ValueError(
                f"--unique: only {given} distinct sequences in {drawn} draws; ask for fewer, or raise --temperature"
            )


def _chunk(
    generator: Generator,
    tokenizer: Tokenizer,
    rows: int,
    max_length: int,
    filter: Filter,
    rng: torch.Generator,
    prompt: list[int],
    context: Context | None,
) -> Iterator[Drawn]:
    noise = uniform((rows, max_length), rng)
    known = torch.tensor([prompt], dtype=torch.long).repeat(rows, 1)
    if prompt:
        fork = begin_with(generator, known)
    else:
        fork = begin(generator, rows, context=None if context is None else context[torch.zeros(rows, dtype=torch.long)])
    samples = complete(generator, fork, noise, filter)
    samples.ids[:, : len(prompt)] = known
    texts = decode(tokenizer, samples.ids, samples.lengths)
    rows_of = zip(texts, samples.ids.tolist(), samples.logp.tolist(), samples.lengths.tolist(), strict=True)
    for text, ids, logp, length in rows_of:
        yield Drawn(text, ids[:length], logp[len(prompt) : length])
