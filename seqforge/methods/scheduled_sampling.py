"""Scheduled sampling: likelihood training that reads more and more of the generator's own tokens.

    seqforge train scheduled_sampling --recipe scheduled-sampling-oracle

Source: Bengio, Vinyals, Jaitly and Shazeer 2015 (arXiv 1506.03099); as SeqGAN's baseline: Yu et al. 2017, section 5.1.
Differs from the code of the latter:
 1) a coin for every token; theirs is a single number for the whole run, drawn when the graph is built, so that it never
    left teacher forcing
 2) the generator's own token is never the end token, which it does not read when it samples
 3) exponential and inverse-sigmoid decay besides the linear one
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from seqforge import objectives, ranges
from seqforge.data.corpus import Corpus
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models import kinds
from seqforge.models.kinds import AnyGenerator, GeneratorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import mask_of, read_own, uniform


@dataclass(frozen=True)
class ScheduledSamplingConfig:
    """`seqforge train scheduled_sampling`.

    Args:
        generator: its kind and sizes
        mle: as for likelihood; patience counts validation NLL, which rises as less truth is read: 0 trains all epochs
        monitor: what is measured meanwhile
        decay: how the share of true tokens falls with the epoch i
        slope: linear: 1 - slope * i (SeqGAN: 0.002)
        k: exponential: k^i, k below 1; inverse-sigmoid: k / (k + exp(i / k)), k at least 1
        least: the share does not fall below this
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    mle: MLEConfig = field(default_factory=MLEConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    decay: Literal["linear", "exponential", "inverse-sigmoid"] = "linear"
    slope: float = 0.002
    k: float = 0.99
    least: float = 0.0

    def __post_init__(self):
        if self.decay not in ("linear", "exponential", "inverse-sigmoid"):
            raise ValueError(f"decay is {self.decay!r}, but must be linear, exponential or inverse-sigmoid")
        ranges.check(self, slope="0 or more", least="[0, 1]")
        if self.decay == "exponential" and not 0 < self.k <= 1:
            raise ValueError(f"k is {self.k}, but must lie in (0, 1] for the exponential decay")
        if self.decay == "inverse-sigmoid" and self.k < 1:
            raise ValueError(f"k is {self.k}, but must be at least 1 for the inverse-sigmoid decay (such as --k 20)")
        mle.without(self.mle, "scheduled sampling", "average")


def true_share(config: ScheduledSamplingConfig, epoch: int) -> float:
    """Probability that the generator reads the true token in this epoch (Bengio et al. 2015, section 2.4)."""
    if config.decay == "linear":
        share = 1 - config.slope * epoch
    elif config.decay == "exponential":
        share = config.k**epoch
    else:
        share = config.k / (config.k + math.exp(min(epoch / config.k, 700)))
    return max(config.least, share)


def train(config: ScheduledSamplingConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Likelihood of the data given what the generator read; the run keeps it as "generator"."""
    seed = derive_seed(run.seed, "generator")
    generator = kinds.make(config.generator, corpus.vocab_size, corpus.eos_id, corpus.start_id, seed)
    run.keep("generator", generator.to(run.device))
    options, train = config.mle, corpus.train
    optimizer = torch.optim.AdamW(
        mle.trainable(generator), lr=options.lr, weight_decay=options.weight_decay, fused=True
    )
    run.keep("optimizer", optimizer)
    best, order, coin = run.keep("best", mle.Best()), run.rng("order"), run.rng("coin")

    for epoch in run.loop("scheduled sampling", options.epochs):
        share = true_share(config, epoch)
        rows = torch.randperm(len(train), generator=order) if options.shuffle else torch.arange(len(train))
        total = 0.0
        for batch in (train[r] for r in rows.to(run.device).split(options.batch)):
            own = uniform(tuple(batch.ids.shape), coin, run.device) >= share
            read = read_own(generator.eval(), batch.ids, own, uniform(tuple(own.shape), run.rng("own"), run.device))
            mask = mask_of(batch.lengths, corpus.max_length)
            weight = objectives.mle_weight(mask)
            generator.train()
            smoothing, precision = options.label_smoothing, run.precision
            loss, logp = weighted_nll(generator, batch.ids, batch.lengths, weight, read, smoothing, precision=precision)
            mle.update(generator, optimizer, loss, options.clip)
            total -= float(logp.sum())
        run.tokens += int(train.lengths.sum())
        nll_valid = mle.validation_nll(generator.eval(), corpus.valid)
        best.update(nll_valid, generator)
        if options.lr_decay < 1 and best.age:
            optimizer.param_groups[0]["lr"] *= options.lr_decay
        nll_read = total / float(train.lengths.sum())
        run.log("scheduled sampling", "train", epoch=epoch, true_share=share, nll_read=nll_read, nll_valid=nll_valid)
        run.check("scheduled sampling", "generator", generator)
        if config.monitor.every and epoch % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "scheduled sampling")
        if options.patience and best.age >= options.patience:
            run.finish("scheduled sampling")
    if run.once("chosen") and options.patience and best.weights:
        generator.load_state_dict(best.weights)
    if run.once("measured"):
        mle.measure(generator.eval(), corpus, config.monitor, run, "scheduled sampling")
    run.checkpoint(tag="final")
    return generator
