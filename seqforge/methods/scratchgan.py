"""ScratchGAN: no pre-training; a recurrent discriminator rewards every token, REINFORCE with large batches follows it.

    seqforge train scratchgan --recipe scratchgan-captions

Source: de Masson d'Autume, Rosca, Rae and Mohamed, NeurIPS 2019 (arXiv 1905.09922). Differs from the authors' code:
 1) rewards are given with the discriminator's dropout off; theirs has it on
 2) real sequences are drawn at random; theirs come in the file's order
 3) returns are one pass from the end; theirs is quadratic in the length
 4) past the end nothing enters the loss; theirs adds a constant there. Losses are still means over batch times length,
    so that a token weighs the same in a short sequence as in a long one
 5) `moving published` is the baseline as coded (it keeps a share `decay` of itself, .08, and means over padding too);
    `moving slow` keeps all but that share and means over tokens, `none` has none
 6) the table's pretrained part is trained, as in their code; `freeze` holds it, as the paper's text has it
 7) dropout is of the generator's inputs and outputs while it takes a step, not while it draws, where theirs is of the
    embedding matrix and on in both; the discriminator's mask of its table is one for real and generated rows
 8) weights without a rule in the paper start from a normal cut off at two deviations, of 1 / sqrt(fan in); theirs of
    projections and tables without word vectors are uniform (Glorot), their LSTM biases normal. One layer, too, has
    projections of its own on both sides
 9) `absorbing` takes the pay out of length: where the discriminator is ahead its rewards are below 0, and a sequence
    that ends early has fewer of them, so that samples grow short (Kostrikov et al. 2019, arXiv 1809.02925)
10) `candidates` takes the expectation over the next token by several draws at each place, and `reward_form` says what
    of the discriminator's verdict they are compared by (candidates.py)
11) options: a reward at the end only, clipping, parts of a batch one after the other (`accumulate`), an average of the
    generator's weights, null controls
"""

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from seqforge import discriminate, objectives, ranges, rewards
from seqforge.candidates import relative_worth, share_worth
from seqforge.data.corpus import Corpus, Split
from seqforge.data.vectors import read_vectors
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import CounterpartConfig, MonitorConfig
from seqforge.models.generator import Generator
from seqforge.models.skip_lstm import SkipLSTMConfig, SkipLSTMGenerator
from seqforge.models.token_discriminator import TokenDiscriminator, TokenDiscriminatorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import Prompts, Samples, mask_of, sample, uniform


@dataclass(frozen=True)
class ScratchGANConfig:
    """`seqforge train scratchgan`. The defaults are for a laptop; ScratchGAN's own numbers are in brackets and in the
    recipe scratchgan-news-published.

    Args:
        generator: sizes of the generator
        discriminator: sizes of the discriminator
        monitor: what is measured meanwhile, every so many rounds
        counterpart: an MLE of the same size that the verdict holds it to, not pre-training; counterpart.epochs 0: none
        vectors: file of word vectors in text form that both tables start from; their width is generator.pretrained.
            Not given: glove*.txt or .txt.gz of the data's folder, where there is one; none: none
        freeze: keep those vectors as they are (ScratchGAN's code: no)
        rounds: times that the steps below are followed by a look at the validation set
        steps: steps a round, each of the discriminator's updates and one of the generator (ScratchGAN: 200,000 in all)
        d_steps: updates of the discriminator a step, each on fresh sequences (ScratchGAN: 1)
        batch: sequences a step of either (ScratchGAN: 512)
        accumulate: parts that a batch is cut into, to fit the memory; the same update but for rounding and, with
            dropout, a mask for each part
        prompts: share of the generated sequences that begin with the first tokens of a training sequence, how many is
            drawn evenly; neither player learns from those, but from what the generator puts after them (ScratchGAN: 0)
        reward: the discriminator's, or a null control in its place
        reward_at: tokens: one for each; end: the last token's, for the whole sequence (ScratchGAN: tokens)
        reward_form: probability: 2 p(real) - 1; logit: log p(real) / p(generated); ratio: a candidate's share of all
            candidates' p(real) / p(generated), which covers the data where the others pick from it (MaliGAN's
            normalised weights, Che et al. 2017, arXiv 1702.07983; ScratchGAN: probability)
        power: of those ratios before their shares are taken: between the logit, near 0, and the ratio, 1
        ramp: steps over which power rises from 0, evenly: ratios say little while the discriminator is sure
        candidates: tokens drawn at every place, the sequence's own among them, each of which is rewarded, by how much
            better it is than the others; the expected update is the same, and steadier (ScratchGAN: 1)
        gamma: discount a token (ScratchGAN: 0.23)
        absorbing: a sequence's last reward goes on past its end, so that its length is not chosen by the sign of the
            rewards (ScratchGAN: no)
        moving: how the baseline moves (ScratchGAN's code: published)
        decay: share of itself that the published baseline keeps, or of the new the slow one takes (ScratchGAN: .08)
        lr: Adam's step size of the generator (ScratchGAN: 0.0000959)
        d_lr: Adam's step size of the discriminator (ScratchGAN: 0.00938)
        warmup: steps over which lr rises to its value, evenly; while all words are as likely, what is better than what
            is noise, and a long step collapses onto it (ScratchGAN: 0)
        cooldown: share of all steps, the last ones, over which lr falls to 0, evenly (ScratchGAN: 0)
        beta1: of both Adams (ScratchGAN: 0.5)
        clip: largest gradient norm of the generator; 0: none (ScratchGAN: none)
        average: decay a step of a moving average of the generator's weights, rising to this from .1; it is what is
            validated, measured and kept, while the steps go on from the weights themselves; 0: none (ScratchGAN: none)
        l2: weight of half the squared norm of all the generator's parameters (ScratchGAN: 0)
        d_l2: the same of the discriminator's (ScratchGAN: 0.000001)
    """

    from_scratch: ClassVar[bool] = True  # --from shares the counterpart

    generator: SkipLSTMConfig = field(default_factory=SkipLSTMConfig)
    discriminator: TokenDiscriminatorConfig = field(default_factory=TokenDiscriminatorConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    counterpart: CounterpartConfig = field(default_factory=CounterpartConfig)
    vectors: str | None = None
    freeze: bool = False
    rounds: int = 50
    steps: int = 50
    d_steps: int = 1
    batch: int = 128
    accumulate: int = 1
    prompts: float = 0.0
    reward: rewards.Reward = "discriminator"
    reward_at: Literal["tokens", "end"] = "tokens"
    reward_form: Literal["probability", "logit", "ratio"] = "probability"
    power: float = 1.0
    ramp: int = 0
    candidates: int = 1
    gamma: float = 0.23
    absorbing: bool = False
    moving: Literal["published", "slow", "none"] = "published"
    decay: float = 0.08
    lr: float = 0.001
    d_lr: float = 0.001
    warmup: int = 0
    cooldown: float = 0.0
    beta1: float = 0.5
    clip: float = 0.0
    average: float = 0.0
    l2: float = 0.0
    d_l2: float = 1e-6

    def __post_init__(self):
        ranges.check(self, rounds="at least 0", steps="at least 1", batch="at least 1", accumulate="at least 1")
        ranges.check(self, d_steps="at least 1", candidates="at least 1", warmup="at least 0", ramp="at least 0")
        if self.candidates == 1 and self.reward_form == "ratio":
            raise ValueError("reward_form ratio is a share among candidates, of which there is 1; use candidates 16")
        if self.reward_form != "ratio" and (self.power != 1 or self.ramp):
            raise ValueError(f"power and ramp are of reward_form ratio, not {self.reward_form}; leave them out")
        if self.candidates > 1 and self.reward_at == "end":
            raise ValueError(
                f"candidates is {self.candidates}, but with reward_at end no token but the last has a reward; use 1"
            )
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate is {self.accumulate}, but a batch of {self.batch} has no more parts than rows"
            )
        if self.absorbing and (self.gamma == 1 or self.reward_at == "end"):
            raise ValueError("absorbing needs a gamma below 1 and reward_at tokens: its rewards have no end")
        if self.freeze and self.counterpart.weight_decay:
            raise ValueError(
                f"counterpart.weight_decay is {self.counterpart.weight_decay}, which would move the vectors that "
                "freeze holds; leave one of them out"
            )
        ranges.check(self, lr="above 0", d_lr="above 0", clip="0 or more", l2="0 or more", d_l2="0 or more")
        ranges.check(self, gamma="[0, 1]", decay="[0, 1]", beta1="[0, 1)", average="[0, 1)", power="(0, 1]")
        ranges.check(self, cooldown="[0, 1]", prompts="[0, 1]")

    @property
    def judged(self) -> bool:
        """Whether the reward asks the discriminator anything; else it is not trained."""
        return self.reward not in ("constant", "random")

    def settled(self, source: str) -> "ScratchGANConfig":
        """With the file of word vectors found and its path absolute, so that the run goes on from any folder.

        Raises ValueError where the data's folder `source` has several.
        """
        if self.vectors == "none":
            return self
        found = [self.vectors] if self.vectors else []
        if not found and Path(source).is_dir():
            found = sorted(str(p) for end in ("txt", "txt.gz") for p in Path(source).glob(f"glove*.{end}"))
        if len(found) > 1:
            raise ValueError(
                f"{source}: has {len(found)} files of word vectors; choose by --vectors {' or '.join(found)}"
            )
        return replace(self, vectors=str(Path(found[0]).resolve()) if found else "none")


class Moving:
    """A scalar baseline, 0 at first. published: b <- decay b + (1 - decay) mean, over all places of a batch; slow:
    b <- (1 - decay) b + decay mean, over its tokens; none: 0. It moves before it is taken off.
    """

    def __init__(self, kind: str, decay: float):
        self.kind, self.decay, self.value = kind, decay, 0.0

    def update(self, returns: Tensor, mask: Tensor) -> float:
        """returns (B,T), 0 past the end; the baseline to take off these very returns."""
        if self.kind == "published":
            self.value = self.decay * self.value + (1 - self.decay) * float(returns.mean())
        elif self.kind == "slow":
            self.value = (1 - self.decay) * self.value + self.decay * float(returns.sum() / mask.sum())
        return self.value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def train(config: ScratchGANConfig, corpus: Corpus, run: Run) -> SkipLSTMGenerator:
    """Discriminator and generator in turn from the first step on; the run keeps both. With an average of the weights
    "generator" is the average, and "learner" the generator whose steps it follows.
    """
    generator, discriminator = players(config, corpus, run)
    learner = run.keep("learner", copy.deepcopy(generator).to(run.device)) if config.average else generator
    entropy = "learner_entropy" if config.average else "entropy"  # of what is drawn; the average is kept and looked at
    betas = (config.beta1, 0.999)
    g_optimizer = torch.optim.Adam(mle.trainable(learner), lr=config.lr, betas=betas, fused=True)
    d_optimizer = torch.optim.Adam(mle.trainable(discriminator), lr=config.d_lr, betas=betas, fused=True)
    run.keep("generator.optimizer", g_optimizer)
    run.keep("discriminator.optimizer", d_optimizer)
    baseline = run.keep("baseline", Moving(config.moving, config.decay))

    def drawn(candidates: int = 1) -> Samples:
        shape = (config.batch, corpus.max_length, *[candidates] * (candidates > 1))
        begun = beginnings(corpus.train, config, run) if config.prompts else None
        return sample(learner.eval(), uniform(shape, run.rng("samples"), run.device), prompts=begun)

    d_steps = config.d_steps if config.judged and config.reward != "frozen" else 0
    if run.once("untrained"):
        mle.measure(generator.eval(), corpus, config.monitor, run, "adversarial")
        run.checkpoint()  # until a better one: the best by validation
    for round_ in run.loop("adversarial", config.rounds):
        sums: dict[str, Tensor] = {}
        for step in range(round_ * config.steps, (round_ + 1) * config.steps):
            g_optimizer.param_groups[0]["lr"] = config.lr * pace(config, step)
            found: dict[str, Tensor] = {}
            for _ in range(d_steps):  # of several the last one is logged
                rows = torch.randint(len(corpus.train), (config.batch,), generator=run.rng("real")).to(run.device)
                found = discriminator_step(
                    discriminator.train(), d_optimizer, corpus.train[rows], drawn(), config, run.precision
                )
            fake = drawn(config.candidates)
            mask, others = drawn_mask(fake), None
            if fake.candidates is None:
                reward = token_rewards(config, discriminator, fake, mask, run)
                to_come = objectives.discounted_return(reward, mask, config.gamma, config.absorbing)
            else:  # the token's own reward is among the candidates'
                power = config.power * min(1.0, (step + 1) / max(1, config.ramp))
                reward, worth = candidate_rewards(config, discriminator, fake, mask, run, power)
                to_come = objectives.discounted_return(reward, mask, config.gamma, config.absorbing) - reward
                others = (fake.candidates, worth)
            advantage = None
            if others is None or config.gamma:
                advantage = (to_come - baseline.update(to_come, mask)) * mask
            found |= generator_step(learner.train(), g_optimizer, fake, advantage, config, run.precision, others)
            if config.average:
                mle.follow(generator, learner, config.average, step)
            tokens = mask.sum()
            found |= {"reward": reward.sum() / tokens, entropy: -fake.logp.sum() / tokens}
            sums = {k: sums.get(k, 0.0) + v for k, v in found.items()}
            run.tokens += int(tokens)
        generator.eval()
        for name, model in (("generator", learner), ("discriminator", discriminator)):
            run.check("adversarial", name, model)
        means = {k: float(v / config.steps) for k, v in sums.items()}
        nll_valid = mle.validation_nll(generator, corpus.valid)
        run.log("adversarial", "train", round=round_, nll_valid=nll_valid, baseline=baseline.value, **means)
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:
            mle.measure(generator, corpus, config.monitor, run, "adversarial")
    if run.once("measured") and config.rounds:
        mle.measure(generator.eval(), corpus, config.monitor, run, "adversarial")
    run.checkpoint(tag="final")
    return generator.eval()


def beginnings(train: Split, config: ScratchGANConfig, run: Run) -> Prompts:
    """The first n tokens of training sequences, n evenly from 0 to all but the last; 0 of the rows that get none."""
    rng = run.rng("prompts")
    rows = torch.randint(len(train), (config.batch,), generator=rng).to(run.device)
    at, asked = (torch.rand(config.batch, generator=rng).to(run.device) for _ in range(2))
    lengths = train.lengths[rows]
    return Prompts(train.ids[rows], (at * lengths).long().clamp_max(lengths - 1) * (asked < config.prompts))


def drawn_mask(fake: Samples) -> Tensor:
    """(B,T) where the tokens are the generator's own: within the sequence, past what it was given."""
    mask = mask_of(fake.lengths, fake.ids.shape[1])
    return mask if fake.given is None else mask & ~mask_of(fake.given, fake.ids.shape[1])


def pace(config: ScratchGANConfig, step: int) -> float:
    """Share of lr for step 0, 1, ...: it rises over `warmup` steps and falls over the last `cooldown` of all."""
    total = config.rounds * config.steps
    left = (total - step) / (config.cooldown * total) if config.cooldown else 1.0
    return min(1.0, (step + 1) / max(1, config.warmup), left)


def players(config: ScratchGANConfig, corpus: Corpus, run: Run) -> tuple[SkipLSTMGenerator, TokenDiscriminator]:
    """Both, each with its own table, which starts from the word vectors where there are any."""
    seeds = [derive_seed(run.seed, name) for name in ("generator", "discriminator")]
    sizes, found = config.generator, None
    if config.vectors and config.vectors != "none":
        found = read_vectors(config.vectors, corpus.tokenizer.get_vocab())
        width = found[0].shape[1]
        if sizes.pretrained not in (0, width):
            raise ValueError(
                f"generator.pretrained is {sizes.pretrained}, but {config.vectors} has vectors of {width} numbers; "
                f"use --generator.pretrained {width}, or leave it out"
            )
        sizes = replace(sizes, pretrained=width)
    generator = SkipLSTMGenerator.of(sizes, corpus.vocab_size, corpus.eos_id, corpus.start_id, seeds[0], config.freeze)
    widths = (sizes.pretrained, sizes.trainable)
    discriminator = TokenDiscriminator.of(
        config.discriminator, widths, corpus.vocab_size, corpus.max_length, seeds[1], config.freeze
    )
    if found is not None:
        vectors, ids = (torch.from_numpy(a) for a in found)
        with torch.no_grad():
            for table in (generator.head.weight, discriminator.table):
                table[ids, : sizes.pretrained] = vectors
        if run.once("vectors"):
            shares = coverage(corpus.train, ids, corpus.vocab_size)
            run.log("start", "vectors", file=config.vectors, words=len(ids), **shares)
            share = f"{100 * shares['tokens_covered']:.1f} % of the training tokens"
            print(f"vectors: {len(ids)} of {corpus.vocab_size} words, {share}; the others are drawn", file=sys.stderr)
    mle.counterpart(generator, config.counterpart, corpus, run)
    run.keep("generator", generator.to(run.device))
    run.keep("discriminator", discriminator.to(run.device))
    return generator, discriminator


def coverage(train: Split, ids: Tensor, vocab_size: int) -> dict[str, float]:
    """Shares of the vocabulary and of the training tokens that have a vector."""
    has = torch.zeros(vocab_size, dtype=torch.bool)
    has[ids] = True
    tokens = train.ids[mask_of(train.lengths, train.ids.shape[1])].cpu()
    return {"words_covered": float(has.float().mean()), "tokens_covered": float(has[tokens].float().mean())}


def token_rewards(config: ScratchGANConfig, discriminator: nn.Module, fake: Samples, mask: Tensor, run: Run) -> Tensor:
    """2 p(real) - 1 of every token (B,T), 0 past the end, or a null control's (de Masson d'Autume et al. 2019)."""

    @torch.no_grad()
    def values() -> Tensor:
        parts = [slice(lo, lo + rows_of(config)) for lo in range(0, len(fake.ids), rows_of(config))]
        with discriminate.autocast(fake.ids.device, run.precision):
            logit = torch.cat([discriminator.eval()(fake.ids[p], fake.lengths[p]).float() for p in parts])
        return objectives.token_reward(logit, mask, "logit" if config.reward_form == "logit" else "probability")

    reward = rewards.by_name(config.reward, mask, values, run.rng)
    if config.reward_at == "end":
        reward = reward * (torch.arange(mask.shape[1], device=mask.device) == fake.lengths[:, None] - 1)
    return reward


def candidate_rewards(
    config: ScratchGANConfig,
    discriminator: TokenDiscriminator,
    fake: Samples,
    mask: Tensor,
    run: Run,
    power: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Of candidates (B,T,K) the first, which is the sequence's own token: its reward (B,T), as `token_rewards`; and of
    all what each is worth beside the others (B,T,K), 0 past the end.
    """
    tokens, ratio = fake.candidates, config.reward_form == "ratio"
    assert tokens is not None
    each = mask[..., None].expand_as(tokens)
    form = "probability" if config.reward_form == "probability" else "logit"

    def values() -> Tensor:
        logit = discriminator.eval().of_candidates(fake.ids, fake.lengths, tokens)
        return objectives.token_reward(logit, each, form).flatten(1)

    value = rewards.by_name(config.reward, each.flatten(1), values, run.rng).view_as(each)
    if ratio:
        return objectives.token_reward(value[..., 0], mask), share_worth(value * power)
    return value[..., 0], relative_worth(value)


def rows_of(config: ScratchGANConfig) -> int:
    """Rows of a part of a batch."""
    return -(-config.batch // config.accumulate)


def discriminator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Split,
    fake: Samples,
    config: ScratchGANConfig,
    precision: str,
) -> dict[str, Tensor]:
    """One update on a batch of real and one of generated sequences, part by part."""
    optimizer.zero_grad(set_to_none=True)
    places, rows = real.ids.numel(), rows_of(config)
    total, p_real, p_fake, right = (torch.zeros((), device=real.ids.device) for _ in range(4))
    own = drawn_mask(fake)
    tokens = (real.lengths.sum(), own.sum())
    for lo in range(0, len(real.ids), rows):
        part = slice(lo, lo + rows)
        ids = torch.cat([real.ids[part], fake.ids[part]])
        lengths = torch.cat([real.lengths[part], fake.lengths[part]])
        n = len(real.ids[part])
        mask = torch.cat([mask_of(real.lengths[part], ids.shape[1]), own[part]])
        label = torch.arange(len(ids), device=ids.device) < n
        with discriminate.autocast(ids.device, precision):
            logit = discriminator(ids, lengths).float()
        loss = objectives.token_discriminator_loss(logit, mask, label, places)
        loss.backward()
        p = torch.sigmoid(logit.detach()) * mask
        total += loss.detach()
        p_real += p[:n].sum() / tokens[0]
        p_fake += p[n:].sum() / tokens[1]
        told = ((p > 0.5) == label[:, None]) & mask
        right += told[:n].sum() / tokens[0] / 2 + told[n:].sum() / tokens[1] / 2
    decay(discriminator, config.d_l2)
    optimizer.step()
    return {"d_loss": total, "d_accuracy": right, "p_real": p_real, "p_fake": p_fake}


def generator_step(
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    fake: Samples,
    advantage: Tensor | None,
    config: ScratchGANConfig,
    precision: str = "fp32",
    others: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """One update: descend the mean over batch times length of -advantage log p (REINFORCE), part by part. others:
    candidates (B,T,K) and the weights of their -log p, which add up to 0 at every place; advantage None: they alone.
    """
    assert isinstance(generator, nn.Module)
    optimizer.zero_grad(set_to_none=True)
    places = fake.ids.numel()
    for lo in range(0, len(fake.ids), rows_of(config)):
        part = slice(lo, lo + rows_of(config))
        weight = None if advantage is None else advantage[part] / places
        beside = None if others is None else (others[0][part], others[1][part] / places)
        loss, _ = weighted_nll(
            generator, fake.ids[part], fake.lengths[part], weight, precision=precision, others=beside
        )
        loss.backward()
    decay(generator, config.l2)
    norm = nn.utils.clip_grad_norm_(generator.parameters(), config.clip or torch.inf)
    optimizer.step()
    return {"g_norm": norm.detach()}


def decay(model: nn.Module, l2: float) -> None:
    """Add the gradient of l2/2 |w|^2 of all parameters; through autograd, so that frozen columns get none."""
    if l2:
        (l2 / 2 * torch.stack([p.square().sum() for p in mle.trainable(model)]).sum()).backward()
