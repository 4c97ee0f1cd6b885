"""LM score and reverse LM score (Semeniuta et al. 2018, arXiv 1806.04936; Caccia et al. 2018, arXiv 1811.02549).

LM score: cross-entropy of samples under a language model of real text; low for fluent text, a collapsed generator too.
Reverse LM score: cross-entropy of real text under a language model of the samples; low where they are good and cover.
Both in nats per token, end tokens counted. The model is fitted by `fit`, a recipe of its own that does not change with
what is scored (methods/mle.py, `fit_language_model`).
"""

from collections.abc import Callable

import numpy as np
import torch

from seqforge.data.corpus import Split
from seqforge.likelihood import sequence_nll
from seqforge.metrics import bootstrap
from seqforge.metrics.nll import UNIT, mean_and_stderr
from seqforge.metrics.score import Score, signature
from seqforge.models.generator import Generator

Fit = Callable[[Split, Split, int], Generator]  # (train, valid, seed) -> language model
HELD = 10  # one of so many sequences stops the fitting early and is not learned


def lm_score(
    samples: Split,
    real: Split,
    fit: Fit,
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    digest: str | None = None,
) -> list[Score]:
    """Samples under a model fitted on `real` (not the text that the samples are otherwise held to: training text).

    digest: of the real text, for the signature; by default that of its ids.
    """
    if len(real) < 2:
        raise ValueError("lm needs at least 2 sequences of training text to fit a model, but there is 1")
    model = fit(*hold_out(real, seed), seed)
    own = {"n": len(samples), "fitted": len(real), "fitset": digest or real.digest(), "lm": "lstm", "seed": seed}
    return [_score("lm_score", model, samples, {**facts, **own}, temperature, seed)]


def reverse_lm_score(
    samples: Split,
    real: Split,
    fit: Fit,
    facts: dict[str, object],
    temperature: float | None = None,
    seed: int = 1,
    digest: str | None = None,
) -> list[Score]:
    """`real` (held-out text) under a model fitted on the samples, duplicates among them removed."""
    distinct = without_duplicates(samples)
    if len(distinct) < 2 * HELD:
        raise ValueError(f"reverse_lm needs at least {2 * HELD} distinct samples, but there are {len(distinct)}")
    model = fit(*hold_out(distinct, seed), seed)
    own = {"n": len(samples), "refs": len(real), "refset": digest or real.digest(), "lm": "lstm", "seed": seed}
    return [_score("reverse_lm", model, real, {**facts, **own}, temperature, seed)]


def hold_out(split: Split, seed: int) -> tuple[Split, Split]:
    """Nine tenths to fit, one tenth to stop by."""
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).to(split.ids.device)
    held = max(1, len(split) // HELD)
    return split[rows[held:]], split[rows[:held]]


def without_duplicates(split: Split) -> Split:
    """The first of every set of equal sequences, in order."""
    inside = torch.arange(split.ids.shape[1], device=split.ids.device)[None, :] < split.lengths[:, None]
    keyed = torch.cat([split.ids * inside, split.lengths[:, None]], dim=1).cpu().numpy()
    _, first = np.unique(keyed, axis=0, return_index=True)
    return split[torch.from_numpy(np.sort(first)).to(split.ids.device)]


def _score(
    name: str, model: Generator, split: Split, facts: dict[str, object], temperature: float | None, seed: int
) -> Score:
    nll = sequence_nll(model, split.ids, split.lengths)
    value, stderr = mean_and_stderr(nll, split.lengths)
    _, low, high = bootstrap.of_ratio(nll.double().sum(1).cpu().numpy(), split.lengths.cpu().numpy(), seed)
    return Score(name, value, stderr, UNIT, temperature, signature(name.replace("_", "-"), **facts), (low, high))
