"""Maximum likelihood by teacher forcing, on its own and as the pre-training of the adversarial methods.

    seqforge train mle --recipe mle-oracle

Source: Yu et al. 2017, Algorithm 1, line 2; authors' generator.py and sequence_gan.py. Differs from the authors' code:
 1) the order of the sequences is drawn anew every epoch (theirs is the file's; --mle.shuffle false)
 2) it stops when the validation NLL has not fallen for `patience` epochs and takes the best epoch's weights (theirs
    trains 120 epochs, which over-fits: --mle.patience 0)
"""

import copy
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from seqforge import health, objectives, ranges, scoring
from seqforge.data.corpus import Corpus, Split
from seqforge.grammars import Grammar
from seqforge.likelihood import sequence_nll, weighted_nll
from seqforge.metrics import nll
from seqforge.metrics.grammar import share_grammatical
from seqforge.models import kinds
from seqforge.models.generator import Generator
from seqforge.models.kinds import AnyGenerator, GeneratorConfig
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.run import Run, derive_seed
from seqforge.sampling import mask_of


@dataclass(frozen=True)
class MLEConfig:
    """Training by likelihood.

    Args:
        epochs: most passes over the training set (SeqGAN: 120)
        batch: sequences a step (SeqGAN: 64)
        lr: Adam's step size (SeqGAN: 0.01)
        lr_decay: factor on lr after an epoch whose validation NLL did not fall; 1 keeps it
        weight_decay: decoupled, per step, times lr
        label_smoothing: share of each target spread evenly over the vocabulary (SeqGAN: 0)
        average: decay a step of a moving average of the weights, which is then what is validated and kept; 0: none
        clip: largest global gradient norm (SeqGAN: 5)
        patience: epochs without a lower validation NLL before it stops; 0 trains all epochs and keeps the last
        shuffle: draw the order of the sequences anew every epoch (SeqGAN: the file's order)
    """

    group: ClassVar[str] = "mle"  # what the options are called

    epochs: int = 120
    batch: int = 64
    lr: float = 0.01
    lr_decay: float = 1.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    clip: float = 5.0
    patience: int = 5
    shuffle: bool = True

    def __post_init__(self):
        ranges.check(self, f"{self.group}.", epochs="at least 0", batch="at least 1", patience="at least 0")
        ranges.check(self, f"{self.group}.", lr="above 0", clip="above 0", weight_decay="0 or more", lr_decay="(0, 1]")
        ranges.check(self, f"{self.group}.", label_smoothing="[0, 1)", average="[0, 1)")


@dataclass(frozen=True)
class CounterpartConfig(MLEConfig):
    """The likelihood training of a second generator, alike and from the same start, that the verdict holds the run's
    to: where a method has no pre-training, or one that ended while it was still improving. As MLEConfig, stopped by the
    validation NLL.

    Args:
        epochs: most passes over the training set; 0: none, and no verdict on MLE
        lr: Adam's step size
        lr_decay: factor on lr after an epoch whose validation NLL did not fall; 1 keeps it
        dropout: share of units dropped in it, where that is to be another than the generator's own
    """

    group: ClassVar[str] = "counterpart"

    epochs: int = 100
    lr: float = 0.005
    lr_decay: float = 0.5
    dropout: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.dropout is not None:
            ranges.check(self, f"{self.group}.", dropout="[0, 1)")


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured while it trains, for the curves; nothing is chosen by it.

    Args:
        every: adversarial rounds or pre-training epochs between two measurements; 0 measures at the end of a phase only
        samples: sequences drawn for each
        lines: sequences written to samples/ each time
    """

    every: int = 5
    samples: int = 2048
    lines: int = 100

    def __post_init__(self):
        for name, least in (("every", 0), ("samples", 2), ("lines", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"monitor.{name} is {getattr(self, name)}, but must be at least {least}")


@dataclass(frozen=True)
class MLETrainConfig:
    """`seqforge train mle`.

    Args:
        generator: its kind and sizes
        mle: how it is trained
        monitor: what is measured meanwhile
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    mle: MLEConfig = field(default_factory=MLEConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)


class Best:
    """The weights of the epoch with the lowest validation NLL, and how many epochs ago that was."""

    def __init__(self):
        self.nll, self.age, self.weights = float("inf"), 0, {}

    def update(self, nll: float, model: nn.Module) -> None:
        self.age += 1
        if nll < self.nll:
            self.nll, self.age = nll, 0
            self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def state_dict(self) -> dict:
        return {"nll": self.nll, "age": self.age, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.nll, self.age, self.weights = state["nll"], state["age"], state["weights"]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def pretrain(
    generator: nn.Module,
    config: MLEConfig,
    monitor: MonitorConfig,
    corpus: Corpus,
    run: Run,
    phase: str = "mle",
    start: Best | None = None,
) -> Best:
    """Train `generator` in place by likelihood on the training set; the best epoch's weights where it stops early. With
    an average of the weights it is the average, and a learner the one whose steps it follows. phase: what the log calls
    it; each generator of a run needs its own. start: a candidate from before the first epoch. Returns its best epoch.
    """
    assert isinstance(generator, Generator)
    learner = run.keep(f"{phase}.learner", copy.deepcopy(generator).to(run.device)) if config.average else generator
    assert isinstance(learner, Generator)
    optimizer = run.keep(
        f"{phase}.optimizer",
        torch.optim.AdamW(trainable(learner), lr=config.lr, weight_decay=config.weight_decay, fused=True),
    )
    best, rng = run.keep(f"{phase}.best", start or Best()), run.rng(f"{phase}.order")
    train, step = corpus.train, run.done.get(phase, 0) * -(-len(corpus.train) // config.batch)

    for epoch in run.loop(phase, config.epochs):
        learner.train()
        order = torch.randperm(len(train), generator=rng) if config.shuffle else torch.arange(len(train))
        total = torch.zeros((), device=run.device)
        for rows in order.to(run.device).split(config.batch):
            loss, logp = likelihood_loss(learner, train[rows], config.label_smoothing, run.precision)
            update(learner, optimizer, loss, config.clip)
            total -= logp.sum()
            if config.average:
                follow(generator, learner, config.average, step)
                step += 1
        if phase != COUNTERPART:  # which the method learns nothing from
            run.tokens += int(train.lengths.sum())
        nll_valid = validation_nll(generator.eval(), corpus.valid)
        best.update(nll_valid, generator)
        if config.lr_decay < 1 and best.age:
            optimizer.param_groups[0]["lr"] *= config.lr_decay
        run.log(phase, "train", epoch=epoch, nll_train=float(total / train.lengths.sum()), nll_valid=nll_valid)
        if monitor.every and epoch % monitor.every == 0:
            measure(generator, corpus, monitor, run, phase)
        if config.patience and best.age >= config.patience:
            run.finish(phase)
    if run.once(f"{phase}.chosen") and config.patience and best.weights:
        generator.load_state_dict(best.weights)
    run.drop(f"{phase}.learner")
    generator.eval()
    return best


COUNTERPART = "counterpart"  # its phase, and its name in checkpoints
CUT_SHORT = "counterpart.cut short"  # the mark of one that was still improving when it ended


def counterpart(untrained: nn.Module, config: CounterpartConfig, corpus: Corpus, run: Run) -> None:
    """Before a method begins: train a copy of its untrained generator by likelihood, for the verdict alone. It is kept
    as the checkpoint "counterpart"; the method sees nothing of it.
    """
    if not config.epochs:
        return
    _train_twin(untrained, config, corpus, run)
    if run.once(COUNTERPART):
        run.checkpoint(tag=COUNTERPART)
    if run.once(f"{COUNTERPART}.left"):
        run.step += 1  # so that no checkpoint of the method takes the place of this one
    run.drop(COUNTERPART)


def opponent(pretrained: nn.Module, best: Best, config: CounterpartConfig, corpus: Corpus, run: Run) -> None:
    """After a pre-training, of which `best` is the best epoch: where that was its last, or there was none, likelihood
    had more to give, and a copy of the generator goes on by it, for the verdict alone. It is kept as "counterpart"
    until the run drops that: in the checkpoint of the pre-trained generator. Where it began is a candidate, so that it
    is never the worse by validation.
    """
    if not config.epochs or best.age or "pre-trained" in run.marks:  # past that point the generator is another
        return
    start = Best()
    start.update(best.nll, pretrained)
    _train_twin(pretrained, config, corpus, run, start)


def _train_twin(
    generator: nn.Module, config: CounterpartConfig, corpus: Corpus, run: Run, start: Best | None = None
) -> None:
    twin = run.keep(COUNTERPART, copy.deepcopy(generator).to(run.device))
    for layer in twin.modules():
        if isinstance(layer, nn.Dropout) and config.dropout is not None:
            layer.p = config.dropout
    best = pretrain(twin, config, MonitorConfig(every=0), corpus, run, COUNTERPART, start)
    if run.once(f"{COUNTERPART}.ended") and not best.age:  # of one taken over, its own run has told
        run.once(CUT_SHORT)
    run.drop(f"{COUNTERPART}.optimizer", f"{COUNTERPART}.best")


def likelihood_loss(
    generator: Generator, real: Split, smoothing: float = 0.0, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Mean -log p over the tokens of a batch (nats per token), and log p of each (B,T) without gradient. smoothing:
    share of each target spread evenly over the vocabulary; the log p are those of the tokens all the same.
    """
    mask = mask_of(real.lengths, real.ids.shape[1])
    weight = objectives.mle_weight(mask)
    return weighted_nll(generator, real.ids, real.lengths, weight, None, smoothing, real.source, precision)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) model with d = min(decay, (1 + step) / (10 + step)), step = 0, 1, ...: while the
    average is young it forgets faster, so that it is not held back by the weights that training began with.
    """
    d = min(decay, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(p, 1 - d)


def without(config: MLEConfig, method: str, *names: str) -> None:
    """Raises ValueError where an option is set that the method's own likelihood training does not have."""
    for name in names:
        usual = getattr(MLEConfig, name)
        if getattr(config, name) != usual:
            raise ValueError(f"mle.{name} is {getattr(config, name)}, which {method} does not have; leave it {usual}")


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> Tensor:
    """One clipped step; the gradient norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return norm


# The language model of the LM scores: one recipe, so that the scores of different generators may be compared.
LANGUAGE_MODEL = LSTMConfig(embedding=128, hidden=256, dropout=0.3, init_std=0.1)
LANGUAGE_MODEL_TRAINING = MLEConfig(epochs=15, batch=64, lr=0.003, lr_decay=0.5, patience=2)


def fit_language_model(
    train: Split, valid: Split, seed: int, vocab_size: int, eos_id: int | None, start_id: int
) -> LSTMGenerator:
    """An LSTM (embedding 128, hidden 256, dropout .3) by Adam, .003 halved when the validation NLL does not fall, 64
    sequences a step, at most 15 epochs, stopped after two without a lower one; the weights of its best epoch.
    """
    options, best, rng = LANGUAGE_MODEL_TRAINING, Best(), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([train.ids.device] if train.ids.is_cuda else []):  # dropout draws from the ambient one
        torch.manual_seed(seed)
        model = LSTMGenerator.of(LANGUAGE_MODEL, vocab_size, eos_id, start_id, seed).to(train.ids.device)
        optimizer = torch.optim.Adam(trainable(model), lr=options.lr, fused=True)
        for _ in range(options.epochs):
            model.train()
            for rows in torch.randperm(len(train), generator=rng).to(train.ids.device).split(options.batch):
                update(model, optimizer, likelihood_loss(model, train[rows])[0], options.clip)
            best.update(validation_nll(model.eval(), valid), model)
            if best.age:
                optimizer.param_groups[0]["lr"] *= options.lr_decay
            if best.age >= options.patience:
                break
    model.load_state_dict(best.weights)
    return model.eval()


def validation_nll(generator: Generator, valid: Split) -> float:
    """Nats per token."""
    return nll.mean_and_stderr(sequence_nll(generator, valid.ids, valid.lengths, context=valid.source), valid.lengths)[
        0
    ]


def measure(generator: Generator, corpus: Corpus, monitor: MonitorConfig, run: Run, phase: str) -> None:
    """Log NLL_oracle, NLL_test and entropy at temperature 1, the share of grammatical samples where a grammar is known,
    and what its health is read from; write samples. The same noise every time.
    """
    seed = derive_seed(run.seed, "monitor")
    scores, drawn = nll.all_nll(generator, corpus, monitor.samples, seed)
    if isinstance(corpus.judge, Grammar):
        right = np.isfinite(corpus.judge.log_probs(scoring.spoken(Split(drawn.ids, drawn.lengths), corpus)))
        scores.append(share_grammatical(right, {"temp": 1.0, "data": corpus.source}, 1.0, seed))
    run.log(phase, "evaluation", scores={s.name: s.as_dict() for s in scores})
    if monitor.lines:
        run.write_samples(corpus.decode(drawn.ids[: monitor.lines], drawn.lengths[: monitor.lines]))
    figures = health.of_samples(drawn.ids, drawn.lengths, corpus.train.ids, corpus.train.lengths)
    if run.health.lacks_floor(phase):
        figures["entropy_train"] = health.pair_entropy(corpus.train.ids, corpus.train.lengths)
        figures["nll_uniform"] = math.log(corpus.vocab_size)
    held = corpus.valid[health.some(len(corpus.valid), health.HELD_OUT).to(run.device)]
    entropy = next(s.value for s in scores if s.name == "entropy")
    run.log(phase, "health", nll_valid=validation_nll(generator, held), entropy=entropy, **figures)


def train(config: MLETrainConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Train a generator by likelihood; the run keeps it as "generator"."""
    seed = derive_seed(run.seed, "generator")
    generator = kinds.make(config.generator, corpus.vocab_size, corpus.eos_id, corpus.start_id, seed)
    run.keep("generator", generator.to(run.device))
    pretrain(generator, config.mle, config.monitor, corpus, run)
    if run.once("measured"):
        measure(generator, corpus, config.monitor, run, "mle")
    run.checkpoint(tag="final")
    return generator
