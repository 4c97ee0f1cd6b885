"""PG-BLEU: a generator trained by policy gradient on its BLEU against real sequences, through the rollouts of SeqGAN.

    seqforge train pg_bleu --recipe pg-bleu-oracle

Source: Yu et al. 2017, section 5.1 (baseline). Differs from the authors' code:
 1) smoothing method 1 by default; theirs has none, which gives nearly every sampled sequence of the oracle a BLEU of 0
 2) the references are drawn once for the run; any number of rollouts (theirs: 1)
 3) null controls: --reward constant, random, shuffled
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from seqforge import objectives, ranges, rewards
from seqforge.data.corpus import Corpus, Split
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MonitorConfig
from seqforge.metrics.bleu import Smoothing, sentence_scores
from seqforge.metrics.ngrams import References, Texts
from seqforge.models import kinds
from seqforge.models.kinds import AnyGenerator, GeneratorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import mask_of, uniform


@dataclass(frozen=True)
class PGBLEUConfig:
    """`seqforge train pg_bleu`.

    Args:
        generator: its kind and sizes
        mle: pre-training of the generator
        monitor: what is measured meanwhile
        counterpart: likelihood that goes on, for the verdict alone, where mle ended while it still improved;
            counterpart.epochs 0: none
        rounds: generator steps (SeqGAN's baseline: 800)
        batch: sequences a step (SeqGAN: 64)
        rollouts: completions of every prefix; 0 gives every token the BLEU of its whole sequence (SeqGAN's baseline: 1)
        reward: BLEU, or a null control in its place
        order: longest n-gram counted (SeqGAN's baseline: 3)
        smoothing: of n-gram counts of 0
        references: share of the training set that samples are held to (SeqGAN's baseline: 0.4)
        baseline: what is taken off the action values
        reduction: of the policy-gradient loss over its tokens
        lr: Adam's step size
        clip: largest global gradient norm
        teacher_forcing: likelihood steps on real data after every step
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    mle: MLEConfig = field(default_factory=MLEConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    counterpart: CounterpartConfig = field(default_factory=CounterpartConfig)
    rounds: int = 200
    batch: int = 64
    rollouts: int = 1
    reward: Literal["bleu", "constant", "random", "shuffled"] = "bleu"
    order: int = 3
    smoothing: Smoothing = "method1"
    references: float = 0.4
    baseline: objectives.Baseline = "none"
    reduction: objectives.Reduction = "sum"
    lr: float = 0.001
    clip: float = 5.0
    teacher_forcing: int = 0

    def __post_init__(self):
        counts = {"rounds": 0, "batch": 1, "rollouts": 0, "order": 1, "teacher_forcing": 0}
        ranges.check(self, **ranges.at_least(counts), lr="above 0", clip="above 0", references="(0, 1]")
        if self.reward == "constant" and self.baseline != "none" and self.rounds and not self.teacher_forcing:
            raise ValueError(
                f"reward constant with baseline {self.baseline} leaves no gradient at all; use --baseline none, or "
                "--reward shuffled"
            )


def bleu_scorer(real: Split, order: int, smoothing: Smoothing, eos_id: int | None) -> rewards.Scorer:
    """BLEU-`order` (B,) of sequences against `real`; end tokens are not words."""
    references = References(_texts(real.ids, real.lengths, eos_id), orders=order)

    def score(ids: Tensor, lengths: Tensor) -> Tensor:
        found = sentence_scores(_texts(ids, lengths, eos_id), references, (order,), smoothing)[order]
        return torch.from_numpy(found).float().to(ids.device)

    return score


def _texts(ids: Tensor, lengths: Tensor, eos_id: int | None) -> Texts:
    last = ids.gather(1, (lengths - 1)[:, None]).squeeze(1)
    words = lengths if eos_id is None else lengths - (last == eos_id).long()
    return Texts.from_ids(ids.cpu().numpy(), words.cpu().numpy())


def train(config: PGBLEUConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Pre-train by likelihood, then ascend the expected BLEU; the run keeps the generator as "generator"."""
    seed = derive_seed(run.seed, "generator")
    generator = kinds.make(config.generator, corpus.vocab_size, corpus.eos_id, corpus.start_id, seed)
    run.keep("generator", generator.to(run.device))
    best = mle.pretrain(generator, config.mle, config.monitor, corpus, run)
    mle.opponent(generator, best, config.counterpart, corpus, run)
    if run.once("pre-trained"):
        mle.measure(generator, corpus, config.monitor, run, "mle")
        run.checkpoint(tag="pre-trained")
    if config.rounds:  # else the end is the same checkpoint
        run.drop(mle.COUNTERPART)
    optimizer = run.keep("generator.optimizer", torch.optim.Adam(mle.trainable(generator), lr=config.lr, fused=True))
    pick = torch.Generator().manual_seed(derive_seed(run.seed, "references"))
    count = max(1, round(config.references * len(corpus.train)))
    real = corpus.train[torch.randperm(len(corpus.train), generator=pick)[:count].to(run.device)]
    score, order = bleu_scorer(real, config.order, config.smoothing, corpus.eos_id), run.rng("teacher_forcing")

    for round_ in run.loop("policy gradient", config.rounds):
        noise = uniform((config.batch, corpus.max_length), run.rng("samples"), run.device)
        samples, trail = rewards.sample_with_trail(generator, noise, rollouts=config.rollouts)
        mask = mask_of(samples.lengths, corpus.max_length)
        q = rewards.action_values(config.reward, generator, samples, trail, score, config.rollouts, run.rng)  # (B,T)
        weight = objectives.reinforce_weight(objectives.advantage(q, mask, config.baseline), mask, config.reduction)
        loss, _ = weighted_nll(generator, samples.ids, samples.lengths, weight, precision=run.precision)
        norm = float(mle.update(generator, optimizer, loss, config.clip))
        for _ in range(config.teacher_forcing):
            rows = torch.randint(len(corpus.train), (config.batch,), generator=order).to(run.device)
            loss, _ = mle.likelihood_loss(generator, corpus.train[rows], config.mle.label_smoothing, run.precision)
            mle.update(generator, optimizer, loss, config.clip)
        run.tokens += int(mask.sum())
        bleu = float(score(samples.ids, samples.lengths).mean())
        entropy = float(-samples.logp.sum() / mask.sum())
        run.log("policy gradient", "train", round=round_, bleu=bleu, entropy=entropy, gradient_norm=norm)
        run.check("policy gradient", "generator", generator)
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "policy gradient")
    if run.once("measured"):
        mle.measure(generator, corpus, config.monitor, run, "policy gradient")
    run.checkpoint(tag="final")
    return generator
