"""From encoded texts to a `Split`: end tokens, lengths, and what to do with sequences that are too long."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from seqforge.data.corpus import Split
from seqforge.data.tokens import Encoded

Overlong = Literal["auto", "stop", "truncate", "skip"]
LONGEST_BY_ITSELF = 256  # tokens, end included: longer ones are cut unless a length is given
Place = Callable[[int], str]


@dataclass(frozen=True)
class Lengths:
    """The longest sequence, end token included, and what becomes of longer ones."""

    longest: int
    overlong: Overlong


def choose_lengths(lengths: np.ndarray, given: int | None, overlong: Overlong, ends: bool) -> Lengths:
    """lengths (N,) of the training sequences without their end tokens.

    A length that is not given is that of the longest sequence, unless a few are far longer than all others: then 99 %
    of them fit and the rest is cut there. It is at most LONGEST_BY_ITSELF.
    """
    if given is not None:
        return Lengths(given, "stop" if overlong == "auto" else overlong)
    full = lengths + ends
    longest, usual = int(full.max()), int(np.ceil(np.quantile(full, 0.99)))
    if longest <= 32 or longest <= min(2 * usual, LONGEST_BY_ITSELF):
        return Lengths(longest, "truncate" if overlong == "auto" else overlong)
    return Lengths(min(usual, LONGEST_BY_ITSELF), "truncate" if overlong == "auto" else overlong)


def pack(encoded: Encoded, eos_id: int | None, fit: Lengths, place: Place, name: str) -> tuple[Split, np.ndarray]:
    """The sequences as a `Split`, each with its end token if there is one, and which of them (K,) were kept.

    A sequence that is cut has no end token: it goes on beyond what is looked at. Raises ValueError naming the place of
    one that is too long where the policy is to stop.
    """
    ends = eos_id is not None
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    full = encoded.lengths + ends
    long = np.flatnonzero(full > fit.longest)
    if len(long) and fit.overlong == "stop":
        i = int(long[0])
        raise ValueError(
            f"{place(i)}: {full[i]} tokens{' with its end token' if ends else ''}, but max_length is {fit.longest} "
            f"({len(long)} such); raise --data.max_length, or pass --data.overlong truncate or skip"
        )
    if len(long):
        done = "left out" if fit.overlong == "skip" else "cut there"
        warnings.warn(
            f"{name}: {len(long)} of {len(full)} sequences are longer than {fit.longest} tokens and are {done} "
            f"(the first: {place(int(long[0]))}); --data.max_length sets the length",
            stacklevel=2,
        )
    kept = np.flatnonzero(full <= fit.longest) if fit.overlong == "skip" else np.arange(len(full))
    lengths = np.minimum(full[kept], fit.longest)
    taken = np.minimum(encoded.lengths[kept], lengths)
    ids = np.zeros((len(kept), fit.longest), dtype=np.int64)
    inside = np.arange(fit.longest)[None, :] < taken[:, None]
    offset = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    ids[inside] = encoded.ids[np.repeat(starts[kept], taken) + offset]
    if ends:
        ended = np.flatnonzero(full[kept] <= fit.longest)
        ids[ended, full[kept][ended] - 1] = eos_id
    return Split(torch.from_numpy(ids), torch.from_numpy(lengths)), kept
