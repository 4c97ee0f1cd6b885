"""LeakGAN: the discriminator leaks its feature of every unfinished sequence, and a manager sets goals by it.

    seqforge train leakgan --recipe leakgan-oracle20

Source: Guo, Lu, Cai, Zhang, Yu and Wang, AAAI 2018 (arXiv 1709.08624). Differs from the authors' code:
 1) cosines are taken per (sentence, step); theirs are means over everything, so that mean reward multiplies mean cosine
    and no sentence's reward reaches it
 2) rewards are rescaled by their rank; theirs by the order of a dict, with a mean that no discriminator changes
 3) one definition of which goal drives which token, in sampling, rollouts and teacher forcing (models/hierarchical.py);
    theirs differ by one step
 4) the sliding window of goals (the paper); `generator.goals block` is their code's
 5) the worker's reward is averaged over the last c goals (the paper); theirs is the change since the block began, which
    `block` brings back
 6) the initial goal does not depend on the batch, so that any number of sequences can be drawn
 7) windows of the discriminator lie inside the prefix; theirs see padding
 8) the first two tokens are drawn at the same temperature as the others; theirs at inverse temperature 1.5, which
    `opening` brings back for all that training draws: what is measured has one temperature
 9) real sequences of the discriminator are the training set's; theirs are fresh ones of the oracle, as with `d_fresh`
10) interleaved likelihood epochs in every task (the paper); their synthetic code has none (`mle_every 0`)
11) one optimiser a module and phase, gradients of both modules from one pass; null controls by --reward
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seqforge import discriminate, hierarchy, objectives, ranges, rewards
from seqforge.data.corpus import Corpus, Split
from seqforge.likelihood import weighted_nll_of
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models.discriminators import CNNConfig, CNNDiscriminator
from seqforge.models.generator import Generator
from seqforge.models.hierarchical import HierarchicalConfig, HierarchicalGenerator, Unrolled
from seqforge.run import Run, derive_seed
from seqforge.sampling import Filter, mask_of, uniform


@dataclass(frozen=True)
class LeakGANConfig:
    """`seqforge train leakgan`. The defaults take minutes on a laptop; LeakGAN's own numbers are in brackets and in the
    recipes leakgan-...-published.

    Args:
        generator: sizes of manager and worker
        discriminator: sizes of the CNN, whose features are leaked
        mle: pre-training of both modules (LeakGAN: 80 epochs, lr 0.0015)
        monitor: what is measured meanwhile
        d_every: epochs of pre-training between two trainings of the discriminator (LeakGAN: 8)
        d_pretrain: fresh sets of fakes in each of those (LeakGAN: 5)
        rounds: adversarial rounds (LeakGAN: 800)
        g_steps: generator steps a round (LeakGAN: 1)
        batch: sequences a generator step (LeakGAN: 64)
        rollouts: completions of every `generator.step`-th prefix; 0 gives a sentence's score to all (LeakGAN: 4)
        reward: the discriminator's p(real), or a null control in its place
        delta: slope of the rescaling of rewards by rank (LeakGAN: 16)
        extrinsic: share of the rescaled reward added to the worker's own (LeakGAN: 0; FuN, Vezhnevets 2017: 1 or less)
        baseline: what is taken off the worker's rewards (LeakGAN: none)
        temperature: of the samples of a generator step (LeakGAN: 1; 1.25 on captions)
        d_temperature: of the discriminator's fakes (LeakGAN: 0.667)
        opening: of the first two tokens of both; 0: as the others (LeakGAN: 0.667)
        lr: Adam's step size of both modules in the adversarial phase (LeakGAN: 0.0015)
        clip: largest gradient norm of each module (LeakGAN: 5)
        mle_every: adversarial rounds between two spells of likelihood; 0: none (LeakGAN: 15)
        mle_steps: steps of such a spell; 0: a whole epoch (LeakGAN: an epoch; a twentieth on captions)
        mle_lr: Adam's step size of those; 0: mle.lr, which may undo a pre-training that ended on smaller steps
            (LeakGAN: as pre-training)
        d_steps: fresh sets of fakes a round (LeakGAN: 5)
        d_epochs: passes over each set (LeakGAN: 3)
        d_samples: most real and fake sequences in a set; 0: as many as the training set has (LeakGAN: 9,984)
        d_fresh: the real ones of every set are drawn anew from the oracle, which only its data has (LeakGAN: yes)
        d_batch: rows a discriminator step, half of them real (LeakGAN: 64)
        d_lr: Adam's step size (LeakGAN: 0.00005)
        d_l2: penalty on the output layer (LeakGAN: 0)
    """

    generator: HierarchicalConfig = field(default_factory=HierarchicalConfig)
    discriminator: CNNConfig = field(default_factory=CNNConfig)
    mle: MLEConfig = field(default_factory=MLEConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    d_every: int = 5
    d_pretrain: int = 1
    rounds: int = 60
    g_steps: int = 1
    batch: int = 64
    rollouts: int = 4
    reward: rewards.Reward = "discriminator"
    delta: float = 16.0
    extrinsic: float = 0.0
    baseline: objectives.Baseline = "none"
    temperature: float = 1.0
    d_temperature: float = 1.0
    opening: float = 0.0
    lr: float = 0.001
    clip: float = 5.0
    mle_every: int = 15
    mle_steps: int = 0
    mle_lr: float = 0.0
    d_steps: int = 1
    d_epochs: int = 1
    d_samples: int = 2048
    d_fresh: bool = False
    d_batch: int = 128
    d_lr: float = 1e-3
    d_l2: float = 0.1

    def __post_init__(self):
        counts = {"d_every": 1, "d_pretrain": 0, "rounds": 0, "g_steps": 1, "batch": 1, "rollouts": 0, "mle_every": 0}
        counts |= {"mle_steps": 0, "d_steps": 0, "d_epochs": 1, "d_samples": 0, "d_batch": 2}
        ranges.check(self, **ranges.at_least(counts), delta="above 0", temperature="above 0", d_temperature="above 0")
        ranges.check(self, lr="above 0", clip="above 0", d_lr="above 0", extrinsic="0 or more", d_l2="0 or more")
        ranges.check(self, mle_lr="0 or more", opening="0 or more")
        mle.without(self.mle, "leakgan", "label_smoothing", "average")


class Modules:
    """An optimiser for each module, and one clipped step of both."""

    def __init__(self, generator: HierarchicalGenerator, lr: float, weight_decay: float = 0.0):
        self.parts = (generator.manager_parameters(), generator.worker_parameters())
        self.optimizers = [torch.optim.AdamW(p, lr=lr, weight_decay=weight_decay, fused=True) for p in self.parts]

    def update(self, loss: Tensor, clip: float) -> list[float]:
        """Descend; the gradient norms of manager and worker before clipping."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms = [float(nn.utils.clip_grad_norm_(part, clip)) for part in self.parts]
        for optimizer in self.optimizers:
            optimizer.step()
        return norms

    def slow(self, factor: float) -> None:
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] *= factor

    def keep(self, run: Run, name: str) -> "Modules":
        for module, optimizer in zip(("manager", "worker"), self.optimizers, strict=True):
            run.keep(f"{name}.{module}", optimizer)
        return self


def train(config: LeakGANConfig, corpus: Corpus, run: Run) -> HierarchicalGenerator:
    """Pre-train all three in turn, then the adversarial stage; the run keeps "generator" and "discriminator".

    Raises ValueError where d_fresh asks for an oracle that the data does not have.
    """
    oracle = corpus.oracle if config.d_fresh and isinstance(corpus.oracle, Generator) else None
    if config.d_fresh and oracle is None:
        raise ValueError(f"d_fresh draws real sequences from an oracle, but {corpus.source} has none; leave it out")
    seeds = [derive_seed(run.seed, name) for name in ("generator", "discriminator")]
    discriminator = CNNDiscriminator.of(config.discriminator, corpus.vocab_size, corpus.max_length, seeds[1])
    generator = HierarchicalGenerator.of(config.generator, discriminator, corpus.eos_id, corpus.start_id, seeds[0])
    run.keep("generator", generator.to(run.device))
    run.keep("discriminator", discriminator.to(run.device))
    generator.leak(discriminator, run.precision)
    d_optimizer = run.keep(
        "discriminator.optimizer", torch.optim.Adam(discriminator.parameters(), lr=config.d_lr, fused=True)
    )
    fakes = Filter(temperature=config.d_temperature, opening=config.opening or None)

    def train_discriminator(phase: str, sets: int) -> None:
        if sets:
            args = (discriminator, d_optimizer, generator, corpus, config, run, phase, sets, fakes)
            discriminate.train_on_fresh(*args, oracle=oracle)
            generator.leak(discriminator, run.precision)

    pretrain(generator, discriminator, config, corpus, run, train_discriminator)
    if run.once("pre-trained"):
        mle.measure(generator, corpus, config.monitor, run, "mle")
        run.checkpoint(tag="pre-trained")

    players = Modules(generator, config.lr).keep(run, "adversarial")
    real = Modules(generator, config.mle_lr or config.mle.lr, config.mle.weight_decay).keep(run, "interleaved")
    score, order = discriminate.Score(discriminator, run.precision), run.rng("teacher_forcing")
    generator.eval()
    for round_ in run.loop("adversarial", config.rounds):
        for _ in range(config.g_steps):
            stats, tokens = step(
                generator, players, score, config, corpus.max_length, run.rng, run.device, run.precision
            )
            run.tokens += tokens
            run.log("adversarial", "train", round=round_, **stats)
        if config.mle_every and (round_ + 1) % config.mle_every == 0:
            generator.train()
            rows = torch.randperm(len(corpus.train), generator=order).to(run.device).split(config.mle.batch)
            for some in rows[: config.mle_steps or None]:
                real.update(likelihood_loss(generator, corpus.train[some], run.precision)[0], config.mle.clip)
            generator.eval()
        run.check("adversarial", "generator", generator)
        train_discriminator("adversarial", 0 if config.reward == "frozen" else config.d_steps)
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:  # with the features that are saved
            mle.measure(generator, corpus, config.monitor, run, "adversarial")
    if run.once("measured"):
        if config.rounds:
            mle.measure(generator, corpus, config.monitor, run, "adversarial")
        run.write_json("hierarchy.json", {"step": run.step, **hierarchy.described(generator, corpus, run.seed)})
    run.checkpoint(tag="final")
    return generator


def step(
    generator: HierarchicalGenerator,
    players: Modules,
    score: rewards.Scorer,
    config: LeakGANConfig,
    horizon: int,
    rng: Callable[[str], torch.Generator],
    device: torch.device,
    precision: str = "fp32",
) -> tuple[dict[str, float], int]:
    """One adversarial step of both modules on fresh samples: what to log of it, and the tokens drawn."""
    noise = uniform((config.batch, horizon), rng("samples"), device)
    drawn = Filter(temperature=config.temperature, opening=config.opening or None)
    samples, trail = rewards.sample_with_trail(generator, noise, drawn)
    value, blocks = rewards.block_values(
        config.reward, generator, samples, trail, score, config.rollouts, generator.step, rng
    )  # (B,K)
    reward = objectives.rank_rescale(value, blocks, config.delta)
    seen = generator.unroll(samples.ids)
    of_step = (generator, seen, samples.ids, samples.lengths, reward, config, precision)
    loss, cosine, intrinsic = adversarial_loss(*of_step)
    norms = players.update(loss, config.clip)
    tokens = int(samples.lengths.sum())
    return {
        "reward_mean": float(value.sum() / blocks.sum()),
        "manager_cosine": float(cosine),
        "intrinsic_reward": float(intrinsic),
        "entropy": float(-samples.logp.sum() / tokens),
        "manager_norm": norms[0],
        "worker_norm": norms[1],
    }, tokens


def pretrain(
    generator: HierarchicalGenerator,
    discriminator: CNNDiscriminator,
    config: LeakGANConfig,
    corpus: Corpus,
    run: Run,
    train_discriminator: Callable[[str, int], None],
) -> None:
    """Manager and worker by likelihood on the training set, the discriminator every d_every epochs before them."""
    both = Modules(generator, config.mle.lr, config.mle.weight_decay).keep(run, "mle")
    best, rng = run.keep("mle.best", mle.Best()), run.rng("mle.order")
    players = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    train = corpus.train
    for epoch in run.loop("mle", config.mle.epochs):
        if epoch % config.d_every == 0:
            generator.eval()
            train_discriminator("mle", config.d_pretrain)
        generator.train()
        order = torch.randperm(len(train), generator=rng) if config.mle.shuffle else torch.arange(len(train))
        nll, cosine = torch.zeros((), device=run.device), 0.0
        for rows in order.to(run.device).split(config.mle.batch):
            loss, logp, cos = likelihood_loss(generator, train[rows], run.precision)
            both.update(loss, config.mle.clip)
            nll -= logp.sum()
            cosine += float(cos) * len(rows) / len(train)
        run.tokens += int(train.lengths.sum())
        generator.eval()
        nll_train, nll_valid = float(nll / train.lengths.sum()), mle.validation_nll(generator, corpus.valid)
        best.update(nll_valid, players)
        if config.mle.lr_decay < 1 and best.age:
            both.slow(config.mle.lr_decay)
        run.log("mle", "train", epoch=epoch, nll_train=nll_train, nll_valid=nll_valid, manager_cosine=cosine)
        if config.monitor.every and epoch % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "mle")
        if config.mle.patience and best.age >= config.mle.patience:
            run.finish("mle")
    if run.once("mle.chosen") and config.mle.patience and best.weights:
        players.load_state_dict(best.weights)
        generator.leak(discriminator, run.precision)
    generator.eval()


def likelihood_loss(
    generator: HierarchicalGenerator, real: Split, precision: str = "fp32"
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of both modules' losses on real sequences: the worker's mean -log p (nats per token) and the manager's
    mean -cos(F(s_{t+c}) - F(s_t), g_t); also log p (B,T) and that cosine, without gradient.
    """
    mask = mask_of(real.lengths, real.ids.shape[1])
    seen = generator.unroll(real.ids)
    weight = objectives.mle_weight(mask)
    nll, logp = weighted_nll_of(generator.head, seen.hidden, real.ids, real.lengths, weight, precision)
    cosine = objectives.goal_cosine(seen.goals, seen.features, real.lengths, generator.step)
    at = mask if not generator.by_block else mask & block_begins(mask, generator.step)
    mean = (cosine * at).sum() / at.sum()
    return nll - mean, logp, mean.detach()


def block_begins(mask: Tensor, step: int) -> Tensor:
    """(T,) where a block begins: t = 0, c, 2c, ..."""
    return torch.arange(mask.shape[1], device=mask.device) % step == 0


def adversarial_loss(
    generator: HierarchicalGenerator,
    seen: Unrolled,
    ids: Tensor,
    lengths: Tensor,
    reward: Tensor,
    config: LeakGANConfig,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of both modules' losses on samples; also the mean cosine of the goals and the mean intrinsic reward.

    Manager: mean over blocks of -reward cos(F(s_{t+c}) - F(s_t), g_t), t where the block begins. Worker: mean over
    tokens of -r log p, r the intrinsic reward. reward (B,K): the rescaled one of every block. Source: Guo et al. 2018.
    """
    mask, step = mask_of(lengths, ids.shape[1]), generator.step
    cosine = objectives.goal_cosine(seen.goals, seen.features, lengths, step)[:, ::step]  # (B,K)
    blocks = mask[:, ::step].sum()
    with torch.no_grad():
        own = objectives.intrinsic_reward(seen.goals, seen.features, mask, step, generator.by_block)  # (B,T)
        extrinsic = reward.repeat_interleave(step, dim=1)[:, : mask.shape[1]]
        total = objectives.advantage(own + config.extrinsic * extrinsic, mask, config.baseline)
    weight = objectives.reinforce_weight(total, mask, "mean")
    worker, _ = weighted_nll_of(generator.head, seen.hidden, ids, lengths, weight, precision)
    manager = -(reward * cosine).sum() / blocks
    return manager + worker, cosine.detach().sum() / blocks, own.sum() / mask.sum()
