"""SeqGAN: a generator trained by policy gradient on a discriminator's verdict, estimated by Monte-Carlo rollouts.

    seqforge train seqgan --recipe seqgan-oracle

Source: Yu, Zhang, Wang and Yu, AAAI 2017 (arXiv 1609.05473), Algorithm 1. Differs from the authors' code:
 1) rollouts fork the states that sampling produced and no prefix is read twice; the last token's value, which needs no
    rollout, is scored once instead of N times
 2) their lagged rollout policy (0.8) is never used, as the graph reads the current weights; here `rollout_lag` works,
    and its default 0 is what their code does
 3) the discriminator has one logit for their two; its output penalty is half theirs, which is the same penalty
 4) a batch of the discriminator has as many real as fake rows; theirs is a random mix
 5) a baseline, the mean loss and interleaved teacher forcing are options; their code has none (`baseline none`,
    `reduction sum`, `teacher_forcing 0`)
 6) null controls: --reward constant, random, shuffled, frozen
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from seqforge import discriminate, objectives, ranges, rewards
from seqforge.data.corpus import Corpus
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MonitorConfig
from seqforge.models import kinds
from seqforge.models.kinds import AnyGenerator, DiscriminatorConfig, GeneratorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import mask_of, uniform


@dataclass(frozen=True)
class SeqGANConfig:
    """`seqforge train seqgan`. The defaults take minutes on a laptop; SeqGAN's own numbers are in brackets and in the
    recipe seqgan-oracle-published.

    Args:
        generator: its kind and sizes
        discriminator: its kind and sizes (SeqGAN: a CNN)
        mle: pre-training of the generator
        monitor: what is measured meanwhile
        counterpart: likelihood that goes on, for the verdict alone, where mle ended while it still improved;
            counterpart.epochs 0: none
        rounds: adversarial rounds (SeqGAN: 200)
        g_steps: generator steps a round (SeqGAN: 1)
        batch: sequences a generator step (SeqGAN: 64)
        rollouts: completions of every prefix; 0 gives every token the score of its whole sentence (SeqGAN: 16)
        rollout_lag: rollout policy = lag * itself + (1 - lag) * generator after each round; 0 is the generator itself
        reward: the discriminator's p(real), or a null control in its place
        baseline: what is taken off the action values (SeqGAN: none)
        reduction: of the policy-gradient loss over its tokens (SeqGAN's code: sum)
        lr: Adam's step size in the adversarial phase (SeqGAN: 0.01)
        clip: largest global gradient norm (SeqGAN: 5)
        teacher_forcing: likelihood steps on real data after every generator step (SeqGAN: 0)
        d_pretrain: rounds of discriminator pre-training (SeqGAN: 50)
        d_steps: fresh sets of fakes a round (SeqGAN: 5)
        d_epochs: passes over each set (SeqGAN: 3)
        d_samples: most real and fake sequences in a set; 0: as many as the training set has (SeqGAN: 9,984)
        d_batch: rows a discriminator step, half of them real (SeqGAN: 64)
        d_lr: Adam's step size (SeqGAN: 0.0001)
        d_weight_decay: decoupled decay of all its weights, per step, times d_lr (SeqGAN: 0)
        d_l2: penalty on the output layer (SeqGAN: 0.2 on two columns, 0.1 on their difference)
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    mle: MLEConfig = field(default_factory=MLEConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    counterpart: CounterpartConfig = field(default_factory=CounterpartConfig)
    rounds: int = 60
    g_steps: int = 1
    batch: int = 64
    rollouts: int = 8
    rollout_lag: float = 0.0
    reward: rewards.Reward = "discriminator"
    baseline: objectives.Baseline = "leave-one-out"
    reduction: objectives.Reduction = "sum"
    lr: float = 0.001
    clip: float = 5.0
    teacher_forcing: int = 0
    d_pretrain: int = 5
    d_steps: int = 1
    d_epochs: int = 1
    d_samples: int = 2048
    d_batch: int = 128
    d_lr: float = 1e-3
    d_l2: float = 0.1
    d_weight_decay: float = 0.0

    def __post_init__(self):
        counts = {"g_steps": 0, "rounds": 0, "batch": 1, "rollouts": 0, "teacher_forcing": 0, "d_pretrain": 0}
        counts |= {"d_steps": 0, "d_epochs": 1, "d_samples": 0, "d_batch": 2}
        ranges.check(self, **ranges.at_least(counts), lr="above 0", clip="above 0", d_lr="above 0")
        ranges.check(self, rollout_lag="[0, 1)", d_l2="0 or more", d_weight_decay="0 or more")
        if self.reward == "constant" and self.baseline != "none" and self.rounds and not self.teacher_forcing:
            raise ValueError(
                f"reward constant with baseline {self.baseline} leaves no gradient at all; use --baseline none, or "
                "--reward shuffled"
            )

    @property
    def judged(self) -> bool:
        """Whether the reward asks the discriminator anything."""
        return self.reward not in ("constant", "random")


def train(config: SeqGANConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Pre-train both players, then Algorithm 1; the run keeps them as "generator" and "discriminator"."""
    seeds = [derive_seed(run.seed, name) for name in ("generator", "discriminator")]
    generator = kinds.make(config.generator, corpus.vocab_size, corpus.eos_id, corpus.start_id, seeds[0])
    discriminator = kinds.make_discriminator(config.discriminator, corpus.vocab_size, corpus.max_length, seeds[1])
    run.keep("generator", generator.to(run.device))
    run.keep("discriminator", discriminator.to(run.device))
    d_optimizer = torch.optim.AdamW(
        discriminator.parameters(), lr=config.d_lr, weight_decay=config.d_weight_decay, fused=True
    )
    run.keep("discriminator.optimizer", d_optimizer)

    best = mle.pretrain(generator, config.mle, config.monitor, corpus, run)
    mle.opponent(generator, best, config.counterpart, corpus, run)
    for _ in run.loop("discriminator", config.d_pretrain if config.judged else 0):
        discriminate.train_on_fresh(discriminator, d_optimizer, generator, corpus, config, run, "discriminator", 1)
    if run.once("pre-trained"):
        mle.measure(generator, corpus, config.monitor, run, "mle")
        run.checkpoint(tag="pre-trained")
    if not config.rounds:
        run.checkpoint(tag="final")
        return generator
    run.drop(mle.COUNTERPART)

    optimizer = torch.optim.Adam(mle.trainable(generator), lr=config.lr, fused=True)
    run.keep("generator.optimizer", optimizer)
    policy = run.keep("rollout_policy", copy.deepcopy(generator).to(run.device)) if config.rollout_lag else generator
    score = discriminate.Score(discriminator, run.precision)
    order = run.rng("teacher_forcing")

    for round_ in run.loop("adversarial", config.rounds):
        for _ in range(config.g_steps):
            noise = uniform((config.batch, corpus.max_length), run.rng("samples"), run.device)
            samples, trail = rewards.sample_with_trail(generator, noise, rollouts=config.rollouts)
            mask = mask_of(samples.lengths, corpus.max_length)
            trail = rewards.policy_trail(policy, generator, samples, trail)
            q = rewards.action_values(config.reward, policy, samples, trail, score, config.rollouts, run.rng)  # (B,T)
            weight = objectives.reinforce_weight(objectives.advantage(q, mask, config.baseline), mask, config.reduction)
            pg_loss, _ = weighted_nll(generator, samples.ids, samples.lengths, weight, precision=run.precision)
            norm = mle.update(generator, optimizer, pg_loss, config.clip)
            for _ in range(config.teacher_forcing):
                rows = torch.randint(len(corpus.train), (config.batch,), generator=order).to(run.device)
                loss, _ = mle.likelihood_loss(generator, corpus.train[rows], config.mle.label_smoothing, run.precision)
                mle.update(generator, optimizer, loss, config.clip)
            run.tokens += int(mask.sum())
            reward = float(q.sum() / mask.sum())
            entropy = float(-samples.logp.sum() / mask.sum())
            run.log(
                "adversarial", "train", round=round_, reward_mean=reward, entropy=entropy, gradient_norm=float(norm)
            )
        run.check("adversarial", "generator", generator)
        if config.rollout_lag:
            drift(policy, generator, config.rollout_lag)
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "adversarial")
        if config.judged and config.reward != "frozen" and config.d_steps:
            discriminate.train_on_fresh(
                discriminator, d_optimizer, generator, corpus, config, run, "adversarial", config.d_steps
            )
    if run.once("measured"):
        mle.measure(generator, corpus, config.monitor, run, "adversarial")
    run.checkpoint(tag="final")
    return generator


@torch.no_grad()
def drift(policy: nn.Module, generator: nn.Module, lag: float) -> None:
    """policy <- lag * policy + (1 - lag) * generator, every parameter."""
    for slow, fast in zip(policy.parameters(), generator.parameters(), strict=True):
        slow.lerp_(fast, 1 - lag)
