"""Distillation: a student learns the whole next-token distribution of one teacher, or of several averaged.

    seqforge train distillation --recipe distillation-oracle
    seqforge train distillation --recipe ensemble-distillation-oracle

Source: Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), here token by token and at temperature 1; with teachers of the
student's own size Furlanello et al. 2018 (arXiv 1805.04770), "born again". Teachers are trained by likelihood on the
real data and then stand still; the student descends KL(teacher || student) at every prefix of what it reads. It is what
cooperative training has to be told apart from: a generator that learns whole distributions, not single tokens. Details:
 1) prefixes are the teacher's own samples, drawn anew at every step: without end, and then the expected loss is the
    divergence KL(teacher || student) of whole sequences. `reads real`: the training set's; `both`: as many of either
 2) several teachers differ by seed alone and are averaged in probability, token by token
 3) the teachers' dropout is off while they are read
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from seqforge import objectives, ranges
from seqforge.data.corpus import Corpus, Split
from seqforge.likelihood import weighted_distillation
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models import kinds
from seqforge.models.ensemble import Ensemble
from seqforge.models.generator import Generator
from seqforge.models.kinds import AnyGenerator, GeneratorConfig
from seqforge.run import Run, derive_seed
from seqforge.sampling import mask_of, sample_mean, uniform


@dataclass(frozen=True)
class TeacherConfig(GeneratorConfig):
    """Sizes of each teacher.

    Args:
        embedding: width of the token embedding
        hidden: width of the LSTM, or of the Transformer's layers
        dropout: share of units dropped while the teacher learns; it is read without
    """

    group: ClassVar[str] = "teacher"

    embedding: int = 64
    hidden: int = 64
    dropout: float = 0.2


@dataclass(frozen=True)
class DistillationConfig:
    """`seqforge train distillation`.

    Args:
        generator: kind and sizes of the student
        teacher: kind and sizes of each teacher
        mle: how each teacher is trained
        monitor: what is measured meanwhile, every so many epochs of a teacher or rounds of the student
        teachers: how many; more than one are averaged in probability
        reads: whose prefixes the student learns at: the teachers' samples, the training set's, or as many of either
        rounds: times that the steps below are followed by a look at the validation set
        steps: steps of the student a round
        batch: sequences a step, of each kind that is read
        lr: Adam's step size of the student
        weight_decay: of the student, decoupled, per step, times lr
        lr_decay: factor on lr after a round without a lower validation NLL; 1 keeps it
        clip: largest global gradient norm of the student
        average: decay a step of a moving average of the student's weights, which is then validated and kept; 0: none
        patience: rounds without a lower validation NLL before it stops and takes the best round's weights; 0: none
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    mle: MLEConfig = field(default_factory=lambda: MLEConfig(epochs=60, lr=0.005, lr_decay=0.5, patience=4))
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    teachers: int = 1
    reads: Literal["samples", "real", "both"] = "samples"
    rounds: int = 50
    steps: int = 100
    batch: int = 64
    lr: float = 0.005
    weight_decay: float = 0.0
    lr_decay: float = 1.0
    clip: float = 5.0
    average: float = 0.0
    patience: int = 0

    def __post_init__(self):
        counts = {"teachers": 1, "rounds": 0, "steps": 1, "batch": 1, "patience": 0}
        ranges.check(self, **ranges.at_least(counts), lr="above 0", clip="above 0")
        ranges.check(self, weight_decay="0 or more", lr_decay="(0, 1]", average="[0, 1)")
        if not self.mle.epochs:
            raise ValueError("mle.epochs is 0, but a teacher must have learned something; give it at least 1")


def train(config: DistillationConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """Teachers by likelihood, then the student; the run keeps them as "generator" and "teacher-1", "teacher-2", ...
    With an average of the weights "generator" is the average, and "learner" the student whose steps it follows.
    """
    if run.first_step:
        raise ValueError("--from: teachers and student start from the beginning; leave --from out")
    sizes = (corpus.vocab_size, corpus.eos_id, corpus.start_id)
    seed = derive_seed(run.seed, "generator")
    student = run.keep("generator", kinds.make(config.generator, *sizes, seed).to(run.device))
    teachers = [taught(k, config, corpus, run) for k in range(1, config.teachers + 1)]
    teacher = Ensemble(teachers) if len(teachers) > 1 else teachers[0]
    if run.once("taught"):
        mle.measure(teacher, corpus, config.monitor, run, "teachers")
    learner = run.keep("learner", copy.deepcopy(student).to(run.device)) if config.average else student
    optimizer = run.keep(
        "generator.optimizer",
        torch.optim.AdamW(mle.trainable(learner), lr=config.lr, weight_decay=config.weight_decay, fused=True),
    )
    best = run.keep("best", mle.Best())

    for round_ in run.loop("distillation", config.rounds):
        total, tokens = torch.zeros((), device=run.device), 0
        for step in range(round_ * config.steps, (round_ + 1) * config.steps):
            read = lesson(teachers, config, corpus, run)
            loss, kl = distillation_loss(learner.train(), teachers, read)
            mle.update(learner, optimizer, loss, config.clip)
            total += kl.sum()
            tokens += int(read.lengths.sum())
            if config.average:
                mle.follow(student, learner, config.average, step)
        run.tokens += tokens
        run.check("distillation", "generator", learner)
        nll_valid = mle.validation_nll(student.eval(), corpus.valid)
        best.update(nll_valid, student)
        if config.lr_decay < 1 and best.age:
            optimizer.param_groups[0]["lr"] *= config.lr_decay
        run.log("distillation", "train", round=round_, nll_valid=nll_valid, divergence=float(total / tokens))
        if config.monitor.every and (round_ + 1) % config.monitor.every == 0:
            mle.measure(student, corpus, config.monitor, run, "distillation")
        if config.patience and best.age >= config.patience:
            run.finish("distillation")
    if run.once("chosen") and config.patience and best.weights:
        student.load_state_dict(best.weights)
    if run.once("measured"):
        mle.measure(student.eval(), corpus, config.monitor, run, "distillation")
    run.checkpoint(tag="final")
    return student


def taught(k: int, config: DistillationConfig, corpus: Corpus, run: Run) -> AnyGenerator:
    """The teacher of that number, trained by likelihood from a seed of its own."""
    seed, phase = derive_seed(run.seed, f"teacher {k}"), f"teacher {k}"
    teacher = kinds.make(config.teacher, corpus.vocab_size, corpus.eos_id, corpus.start_id, seed)
    run.keep(f"teacher-{k}", teacher.to(run.device))
    mle.pretrain(teacher, config.mle, config.monitor, corpus, run, phase)
    run.drop(f"{phase}.optimizer", f"{phase}.best")
    return teacher.requires_grad_(False)


def lesson(teachers: Sequence[Generator], config: DistillationConfig, corpus: Corpus, run: Run) -> Split:
    """The sequences at whose prefixes the student learns in this step."""
    parts: list[Split] = []
    if config.reads != "real":
        noise = uniform((config.batch, corpus.max_length), run.rng("samples"), run.device)
        parts.append(Split(*sample_mean(teachers, noise)))
    if config.reads != "samples":
        rows = torch.randint(len(corpus.train), (config.batch,), generator=run.rng("real"))
        parts.append(corpus.train[rows.to(run.device)])
    return Split(torch.cat([p.ids for p in parts]), torch.cat([p.lengths for p in parts]))


def distillation_loss(student: Generator, teachers: Sequence[Generator], read: Split) -> tuple[Tensor, Tensor]:
    """Mean over tokens of KL(teacher || student) in nats, and those KL (B,T) without gradient."""
    weight = objectives.mle_weight(mask_of(read.lengths, read.ids.shape[1]))
    return weighted_distillation(student, teachers, read.ids, read.lengths, weight)
