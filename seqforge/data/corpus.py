"""A corpus: three splits of sequences as ids, what the ids mean, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from seqforge.data.music import MusicConfig


@dataclass(frozen=True)
class Split:
    """ids (N,T), 0 past the end; lengths (N,), the end token included where there is one. source: of pairs, what each
    row answers.
    """

    ids: Tensor
    lengths: Tensor
    source: Split | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor | slice) -> Split:
        return Split(self.ids[rows], self.lengths[rows], None if self.source is None else self.source[rows])

    @classmethod
    def cat(cls, splits: Sequence[Split]) -> Split:
        """The rows of several, one below the other; sources are not carried along."""
        return cls(torch.cat([s.ids for s in splits]), torch.cat([s.lengths for s in splits]))

    def digest(self) -> str:
        """First 8 hex digits of a sha256 over its tokens and lengths; what stands past the ends does not count."""
        inside = torch.arange(self.ids.shape[1], device=self.ids.device)[None, :] < self.lengths[:, None]
        h = hashlib.sha256()
        for t in (self.ids * inside, self.lengths):
            h.update(t.cpu().contiguous().numpy().tobytes())
        if self.source is not None:
            h.update(self.source.digest().encode())
        return h.hexdigest()[:8]

    def to(self, device: torch.device | str) -> Split:
        source = None if self.source is None else self.source.to(device)
        return Split(self.ids.to(device), self.lengths.to(device), source)


@dataclass(frozen=True)
class Corpus:
    """What a method trains on.

    oracle: the generator the data were drawn from, where that is known (NLL_oracle needs it); digest: of the training
    ids, so that two runs can tell whether they saw the same data; source: in words, for signatures and reports; kind:
    of the tokenizer; judge: the grammar that the data were drawn from; unk_id: stands for unknown words; music: how
    the sequences are tunes, where they are; before: of pairs, by split, all turns before each.
    """

    train: Split
    valid: Split
    test: Split
    vocab_size: int
    max_length: int
    start_id: int
    eos_id: int | None
    tokenizer: Tokenizer
    source: str
    digest: str
    oracle: object | None = None
    kind: str = "ids"
    unk_id: int | None = None
    judge: object | None = None
    music: MusicConfig | None = None
    before: dict[str, list[tuple[str, ...]]] | None = None

    def to(self, device: torch.device | str) -> Corpus:
        moved = {name: getattr(self, name).to(device) for name in ("train", "valid", "test")}
        if isinstance(self.oracle, torch.nn.Module):
            moved["oracle"] = self.oracle.to(device)
        return Corpus(**{**self.__dict__, **moved})

    def decode(self, ids: Tensor, lengths: Tensor) -> list[str]:
        """One line of text a sequence."""
        return decode(self.tokenizer, ids, lengths)

    def turns(self, source: Split) -> list[list[str]]:
        """The turns of every source, which has an end token after each; of one cut short the first is a part."""
        rows = [row[:n] for row, n in zip(source.ids.tolist(), source.lengths.tolist(), strict=True)]
        cut = [[list(turn) for end, turn in groupby(row, lambda i: i == self.eos_id) if not end] for row in rows]
        texts = iter(self.tokenizer.decode_batch([turn for turns in cut for turn in turns], skip_special_tokens=True))
        return [[next(texts) for _ in turns] for turns in cut]


def decode(tokenizer: Tokenizer, ids: Tensor, lengths: Tensor) -> list[str]:
    """ids (B,T), lengths (B,) -> B lines; tokens joined by spaces unless the tokenizer has a decoder of its own."""
    rows = [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    return tokenizer.decode_batch(rows, skip_special_tokens=True)


def ids_tokenizer(vocab_size: int, eos: str | None = None) -> Tokenizer:
    """Tokens that are numbers: "17 4 0" <-> [17, 4, 0]; the end token, if any, has the id after the last. Saved as
    tokenizer.json like any other.
    """
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(vocab_size)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    if eos is not None:
        tokenizer.add_special_tokens([eos])
    return tokenizer


def words_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Words between blanks, each with its place in the list as id; no other word ever comes."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return tokenizer
