"""A search over likelihood training: size, dropout, step size and its schedule, weight decay, smoothing, average.

    seqforge train mle_search --recipe mle-search

The opponent that any other method is to be held to: many trials of MLE within one budget of epochs, chosen by
validation NLL alone; no trial sees the test set. In this order:
 1) the first value of every list
 2) values drawn evenly from the lists, while less than a share `draws` of the budget is spent
 3) the best trial so far with one value changed, while any of the budget is left
No trial is made twice. One that diverges ends there and counts as the worst. The run's generator is
the best trial's; trials.csv lists all, best.yaml is its recipe.
"""

import csv
import dataclasses
import io
import math
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from seqforge import progress, ranges
from seqforge.data.corpus import Corpus
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.run import NotFinite, Run, derive_seed

Point = dict[str, Any]  # a value for every searched option


@dataclass(frozen=True)
class MLESearchConfig:
    """`seqforge train mle_search`. The first value of every list makes the first trial.

    Args:
        monitor: what is measured of the best generator at the end
        budget: passes over the training set that all trials may take together
        draws: share of the budget that goes to trials drawn from the lists; the rest varies the best
        epochs: most passes of one trial
        patience: epochs without a lower validation NLL before a trial stops and takes its best epoch's weights
        clip: largest global gradient norm
        hidden: widths of LSTM and token embedding, which are the same
        layers: LSTM layers
        dropout: shares of units dropped on embeddings and outputs
        lr: Adam's step sizes
        lr_decay: factors on lr after an epoch whose validation NLL did not fall
        weight_decay: decoupled, per step, times lr
        label_smoothing: shares of each target spread evenly over the vocabulary
        average: decays a step of a moving average of the weights; 0: none
        batch: sequences a step
    """

    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    budget: int = 96
    draws: float = 0.5
    epochs: int = 60
    patience: int = 3
    clip: float = 5.0
    hidden: list[int] = field(default_factory=lambda: [64, 32, 128, 256])
    layers: list[int] = field(default_factory=lambda: [1])
    dropout: list[float] = field(default_factory=lambda: [0.2, 0.0, 0.35, 0.5])
    lr: list[float] = field(default_factory=lambda: [0.005, 0.002, 0.01])
    lr_decay: list[float] = field(default_factory=lambda: [0.5, 0.7, 1.0])
    weight_decay: list[float] = field(default_factory=lambda: [0.0, 0.01, 0.1])
    label_smoothing: list[float] = field(default_factory=lambda: [0.0, 0.05, 0.1])
    average: list[float] = field(default_factory=lambda: [0.0, 0.99])
    batch: list[int] = field(default_factory=lambda: [64])

    def __post_init__(self):
        ranges.check(self, budget="at least 1", epochs="at least 1", patience="at least 1", draws="[0, 1]")
        for name, values in lists(self).items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}, but must name each value once, and at least one")
            if name == "hidden" and min(values) < 1:
                raise ValueError(f"hidden is {values}, but every width must be at least 1")
            for value in values:  # refuses by name what a trial would stumble over
                settings(self, first(self) | {name: value})


def lists(config: MLESearchConfig) -> dict[str, list]:
    """What is searched, by name."""
    return {f.name: v for f in dataclasses.fields(config) if isinstance(v := getattr(config, f.name), list)}


def first(config: MLESearchConfig) -> Point:
    return {name: values[0] for name, values in lists(config).items()}


def settings(config: MLESearchConfig, point: Point, epochs: int = 1) -> tuple[LSTMConfig, MLEConfig]:
    """Sizes and training of a trial."""
    sizes = LSTMConfig(point["hidden"], point["hidden"], point["layers"], point["dropout"])
    names = ("lr", "lr_decay", "weight_decay", "label_smoothing", "average", "batch")
    options = {name: point[name] for name in names}
    return sizes, MLEConfig(epochs=epochs, patience=config.patience, clip=config.clip, **options)


@dataclass(frozen=True)
class Trial:
    """What was tried and what came of it. nll_valid: nats per token, infinite where it diverged; epochs: passes over
    the training set.
    """

    point: Point
    nll_valid: float
    epochs: int
    parameters: int


class Trials:
    """The finished trials, in their order; saved with the run."""

    def __init__(self):
        self.done: list[Trial] = []

    @property
    def spent(self) -> int:
        return sum(t.epochs for t in self.done)

    @property
    def sound(self) -> bool:
        """Whether any has not diverged."""
        return any(math.isfinite(t.nll_valid) for t in self.done)

    @property
    def best(self) -> int:
        """The number of the best, counted from 0."""
        return min(range(len(self.done)), key=lambda k: self.done[k].nll_valid)

    def state_dict(self) -> dict:
        return {"done": [dataclasses.asdict(t) for t in self.done]}

    def load_state_dict(self, state: dict) -> None:
        self.done = [Trial(**t) for t in state["done"]]


def train(config: MLESearchConfig, corpus: Corpus, run: Run) -> LSTMGenerator:
    """Trial after trial; the run keeps the best one's generator as "generator", and the one at work."""
    if run.first_step:
        raise ValueError("--from: a search trains every trial from the beginning; leave --from out")
    trials, passes = run.keep("trials", Trials()), int(corpus.train.lengths.sum())
    generator = None
    if trials.sound:
        generator = run.keep("generator", built(config, trials.done[trials.best].point, corpus, run, "best"))
    while (point := proposal(config, trials, run.seed)) is not None:
        phase = f"trial {len(trials.done) + 1}"
        name = "generator" if generator is None else phase.replace(" ", "-")
        candidate = run.keep(name, built(config, point, corpus, run, phase))
        _, options = settings(config, point, min(config.epochs, config.budget - trials.spent))
        try:
            mle.pretrain(candidate, options, MonitorConfig(every=0), corpus, run, phase)
            run.check(phase, "generator", candidate)
            nll_valid = mle.validation_nll(candidate, corpus.valid)
        except NotFinite as stopped:
            nll_valid = math.inf
            progress.warn(f"{phase} diverged with {point}, and counts as the worst: {stopped.fact}")
        parameters = sum(p.numel() for p in mle.trainable(candidate))
        took = run.tokens // passes - trials.spent
        found = Trial(point, nll_valid, took, parameters)
        trials.done.append(found)
        if trials.sound and trials.done[trials.best] is found:
            generator = run.keep("generator", candidate)
        run.drop(phase.replace(" ", "-"), f"{phase}.optimizer", f"{phase}.best", f"{phase}.learner")
        run.log("search", "trial", **row(found), best=trials.best + 1 if trials.sound else None)
        write_tables(config, trials, run.folder)
    if generator is None:
        raise NotFinite(f"all {len(trials.done)} trials diverged; leave the largest --lr out, or lower --clip")
    if run.once("measured"):
        mle.measure(generator.eval(), corpus, config.monitor, run, "search")
    write_tables(config, trials, run.folder)
    run.checkpoint(tag="final")
    return generator


def built(config: MLESearchConfig, point: Point, corpus: Corpus, run: Run, phase: str) -> LSTMGenerator:
    """A generator of those sizes, from a seed of its own."""
    sizes, _ = settings(config, point)
    seed = derive_seed(run.seed, phase)
    return LSTMGenerator.of(sizes, corpus.vocab_size, corpus.eos_id, corpus.start_id, seed).to(run.device)


def proposal(config: MLESearchConfig, trials: Trials, seed: int) -> Point | None:
    """What to try next, by the trials done and the seed alone; None where the budget or the lists are used up."""
    if trials.spent >= config.budget:
        return None
    if not trials.done:
        return first(config)
    tried, searched = [t.point for t in trials.done], lists(config)
    rng = random.Random(derive_seed(seed, f"proposal {len(tried) + 1}"))
    if trials.spent >= config.draws * config.budget:
        best = tried[trials.best]
        near = [best | {name: v} for name, values in searched.items() for v in values]
        near = [p for p in near if p not in tried]
        if near:
            return rng.choice(near)
    for _ in range(10_000):  # of a space all but used up, some may be left untried
        point = {name: rng.choice(values) for name, values in searched.items()}
        if point not in tried:
            return point
    return None


def row(trial: Trial) -> dict[str, Any]:
    """As it is logged and listed; of one that diverged nll_valid is None."""
    facts = {
        "nll_valid": trial.nll_valid if math.isfinite(trial.nll_valid) else None,
        "epochs": trial.epochs,
        "parameters": trial.parameters,
    }
    return facts | trial.point


def write_tables(config: MLESearchConfig, trials: Trials, folder: Path) -> None:
    """trials.csv, a row a trial, and best.yaml, which `seqforge train mle --recipe` reads, once a trial is sound."""
    table, done, best = io.StringIO(), trials.done, trials.best if trials.sound else -1
    writer = csv.DictWriter(table, ["trial", "best", *row(done[0])], lineterminator="\n")
    writer.writeheader()
    for k, trial in enumerate(done):
        writer.writerow({"trial": k + 1, "best": int(k == best), **row(trial)})
    files = {"trials.csv": table.getvalue()}
    if trials.sound:
        files["best.yaml"] = yaml.safe_dump(recipe_of(config, trials), sort_keys=False)
    for name, text in files.items():
        part = folder / f".{name}.part"
        part.write_text(text)
        os.replace(part, folder / name)


def recipe_of(config: MLESearchConfig, trials: Trials) -> dict[str, Any]:
    """The best trial's, as of an MLE that trains to its own best."""
    done, best = trials.done, trials.best
    sizes, options = settings(config, done[best].point, config.epochs)
    recipe = {"method": "mle", "purpose": f"trial {best + 1} of {len(done)} of a search, by validation NLL"}
    return recipe | {"generator": dataclasses.asdict(sizes), "mle": dataclasses.asdict(options)}
