"""Sampling and completing sequences: one implementation for every generator.

Shapes: B rows, T = max_length, V vocabulary. `ids` (B,T) hold token ids; positions past `lengths` hold 0 and mean
nothing. A sequence's length counts its end token.

The random number of row r at position t is noise[r, t]: how rows are cut into chunks, and which of them end early,
changes no sample.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqforge.models.generator import (
    Context,
    Generator,
    HeadedGenerator,
    State,
    reader,
)
from seqforge.models.heads import (
    CORE_FLOATS,
    LOG2_E,
    Head,
    threads_of,
    unscaled_softmax,
)

FULL = (torch.float32, torch.float64)
OPENING = 2  # tokens that may have a temperature of their own: as many as LeakGAN's code has


@dataclass(frozen=True)
class Samples:
    """ids (B,T), lengths (B,), logp (B,T): log-probability (nats) at the temperature sampled at, 0 past the end.

    candidates: tokens (B,T,K) that might have come at each place, where noise (B,T,K) asked for them: independent draws
    from p(. | y_<t), the first of which is the token itself; 0 past the end.
    given: tokens (B,) at the beginning that were not drawn, where there were such; their log-probability is 0.
    """

    ids: Tensor
    lengths: Tensor
    logp: Tensor
    candidates: Tensor | None = None
    given: Tensor | None = None


@dataclass(frozen=True)
class Prompts:
    """What sequences begin with: the first `lengths` (B,), from 0 on, tokens of ids (B,T); no end token among them."""

    ids: Tensor
    lengths: Tensor

    def __getitem__(self, rows: Tensor) -> "Prompts":
        return Prompts(self.ids[rows], self.lengths[rows])


@dataclass(frozen=True)
class Fork:
    """A point to continue from: what the logits of the token at `position` (B,) are made of, and the state before it.

    output: hidden vectors (B,H) of a generator with a linear head, logits (B,V) of another.
    """

    output: Tensor
    state: State
    position: Tensor

    def select(self, rows: Tensor) -> "Fork":
        return Fork(self.output[rows], self.state.select(rows), self.position[rows])

    @classmethod
    def cat(cls, forks: list["Fork"]) -> "Fork":
        states = [f.state for f in forks]
        return cls(
            torch.cat([f.output for f in forks]),
            type(states[0]).cat(states),
            torch.cat([f.position for f in forks]),
        )


@dataclass(frozen=True)
class Filter:
    """How logits become the distribution that is drawn from: banned tokens go first, then temperature, top-k, top-p.

    banned: ids that are never drawn; min_length: tokens, end token included, before which a sequence does not end;
    opening: temperature of a sequence's first OPENING tokens, in place of the other.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    banned: tuple[int, ...] = ()
    min_length: int = 0
    opening: float | None = None

    def __post_init__(self):
        for name, value in (("temperature", self.temperature), ("opening", self.opening)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, but must be above 0 (1 samples the model as it is)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, but must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must lie in (0, 1]")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B,V) logits -> (B,V) probabilities, float32, past the opening."""
        if self.banned:
            logits = logits.index_fill(1, torch.tensor(self.banned, device=logits.device), -torch.inf)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        p = torch.softmax(logits.float(), dim=-1)
        if self.banned and bool(p.isnan().any()):
            raise ValueError("every token is banned, or all but the end of a sequence that may not end yet; ban fewer")
        if self.top_p is not None and self.top_p < 1:
            ordered, at = p.sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            p = torch.zeros_like(p).scatter(-1, at, ordered.masked_fill(before >= self.top_p, 0.0))
            p = p / p.sum(-1, keepdim=True)
        return p


PLAIN = Filter()
GREEDY = Filter(top_k=1)  # the likeliest token; the first, where several are


def uniform(shape: tuple[int, ...], rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Noise in [0,1) from a CPU generator, so that a seed means the same numbers on every device."""
    return torch.rand(shape, generator=rng).to(device)


def draw(p: Tensor, u: Tensor) -> Tensor:
    """Inverse CDF: the token at which the running sum of p (B,V) passes u (B,) in [0,1) -> (B,) ids. u may be (B,K): K
    draws a row.

    Two levels (blocks of about sqrt(V), then the block): a running sum over all of V is slower than softmax, and
    torch.multinomial some twenty times slower. p need not be normalised. Running sums are in double precision, so that
    a token of probability 0 is never drawn.
    """
    return _draw(p, u, *_sums(p))


def _sums(p: Tensor) -> tuple[Tensor, Tensor]:
    """Of p (B,V): sums of its blocks (B,K), and their running sums in double precision, the last that of a row."""
    v, width = p.shape[1], _block_width(p.shape[1])
    main = v // width * width
    if p.stride(0) == 1:  # of a head without bias: summed as it lies in memory, in an eighth of the time
        blocks = p.t()[:main].unflatten(0, (-1, width)).sum(1).t()
    else:
        blocks = p[:, :main].unflatten(1, (-1, width)).sum(-1)
    if main < v:
        blocks = torch.cat([blocks, p[:, main:].sum(-1, keepdim=True)], dim=1)
    return blocks, blocks.cumsum(1, dtype=torch.float64)


def _draw(p: Tensor, u: Tensor, blocks: Tensor, running: Tensor) -> Tensor:
    """`draw` of p (B,V) whose sums are known."""
    (b, v), width = p.shape, _block_width(p.shape[1])
    target = u.reshape(b, -1) * running[:, -1:]  # (B,K), below the last sum, as u < 1
    block = torch.searchsorted(running, target, right=True)  # (B,K)
    offset = target - (running.gather(1, block) - blocks.gather(1, block))
    at = (block[..., None] * width + torch.arange(width, device=p.device)).flatten(1)  # (B,K*width)
    inside = p.gather(1, at.clamp_max(v - 1)).masked_fill(at >= v, 0.0) if v % width else p.gather(1, at)
    inner = inside.view(b, -1, width).cumsum(2, dtype=torch.float64)
    offset = torch.minimum(offset.clamp_min(0.0), inner[..., -1] * (1 - 1e-12))  # the block's sum was rounded
    return (block * width + torch.searchsorted(inner, offset[..., None], right=True).squeeze(2)).view(u.shape)


@functools.cache
def _block_width(v: int) -> int:
    """About sqrt(V); a divisor of V where one is near, which spares the ragged last block."""
    root = v**0.5
    near = [w for w in range(max(1, int(root / 2)), int(root * 2) + 1) if v % w == 0]
    return min(near, key=lambda w: abs(w - root), default=max(1, int(root)))


def chunk_rows(generator: Generator, device: torch.device) -> int:
    """Rows that advance together. Small steps cost their calls, so many; all their logits at once only on a GPU."""
    if device.type != "cpu":
        return min(max(16, 256_000_000 // generator.vocab_size), 8192)
    rows = cache_rows(generator.vocab_size, device)
    return min(16 * rows, 32_768) if isinstance(generator, HeadedGenerator) else rows


def cache_rows(vocab_size: int, device: torch.device) -> int:
    """Rows whose logits stay in the caches of a CPU; a GPU takes as many as come."""
    return threads_of(device) * min(max(8, CORE_FLOATS // vocab_size), 1024) if device.type == "cpu" else 8192


@torch.no_grad()
def begin(generator: Generator, rows: int, device: torch.device | str = "cpu", context: object = None) -> Fork:
    """The fork before the first token."""
    first = generator.start_hidden if isinstance(generator, HeadedGenerator) else generator.start
    output, state = first(rows, context)
    return Fork(output, state, torch.zeros(rows, dtype=torch.long, device=device))


@torch.no_grad()
def begin_with(generator: Generator, prompt: Tensor, device: torch.device | str = "cpu") -> Fork:
    """The fork after a prompt: ids (B,t), t at least 1, all rows of one length."""
    assert prompt.ndim == 2
    assert prompt.shape[1]
    fork = begin(generator, len(prompt), device)
    outputs, state = reader(generator)(prompt.to(device), fork.state)
    return Fork(outputs[:, -1], state, torch.full_like(fork.position, prompt.shape[1]))


@torch.no_grad()
def complete(
    generator: Generator,
    fork: Fork,
    noise: Tensor,
    filter: Filter = PLAIN,
    trail: list | None = None,
    prompts: Prompts | None = None,
) -> Samples:
    """Continue every row of `fork` to its end token or to T = noise.shape[1]: `Samples` whose ids start at each row's
    position (what came before is 0 here). Rows that end leave the batch. `noise` is (B,T), or (B,T,K) for K candidates
    at every place, of which the first goes on.

    `prompts`: what stands in the place of the first tokens drawn, of those rows that have one.
    `trail`: a list that receives (rows, fork) before every token but the first: the rows that go on, and where from.
    """
    rows, horizon = noise.shape[:2]
    ids = torch.zeros(rows, horizon, dtype=torch.long, device=noise.device)
    candidates = torch.zeros(noise.shape, dtype=torch.long, device=noise.device) if noise.ndim == 3 else None
    logp = torch.zeros(rows, horizon, device=noise.device)
    lengths = torch.full((rows,), horizon, device=noise.device)
    alive = torch.arange(rows, device=noise.device)
    head, extend = _head_of(generator), reader(generator)
    output, state, position = fork.output, fork.state, fork.position
    while True:
        end = generator.eos_id if filter.min_length > 1 else None
        early = position + 1 < filter.min_length if end is not None else None
        cooled = None
        if filter.opening is not None:
            cooled = torch.where(position < OPENING, filter.temperature / filter.opening, 1.0)
        token, token_logp = _draw_next(head, output, noise[alive, position], filter, end, early, cooled)
        if candidates is not None:
            candidates[alive, position], token = token, token[:, 0]
        if prompts is not None:
            told = position < prompts.lengths[alive]
            token = torch.where(told, prompts.ids[alive, position], token)
            token_logp = token_logp.masked_fill(told, 0.0)
        ids[alive, position] = token
        logp[alive, position] = token_logp
        position = position + 1
        ended = position >= horizon
        if generator.eos_id is not None:
            ended = ended | (token == generator.eos_id)
        if bool(ended.any()):
            lengths[alive[ended]] = position[ended]
            keep = (~ended).nonzero().squeeze(1)
            if not len(keep):
                return Samples(ids, lengths, logp, candidates, None if prompts is None else prompts.lengths)
            alive, token, position, state = alive[keep], token[keep], position[keep], state.select(keep)
        outputs, state = extend(token[:, None], state)
        output = outputs[:, -1]
        if trail is not None:
            trail.append((alive, Fork(output, state, position)))


def _head_of(generator: Generator) -> Head | None:
    return Head.of(generator.head) if isinstance(generator, HeadedGenerator) else None


def _draw_next(
    head: Head | None,
    output: Tensor,
    u: Tensor,
    filter: Filter,
    end: int | None = None,
    early: Tensor | None = None,
    cooled: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next token and its log-probability (B,) each, from hidden vectors or logits (B,H) and noise (B,). Rows that
    are `early` (B,) do not draw the token `end`; `cooled` (B,): by how much the logits of each are multiplied first.
    Of noise (B,K), K tokens (B,K) and the log-probability of the first.
    """
    width = head.linear.out_features if head is not None else output.shape[1]
    rows = cache_rows(width, output.device)
    # on a CPU a plain draw from a head without bias takes powers of 2: the factor is on what logits are made of
    bits = head is not None and head.linear.bias is None and filter == PLAIN and output.device.type == "cpu"
    bits = bits and output.dtype in FULL
    output = output * LOG2_E if bits else output
    logits_of = output.__getitem__ if head is None else head.logits(output, rows)
    tokens, chosen = [], []
    for lo in range(0, len(output), rows):
        part = slice(lo, lo + rows)
        logits = logits_of(part)
        if end is not None and early is not None:
            logits = logits.clone()
            logits[:, end] = logits[:, end].masked_fill(early[part], -torch.inf)
        if cooled is not None:
            logits = logits * cooled[part, None]
        if filter == GREEDY:  # nothing is drawn
            tokens.append(logits.argmax(1).view(-1, *[1] * (u.ndim - 1)).expand_as(u[part]))
            chosen.append(logits.new_ones(len(logits)))
            continue
        if bits:
            p = logits.exp2_()
        elif filter == PLAIN and head is not None:
            p, _ = unscaled_softmax(logits, lambda part=part: logits_of(part))
        else:
            p = filter.probabilities(logits)
        blocks, running = _sums(p)
        if bits:
            least, most = running[:, -1].aminmax()
            if not (least > 1e-30 and most < 1e30):  # of NaN, too
                p = torch.softmax(logits_of(part) / LOG2_E, dim=-1)
                blocks, running = _sums(p)
        token = _draw(p, u[part], blocks, running)
        tokens.append(token)
        chosen.append(p.gather(1, token.view(len(p), -1)[:, :1]).squeeze(1) / running[:, -1].to(p.dtype))
    one = len(tokens) == 1
    return tokens[0] if one else torch.cat(tokens), (chosen[0] if one else torch.cat(chosen)).log().float()


@torch.no_grad()
def retrace(generator: Generator, ids: Tensor, lengths: Tensor) -> list[tuple[Tensor, Fork]]:
    """The trail that `complete` would have left had this generator sampled `ids` (B,T): for another policy."""
    extend = reader(generator)
    state = begin(generator, len(ids), ids.device).state
    alive = torch.arange(ids.shape[0], device=ids.device)
    trail = []
    for t in range(1, ids.shape[1]):
        keep = (lengths[alive] > t).nonzero().squeeze(1)
        if not len(keep):
            break
        alive, state = alive[keep], state.select(keep)
        outputs, state = extend(ids[alive, t - 1 : t], state)
        trail.append((alive, Fork(outputs[:, -1], state, torch.full_like(alive, t))))
    return trail


def sample(
    generator: Generator,
    noise: Tensor,
    filter: Filter = PLAIN,
    rows: int | None = None,
    context: Context | None = None,
    prompts: Prompts | None = None,
) -> Samples:
    """One sequence a row of `noise` (B,T), in chunks of `rows` (default: what fits the cache); of noise (B,T,K) with K
    candidates at every place. `context`: of B rows, for a generator that answers; so everywhere below.
    """
    parts = list(sample_chunks(generator, noise, filter, rows, context, prompts))
    if len(parts) == 1:
        return parts[0]
    found = {}
    for name in ("ids", "lengths", "logp", "candidates", "given"):
        each = [getattr(s, name) for s in parts]
        found[name] = None if each[0] is None else torch.cat(each)
    return Samples(**found)


def sample_chunks(
    generator: Generator,
    noise: Tensor,
    filter: Filter = PLAIN,
    rows: int | None = None,
    context: Context | None = None,
    prompts: Prompts | None = None,
) -> Iterator[Samples]:
    """`sample`, chunk by chunk."""
    if noise.shape[0] < 1 or noise.shape[1] < 1:
        raise ValueError(f"asked for {noise.shape[0]} samples of length {noise.shape[1]}; both must be at least 1")
    for at in torch.arange(len(noise), device=noise.device).split(rows or chunk_rows(generator, noise.device)):
        fork = begin(generator, len(at), noise.device, None if context is None else context[at])
        yield complete(generator, fork, noise[at], filter, prompts=None if prompts is None else prompts[at])


@torch.no_grad()
def sample_mean(generators: Sequence[Generator], noise: Tensor) -> tuple[Tensor, Tensor]:
    """ids (B,T) and lengths (B,) of sequences whose next-token distribution is the mean of those of the K generators.

    At every token one of them, each as likely, draws for a row, which is a draw from the mean: one product with a head
    in place of K. The K-th part of [0,1) in which a row's noise (B,T) lies says which; where in it is that one's noise.
    """
    (rows, horizon), k = noise.shape, len(generators)
    heads = [_head_of(g) for g in generators]
    ids = torch.zeros(rows, horizon, dtype=torch.long, device=noise.device)
    lengths = torch.full((rows,), horizon, device=noise.device)
    alive, eos_id = torch.arange(rows, device=noise.device), generators[0].eos_id
    forks, readers = [begin(g, rows, noise.device) for g in generators], [reader(g) for g in generators]
    for t in range(horizon):
        spread = noise[alive, t] * k
        turn = spread.long().clamp_max(k - 1)
        own = (spread - turn).clamp_max(1 - torch.finfo(noise.dtype).eps)
        token = torch.empty_like(alive)
        for n, (head, fork) in enumerate(zip(heads, forks, strict=True)):
            if len(at := (turn == n).nonzero().squeeze(1)):
                token[at] = _draw_next(head, fork.output[at], own[at], PLAIN)[0]
        ids[alive, t] = token
        keep = torch.arange(len(alive), device=noise.device)
        if eos_id is not None:
            lengths[alive[token == eos_id]] = t + 1
            keep = (token != eos_id).nonzero().squeeze(1)
        if t + 1 == horizon or not len(keep):
            break
        alive, token = alive[keep], token[keep]
        for n, extend in enumerate(readers):
            outputs, state = extend(token[:, None], forks[n].state.select(keep))
            forks[n] = Fork(outputs[:, -1], state, forks[n].position[keep] + 1)
    return ids, lengths


def mask_of(lengths: Tensor, horizon: int) -> Tensor:
    """(B,) lengths -> (B,T) bool, True on the tokens of the sequence."""
    return torch.arange(horizon, device=lengths.device)[None, :] < lengths[:, None]


@torch.no_grad()
def read_own(generator: Generator, ids: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    """What a generator reads that is fed its own token where `own` (B,T) says so, and ids (B,T) elsewhere.

    Its own token at t is drawn from p(. | what it read before t), with noise (B,T); never the end token, which it
    would not read when it samples.
    """
    filter = Filter(banned=() if generator.eos_id is None else (generator.eos_id,))
    head, extend = _head_of(generator), reader(generator)
    fork, read = begin(generator, len(ids), ids.device), ids.clone()
    output, state = fork.output, fork.state
    for t in range(ids.shape[1] - 1):
        if bool(own[:, t].any()):
            drawn, _ = _draw_next(head, output, noise[:, t], filter)
            read[:, t] = torch.where(own[:, t], drawn, ids[:, t])
        outputs, state = extend(read[:, t : t + 1], state)
        output = outputs[:, -1]
    return read
