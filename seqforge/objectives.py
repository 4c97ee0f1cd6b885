"""Losses and returns as pure functions of tensors.

Every sequence loss here is linear in the log-probabilities: loss = sum_{b,t} weight[b,t] * -log p(y_t | y_<t)
(`sampling.weighted_nll`). The functions below give the weights (B,T), 0 past the end, so that minimising the loss
ascends the objective named. B batch, T time; q and reward are per token.
"""

from typing import Literal

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


def discriminator_loss(real_logit: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats; logit (B,) of being real, label (B,) 1 for real, 0 for generated (eq. 5)."""
    assert real_logit.shape == label.shape
    return F.binary_cross_entropy_with_logits(real_logit.float(), label.float())
