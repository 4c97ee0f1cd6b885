"""Negative log-likelihoods, all in nats per token: mean over all tokens of all sequences of -log p(y_t | y_<t).

NLL_oracle: of the generator's samples under the oracle; quality alone, a collapsed generator scores well.
NLL_test: of held-out data under the generator; coverage.
Entropy: of the generator's samples under itself; falls towards 0 as it collapses.
Source: Yu et al. 2017, eq. 9, divided by T as the authors' code and every published table do.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seqforge.data.corpus import Corpus, Split
from seqforge.likelihood import sequence_nll, sequence_nlls
from seqforge.metrics.draws import bootstrap
from seqforge.metrics.score import Score, signature
from seqforge.models.generator import Generator
from seqforge.sampling import Filter, Samples, sample, uniform

UNIT = "nats per token"


def mean_and_stderr(nll: Tensor, lengths: Tensor) -> tuple[float, float | None]:
    """nll (B,T), 0 past the end -> mean over tokens, and its standard error with sequences as the independent units."""
    total, tokens = nll.double().sum(1), lengths.double()
    mean = total.sum() / tokens.sum()
    if len(total) < 2:
        return float(mean), None
    spread = (total - mean * tokens).square().sum() / (len(total) - 1)
    return float(mean), float((spread * len(total)).sqrt() / tokens.sum())


def nll_tests(
    generator: Generator,
    test: Split,
    source: str,
    temperatures: Sequence[float],
    draws: dict[tuple[str, float], np.ndarray] | None = None,
    seed: int = 0,
) -> list[Score]:
    """-log p_generator of held-out sequences, its logits divided by each of the temperatures.

    draws: receives bootstrap means of each.
    """
    found, digest = [], test.digest()
    for temperature, nll in zip(
        temperatures,
        sequence_nlls(generator, test.ids, test.lengths, temperatures, context=test.source),
        strict=True,
    ):
        value, stderr = mean_and_stderr(nll, test.lengths)
        facts = signature("nll_test", n=len(test), temp=temperature, data=source, test=digest)
        found.append(Score("nll_test", value, stderr, UNIT, temperature, facts))
        if draws is not None:
            draws["nll_test", temperature] = _drawn(nll, test.lengths, seed, test=True)
    return found


def _drawn(nll: Tensor, lengths: Tensor, seed: int, test: bool = False) -> np.ndarray:
    """Bootstrap means of -log p (B,T), 0 past the end, over the tokens of the sequences."""
    return bootstrap(nll.double().sum(1).cpu().numpy(), lengths.cpu().numpy().astype(float), seed, test)


def nll_test(generator: Generator, test: Split, source: str, temperature: float = 1.0) -> Score:
    """`nll_tests` at one temperature."""
    return nll_tests(generator, test, source, [temperature])[0]


def perplexity(test: Score) -> Score:
    """exp of NLL_test, and of the ends of its 95 % interval: of the cross-entropy alone, whatever else was trained."""
    half = 1.96 * (test.stderr or 0.0)

    def exp(x: float) -> float:
        return math.exp(min(x, 700.0))  # of a generator that has diverged

    ends = None if test.stderr is None else (exp(test.value - half), exp(test.value + half))
    signed = test.signature.replace("nll_test", "perplexity", 1)
    return Score("perplexity", exp(test.value), None, "per token", test.temperature, signed, ends)


def nll_oracle(
    oracle: Generator,
    drawn: Samples,
    facts: dict,
    temperature: float,
    draws: dict[tuple[str, float], np.ndarray] | None = None,
) -> Score:
    """-log p_oracle of samples. `facts` go into the signature, and its seed into the bootstrap means for `draws`."""
    nll = sequence_nll(oracle, drawn.ids, drawn.lengths)
    value, stderr = mean_and_stderr(nll, drawn.lengths)
    if draws is not None:
        draws["nll_oracle", temperature] = _drawn(nll, drawn.lengths, facts["seed"])
    return Score("nll_oracle", value, stderr, UNIT, temperature, signature("nll_oracle", **facts))


def entropy(drawn: Samples, facts: dict, temperature: float) -> Score:
    """-log p_generator of its own samples (NLL_div, NLL_gen of own samples): what it is unsure of."""
    value, stderr = mean_and_stderr(-drawn.logp, drawn.lengths)
    return Score("entropy", value, stderr, UNIT, temperature, signature("entropy", **facts))


def count(corpus: Corpus, samples: int) -> int:
    """How many samples are drawn: of pairs no more than there are to test on, so that the source of each is asked once,
    and an interval over samples is one over test pairs.
    """
    return samples if corpus.test.source is None else min(samples, len(corpus.test))


def asked(corpus: Corpus, samples: int) -> Split | None:
    """Of pairs, what the samples answer: the first sources of the test set."""
    source = corpus.test.source
    return None if source is None else source[slice(count(corpus, samples))]


def draw(generator: Generator, corpus: Corpus, samples: int, seed: int, temperature: float = 1.0) -> Samples:
    """The samples that all figures of one seed and temperature are on: row r is drawn from the same noise at each."""
    rng = torch.Generator().manual_seed(seed)
    noise = uniform((count(corpus, samples), corpus.max_length), rng, corpus.test.ids.device)
    return sample(generator, noise, Filter(temperature=temperature), context=asked(corpus, samples))


def all_nll(
    generator: Generator,
    corpus: Corpus,
    samples: int,
    seed: int,
    temperature: float = 1.0,
    test: Score | None = None,
    draws: dict[tuple[str, float], np.ndarray] | None = None,
) -> tuple[list[Score], Samples]:
    """NLL_oracle (where there is an oracle), NLL_test and entropy at one temperature, and the samples they are on.

    test: NLL_test at that temperature, where it is known already; draws: receives bootstrap means of NLL_oracle.
    """
    drawn = draw(generator, corpus, samples, seed, temperature)
    facts = {"n": len(drawn.ids), "temp": temperature, "seed": seed, "len": corpus.max_length, "data": corpus.source}
    test = test or nll_test(generator, corpus.test, corpus.source, temperature)
    scores = [test, entropy(drawn, facts, temperature)]
    if isinstance(corpus.oracle, Generator):
        scores.insert(0, nll_oracle(corpus.oracle, drawn, facts, temperature, draws))
    return scores, drawn
