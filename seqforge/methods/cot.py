"""Cooperative training: the generator follows, token by token, the exact divergence to a mediator language model.

    seqforge train cot --recipe cot-oracle

Source: Lu, Yu, Zhang and Yu 2018 (arXiv 1804.03782), Algorithm 1. A mediator M learns the mixture of real and generated
sequences by likelihood; the generator G descends KL(G(. | y_<t) || M(. | y_<t)), summed over the whole vocabulary, at
prefixes that it drew itself: no reward, no rollout, no discriminator. Where M is the mixture, G descends the
Jensen-Shannon divergence. Details:
 1) the gradient of a prefix's own probability is left out, as in the authors' code: `gradient local`. `gradient whole`
    adds it (REINFORCE on the divergence still to come), which makes it the gradient of KL(G || M) of whole sequences
 2) every token past the end is masked, and within a batch of the mediator a token weighs the same on both sides, so
    that M is the mixture at any lengths
 3) the mediator's dropout is off while the generator reads it
 4) a start from likelihood, early stopping on validation NLL and an average of the weights are options (theirs: none)
 5) the mediators to compare with: `mediator_reads real`, a teacher of real text only; `m_pretrain` with `m_steps 0`,
    one that is trained first, taken at its lowest validation NLL, and stands still
 6) after a start from likelihood that start is a candidate too: `patience` never keeps a worse generator by validation
 7) `kl forward` descends KL(M || G) in place of KL(G || M), at the generator's prefixes all the same
"""

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from seqforge import objectives, ranges
from seqforge.data.corpus import Corpus, Split
from seqforge.likelihood import weighted_distillation, weighted_divergence, weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MonitorConfig
from seqforge.models import kinds
from seqforge.models.generator import Generator
from seqforge.models.kinds import AnyGenerator, GeneratorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import Samples, mask_of, sample, uniform


@dataclass(frozen=True)
class MediatorConfig(GeneratorConfig):
    """Sizes of the mediator.

    Args:
        embedding: width of the token embedding
        hidden: width of the LSTM, or of the Transformer's layers
        dropout: share of units dropped while the mediator learns; the generator reads it without
    """

    group: ClassVar[str] = "mediator"

    embedding: int = 64
    hidden: int = 64
    dropout: float = 0.2


@dataclass(frozen=True)
class CoTConfig:
    """`seqforge train cot`. The paper's numbers are in brackets.

    Args:
        generator: its kind and sizes
        mediator: its kind and sizes
        mle: likelihood before the first round; mle.epochs 0: none (CoT: none)
        counterpart: an MLE of the same size for the verdict, where there is none or it ended while it still improved;
            counterpart.epochs 0: none
        monitor: what is measured meanwhile, every so many rounds
        rounds: times that the steps below are followed by a look at the validation set
        steps: turns of mediator and generator a round
        batch: sequences a step of either (CoT: 64)
        m_steps: mediator steps a turn; 0: it stays as it is (CoT: 1)
        g_steps: generator steps a turn (CoT: 1)
        m_pretrain: rounds of `steps` mediator steps before the first, of which the best by validation is taken (CoT: 0)
        m_patience: of these, rounds without a lower validation NLL before they end; 0: all are carried out
        m_lr_decay: in these, factor on m_lr after a round without a lower validation NLL; it begins anew after them
        mediator_reads: what the mediator learns from (CoT: the mixture)
        kl: reverse: KL(G || M), of the generator to the mediator (CoT); forward: KL(M || G), as a distillation's
        gradient: local: divergence at prefixes taken as given; whole: with what a token does to the prefixes after it
        baseline: what is taken off the divergence still to come, for gradient whole
        lr: Adam's step size of the generator (CoT's code: 0.01)
        m_lr: Adam's step size of the mediator (CoT's code: 0.01)
        m_weight_decay: of the mediator, decoupled, per step, times m_lr
        m_label_smoothing: share of each of the mediator's targets that is spread evenly over the vocabulary (CoT: 0)
        lr_decay: factor on both step sizes after a round without a lower validation NLL; 1 keeps them
        clip: largest global gradient norm of either
        average: decay a step of a moving average of the generator's weights, which is then validated and kept; 0: none
        patience: rounds without a lower validation NLL before it stops and takes the best round's weights, or those it
            started from; 0: none
    """

    from_scratch: ClassVar[bool] = True  # unless told otherwise: --from shares the counterpart

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    mediator: MediatorConfig = field(default_factory=MediatorConfig)
    mle: MLEConfig = field(default_factory=lambda: MLEConfig(epochs=0))
    counterpart: CounterpartConfig = field(default_factory=CounterpartConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    rounds: int = 50
    steps: int = 100
    batch: int = 64
    m_steps: int = 1
    g_steps: int = 1
    m_pretrain: int = 0
    m_patience: int = 0
    m_lr_decay: float = 1.0
    mediator_reads: Literal["mixture", "real"] = "mixture"
    kl: Literal["reverse", "forward"] = "reverse"
    gradient: Literal["local", "whole"] = "local"
    baseline: objectives.Baseline = "leave-one-out"
    lr: float = 0.005
    m_lr: float = 0.005
    m_weight_decay: float = 0.0
    m_label_smoothing: float = 0.0
    lr_decay: float = 1.0
    clip: float = 5.0
    average: float = 0.0
    patience: int = 0

    def __post_init__(self):
        counts = {
            "rounds": 0,
            "steps": 1,
            "batch": 1,
            "m_steps": 0,
            "g_steps": 1,
            "m_pretrain": 0,
            "m_patience": 0,
            "patience": 0,
        }
        ranges.check(self, **ranges.at_least(counts), lr="above 0", m_lr="above 0", clip="above 0")
        ranges.check(self, m_weight_decay="0 or more", lr_decay="(0, 1]", m_lr_decay="(0, 1]", average="[0, 1)")
        ranges.check(self, m_label_smoothing="[0, 1)")
        if self.kl == "forward" and self.gradient == "whole":
            raise ValueError("gradient whole is that of KL(G || M) of whole sequences; leave it out with kl forward")
        if self.rounds and not self.m_steps and not self.m_pretrain:
            raise ValueError("m_steps 0 leaves the mediator as it was drawn; give it --m_pretrain, or --m_steps 1")


def train(config: CoTConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Mediator and generator in turn; the run keeps both. With an average of the weights "generator" is the average,
    and "learner" the generator whose steps it follows.
    """
    seeds = [derive_seed(run.seed, name) for name in ("generator", "mediator")]
    sizes = (corpus.vocab_size, corpus.eos_id, corpus.start_id)
    generator = kinds.make(config.generator, *sizes, seeds[0]).to(run.device)
    if not config.mle.epochs:
        mle.counterpart(generator, config.counterpart, corpus, run)
    run.keep("generator", generator)
    if config.mle.epochs:
        pretrained = mle.pretrain(generator, config.mle, config.monitor, corpus, run)
        mle.opponent(generator, pretrained, config.counterpart, corpus, run)
        if run.once("pre-trained"):
            mle.measure(generator, corpus, config.monitor, run, "mle")
            run.checkpoint(tag="pre-trained")
        run.drop(mle.COUNTERPART)
    mediator = run.keep("mediator", kinds.make(config.mediator, *sizes, seeds[1]).to(run.device))
    learner = run.keep("learner", copy.deepcopy(generator).to(run.device)) if config.average else generator
    optimizer = run.keep("generator.optimizer", torch.optim.Adam(mle.trainable(learner), lr=config.lr, fused=True))
    m_optimizer = run.keep(
        "mediator.optimizer",
        torch.optim.AdamW(mle.trainable(mediator), lr=config.m_lr, weight_decay=config.m_weight_decay, fused=True),
    )
    best, m_best, train = run.keep("best", mle.Best()), run.keep("mediator.best", mle.Best()), corpus.train

    def drawn() -> Samples:
        noise = uniform((config.batch, corpus.max_length), run.rng("samples"), run.device)
        return sample(learner.eval(), noise)

    def teach_mediator() -> Tensor:
        real = train[torch.randint(len(train), (config.batch,), generator=run.rng("real")).to(run.device)]
        fake = drawn() if config.mediator_reads == "mixture" else None
        run.tokens += int(real.lengths.sum()) + (int(fake.lengths.sum()) if fake is not None else 0)
        loss = mediator_loss(mediator.train(), real, fake, run.precision, config.m_label_smoothing)
        mle.update(mediator, m_optimizer, loss, config.clip)
        mediator.eval()
        return loss.detach()

    for round_ in run.loop("mediator", config.m_pretrain):
        m_nll = float(torch.stack([teach_mediator() for _ in range(config.steps)]).mean())
        m_valid = mle.validation_nll(mediator, corpus.valid)
        m_best.update(m_valid, mediator)
        if m_best.age:
            slow(m_optimizer, config.m_lr_decay)
        run.log("mediator", "train", round=round_, mediator_nll=m_nll, mediator_nll_valid=m_valid)
        if config.m_patience and m_best.age >= config.m_patience:
            run.finish("mediator")
    if run.once("mediator.chosen") and m_best.weights:
        mediator.load_state_dict(m_best.weights)
        m_optimizer.state.clear()  # the moments of other weights
        m_optimizer.param_groups[0]["lr"] = config.m_lr
    run.drop("mediator.best")
    if config.mle.epochs and not run.done.get("cooperative") and run.once("start.considered"):
        best.update(mle.validation_nll(generator.eval(), corpus.valid), generator)
    mediator.eval()  # one that stands still is never told again, and a resumed one never was
    for round_ in run.loop("cooperative", config.rounds):
        sums = torch.zeros(3, device=run.device)
        for turn in range(round_ * config.steps, (round_ + 1) * config.steps):
            for _ in range(config.m_steps):
                sums[0] += teach_mediator() / config.m_steps
            for k in range(config.g_steps):
                fake = drawn()
                loss, kl = generator_loss(learner.train(), mediator, fake, config)
                mle.update(learner, optimizer, loss, config.clip)
                tokens = fake.lengths.sum()
                run.tokens += int(tokens)
                sums[1:] += torch.stack([kl.sum(), -fake.logp.sum()]) / tokens / config.g_steps
                if config.average:
                    mle.follow(generator, learner, config.average, turn * config.g_steps + k)
        run.check("cooperative", "generator", learner)
        nll_valid = mle.validation_nll(generator.eval(), corpus.valid)
        best.update(nll_valid, generator)
        if best.age:
            slow(optimizer, config.lr_decay)
            slow(m_optimizer, config.lr_decay)
        m_nll, divergence, entropy = (sums / config.steps).tolist()
        figures = {"nll_valid": nll_valid, "divergence": divergence}
        figures["learner_entropy" if config.average else "entropy"] = entropy  # of what is drawn, not of the average
        run.log("cooperative", "train", round=round_, **figures, **({"mediator_nll": m_nll} if config.m_steps else {}))
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "cooperative")
        if config.patience and best.age >= config.patience:
            run.finish("cooperative")
    if run.once("chosen") and config.patience and best.weights:
        generator.load_state_dict(best.weights)
    if run.once("measured"):
        mle.measure(generator.eval(), corpus, config.monitor, run, "cooperative")
    run.checkpoint(tag="final")
    return generator


def slow(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply its step size."""
    for group in optimizer.param_groups:
        group["lr"] *= factor


def mediator_loss(
    mediator: Generator, real: Split, fake: Samples | None, precision: str = "fp32", smoothing: float = 0.0
) -> Tensor:
    """Mean -log M in nats per token of the batch, real and generated alike (Lu et al. 2018, eq. of J_m); of targets of
    which a share is spread evenly over the vocabulary.
    """
    sides = [real, fake] if fake is not None else [real]
    ids, lengths = torch.cat([s.ids for s in sides]), torch.cat([s.lengths for s in sides])
    weight = objectives.mle_weight(mask_of(lengths, ids.shape[1]))
    return weighted_nll(mediator, ids, lengths, weight, smoothing=smoothing, precision=precision)[0]


def generator_loss(
    generator: Generator, mediator: Generator, fake: Samples, config: CoTConfig
) -> tuple[Tensor, Tensor]:
    """Mean over tokens of KL(G || M) at the prefixes of samples (Lu et al. 2018, eq. of J_g), and those KL (B,T); with
    kl forward of KL(M || G).

    gradient whole: and the REINFORCE term of what is still to come. Its value is then no longer the divergence, whose
    gradient it has.
    """
    mask = mask_of(fake.lengths, fake.ids.shape[1])
    weight = objectives.mle_weight(mask)
    if config.kl == "forward":
        return weighted_distillation(generator, [mediator], fake.ids, fake.lengths, weight)
    loss, kl = weighted_divergence(generator, mediator, fake.ids, fake.lengths, weight)
    if config.gradient == "whole":
        later = objectives.advantage(objectives.still_to_come(kl, mask), mask, config.baseline)
        loss = loss + weighted_nll(generator, fake.ids, fake.lengths, -weight * later)[0]
    return loss, kl
