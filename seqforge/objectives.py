"""Losses and returns as pure functions of tensors.

Every sequence loss here is linear in the log-probabilities: loss = sum_{b,t} weight[b,t] * -log p(y_t | y_<t)
(`likelihood.weighted_nll`). The functions below give the weights (B,T), 0 past the end, so that minimising the loss
ascends the objective named. B batch, T time; q and reward are per token. Besides F features, K blocks.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Baseline = Literal["none", "step", "leave-one-out"]
Reduction = Literal["sum", "mean"]


def mle_weight(mask: Tensor) -> Tensor:
    """Maximum likelihood: the loss is the mean -log p over the tokens of the batch (nats per token).

    mask (B,T) bool. Source: Yu et al. 2017, pre-training; authors' generator.py.
    """
    assert mask.ndim == 2
    return mask / mask.sum()


def reinforce_weight(advantage: Tensor, mask: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Policy gradient: grad J = E[sum_t Q(y_<t, y_t) grad log p(y_t | y_<t)] (Yu et al. 2017, eq. 7 and 8).

    advantage, mask (B,T). `sum` adds over batch and time as the authors' code does (the paper's is sum over time,
    mean over batch, the same direction); `mean` divides by the number of tokens. It matters only beside a clipped norm.
    """
    assert advantage.shape == mask.shape
    weight = advantage * mask
    return weight / mask.sum() if reduction == "mean" else weight


def advantage(q: Tensor, mask: Tensor, baseline: Baseline = "none") -> Tensor:
    """Action values less a baseline (B,T), 0 past the end. Rows that have ended take no part in a mean.

    step: the batch mean at each position, the row itself included (biased by 1/B towards 0).
    leave-one-out: the mean of the other rows at each position; it leaves the gradient unbiased where there is another.
    A row alone at its position gets 0 from both.
    """
    assert q.shape == mask.shape
    q = q * mask
    if baseline == "none":
        return q
    count = mask.sum(0, keepdim=True)
    centred = (q - q.sum(0, keepdim=True) / count.clamp_min(1)) * mask
    if baseline == "step":
        return centred
    return centred * count / (count - 1).clamp_min(1)


def discounted_return(reward: Tensor, mask: Tensor, gamma: float, absorbing: bool = False) -> Tensor:
    """R_t = sum_{s >= t} gamma^(s-t) r_s (B,T), 0 past the end, whose rewards do not count (de Masson d'Autume et al.
    2019, section 3.1). One pass from the end.

    absorbing: the last token's reward is that of every token past the end, without end (gamma below 1), so that it does
    not pay to end for fear of bad rewards, nor to go on for good ones (Kostrikov et al. 2019, arXiv 1809.02925).
    """
    assert reward.shape == mask.shape
    reward, later, out = reward * mask, torch.zeros_like(reward[:, 0]), []
    last = mask & ~F.pad(mask[:, 1:], (0, 1))
    for t in range(reward.shape[1] - 1, -1, -1):
        later = reward[:, t] + gamma * later
        if absorbing:
            later = torch.where(last[:, t], reward[:, t] / (1 - gamma), later)
        out.append(later)
    return torch.stack(out[::-1], dim=1) * mask


def still_to_come(cost: Tensor, mask: Tensor) -> Tensor:
    """Sum of what later tokens cost (B,T): out_t = sum_{s > t} cost_s; 0 past the end."""
    assert cost.shape == mask.shape
    cost = cost * mask
    return (cost.flip(1).cumsum(1).flip(1) - cost) * mask


def goal_cosine(goals: Tensor, features: Tensor, lengths: Tensor, step: int) -> Tensor:
    """cos(F(s_{t+c}) - F(s_t), g_t) (B,T) for t = 0 .. T-1, 0 past the end: did the sequence go where the goal points?

    goals (B,T,F), features (B,T+1,F) of s_0 .. s_T, c = step. A sequence that ends before stays at its last feature.
    The manager ascends it, weighted by the reward (Guo et al. 2018, eq. of the manager's gradient).
    """
    horizon = goals.shape[1]
    assert features.shape == (goals.shape[0], horizon + 1, goals.shape[2])
    t = torch.arange(horizon, device=goals.device)
    later = torch.minimum(t + step, lengths[:, None])  # (B,T)
    reached = features.gather(1, later[..., None].expand_as(goals))
    return F.cosine_similarity(reached - features[:, :-1], goals, dim=-1) * (t < lengths[:, None])


def intrinsic_reward(goals: Tensor, features: Tensor, mask: Tensor, step: int, by_block: bool = False) -> Tensor:
    """The worker's reward (B,T) for y_t, t = 1 .. T: (1/c) sum_{i=1..c} cos(F(s_t) - F(s_{t-i}), g_{t-i}) (Guo et al.
    2018), over those of the last c goals that exist; 0 past the end.

    goals (B,T,F) g_0 .. g_{T-1}, features (B,T+1,F), mask (B,T). by_block, as in the authors' code: the one goal that
    drives the block, against the change since the block began.
    """
    horizon = goals.shape[1]
    assert features.shape == (goals.shape[0], horizon + 1, goals.shape[2])
    if by_block:
        begun = torch.arange(horizon, device=goals.device) // step * step
        return F.cosine_similarity(features[:, 1:] - features[:, begun], goals[:, begun], dim=-1) * mask
    total = torch.zeros_like(goals[..., 0])
    for i in range(1, min(step, horizon) + 1):
        change = features[:, i:] - features[:, :-i]  # (B,T+1-i,F)
        total[:, i - 1 :] += F.cosine_similarity(change, goals[:, : horizon + 1 - i], dim=-1)
    goals_so_far = torch.arange(1, horizon + 1, device=goals.device).clamp_max(step)
    return total / goals_so_far * mask


def rank_rescale(value: Tensor, mask: Tensor, delta: float) -> Tensor:
    """Bootstrapped rescaled activation: sigmoid(delta (0.5 - rank / B)) (B,K), rank 1 for the largest of the B rows
    that reach a column, equal values sharing their mean rank; 0 outside mask (B,K).

    Only the order of a batch counts, so that the mean and the spread of what comes out do not depend on how sure the
    discriminator is. Source: Guo et al. 2018, eq. of the bootstrapped rescaled activation.
    """
    assert value.shape == mask.shape
    above = ((value[None] > value[:, None]) & mask[None]).sum(1)  # (B,K) rows that stand higher
    equal = ((value[None] == value[:, None]) & mask[None]).sum(1)  # itself included
    rank = (above + (equal + 1) / 2).to(value.dtype)
    return torch.sigmoid(delta * (0.5 - rank / mask.sum(0).clamp_min(1))) * mask


def token_reward(logit: Tensor, mask: Tensor, form: Literal["probability", "logit"] = "probability") -> Tensor:
    """2 p(real) - 1 of every token, in (-1, 1), or its logit log p(real) / p(generated) (B,T); 0 past the end."""
    assert logit.shape == mask.shape
    return (logit if form == "logit" else 2 * torch.sigmoid(logit) - 1) * mask


def token_discriminator_loss(logit: Tensor, mask: Tensor, label: Tensor, places: int) -> Tensor:
    """Half the binary cross-entropy (nats) of every token, summed, over `places`: rows of one side times their length.

    logit, mask (B,T); label (B,) 1 for real rows, 0 for generated ones.
    """
    target = label[:, None].float().expand_as(logit)
    each = F.binary_cross_entropy_with_logits(logit.float(), target, reduction="none")
    return 0.5 * (each * mask).sum() / places


def discriminator_loss(real_logit: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats; logit (B,) of being real, label (B,) 1 for real, 0 for generated (eq. 5)."""
    assert real_logit.shape == label.shape
    return F.binary_cross_entropy_with_logits(real_logit.float(), label.float())
