"""What `--precision bf16` reaches of the generator, every method's steps on its output layer, and what it changes."""

import pytest
import torch
from torch import nn

from seqforge import likelihood
from seqforge.cli import main
from seqforge.models.heads import head_weighted_nll

WORLD = ["--data.source", "oracle", "--data.vocab_size", "20", "--data.max_length", "6", "--data.train_size", "64"]
WORLD += [
    "--data.valid_size",
    "32",
    "--data.test_size",
    "32",
    "--data.oracle_embedding",
    "4",
    "--data.oracle_hidden",
    "4",
]
MLE = ["--mle.epochs", "1", "--generator.embedding", "4", "--generator.hidden", "4"]
SMALL = {
    "mle": [*WORLD, *MLE],
    "scheduled_sampling": [*WORLD, *MLE],
    "pg_bleu": ["--recipe", "pg-bleu-oracle", *WORLD, *MLE, "--rounds", "1"],
    "seqgan": ["--recipe", "seqgan-oracle-tiny"],
    "leakgan": ["--recipe", "leakgan-tiny", "--mle_every", "1"],
    "scratchgan": ["--recipe", "scratchgan-tiny"],
    "cot": ["--recipe", "cot-tiny"],
    "dialogue": ["--recipe", "dialogue-tiny"],
    "mle_search": ["--recipe", "mle-search-tiny"],
}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", SMALL)
def test_every_step_has_the_precision_asked_for(method, precision, tmp_path, monkeypatch):
    seen = []

    def watch(head, hidden, targets, weight, precision="fp32"):
        seen.append(precision)
        return head_weighted_nll(head, hidden, targets, weight, precision)

    monkeypatch.setattr(likelihood, "head_weighted_nll", watch)
    monkeypatch.setattr("seqforge.settings.precision", lambda name, device: name)  # no warning where it is emulated
    given = ["--precision", precision, "--report", "false", "--evaluate.samples", "2", "--evaluate.metrics", "[]"]
    assert main(["train", method, *SMALL[method], *given, "--out", str(tmp_path / "run")]) == 0
    assert set(seen) == {precision}


@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_head_of_half_precision_has_its_softmax_in_float32_whatever_is_asked_for(dtype, shift):
    torch.manual_seed(1)
    head, hidden = nn.Linear(16, 7000).to(dtype), torch.randn(40, 16).to(dtype).requires_grad_()
    with torch.no_grad():
        head.bias += shift
    targets, weight = torch.randint(7000, (40,)), torch.full((40,), 1 / 40)
    exact = torch.log_softmax(head(hidden).float(), -1).gather(1, targets[:, None]).squeeze(1)
    params = [hidden, head.weight, head.bias]
    truth = torch.autograd.grad(-(exact * weight).sum(), params)
    for precision in ("fp32", "bf16"):
        loss, logp = head_weighted_nll(head, hidden, targets, weight, precision)
        assert float((logp - exact).abs().max()) < (0.02 if dtype == torch.float16 else 0.15)
        for got, wanted in zip(torch.autograd.grad(loss, params), truth, strict=True):
            assert float((got.float() - wanted.float()).norm() / wanted.float().norm()) < 0.02


@pytest.mark.parametrize("offset", [-40.0, 0.0, 20.0, 40.0])
def test_what_all_words_have_in_common_costs_no_digits(offset):
    """Not in the bias, nor in a direction that every hidden vector shares."""
    torch.manual_seed(2)
    head, hidden = nn.Linear(16, 7000), torch.randn(60, 16)
    hidden[:, 0] = 1.0
    with torch.no_grad():
        head.weight *= 6
        head.weight[:, 0] += offset
        head.bias -= offset / 3
    hidden.requires_grad_()
    targets, weight = torch.randint(7000, (60,)), torch.full((60,), 1 / 60)
    found = compared(head, hidden, targets, weight)
    assert found[0] < 0.06
    assert max(found[1:]) < 0.01


@pytest.mark.parametrize("surprise", [0.3, 0.01])
def test_a_sure_prediction_still_has_its_gradient(surprise):
    """Logits that give the target all but a little: what is left is what the gradient is made of."""
    torch.manual_seed(3)
    head, hidden = nn.Linear(16, 7000), torch.randn(60, 16)
    targets, weight = torch.randint(7000, (60,)), torch.full((60,), 1 / 60)
    with torch.no_grad():
        above = torch.tensor(7000 / surprise).log()
        for row, target in enumerate(targets):  # each target's logit is that much above a mean one
            head.weight[target] += hidden[row] * (above / hidden[row].square().sum())
    hidden.requires_grad_()
    _, logp = head_weighted_nll(head, hidden, targets, weight)
    assert float(-logp.mean()) < 10 * surprise
    found = compared(head, hidden, targets, weight)
    assert max(found[1:]) < 0.06


def compared(head, hidden, targets, weight) -> list[float]:
    """Largest difference of log p, and the relative ones of the gradients, in bfloat16 and in float32."""
    params = [hidden, head.weight, head.bias]
    both = [head_weighted_nll(head, hidden, targets, weight, p) for p in ("bf16", "fp32")]
    low, full = (torch.autograd.grad(loss, params) for loss, _ in both)
    apart = [float((a - b).norm() / b.norm()) for a, b in zip(low, full, strict=True)]
    return [float((both[0][1] - both[1][1]).abs().max()), *apart]
