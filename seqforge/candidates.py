"""Tokens that might have come at each place of a sampled sequence, and what each is worth beside the others.

Where a reward is known for every token of a prefix, not for a whole sequence alone, one sample need not stand for its
place: the expectation over the next token can be taken over K draws from the same prefix, each the others' baseline.
The gradient's expectation stays what it is (all-action policy gradients: Petit et al. 2019, arXiv 1910.09093; draws as
each other's baseline: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!").
"""

from torch import Tensor


def relative_worth(reward: Tensor) -> Tensor:
    """Of rewards (..., K) of the K candidates of a place: each less the mean of the others, over K. Weights of -log p
    that add up to 0, and whose expected gradient is that of the expected reward of one draw.
    """
    k = reward.shape[-1]
    return (reward - reward.mean(-1, keepdim=True)) / (k - 1)


def share_worth(logit: Tensor) -> Tensor:
    """Of logits (..., K) of p(real): each candidate's share of all p(real) / p(generated), less 1/K. Weights of -log p
    that add up to 0. With many candidates, and a discriminator at its best, the update is that of likelihood on the
    data's next token after this prefix: importance weights of draws from the generator, normalised as in MaliGAN (Che
    et al. 2017, arXiv 1702.07983), token by token. What all candidates have in common, the prefix, cancels.
    """
    return logit.softmax(-1) - 1 / logit.shape[-1]
