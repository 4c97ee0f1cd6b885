"""Tiny worlds in which everything can be listed, and plain references written without the package's own maths."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.models.generator import HeadedGenerator
from seqforge.models.lstm import LSTMGenerator

VOCAB, HORIZON = 3, 4


def tiny(seed: int = 0, eos_id: int | None = None, vocab: int = VOCAB, dtype=torch.float64, **sizes) -> LSTMGenerator:
    """An LSTM generator with parameters from N(0, 1): small, and far from uniform."""
    sizes = {"embedding": 3, "hidden": 4, "init_std": 1.0, **sizes}
    return LSTMGenerator(vocab, eos_id=eos_id, seed=seed, **sizes).to(dtype).eval()


class Headless:
    """The same generator by the bare protocol: no linear head to be seen, so that only logits are passed around."""

    def __init__(self, inner: LSTMGenerator):
        self.inner, self.vocab_size, self.eos_id = inner, inner.vocab_size, inner.eos_id

    def start(self, batch, context=None):
        return self.inner.start(batch, context)

    def extend(self, tokens, state, lengths=None):
        return self.inner.extend(tokens, state, lengths)


def fork_logits(generator, fork) -> Tensor:
    """Logits (K,V) of the next token at a fork."""
    return generator.head(fork.output) if isinstance(generator, HeadedGenerator) else fork.output


def every_sequence(vocab: int = VOCAB, horizon: int = HORIZON, eos_id: int | None = None) -> tuple[Tensor, Tensor]:
    """ids (S,T), 0 past the end, and lengths (S,) of every sequence there is: 81 without an end token, 31 with one."""
    rows = set()
    for full in itertools.product(range(vocab), repeat=horizon):
        rows.add(full[: full.index(eos_id) + 1] if eos_id in full else full)
    rows = sorted(rows)
    ids = torch.zeros(len(rows), horizon, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(r) for r in rows])


def alive(lengths: Tensor, horizon: int = HORIZON) -> Tensor:
    return torch.stack([torch.arange(horizon) < n for n in lengths])


def garbled(ids: Tensor, lengths: Tensor, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    """The same sequences with other tokens past their ends."""
    noise = torch.randint(vocab, ids.shape, generator=torch.Generator().manual_seed(seed))
    out = torch.where(alive(lengths, ids.shape[1]), ids, noise)
    assert bool((out != ids).any())
    return out


def plain_log_probs(generator: LSTMGenerator, ids: Tensor, lengths: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(y_t | y_<t) (B,T) by a written-out cell and autograd's log-softmax, 0 past the end. One layer."""
    lstm, head = generator.lstm, generator.head
    h = c = head.weight.new_zeros(len(ids), head.in_features)
    token, out = torch.full_like(ids[:, 0], generator.start_id), []
    for t in range(ids.shape[1]):
        x = generator.embed.weight[token]
        both = x @ lstm.weight_ih_l0.T + h @ lstm.weight_hh_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
        i, f, g, o = both.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        logits = h @ head.weight.T + (0 if head.bias is None else head.bias)
        token = ids[:, t]
        out.append(torch.log_softmax(logits / temperature, 1)[torch.arange(len(ids)), token])
    return torch.stack(out, 1) * alive(lengths, ids.shape[1])


def true_q(p: Tensor, reward: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reward of the whole sequence given y_1..y_t, (S,T), from all sequences."""
    q, spread = torch.zeros(ids.shape, dtype=p.dtype), torch.zeros(ids.shape, dtype=p.dtype)
    for s in range(len(ids)):
        for t in range(int(lengths[s])):
            same = (ids[:, : t + 1] == ids[s, : t + 1]).all(1) & (lengths > t)
            w, r = p[same] / p[same].sum(), reward[same]
            q[s, t] = (w * r).sum()
            spread[s, t] = (w * (r - q[s, t]) ** 2).sum().sqrt()
    return q, spread


def code_of(ids: Tensor, lengths: Tensor, vocab: int = VOCAB) -> Tensor:
    """A number of its own for every sequence; what lies past the end does not enter."""
    power = (vocab + 1) ** torch.arange(ids.shape[1])
    return ((ids + 1) * alive(lengths, ids.shape[1]) * power).sum(1)


def table_score(seed: int = 5, vocab: int = VOCAB, horizon: int = HORIZON) -> Callable[[Tensor, Tensor], Tensor]:
    """A score with a value of its own, from U[0,1), for every sequence."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand((vocab + 1) ** horizon, generator=generator, dtype=torch.float64)
    return lambda ids, lengths: table[code_of(ids, lengths, vocab)]


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """d loss / d every trained parameter."""
    named = {k: p for k, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two sets of gradients."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).detach().abs().max()) for k in a)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs_of_one_token(n: int = 240) -> Corpus:
    """Runs of one token of six, 2 to 4 long, and the end, 3: to be learnt is to go on with the token one began with."""

    def split(count: int, seed: int) -> Split:
        token = torch.tensor([0, 1, 2, 4, 5])[torch.randint(5, (count,), generator=rng(seed))]
        lengths = torch.randint(3, 6, (count,), generator=rng(seed + 1))
        ids = token[:, None] * alive(lengths, 5)
        ids[torch.arange(count), lengths - 1] = 3
        return Split(ids, lengths)

    splits = [split(n, 1), split(60, 3), split(60, 5)]
    sizes = {"vocab_size": 6, "max_length": 5, "start_id": 3, "eos_id": 3}
    return Corpus(*splits, **sizes, tokenizer=ids_tokenizer(6), source="toy", digest=splits[0].digest())
