"""The plain PyTorch way of the same work, as tutorials and ports write it: the measure that ours is held against."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainGenerator(nn.Module):
    def __init__(self, v: int, e: int = 32, h: int = 32):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(v, e), nn.LSTM(e, h, batch_first=True), nn.Linear(h, v)

    def forward(self, ids: Tensor, state=None):
        out, state = self.lstm(self.embed(ids), state)
        return self.head(out), state


def mle_epoch(model: PlainGenerator, optimizer: torch.optim.Optimizer, ids: Tensor, batch: int) -> None:
    for real in ids.split(batch):
        inputs = F.pad(real[:, :-1], (1, 0))
        logits, _ = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), real.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()


@torch.no_grad()
def sample(model: PlainGenerator, prefix: Tensor, length: int) -> Tensor:
    """Complete prefix (B,t) to (B,length): the prefix is read again, tokens come from torch.multinomial."""
    logits, state = model(F.pad(prefix, (1, 0)))
    ids = [prefix]
    for t in range(prefix.shape[1], length):
        token = torch.multinomial(torch.softmax(logits[:, -1], -1), 1)
        ids.append(token)
        if t + 1 < length:
            logits, state = model(token, state)
    return torch.cat(ids, 1)


def rollout_round(model: PlainGenerator, discriminator: nn.Module, ids: Tensor) -> Tensor:
    """One of the N rollouts: every prefix completed and judged by itself; (B,T)."""
    rewards = [discriminator(sample(model, ids[:, :t], ids.shape[1])) for t in range(1, ids.shape[1] + 1)]
    return torch.stack(rewards, 1)


class PlainDiscriminator(nn.Module):
    def __init__(self, v: int, widths: list[int], filters: list[int], e: int = 64):
        super().__init__()
        total = sum(filters)
        self.embed = nn.Embedding(v, e)
        self.convs = nn.ModuleList(nn.Conv1d(e, n, w) for w, n in zip(widths, filters, strict=True))
        self.highway, self.gate, self.out = nn.Linear(total, total), nn.Linear(total, total), nn.Linear(total, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        features = torch.cat([F.relu(conv(x)).amax(-1) for conv in self.convs], 1)
        gate = torch.sigmoid(self.gate(features))
        mixed = gate * F.relu(self.highway(features)) + (1 - gate) * features
        return self.out(F.dropout(mixed, 0.25, self.training)).squeeze(-1)


def discriminator_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, label: Tensor) -> None:
    for rows, y in zip(ids.split(64), label.split(64), strict=True):
        loss = F.binary_cross_entropy_with_logits(model(rows), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
