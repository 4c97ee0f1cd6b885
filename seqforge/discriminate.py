"""Training a discriminator on real sequences and fresh fakes; shared by the adversarial methods."""

import contextlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from seqforge.data.corpus import Corpus
from seqforge.models.generator import Generator
from seqforge.objectives import discriminator_loss
from seqforge.run import Run
from seqforge.sampling import PLAIN, Filter, sample, uniform

Batch = tuple[Tensor, Tensor]  # ids (B,T), lengths (B,)
SCORE_ROWS = 1024


class Schedule(Protocol):
    """What a method's configuration says of its discriminator's training."""

    @property
    def d_samples(self) -> int: ...
    @property
    def d_epochs(self) -> int: ...
    @property
    def d_batch(self) -> int: ...
    @property
    def d_l2(self) -> float: ...


def train_on_fresh(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    corpus: Corpus,
    config: Schedule,
    run: Run,
    phase: str,
    sets: int,
    filter: Filter = PLAIN,
) -> None:
    """`sets` times: fresh fakes, drawn through `filter`, then d_epochs passes over them and as many real sequences.

    Logs the means of the last pass, and the accuracy on validation sequences and unseen fakes.
    """
    count = min(config.d_samples or len(corpus.train), len(corpus.train))
    valid = (corpus.valid.ids[:count], corpus.valid.lengths[:count])
    real = (corpus.train.ids, corpus.train.lengths)
    stats = {}
    for _ in range(sets):
        drawn = sample(generator, uniform((count, corpus.max_length), run.rng("fakes"), run.device), filter)
        for _ in range(config.d_epochs):
            stats = epoch(
                discriminator,
                optimizer,
                real,
                (drawn.ids, drawn.lengths),
                config.d_batch,
                run.rng("d_order"),
                config.d_l2,
                run.precision,
            )
    run.check(phase, "discriminator", discriminator)
    noise = uniform((len(valid[0]), corpus.max_length), run.rng("unseen"), run.device)
    unseen = sample(generator, noise, filter)
    score = scorer(discriminator, run.precision)
    stats["d_accuracy_valid"] = held_out_accuracy(score, valid, (unseen.ids, unseen.lengths))
    run.log(phase, "train", **stats)


def autocast(device: torch.device, precision: str):
    """bfloat16 matrix products where `precision` says so; parameters, sums and the optimiser stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def scorer(discriminator: nn.Module, precision: str = "fp32") -> Callable[[Tensor, Tensor], Tensor]:
    """p(real | sequence) (B,) as a reward: no gradient, dropout off, large batches."""

    @torch.no_grad()
    def score(ids: Tensor, lengths: Tensor) -> Tensor:
        was, _ = discriminator.training, discriminator.eval()
        with autocast(ids.device, precision):
            parts = zip(ids.split(SCORE_ROWS), lengths.split(SCORE_ROWS), strict=True)
            logit = torch.cat([discriminator(i, n).float() for i, n in parts])
        discriminator.train(was)
        return torch.sigmoid(logit)

    return score


def step(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, real: Batch, fake: Batch, l2: float, precision: str
) -> Tensor:
    """One update on a batch of real and fake rows: (3,) loss (nats per sequence), accuracy, gap of mean p(real)."""
    ids, lengths = torch.cat([real[0], fake[0]]), torch.cat([real[1], fake[1]])
    label = torch.arange(len(ids), device=ids.device) < len(real[0])
    with autocast(ids.device, precision):
        logit = discriminator(ids, lengths).float()
    loss = discriminator_loss(logit, label)
    penalty = l2 * 0.5 * sum(p.square().sum() for p in discriminator.get_submodule("out").parameters())
    optimizer.zero_grad(set_to_none=True)
    (loss + penalty).backward()
    optimizer.step()
    with torch.no_grad():
        right = ((logit > 0) == label).float().mean()
        p = torch.sigmoid(logit)
        return torch.stack([loss, right, p[label].mean() - p[~label].mean()])


def epoch(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Batch,
    fake: Batch,
    batch: int,
    rng: torch.Generator,
    l2: float = 0.0,
    precision: str = "fp32",
) -> dict[str, float]:
    """One pass over as many real as fake rows, half and half in every batch of `batch`, each side in its own order.

    Returns means over the pass: d_loss (nats per sequence), d_accuracy, d_gap (mean p(real) on real less on fake).
    """
    discriminator.train()
    half, n = max(1, batch // 2), min(len(real[0]), len(fake[0]))
    orders = [torch.randperm(len(side[0]), generator=rng)[:n].to(side[0].device).split(half) for side in (real, fake)]
    totals = torch.zeros(3, device=real[0].device)
    for r, f in zip(*orders, strict=True):
        totals += step(
            discriminator, optimizer, (real[0][r], real[1][r]), (fake[0][f], fake[1][f]), l2, precision
        ) * len(r)
    loss, accuracy, gap = (totals / n).tolist()
    return {"d_loss": loss, "d_accuracy": accuracy, "d_gap": gap}


@torch.no_grad()
def held_out_accuracy(score: Callable[[Tensor, Tensor], Tensor], real: Batch, fake: Batch) -> float:
    """Share of unseen real and fake rows told apart at 0.5, each side counting half."""
    return float(((score(*real) > 0.5).float().mean() + (score(*fake) <= 0.5).float().mean()) / 2)
