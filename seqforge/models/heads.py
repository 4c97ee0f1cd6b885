"""A linear head over a large vocabulary: logits in chunks that fit the caches, and the losses made of them with their
gradients taken on the way forward, so that neither the logits nor their gradient ever exist as a whole.

Shapes: N rows of hidden vectors, V vocabulary, H hidden width.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Headed = tuple[nn.Linear, Tensor]  # a head, and hidden vectors (N,H) of the rows that it is asked about
LOG2_E = math.log2(math.e)
CORE_FLOATS = 960_000  # of one matrix that a core works on at a time: 3.8 MB (logits of 192 rows at V=5000)


def threads_of(device: torch.device) -> int:
    """Threads that share a pass over rows: a CPU's; 1 for a GPU, which shares them out itself."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def _full(x: Tensor) -> Tensor:
    """At least float32: half-precision sums over a vocabulary lose digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unscaled_softmax(logits: Tensor, again: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """exp(logits) (N,V) up to one factor a row, and its sums (N,1): the softmax is their quotient.

    On a CPU the logits are overwritten, and not shifted by their maximum first, which is half the time of a softmax;
    where the sums then leave what float32 holds well, the logits are made `again` and shifted. A GPU makes a whole
    softmax in one pass, and half precision needs it. Powers of 2 take a third of the time of those of e on some CPUs,
    and no more on others.
    """
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64):
        e = logits.mul_(LOG2_E).exp2_()
        sums = e.sum(1, keepdim=True)
        least, most = sums.aminmax()
        if least > 1e-30 and most < 1e30:  # false of NaN
            return e, sums
        logits = again()
    p = torch.softmax(_full(logits), dim=-1)
    return p, p.new_ones(len(p), 1)


def _target_and_rest(
    logits: Tensor, again: Callable[[], Tensor], targets: Tensor, bits: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """exp(logits) (N,V) up to one factor a row, with 0 in the place of each row's target (N,); what stood there (N,1);
    and the sums of all others (N,1). Apart from the target a sum of bfloat16 holds what a sure prediction leaves.

    As `unscaled_softmax`; bits: the logits are to base 2 already, and those made again are not.
    """
    if bits:
        e = logits.exp2_()
        picked, rest = _taken_out(e, targets)
        least, most = (picked + rest).aminmax()
        if least > 1e-30 and most < 1e30:  # false of NaN
            return e, picked, rest
        logits = again()
    e = torch.softmax(_full(logits), dim=-1)
    return e, *_taken_out(e, targets)


def _taken_out(e: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    at = torch.arange(len(e), device=e.device), targets
    picked = _full(e[at])
    e[at] = 0.0  # scatter_ would copy all of a bfloat16 e
    return picked[:, None], _full(e.sum(1, keepdim=True))


def _log_of(chosen: Tensor, logits_of: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """log of the probabilities (N,) of targets; of those below the least float, from the logits of their rows anew."""
    logp = chosen.log()
    lost = (chosen < torch.finfo(chosen.dtype).tiny).nonzero().squeeze(1)  # exp underflows below -87.3 nats
    if len(lost):
        logp[lost] = torch.log_softmax(_full(logits_of(lost)), dim=-1).gather(1, targets[lost, None]).squeeze(1)
    return logp


def _parts(rows: Tensor) -> int:
    """Parts that rows are cut into: a CPU's threads. In bfloat16 1: there a batched product copies the matrix that the
    parts share, which costs more than it spares.
    """
    return threads_of(rows.device) if rows.dtype != torch.bfloat16 else 1


def _by_thread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N,K) as (C,N//C,K), as many for each of a CPU's C threads, and the rows left over (fewer than C,K).

    Batched products give each thread one part, as operations element by element do; a single product would be cut
    across the columns too, and every pass would fetch what another core has just written, which can double its time.
    """
    c = _parts(rows)
    even = len(rows) // c * c
    return rows[:even].unflatten(0, (c, even // c)), rows[even:]


def _product(rows: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """rows (N,K) @ matrix (K,M) into `out` (N,M), each thread its own rows."""
    (parts, rest), (out_parts, out_rest) = _by_thread(rows), _by_thread(out)
    if len(parts) == 1:
        return torch.mm(rows, matrix, out=out)
    torch.bmm(parts, matrix.expand(len(parts), -1, -1), out=out_parts)
    if len(rest):
        torch.mm(rest, matrix, out=out_rest)
    return out


def _one_each(like: Tensor, rows: int) -> Tensor:
    """Zeros (C,K,M) to add up a sum (K,M) over `rows` in: one for each thread, or where that is large or the rows are
    few one in all.
    """
    c = _parts(like)
    return like.new_zeros(c if like.numel() <= CORE_FLOATS and c * len(like) <= rows else 1, *like.shape)


def _add_outer(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left (N,K).T @ right (N,M) to `sums` (C,K,M), of which each thread has one; a single one may be more precise
    than the two.
    """
    if left.dtype != sums.dtype:
        sums[0].add_(left.t() @ right)
        return
    if len(sums) == 1:
        sums[0].addmm_(left.t(), right)
        return
    (parts, rest), (right_parts, right_rest) = _by_thread(left), _by_thread(right)
    sums.baddbmm_(parts.transpose(1, 2), right_parts)
    if len(rest):
        sums[0].addmm_(rest.t(), right_rest)


def _total(sums: Tensor) -> Tensor:
    return sums[0] if len(sums) == 1 else sums.sum(0)


class _WeightedNLL(torch.autograd.Function):
    """sum_n weight_n * -log softmax(hidden_n @ W.T + bias)[target_n], with its gradients taken on the way forward.

    The logits exist for one chunk of rows at a time, small enough for the cache, and are turned into the
    gradient in place: three matrix products in all and no (N,V) tensor, where autograd would need five passes
    over one. The softmax's sums go to the (N,H) side of the products. Only a loss that is linear in the
    log-probabilities can be done so; every policy-gradient and likelihood loss here is.

    In bfloat16 the three products are, and what stands between them; sums over chunks are not. What all words have in
    common is taken off the head first, so that rounding is of what tells them apart.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Tensor, weight: Tensor, precision: str):
        rows = rows_of_chunk(kernel) if hidden.device.type == "cpu" else 4096
        need = any(ctx.needs_input_grad[:3])
        chosen = _full(hidden.new_empty(hidden.shape[0]))  # probability of each target
        weight = weight.to(kernel.dtype)
        with_one, columns = _with_bias(hidden, kernel, bias)
        low = torch.bfloat16 if precision == "bf16" and _gains(kernel) else kernel.dtype
        each = len(hidden) if need and low == kernel.dtype else 0
        d_hidden, d_columns = torch.empty_like(hidden), _one_each(columns, each)
        bits = hidden.device.type == "cpu" and kernel.dtype in (torch.float32, torch.float64)
        right, back = columns, kernel
        if low != kernel.dtype:
            right, back = columns - columns.mean(1, keepdim=True), kernel - kernel.mean(0)
        right, back, left = (x.to(low) for x in (right * LOG2_E if bits else right, back, with_one))
        room, d_low = left.new_empty(min(rows, len(hidden)), len(kernel)), torch.empty_like(d_hidden, dtype=low)
        for lo in range(0, hidden.shape[0], rows):
            part = slice(lo, lo + rows)
            at, h = targets[part], with_one[part]
            logits = _product(left[part], right, out=room[: len(h)])
            e, picked, rest = _target_and_rest(logits, lambda h=h: h @ columns, at, bits)
            sums = picked + rest
            chosen[part] = (picked / sums).squeeze(1)
            if need:
                e[torch.arange(len(e), device=e.device), at] = -rest.squeeze(1).to(e.dtype)
                delta = e.to(low)  # sums * d(-log p)/dlogits
                scale = weight[part, None] / sums.to(kernel.dtype)
                torch.mul(_product(delta, back, out=d_low[part]), scale, out=d_hidden[part])
                _add_outer(d_columns, (h * scale).to(low), delta)
        logp = _log_of(chosen, lambda lost: with_one[lost] @ columns, targets)
        if need:
            ctx.save_for_backward(d_hidden, _total(d_columns))
        ctx.mark_non_differentiable(logp)
        return -(logp * weight).sum(), logp

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return *_scaled(grad_outputs[0], *ctx.saved_tensors), None, None, None


def _gains(kernel: Tensor) -> bool:
    """Whether a head (V,H) is large enough for products in bfloat16 to be faster, and not of half precision itself."""
    return kernel.dtype == torch.float32 and kernel.numel() >= 2**16


def _with_bias(hidden: Tensor, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(N,H+1), (H+1,V) of a head (V,H), whose product are the logits: a last column of ones, a last row of biases."""
    ones = hidden.new_ones(len(hidden), 1)
    return torch.cat([hidden, ones], dim=1), torch.cat([kernel, bias[:, None]], dim=1).t().contiguous()


def head_logits(head: nn.Linear, hidden: Tensor, rows: int) -> Callable[[slice], Tensor]:
    """Logits of chunks of `rows` hidden vectors (N,H): a slice -> (.,V). Of several chunks, as one product into one
    place: adding a bias costs another pass over them, which rearranging the head (V,H) once spares. Without a bias, the
    product that two threads or more share along the vocabulary: few rows cannot be shared out (64 take half the time).
    """
    if head.bias is None and threads_of(hidden.device) > 1:
        return lambda part: (head.weight @ hidden[part].t()).t()
    if len(hidden) <= rows or head.bias is None:
        return lambda part: head(hidden[part])
    with_one, columns = _with_bias(hidden, head.weight, head.bias)
    room = hidden.new_empty(rows, len(head.weight))

    def logits(part: slice) -> Tensor:
        h = with_one[part]
        return _product(h, columns, out=room[: len(h)])

    return logits


FEW = 256  # rows up to which oneDNN's product is the faster


@dataclass(frozen=True)
class Head:
    """A linear head (V,H) as it is asked token after token, valid until its weights change.

    packed: of a head without bias in float32 on a CPU, a copy for oneDNN, which takes a quarter to a half less than
    the usual product for few rows of a large vocabulary. A head with bias draws as ever, bit for bit: so are the
    oracle's sequences made, and a run knows its data by them.
    """

    linear: nn.Linear
    packed: Tensor | None

    @classmethod
    def of(cls, linear: nn.Linear) -> "Head":
        kernel = linear.weight
        fits = linear.bias is None and kernel.device.type == "cpu" and kernel.dtype == torch.float32
        packed = kernel.detach().to_mkldnn() if fits and torch.backends.mkldnn.is_available() else None
        return cls(linear, packed)

    def logits(self, hidden: Tensor, rows: int) -> Callable[[slice], Tensor]:
        """As `head_logits`, without gradient."""
        packed = self.packed
        if packed is None or min(rows, len(hidden)) > FEW:
            return head_logits(self.linear, hidden, rows)
        return lambda part: F.linear(packed, hidden[part]).to_dense().t()


def _scaled(scale: Tensor, d_hidden: Tensor, d_columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden vectors, kernel (V,H) and bias."""
    return d_hidden * scale, d_columns[:-1].t().contiguous() * scale, d_columns[-1] * scale


def rows_of_chunk(kernel: Tensor) -> int:
    """Rows whose logits, of a head (V,H), are computed at a time: for each thread as many as its core's caches hold,
    but 32 at least, and in all no fewer than H/2, since each chunk also reads and writes the whole head's gradient.
    """
    v, h = kernel.shape
    c = threads_of(kernel.device)
    return c * max(32, CORE_FLOATS // v, -(-h // (2 * c)))


def head_weighted_nll(
    head: nn.Linear, hidden: Tensor, targets: Tensor, weight: Tensor, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Loss sum(weight * -log p(target)) (scalar) and log p(target) without gradient, of the shape of `targets`.

    hidden (..., H), targets (...) ids, weight (...) floats; precision "bf16": of the products with the head.
    """
    assert hidden.shape[:-1] == targets.shape == weight.shape
    bias = head.bias if head.bias is not None else head.weight.new_zeros(head.weight.shape[0])
    given = (hidden.flatten(0, -2), head.weight, bias, targets.flatten(), weight.flatten())
    loss, logp = _WeightedNLL.apply(*given, precision)
    return loss, logp.view(targets.shape)


@torch.no_grad()
def head_log_probs(head: nn.Linear, hidden: Tensor, targets: Tensor, temperatures: Sequence[float] = (1.0,)) -> Tensor:
    """log p(target) (K,N) of hidden vectors (N,H) and targets (N,), logits divided by each of the K temperatures; no
    gradient. The logits of a chunk of rows are made once for all.
    """
    rows = rows_of_chunk(head.weight) if hidden.device.type == "cpu" else 4096
    found = _full(hidden.new_empty(len(temperatures), len(hidden)))
    logits_of = head_logits(head, hidden, rows)
    for lo in range(0, len(hidden), rows):
        part = slice(lo, lo + rows)
        logits, at = _full(logits_of(part)), targets[part]
        for k, temperature in enumerate(temperatures):
            e, sums = unscaled_softmax(logits / temperature, lambda t=temperature, x=logits: x / t)
            chosen = e.gather(1, at[:, None]) / sums
            found[k, part] = _log_of(chosen.squeeze(1), lambda lost, t=temperature, x=logits: x[lost] / t, at)
    return found


class _WeightedDivergence(torch.autograd.Function):
    """sum_n weight_n * KL(p_n || q_n) of a head's distributions p and those of others, or KL(q_n || p_n), with the
    gradients of p's taken on the way forward, chunk by chunk as in `_WeightedNLL`: d KL(p || q) / d logits = p (log p -
    log q - KL), d KL(q || p) / d logits = p - q. Of x and y, the logits of p and q, only the exponentials are made:
    KL(p || q) = sum p (x - y) - log sum e^x + log sum e^y.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, kernel: Tensor, bias: Tensor, weight: Tensor, others: Sequence[Headed], covering: bool
    ):
        rows = (
            threads_of(hidden.device) * max(8, CORE_FLOATS // 2 // len(kernel)) if hidden.device.type == "cpu" else 4096
        )
        weight, other_of = weight.to(kernel.dtype), _normalised(others, rows)
        with_one, columns = _with_bias(hidden, kernel, bias)
        kl, d_hidden = _full(hidden.new_empty(hidden.shape[0])), torch.empty_like(hidden)
        d_columns, room = _one_each(columns, len(hidden)), hidden.new_empty(min(rows, len(hidden)), len(kernel))
        for lo in range(0, hidden.shape[0], rows):
            part = slice(lo, lo + rows)
            h, (y, log_sum_y) = with_one[part], other_of(part)
            x = _full(_product(h, columns, out=room[: len(h)]))
            gap = x - y
            e, sums, log_sum_x = _exponentials(x, lambda h=h: h @ columns)
            if covering:
                q = torch.softmax(y, dim=-1)
                kl[part] = (log_sum_x - log_sum_y).squeeze(1) - torch.linalg.vecdot(q, gap)
                delta, scale = e.div_(sums).sub_(q), weight[part, None]
            else:
                mean = torch.linalg.vecdot(e, gap)[:, None] / sums
                kl[part] = (mean - log_sum_x + log_sum_y).squeeze(1)
                delta = gap.sub_(mean).mul_(e)  # sums * the gradient
                scale = weight[part, None] / sums.to(kernel.dtype)
            delta = delta.to(kernel.dtype)
            _product(delta, kernel, out=d_hidden[part]).mul_(scale)
            _add_outer(d_columns, h * scale, delta)
        ctx.save_for_backward(d_hidden, _total(d_columns))
        ctx.mark_non_differentiable(kl)
        return (kl * weight).sum(), kl

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return *_scaled(grad_outputs[0], *ctx.saved_tensors), None, None, None


def head_divergence(
    head: nn.Linear, hidden: Tensor, others: Sequence[Headed], weight: Tensor, covering: bool = False
) -> tuple[Tensor, Tensor]:
    """Loss sum_n weight_n * KL(p_n || q_n) in nats, and KL (N,) without gradient; covering: KL(q_n || p_n).

    hidden (N,H), weight (N,); q_n: the mean of the probabilities that the others' heads give, without gradient.
    """
    assert hidden.shape[:1] == weight.shape
    bias = head.bias if head.bias is not None else head.weight.new_zeros(head.weight.shape[0])
    return _WeightedDivergence.apply(hidden, head.weight, bias, weight, others, covering)


def _exponentials(logits: Tensor, again: Callable[[], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """`unscaled_softmax`, and the log (N,1) of the sum of the logits' exponentials."""
    e, sums = unscaled_softmax(logits, again)
    if e is logits:
        return e, sums, sums.log()
    return e, sums, torch.logsumexp(_full(again()), dim=-1, keepdim=True)


def _normalised(heads: Sequence[Headed], rows: int) -> Callable[[slice], tuple[Tensor, Tensor]]:
    """Of the mean probability that heads give in chunks of `rows`: logits (.,V), which may be overwritten, and the log
    (.,1) of the sum of their exponentials.
    """
    logits_of = [head_logits(head, hidden, rows) for head, hidden in heads]

    @torch.no_grad()
    def normalised(part: slice) -> tuple[Tensor, Tensor]:
        if len(logits_of) > 1:
            mean = mean_of([logits(part) for logits in logits_of])
            return mean, mean.new_zeros(len(mean), 1)
        y = _full(logits_of[0](part))
        return y, _exponentials(y.clone(), lambda: y)[2]

    return normalised


def mean_of(logits: Sequence[Tensor]) -> Tensor:
    """log of the mean of the distributions that logits (...,V) give. Where a mean is below the least float, of
    logarithms, which takes thrice the time.
    """
    if len(logits) == 1:
        return torch.log_softmax(_full(logits[0]), dim=-1)
    mean = functools.reduce(torch.add, (torch.softmax(_full(x), dim=-1) for x in logits)) / len(logits)
    if mean.min() >= torch.finfo(mean.dtype).tiny:  # false of NaN
        return mean.log()
    total = functools.reduce(torch.logaddexp, [torch.log_softmax(_full(x), dim=-1) for x in logits])
    return total - math.log(len(logits))


def log_softmax_at(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target]: logits (..., V), targets (...) -> (...)."""
    return -F.cross_entropy(_full(logits).flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
