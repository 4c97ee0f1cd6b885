"""Sequences of many lengths, with zeros or with any ids past their ends, for the tests of masking."""

import dataclasses

import torch
from worlds import alive, garbled, rng

from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.models.discriminators import CNNConfig

VOCAB, HORIZON, EOS = 9, 7, 4  # the end token in the middle, so that garbage past the ends holds it too
CNN = CNNConfig(embedding=6, widths=[1, 2, 4], filters=[4, 4, 4], dropout=0.2)


def ragged(n: int, seed: int) -> Split:
    """n sequences of 1 to 7 tokens, most of which end with the end token; 0 past the ends."""
    lengths = torch.randint(1, HORIZON + 1, (n,), generator=rng(seed))
    ids = torch.randint(VOCAB, (n, HORIZON), generator=rng(seed + 1))
    ids[ids == EOS] = 0
    ends = (lengths < HORIZON) | (torch.rand(n, generator=rng(seed + 2)) < 0.5)
    ids[ends, lengths[ends] - 1] = EOS
    return Split(ids * alive(lengths, HORIZON), lengths)


def ragged_corpus(garbage: bool, pairs: bool = False) -> Corpus:
    """The same three sets of sequences with zeros or with any ids past their ends; of pairs, sources of the like."""
    if pairs:
        plain, asked = ragged_corpus(garbage), [ragged(n, 10 * n + 5) for n in (48, 24, 30)]
        if garbage:
            asked = [Split(garbled(s.ids, s.lengths, VOCAB, seed=4), s.lengths) for s in asked]
        sets = dict(zip(("train", "valid", "test"), asked, strict=True))
        both = {k: dataclasses.replace(getattr(plain, k), source=s) for k, s in sets.items()}
        return dataclasses.replace(plain, **both)
    splits = [ragged(n, 10 * n) for n in (48, 24, 30)]
    if garbage:
        splits = [Split(garbled(s.ids, s.lengths, VOCAB, seed=3), s.lengths) for s in splits]
    sizes = {"vocab_size": VOCAB, "max_length": HORIZON, "start_id": EOS, "eos_id": EOS}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(VOCAB), source="ragged", digest=splits[0].digest())
