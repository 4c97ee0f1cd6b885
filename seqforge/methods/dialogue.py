"""Dialogue: a Transformer that answers, trained against a Transformer that judges (source, reply).

    seqforge train dialogue --recipe dialogue

Source: moon23k's weight-shared Transformer SeqGAN (code, 2022; no paper), with SeqGAN's gradient (Yu et al. 2017) and
the teacher forcing of Li et al. 2017 (arXiv 1701.06547). Differs from that code:
 1) the discriminator's term reaches the generator: theirs is computed from an argmax without gradient, so a constant
    beside the cross-entropy; here replies are drawn and it is a policy gradient
 2) the discriminator is updated on fresh replies all along; theirs never is
 3) its logit has no activation before it; theirs has one, after which p(real) hardly falls below one half
 4) real and generated replies answer sources of one and the same set, half and half in a batch
 5) no source utterance is in two splits; theirs cuts the list of pairs by position
 6) early stopping reads the validation set; their validation reads the training set
 7) --adversary penalty is their -log D with its gradient; rollouts, baselines, the null controls are options
"""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
import yaml
from torch import Tensor

from seqforge import discriminate, objectives, ranges, rewards
from seqforge.data import tokens
from seqforge.data.corpus import Corpus, Split
from seqforge.data.pack import Lengths, pack
from seqforge.data.readers.document import Found
from seqforge.data.readers.files import lines
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MonitorConfig
from seqforge.models.generator import Context, Generator
from seqforge.models.transformer import TransformerConfig, TransformerGenerator
from seqforge.models.transformer_discriminator import TransformerDiscriminator, TransformerDiscriminatorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import GREEDY, PLAIN, Samples, mask_of, sample, uniform

Stage = Literal["pretrain-generator", "generate", "pretrain-discriminator", "train"]
STAGES: tuple[Stage, ...] = ("pretrain-generator", "generate", "pretrain-discriminator", "train")
GENERATED = "generated.jsonl"  # in the run folder: prompt (a turn a line), completion, the pre-trained generator's


@dataclass(frozen=True)
class DialogueConfig:
    """`seqforge train dialogue`. The defaults are for a laptop; the original's numbers are in brackets.

    Args:
        generator: sizes of the encoder and the decoder
        discriminator: sizes of the judge of (source, reply)
        mle: pre-training of the generator
        monitor: what is measured meanwhile
        counterpart: likelihood that goes on, for the verdict alone, where mle ended while it still improved;
            counterpart.epochs 0: none
        stage: the last stage carried out; what a run taken over by --from has done is not done again
        decode: how the pre-trained generator answers the training sources for its discriminator (original: greedy)
        rounds: adversarial rounds
        g_steps: generator steps a round
        batch: replies a generator step (original: 128)
        adversary: reward: SeqGAN's; penalty: the original's, -log D of each whole reply, with its gradient
        value: what a reward is: the discriminator's p(real), or its logarithm
        rollouts: completions of every prefix; 0 gives every token the verdict on its whole reply
        reward: the discriminator's, or a null control in its place
        baseline: what is taken off the action values
        teacher: weight of the cross-entropy of the real replies in every generator step (original: 1)
        lr: Adam's step size of the generator in the adversarial phase (original: 0.001)
        clip: largest global gradient norm (original: 1)
        d_pretrain: passes over the generated file before the adversarial phase (original: 10)
        d_steps: fresh sets of replies a round (original: 0)
        d_epochs: passes over each set
        d_samples: most real and generated replies in a set; 0: as many as the training set has
        d_batch: rows a discriminator step, half of them real (original: 128)
        d_lr: AdamW's step size of the discriminator (original: 0.0005)
        d_weight_decay: decoupled decay of all its weights, per step, times d_lr (original: 0)
        d_l2: penalty on its output layer (original: 0)
    """

    pairs: ClassVar[bool] = True  # it trains on sources and replies

    generator: TransformerConfig = field(default_factory=TransformerConfig)
    discriminator: TransformerDiscriminatorConfig = field(default_factory=TransformerDiscriminatorConfig)
    mle: MLEConfig = field(default_factory=lambda: MLEConfig(epochs=30, lr=0.001, lr_decay=0.5, clip=1.0))
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    counterpart: CounterpartConfig = field(default_factory=CounterpartConfig)
    stage: Stage = "train"
    decode: Literal["greedy", "sample"] = "sample"
    rounds: int = 30
    g_steps: int = 1
    batch: int = 64
    adversary: Literal["reward", "penalty"] = "reward"
    value: Literal["probability", "log"] = "probability"
    rollouts: int = 0
    reward: rewards.Reward = "discriminator"
    baseline: objectives.Baseline = "step"
    teacher: float = 1.0
    lr: float = 0.0001
    clip: float = 1.0
    d_pretrain: int = 3
    d_steps: int = 1
    d_epochs: int = 1
    d_samples: int = 1024
    d_batch: int = 64
    d_lr: float = 5e-4
    d_weight_decay: float = 0.0
    d_l2: float = 0.0

    def __post_init__(self):
        counts = {"rounds": 0, "g_steps": 1, "batch": 1, "rollouts": 0, "d_pretrain": 0, "d_steps": 0}
        counts |= {"d_epochs": 1, "d_samples": 0, "d_batch": 2}
        ranges.check(self, **ranges.at_least(counts), lr="above 0", clip="above 0", d_lr="above 0")
        ranges.check(self, teacher="0 or more", d_weight_decay="0 or more", d_l2="0 or more")
        if self.adversary == "penalty" and (self.rollouts or self.value == "log"):
            raise ValueError("adversary penalty is -log D of whole replies; leave out --rollouts and --value")
        if self.reward == "constant" and self.baseline != "none" and self.rounds and not self.teacher:
            raise ValueError(f"reward constant with baseline {self.baseline} leaves no gradient; use --baseline none")

    @property
    def judged(self) -> bool:
        """Whether the reward asks the discriminator anything."""
        return self.reward not in ("constant", "random")

    def reaches(self, stage: Stage) -> bool:
        return STAGES.index(self.stage) >= STAGES.index(stage)


def train(config: DialogueConfig, corpus: Corpus, run: Run) -> TransformerGenerator:
    """The four stages, or those up to `config.stage`; the run keeps both players."""
    if corpus.train.source is None:
        raise ValueError("dialogue trains on sources and replies; give --data.condition turns or label")
    seeds = [derive_seed(run.seed, name) for name in ("generator", "discriminator")]
    generator = TransformerGenerator.of(
        config.generator, corpus.vocab_size, corpus.eos_id, corpus.start_id, seeds[0], encoder=True
    )
    discriminator = TransformerDiscriminator.of(config.discriminator, corpus.vocab_size, seeds[1], pair=True)
    run.keep("generator", generator.to(run.device))
    run.keep("discriminator", discriminator.to(run.device))
    d_optimizer = run.keep(
        "discriminator.optimizer",
        torch.optim.AdamW(discriminator.parameters(), lr=config.d_lr, weight_decay=config.d_weight_decay, fused=True),
    )

    best = mle.pretrain(generator, config.mle, config.monitor, corpus, run)
    mle.opponent(generator, best, config.counterpart, corpus, run)
    if config.reaches("generate") and not (run.folder / GENERATED).is_file():
        check_taken_over(config, corpus, run)
        if not run.take_over(GENERATED):
            write_generated(generator, corpus, config.decode, run)
    if config.reaches("pretrain-discriminator") and config.judged:
        pretrain_discriminator(discriminator, d_optimizer, corpus, config, run)
    if run.once("pre-trained"):
        mle.measure(generator, corpus, config.monitor, run, "mle")
        run.checkpoint(tag="pre-trained")
    if not config.reaches("train") or not config.rounds:
        run.checkpoint(tag="final")
        return generator
    run.drop(mle.COUNTERPART)

    optimizer = run.keep("generator.optimizer", torch.optim.Adam(generator.parameters(), lr=config.lr, fused=True))
    score = verdict(discriminate.Score(discriminator, run.precision), config)
    order = run.rng("pairs")
    for round_ in run.loop("adversarial", config.rounds):
        for _ in range(config.g_steps):
            rows = torch.randint(len(corpus.train), (config.batch,), generator=order).to(run.device)
            real = corpus.train[rows]
            assert real.source is not None
            noise = uniform((config.batch, corpus.max_length), run.rng("samples"), run.device)
            samples, trail = rewards.sample_with_trail(generator, noise, context=real.source, rollouts=config.rollouts)
            judge = rewards.ByRow(score, real.source)
            q = rewards.action_values(config.reward, generator, samples, trail, judge, config.rollouts, run.rng)
            loss = adversarial_loss(generator, samples, q, real.source, config.baseline, run.precision)
            if config.teacher:
                smoothing = config.mle.label_smoothing
                loss = loss + config.teacher * mle.likelihood_loss(generator, real, smoothing, run.precision)[0]
            norm = mle.update(generator, optimizer, loss, config.clip)
            mask = mask_of(samples.lengths, corpus.max_length)
            run.tokens += int(mask.sum())
            run.log(
                "adversarial",
                "train",
                round=round_,
                reward_mean=float(q.sum() / mask.sum()),
                entropy=float(-samples.logp.sum() / mask.sum()),
                gradient_norm=float(norm),
            )
        run.check("adversarial", "generator", generator)
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


def verdict(p_real, config: DialogueConfig):
    """The score of a reply (K,) from p(real): itself, or its logarithm (-log D is the penalty)."""
    if config.value == "probability" and config.adversary == "reward":
        return p_real
    return lambda ids, lengths, source: p_real(ids, lengths, source).clamp_min(1e-6).log()


def adversarial_loss(
    generator: Generator,
    samples: Samples,
    q: Tensor,
    source: Context,
    baseline: objectives.Baseline,
    precision: str = "fp32",
) -> Tensor:
    """REINFORCE on drawn replies: mean over tokens of advantage * -log p(y_t | y_<t, source). q (B,T)."""
    mask = mask_of(samples.lengths, q.shape[1])
    weight = objectives.reinforce_weight(objectives.advantage(q, mask, baseline), mask, "mean")
    return weighted_nll(generator, samples.ids, samples.lengths, weight, context=source, precision=precision)[0]


def write_generated(generator: Generator, corpus: Corpus, decode: str, run: Run) -> None:
    """RUN/generated.jsonl: every training source, its reply, and the generator's; complete or not at all."""
    asked, real = corpus.train.source, corpus.train
    assert asked is not None
    rng = torch.Generator().manual_seed(derive_seed(run.seed, "generated"))
    noise = uniform((len(real), corpus.max_length), rng, run.device)
    drawn = sample(generator, noise, GREEDY if decode == "greedy" else PLAIN, context=asked)
    prompts = ["\n".join(turns) for turns in corpus.turns(asked)]
    sides = [prompts, corpus.decode(real.ids, real.lengths), corpus.decode(drawn.ids, drawn.lengths)]
    names = ("prompt", "completion", "generated")
    rows = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in zip(*sides, strict=True)]
    part = run.folder / f".{GENERATED}.part"
    part.write_text("\n".join(rows) + "\n", encoding="utf-8")
    part.replace(run.folder / GENERATED)


def check_taken_over(config: DialogueConfig, corpus: Corpus, run: Run) -> None:
    """The generated file of the run that this one began from, where it has one. Raises ValueError for a broken one."""
    if run.start is None or not (run.start / GENERATED).is_file():
        return
    read_generated(run.start / GENERATED, corpus)
    theirs = yaml.safe_load((run.start / "config.yaml").read_text()).get("decode")
    if theirs != config.decode:
        warnings.warn(f"decode {config.decode}: the replies of {run.start} are taken over, by {theirs}", stacklevel=2)


def read_generated(path: Path, corpus: Corpus) -> Split:
    """The generated replies (N,T) of a file, with the sources of the training set, whose order it has."""
    assert corpus.eos_id is not None
    try:
        texts = [json.loads(line)["generated"] for _, line in lines(Found(str(path)))]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: not readable ({e!r}); remove it, and it is written anew") from e
    if len(texts) != len(corpus.train):
        raise ValueError(
            f"{path}: {len(texts)} replies to {len(corpus.train)} sources; remove it, and it is written anew"
        )
    encoded = tokens.encode(corpus.tokenizer, texts)
    fit = Lengths(corpus.max_length, "truncate")
    with warnings.catch_warnings(action="ignore"):  # a reply that did not end is as long as there is room
        fake, _ = pack(encoded, corpus.eos_id, fit, lambda i: f"{path}:{i + 1}", str(path))
    return Split(fake.ids, fake.lengths).to(corpus.train.ids.device)


def pretrain_discriminator(
    discriminator: TransformerDiscriminator,
    optimizer: torch.optim.Optimizer,
    corpus: Corpus,
    config: DialogueConfig,
    run: Run,
) -> None:
    """Passes over the real replies and those of the generated file."""
    source = corpus.train.source
    assert source is not None
    read = read_generated(run.folder / GENERATED, corpus)
    fake = discriminate.batch_of(Split(read.ids, read.lengths, source))
    for _ in run.loop("discriminator", config.d_pretrain):
        stats = discriminate.epoch(
            discriminator,
            optimizer,
            discriminate.batch_of(corpus.train),
            fake,
            config.d_batch,
            run.rng("d_pretrain"),  # its own, as --from takes over no random state
            config.d_l2,
            run.precision,
        )
        run.check("discriminator", "discriminator", discriminator)
        run.log("discriminator", "train", **stats)
