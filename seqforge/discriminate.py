"""Training a discriminator on real sequences and fresh fakes; shared by the adversarial methods."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from seqforge.data.corpus import Corpus, Split
from seqforge.models.generator import Context, Generator
from seqforge.objectives import discriminator_loss
from seqforge.run import Run
from seqforge.sampling import PLAIN, Filter, sample, uniform

Batch = tuple[Tensor, Tensor, *tuple[Split, ...]]  # ids (B,T), lengths (B,), of pairs what they answer
SCORE_ROWS = 1024
ALIKE = 8  # completions of a prefix from which on sharing what they have in common is faster on a CPU, and
ALIKE_ROWS = 256  # rows of them that stand at the same position, on average; both measured


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


@runtime_checkable
class SharesPrefixes(Protocol):
    """A discriminator that can spare itself what sequences with a common prefix have in common."""

    def of_completions(self, ids: Tensor, lengths: Tensor, read: int) -> Tensor:
        """Logits (K,N) of ids (K,N,T), lengths (K,N) above `read`: a group's first `read` tokens are the same."""
        ...


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
    oracle: Generator | None = None,
) -> None:
    """`sets` times: fresh fakes, drawn through `filter`, then d_epochs passes over them and as many real sequences: of
    the training set, or fresh ones of an `oracle`.

    Logs the means of the last pass, and the accuracy on validation sequences and unseen fakes.
    """
    count = min(config.d_samples or len(corpus.train), len(corpus.train))
    valid, real = batch_of(corpus.valid[slice(count)]), batch_of(corpus.train)
    stats = {}
    for _ in range(sets):
        asked = _drawn_sources(corpus.train, count, run)
        noise = uniform((count, corpus.max_length), run.rng("fakes"), run.device)
        drawn = sample(generator, noise, filter, context=asked)
        if oracle is not None:
            new = sample(oracle, uniform((count, corpus.max_length), run.rng("d_real"), run.device))
            real = batch_of(Split(new.ids, new.lengths))
        for _ in range(config.d_epochs):
            stats = epoch(
                discriminator,
                optimizer,
                real,
                batch_of(Split(drawn.ids, drawn.lengths, asked)),
                config.d_batch,
                run.rng("d_order"),
                config.d_l2,
                run.precision,
            )
    run.check(phase, "discriminator", discriminator)
    noise = uniform((len(valid[0]), corpus.max_length), run.rng("unseen"), run.device)
    asked = corpus.valid.source and corpus.valid.source[slice(count)]
    unseen = sample(generator, noise, filter, context=asked)
    score = Score(discriminator, run.precision)
    stats["d_accuracy_valid"] = held_out_accuracy(score, valid, batch_of(Split(unseen.ids, unseen.lengths, asked)))
    run.log(phase, "train", **stats, d_unseen=len(valid[0]))


def batch_of(split: Split) -> Batch:
    if split.source is None:
        return split.ids, split.lengths
    return split.ids, split.lengths, split.source


def _rows(batch: Batch, at: Tensor) -> Batch:
    ids, lengths, *source = batch
    return ids[at], lengths[at], *(s[at] for s in source)


def _drawn_sources(train: Split, count: int, run: Run) -> Split | None:
    """What fresh fakes answer: sources of the training set, without repeats."""
    if train.source is None:
        return None
    return train.source[torch.randperm(len(train), generator=run.rng("sources"))[:count].to(train.ids.device)]


def autocast(device: torch.device, precision: str):
    """bfloat16 matrix products where `precision` says so; parameters, sums and the optimiser stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


class Score:
    """p(real | sequence) (B,) as a reward: no gradient, dropout off, large batches. Of pairs the source comes third."""

    def __init__(self, discriminator: nn.Module, precision: str = "fp32"):
        self.discriminator, self.precision = discriminator, precision

    def __call__(self, ids: Tensor, lengths: Tensor, *source: Context) -> Tensor:
        parts = torch.arange(len(ids), device=ids.device).split(SCORE_ROWS)
        return self._judged(self.discriminator, ((ids[at], lengths[at], *(s[at] for s in source)) for at in parts))

    def of_completions(self, ids: Tensor, lengths: Tensor, read: Tensor) -> Tensor:
        """p(real) (K,N) of sequences ids (K,N,T), lengths (K,N), whose first read[k] tokens a group has in common: what
        those have in common is spared where groups are large enough for it to be faster.
        """
        n, discriminator = ids.shape[1], self.discriminator
        runs = torch.unique_consecutive(read, return_counts=True)
        worth = n >= ALIKE and lengths.numel() >= ALIKE_ROWS * len(runs[0]) and ids.device.type == "cpu"
        if not worth or not isinstance(discriminator, SharesPrefixes):
            return self(ids.flatten(0, 1), lengths.flatten()).view(lengths.shape)
        alike = torch.arange(len(read), device=read.device).split(runs[1].tolist())
        parts = [
            (at, t)
            for group, t in zip(alike, runs[0].tolist(), strict=True)
            for at in group.split(max(1, SCORE_ROWS // n))
        ]
        return self._judged(discriminator.of_completions, ((ids[at], lengths[at], t) for at, t in parts))

    @torch.no_grad()
    def _judged(self, logits_of: Callable[..., Tensor], parts: Iterable[tuple]) -> Tensor:
        was, _ = self.discriminator.training, self.discriminator.eval()
        device = next(self.discriminator.parameters()).device
        with autocast(device, self.precision):
            logit = torch.cat([logits_of(*part).float() for part in parts])
        self.discriminator.train(was)
        return torch.sigmoid(logit)


def step(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, real: Batch, fake: Batch, l2: float, precision: str
) -> Tensor:
    """One update on a batch of real and fake rows: (3,) loss (nats per sequence), accuracy, gap of mean p(real)."""
    ids, lengths = torch.cat([real[0], fake[0]]), torch.cat([real[1], fake[1]])
    label = torch.arange(len(ids), device=ids.device) < len(real[0])
    source = [Split.cat(sides) for sides in zip(real[2:], fake[2:], strict=True)]
    with autocast(ids.device, precision):
        logit = discriminator(ids, lengths, *source).float()
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
        totals += step(discriminator, optimizer, _rows(real, r), _rows(fake, f), l2, precision) * len(r)
    loss, accuracy, gap = (totals / n).tolist()
    return {"d_loss": loss, "d_accuracy": accuracy, "d_gap": gap}


@torch.no_grad()
def held_out_accuracy(score: Callable[[Tensor, Tensor], Tensor], real: Batch, fake: Batch) -> float:
    """Share of unseen real and fake rows told apart at 0.5, each side counting half."""
    return float(((score(*real) > 0.5).float().mean() + (score(*fake) <= 0.5).float().mean()) / 2)
