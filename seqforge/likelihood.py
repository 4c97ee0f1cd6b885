"""How likely given sequences are, and the losses made of it: one implementation for every generator.

Shapes: B rows, T = max_length, V vocabulary, H hidden width. `ids` (B,T) hold token ids; positions past `lengths` hold
0 and mean nothing. All passes are teacher forced; of a generator with a linear head only the tokens within the
sequences reach the head, and their logits exist for a chunk at a time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge.models.generator import Context, Generator, HeadedGenerator
from seqforge.models.heads import (
    head_divergence,
    head_log_probs,
    head_weighted_nll,
    log_softmax_at,
    mean_of,
)
from seqforge.sampling import cache_rows, mask_of


def log_probs(
    generator: Generator, ids: Tensor, lengths: Tensor, temperature: float = 1.0, context: Context | None = None
) -> Tensor:
    """log p(y_t | y_<t) in nats (B,T), teacher forced, 0 past the end; differentiable."""
    first, state = generator.start(ids.shape[0], context)
    later, _ = generator.extend(ids[:, :-1], state)
    logits = torch.cat([first[:, None], later], dim=1) / temperature
    return log_softmax_at(logits, ids) * mask_of(lengths, ids.shape[1])


def weighted_nll(
    generator: Generator,
    ids: Tensor,
    lengths: Tensor,
    weight: Tensor | None,
    read: Tensor | None = None,
    smoothing: float = 0.0,
    context: Context | None = None,
    precision: str = "fp32",
    others: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss sum_{b,t} weight[b,t] * -log p(y_t | y_<t) over the tokens of each sequence, and those log-probabilities
    (B,T) without gradient. Every likelihood and policy-gradient loss is this with its own weights (objectives.py).

    read (B,T): tokens that the generator reads in place of `ids`, as in scheduled sampling: p(y_t | read_<t).
    smoothing: share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    precision: bf16 makes the products with a linear head, two thirds of the work at a large V, in bfloat16; gradients
    are then off by some .3 % (logits of up to 10) to .7 % (to 25), the returned log-probabilities by up to .03 to .05.
    others: tokens (B,T,K) that might have come at each place, and weights (B,T,K) that add up to 0 there, for a
    generator with a linear head: adds sum weight * -log p(other | y_<t), in which the normaliser cancels. With `weight`
    None there is no more than that: no softmax is taken, and log-probabilities are 0.
    """
    read = ids if read is None else read
    if isinstance(generator, HeadedGenerator):
        hidden, real = _hidden_within(generator, read, lengths, context)
        loss, logp = hidden.new_zeros(()), hidden.new_zeros(ids.shape)
        if weight is not None:
            loss, logp = _headed_nll(generator.head, hidden, real, ids, weight, precision)
            if smoothing:
                loss = loss + smoothing * _above_mean(generator.head, hidden, ids[real], weight[real])
        if others is not None:
            loss = loss - _weighted_logits(generator.head, hidden, others[0][real], others[1][real])
        return loss, logp
    assert others is None, "candidates only of a generator with a linear head"
    assert weight is not None
    mask = mask_of(lengths, ids.shape[1])
    weight = weight * mask
    first, state = generator.start(ids.shape[0], context)
    later, _ = generator.extend(read[:, :-1], state)
    logits = torch.cat([first[:, None], later], dim=1)
    logp = log_softmax_at(logits, ids) * mask
    even = smoothing * (weight * (logits.gather(2, ids[..., None])[..., 0] - logits.mean(-1))).sum() if smoothing else 0
    return even - (weight * logp).sum(), logp.detach()


def _above_mean(head: nn.Linear, hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """sum_n weight_n (logit of target n - mean logit): what -log p of an even draw is above -log p of the target.

    No logits are needed for it but those of the targets: the mean logit is that of the mean row of the head.
    """
    above = (hidden * (head.weight[targets] - head.weight.mean(0))).sum(-1)
    if head.bias is not None:
        above = above + head.bias[targets] - head.bias.mean()
    return (weight * above).sum()


def _weighted_logits(head: nn.Linear, hidden: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
    """sum weight * logit of hidden vectors (N,H), tokens (N,K), weight (N,K): of the head, the rows asked for alone."""
    mixed = (weight[..., None] * F.embedding(tokens, head.weight)).sum(1)  # (N,H)
    total = (hidden * mixed).sum()
    return total if head.bias is None else total + (weight * head.bias[tokens]).sum()


def weighted_nll_of(
    head: nn.Linear, hidden: Tensor, ids: Tensor, lengths: Tensor, weight: Tensor, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """`weighted_nll` where the hidden vectors (B,T,H) of all tokens are known already."""
    real = mask_of(lengths, ids.shape[1])
    return _headed_nll(head, hidden[real], real, ids, weight, precision)


def _headed_nll(
    head: nn.Linear, hidden: Tensor, real: Tensor, ids: Tensor, weight: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    loss, logp = head_weighted_nll(head, hidden, ids[real], weight[real], precision)
    return loss, logp.new_zeros(ids.shape).masked_scatter(real, logp)


def weighted_divergence(
    generator: Generator, other: Generator, ids: Tensor, lengths: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss sum_{b,t} weight[b,t] * KL(p(. | y_<t) || q(. | y_<t)) over the tokens of each sequence, the whole
    distribution of `generator` against that of `other`, which gets no gradient; and those KL (B,T) in nats.
    """
    return _divergence(generator, [other], ids, lengths, weight, covering=False)


def weighted_distillation(
    student: Generator, teachers: Sequence[Generator], ids: Tensor, lengths: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """`weighted_divergence` the other way round: KL(q(. | y_<t) || p(. | y_<t)), where p is the student's and q the
    mean of the teachers' probabilities.
    """
    return _divergence(student, teachers, ids, lengths, weight, covering=True)


def _divergence(
    generator: Generator, others: Sequence[Generator], ids: Tensor, lengths: Tensor, weight: Tensor, covering: bool
) -> tuple[Tensor, Tensor]:
    mask = mask_of(lengths, ids.shape[1])
    headed = [g for g in others if isinstance(g, HeadedGenerator)]
    if isinstance(generator, HeadedGenerator) and len(headed) == len(others):
        hidden, _ = _hidden_within(generator, ids, lengths)
        with torch.no_grad():
            theirs = [(g.head, _hidden_within(g, ids, lengths)[0]) for g in headed]
        loss, kl = head_divergence(generator.head, hidden, theirs, weight[mask], covering)
        return loss, kl.new_zeros(ids.shape).masked_scatter(mask, kl)
    with torch.no_grad():
        log_q = mean_of([_all_logits(g, ids) for g in others])
    log_p = torch.log_softmax(_all_logits(generator, ids), dim=-1)
    near, far = (log_p, log_q) if covering else (log_q, log_p)
    kl = F.kl_div(near, far, reduction="none", log_target=True).sum(-1) * mask
    return (weight * kl).sum(), kl.detach()


def _all_logits(generator: Generator, ids: Tensor) -> Tensor:
    """Logits (B,T,V) of every token there is."""
    first, state = generator.start(ids.shape[0])
    later, _ = generator.extend(ids[:, :-1], state)
    return torch.cat([first[:, None], later], dim=1)


@torch.no_grad()
def sequence_nll(
    generator: Generator,
    ids: Tensor,
    lengths: Tensor,
    temperature: float = 1.0,
    rows: int | None = None,
    context: Context | None = None,
) -> Tensor:
    """-log p(y_t | y_<t) in nats (B,T), 0 past the end, without gradient, in chunks that fit the cache."""
    return sequence_nlls(generator, ids, lengths, (temperature,), rows, context)[0]


@torch.no_grad()
def sequence_nlls(
    generator: Generator,
    ids: Tensor,
    lengths: Tensor,
    temperatures: Sequence[float],
    rows: int | None = None,
    context: Context | None = None,
) -> Tensor:
    """`sequence_nll` at several temperatures (K,B,T); a generator with a linear head reads a sequence once for all."""
    rows = rows or max(1, 2 * cache_rows(generator.vocab_size, ids.device) // ids.shape[1])
    if isinstance(generator, HeadedGenerator):
        rows = max(rows, 256)  # its logits are cut finer than that anyway
    parts = torch.arange(len(ids), device=ids.device).split(rows)
    contexts = [None if context is None else context[at] for at in parts]
    found = [_nlls(generator, ids[at], lengths[at], temperatures, c) for at, c in zip(parts, contexts, strict=True)]
    return torch.cat(found, dim=1)


def _nlls(
    generator: Generator, ids: Tensor, lengths: Tensor, temperatures: Sequence[float], context: Context | None
) -> Tensor:
    if not isinstance(generator, HeadedGenerator):
        return torch.stack([-log_probs(generator, ids, lengths, t, context) for t in temperatures])
    hidden, real = _hidden_within(generator, ids, lengths, context)
    found = head_log_probs(generator.head, hidden, ids[real], temperatures)
    return torch.stack([-logp.new_zeros(ids.shape).masked_scatter(real, logp) for logp in found])


def _hidden_within(
    generator: HeadedGenerator, read: Tensor, lengths: Tensor, context: Context | None = None
) -> tuple[Tensor, Tensor]:
    """The hidden vectors (K,H) of the K tokens within the sequences, row by row, and where those are in (B,T).

    Padding costs nothing in the head, which costs the most, and little before it: no step is taken past the longest
    sequence, on a CPU of those of like length.
    """
    real, groups = mask_of(lengths, read.shape[1]), _alike(lengths)
    if len(groups) == 1:
        longest = int(lengths.max())
        hidden = _all_hidden(generator, read[:, :longest], context)
        return hidden.flatten(0, 1) if int(lengths.min()) == longest else hidden[real[:, :longest]], real
    found = []
    for at in groups:
        longest = int(lengths[at].max())
        hidden = _all_hidden(generator, read[at, :longest], None if context is None else context[at])
        found.append(hidden[mask_of(lengths[at], longest)])
    # where each row's tokens begin among those found, and then where each token is
    order, before = torch.cat(groups), lengths.cumsum(0) - lengths
    begins = torch.empty_like(lengths)
    begins[order] = lengths[order].cumsum(0) - lengths[order]
    at = (begins - before).repeat_interleave(lengths) + torch.arange(int(lengths.sum()), device=lengths.device)
    return torch.cat(found).index_select(0, at), real


GROUPS, GROUP_ROWS = 4, 64  # of like lengths: more groups, and smaller ones, cost more than the padding that they spare


def _alike(lengths: Tensor) -> list[Tensor]:
    """Rows of like lengths. One group on a GPU, which is not faster for less padding, and where there is little."""
    number = min(GROUPS, len(lengths) // GROUP_ROWS) if lengths.device.type == "cpu" else 1
    if number > 1 and float(lengths.float().mean()) < 0.8 * int(lengths.max()):
        return list(lengths.argsort(stable=True).chunk(number))
    return [torch.arange(len(lengths), device=lengths.device)]


def _all_hidden(generator: HeadedGenerator, ids: Tensor, context: Context | None) -> Tensor:
    """The hidden vectors (B,T,H) that the logits of every token of `ids` (B,T) are made of."""
    first, state = generator.start_hidden(ids.shape[0], context)
    later, _ = generator.extend_hidden(ids[:, :-1], state)
    return torch.cat([first[:, None], later], dim=1)
