"""Rewards of sampled tokens: Monte-Carlo rollouts, and the null controls that tell what a reward adds.

Scores come in as a callable (ids (B,T), lengths (B,)) -> (B,) float, so nothing here knows of discriminators.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from seqforge.models.generator import Context, Generator
from seqforge.sampling import PLAIN, Filter, Fork, Samples, begin, chunk_rows, complete, mask_of, retrace, uniform

Scorer = Callable[[Tensor, Tensor], Tensor]
Reward = Literal["discriminator", "constant", "random", "shuffled", "frozen"]


@runtime_checkable
class KnowsPrefixes(Protocol):
    """A scorer that spares itself what completions of one prefix have in common."""

    def __call__(self, ids: Tensor, lengths: Tensor, /) -> Tensor: ...
    def of_completions(self, ids: Tensor, lengths: Tensor, read: Tensor) -> Tensor:
        """Scores (K,N) of ids (K,N,T), lengths (K,N): the first read[k] tokens are the same in all N of a group."""
        ...


class ByRow:
    """A scorer whose verdict depends on the row of the batch that a sequence belongs to: of a reply, on its source."""

    def __init__(self, score: Callable[[Tensor, Tensor, Context], Tensor], source: Context):
        self.score, self.source = score, source

    def __call__(self, ids: Tensor, lengths: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows (K,): which row each of K sequences belongs to; by default they are the B rows themselves."""
        return self.score(ids, lengths, self.source if rows is None else self.source[rows])


def sample_with_trail(
    generator: Generator, noise: Tensor, filter: Filter = PLAIN, context: Context | None = None, rollouts: int = 1
) -> tuple[Samples, list[tuple[Tensor, Fork]]]:
    """Sequences (one a row of noise (B,T)) and the fork after every prefix of each, for `rollout_q`. No fork is kept
    for 0 rollouts: a Transformer's hold its keys and values anew at every step, 4 GB at the sizes published.
    """
    trail: list[tuple[Tensor, Fork]] = []
    fork = begin(generator, len(noise), noise.device, context)
    return complete(generator, fork, noise, filter, trail if rollouts else None), trail


@torch.no_grad()
def rollout_q(
    policy: Generator, samples: Samples, trail: list[tuple[Tensor, Fork]], score: Scorer, noise: Tensor
) -> Tensor:
    """Action values q (B,T): the mean score of N completions of y_1..y_t, and the score itself at the last token.

    Source: Yu et al. 2017, eq. 4. `noise` is (B, T-1, N, T): the numbers of rollout n of row b after t+1 tokens.
    `trail` holds the policy's forks (those of the sampling itself, or `retrace` for a lagged policy). Forks at all
    positions advance together, in chunks that fit the cache; no prefix is read again.
    """
    horizon, rollouts = samples.ids.shape[1], noise.shape[2]
    q = torch.zeros_like(samples.logp)
    last = samples.lengths - 1
    if trail and rollouts:
        ids, lengths, row, position = _complete_all(policy, samples, trail, noise)
        if isinstance(score, KnowsPrefixes):
            groups = (-1, rollouts)
            value = score.of_completions(ids.unflatten(0, groups), lengths.unflatten(0, groups), position)
        elif isinstance(score, ByRow):
            value = score(ids, lengths, row.repeat_interleave(rollouts)).unflatten(0, (-1, rollouts))
        else:
            value = score(ids, lengths).unflatten(0, (-1, rollouts))
        q[row, position - 1] = value.mean(1).to(q.dtype)  # (K,) for the K forks
    elif not rollouts:  # no rollout: every token shares the score of its sentence
        q = score(samples.ids, samples.lengths).to(q.dtype)[:, None] * mask_of(samples.lengths, horizon)
    q[torch.arange(len(q), device=q.device), last] = score(samples.ids, samples.lengths).to(q.dtype)
    return q


def _complete_all(policy: Generator, samples: Samples, trail: list[tuple[Tensor, Fork]], noise: Tensor):
    """N completions of each of the K forks of a trail: ids (K*N,T), lengths (K*N,), and row, position (K,)."""
    rollouts = noise.shape[2]
    row = torch.cat([alive for alive, _ in trail])
    forks = Fork.cat([fork for _, fork in trail])
    ids, lengths = [], []
    each = max(1, chunk_rows(policy, noise.device) // rollouts)
    for k in torch.arange(len(row), device=row.device).split(each):  # neighbours in a chunk have like lengths to go
        many = k.repeat_interleave(rollouts)
        rows, position = row[k], forks.position[k]
        tail = complete(policy, forks.select(many), noise[rows, position - 1].flatten(0, 1))
        prefix = mask_of(forks.position[many], tail.ids.shape[1])
        ids.append(torch.where(prefix, samples.ids[row[many]], tail.ids))
        lengths.append(tail.lengths)
    return torch.cat(ids), torch.cat(lengths), row, forks.position


def action_values(
    reward: str,
    policy: Generator,
    samples: Samples,
    trail: list[tuple[Tensor, Fork]],
    score: Scorer,
    rollouts: int,
    rng: Callable[[str], torch.Generator],
) -> Tensor:
    """q (B,T) by a reward's name: `constant`, `random` and `shuffled` are the null controls, any other is the score's.

    rng: the streams "rollouts", "random_reward" and "shuffle" by name.
    """
    batch, horizon = samples.ids.shape

    def q() -> Tensor:
        noise = uniform((batch, horizon - 1, rollouts, horizon), rng("rollouts"), samples.ids.device)
        return rollout_q(policy, samples, trail, score, noise)

    return by_name(reward, mask_of(samples.lengths, horizon), q, rng)


def block_values(
    reward: str,
    policy: Generator,
    samples: Samples,
    trail: list[tuple[Tensor, Fork]],
    score: Scorer,
    rollouts: int,
    step: int,
    rng: Callable[[str], torch.Generator],
) -> tuple[Tensor, Tensor]:
    """As `action_values`, for every block of `step` tokens: the value (B,K) where the block ends, K = ceil(T / step),
    and which blocks a sequence has (B,K). Completions are drawn at the ends of blocks only (Guo et al. 2018).
    """
    batch, horizon = samples.ids.shape
    begins = torch.arange(0, horizon, step, device=samples.ids.device)
    mask = begins < samples.lengths[:, None]  # (B,K)

    def values() -> Tensor:
        noise = uniform((batch, horizon - 1, rollouts, horizon), rng("rollouts"), samples.ids.device)
        q = rollout_q(policy, samples, trail[step - 1 :: step], score, noise)  # trail[t] stands after t+1 tokens
        return q.gather(1, torch.minimum(begins + step, samples.lengths[:, None]) - 1) * mask

    return by_name(reward, mask, values, rng), mask


def by_name(reward: str, mask: Tensor, values: Callable[[], Tensor], rng: Callable[[str], torch.Generator]) -> Tensor:
    """Values of the shape of `mask`: a null control's, or those asked for."""
    if reward == "constant":
        return constant_reward(mask)
    if reward == "random":
        return random_reward(mask, rng("random_reward"))
    found = values()
    return shuffled_reward(found, mask, rng("shuffle")) if reward == "shuffled" else found


def policy_trail(
    policy: Generator, generator: Generator, samples: Samples, trail: list[tuple[Tensor, Fork]]
) -> list[tuple[Tensor, Fork]]:
    """The trail for `policy`: the sampling's own where it is the generator itself, retraced once where it lags."""
    return trail if policy is generator else retrace(policy, samples.ids, samples.lengths)


def constant_reward(mask: Tensor, value: float = 0.5) -> Tensor:
    """Null control: the same reward for every token (B,T). What still improves owes nothing to a discriminator."""
    return mask * value


def random_reward(mask: Tensor, rng: torch.Generator) -> Tensor:
    """Null control: U[0,1) for every token (B,T), independent of what it is."""
    return torch.rand(mask.shape, generator=rng).to(mask.device) * mask


def shuffled_reward(q: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
    """Null control: each position's rewards dealt anew among the rows that reach it: same values, no information."""
    out = q.clone()
    for t in range(q.shape[1]):
        rows = mask[:, t].nonzero().squeeze(1)
        out[rows, t] = q[rows[torch.randperm(len(rows), generator=rng).to(q.device)], t]
    return out
