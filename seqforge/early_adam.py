"""Adam as TensorFlow applied it to word embeddings before version 1.0, with which SeqGAN's authors trained."""

import math

import torch
from torch import Tensor, nn


class EarlyAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) whose second moment of a word's vector takes the squares of the gradients of each
    occurrence of the word in a batch, summed, where Adam takes the square of their sum: frequent words usually take
    longer steps. Everything else is Adam; eps stands beside the uncorrected root, as in TensorFlow.

    Watches the `nn.Embedding`s of `model` from its construction to `release`. What clipping did to the summed
    gradient of an embedding is done to its occurrences (TensorFlow's norm counts each occurrence by itself).

    Source: `_apply_sparse` of TensorFlow's AdamOptimizer, which scatters squares; `Optimizer` sums duplicates first
    since 1.0.
    """

    def __init__(self, model: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        trained = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trained, {"lr": lr, "betas": betas, "eps": eps})
        self._occurrences: dict[Tensor, list[tuple[Tensor, Tensor]]] = {}
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        self._hooks = [table.register_forward_hook(self._watch) for table in tables]

    def _watch(self, table: nn.Embedding, read: tuple[Tensor, ...], vectors: Tensor) -> None:
        if vectors.requires_grad:
            vectors.register_hook(lambda grad: self._note(table.weight, read[0], grad))

    def _note(self, weight: Tensor, ids: Tensor, grad: Tensor) -> None:
        """ids (...), the gradient (...,E) of the vectors that were looked up."""
        self._occurrences.setdefault(weight, []).append((ids.flatten(), grad.flatten(0, -2)))

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._occurrences.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p] |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                state = self.state[p]
                state["step"] += 1
                state["mean"].lerp_(p.grad, 1 - beta1)
                state["square"].lerp_(self._square(p), 1 - beta2)
                unbiased = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.addcdiv_(state["mean"], state["square"].sqrt() + group["eps"], value=-group["lr"] * unbiased)

    def _square(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        if p not in self._occurrences:
            return p.grad**2
        total, squares = torch.zeros_like(p), torch.zeros_like(p)
        for ids, grad in self._occurrences[p]:
            total.index_add_(0, ids, grad)
            squares.index_add_(0, ids, grad**2)
        clipped = p.grad.norm() / total.norm().clamp_min(torch.finfo(p.dtype).tiny)
        return squares * clipped**2
