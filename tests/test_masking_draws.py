"""What is masked out is never drawn and the rest is renormalised; what completes a prompt follows from the prompt."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import Headless, every_sequence, fork_logits, plain_log_probs, rng, tiny

from seqforge import sampling
from seqforge.sampling import Filter, begin, begin_with, complete, sample, uniform

# --- tokens that are masked out of the draw -----------------------------------------------------------------------


def filtered_world(generator, filter: Filter, horizon: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every sequence, its length, and log p of each token (S,T) where what may not be drawn was ruled out by hand."""
    ids, lengths = every_sequence(eos_id=generator.eos_id)
    logp = torch.zeros(ids.shape, dtype=torch.float64)
    for s, t in itertools.product(range(len(ids)), range(horizon)):
        if t >= lengths[s]:
            continue
        rows = ids[s].repeat(3, 1)
        rows[:, t] = torch.arange(3)
        p = plain_log_probs(generator, rows, torch.full((3,), horizon), filter.temperature)[:, t].detach().exp()
        p[list(filter.banned)] = 0
        if generator.eos_id is not None and t + 1 < filter.min_length:
            p[generator.eos_id] = 0
        logp[s, t] = (p[ids[s, t]] / p.sum()).log()
    return ids, lengths, logp


def place_of(ids: torch.Tensor, lengths: torch.Tensor) -> dict:
    return {tuple(row[:k]): i for i, (row, k) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True))}


FILTERS = [
    Filter(min_length=3),
    Filter(min_length=1),
    Filter(banned=(1,)),
    Filter(banned=(2,)),
    Filter(0.7, banned=(0,), min_length=2),
    Filter(min_length=9),
]


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_what_is_masked_is_never_drawn_and_the_rest_is_renormalised(filter, kind):
    generator = tiny(11, 2, init_std=0.7)
    ids, lengths, logp = filtered_world(generator, filter)
    p = logp.sum(1).exp().numpy()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    n = 20_000
    drawn = sample(kind(generator), uniform((n, 4), rng(12)), filter)
    where = place_of(ids, lengths)
    at = [where[tuple(r[:k])] for r, k in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)]
    count = np.bincount(at, minlength=len(p))
    possible = p > 0
    assert not count[~possible].any()
    if possible.sum() > 1:
        assert stats.chisquare(count[possible], n * p[possible]).pvalue > 1e-3
    assert torch.allclose(drawn.logp.double(), logp[at], atol=1e-5)  # of the distribution drawn from
    for rows in (1, 3, 64):
        few = sample(kind(generator), uniform((n, 4), rng(12))[:90], filter, rows)
        assert torch.equal(few.ids, drawn.ids[:90])
        assert torch.equal(few.lengths, drawn.lengths[:90])
        assert torch.allclose(few.logp, drawn.logp[:90], atol=1e-6)


def test_a_mask_goes_before_top_k_and_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    banned = Filter(top_k=2, banned=(0,)).probabilities(logits)[0]
    assert banned.tolist() == pytest.approx([0, 2 / 3, 1 / 3, 0])
    banned = Filter(top_p=0.5, banned=(0, 2)).probabilities(logits)[0]  # 6/7 of what is left
    assert banned.tolist() == pytest.approx([0, 1, 0, 0])
    assert logits[0].exp().tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05])  # as it was


def test_masks_in_chunks_of_the_head_touch_the_rows_they_are_meant_for():
    """Rows of one batch stand at different positions after a ragged fork: some are too early to end, others are not."""
    generator = tiny(7, eos_id=2, vocab=20_000, embedding=2, hidden=2)  # 16 rows a chunk
    with torch.no_grad():
        generator.head.bias[2] = 50.0  # it would end at once
    early = sample(generator, uniform((40, 6), rng(1)), Filter(min_length=4))
    assert early.lengths.eq(4).all()
    assert not early.ids[:, :3].eq(2).any()
    fork = begin_with(generator, torch.tensor([[5]]).expand(20, 1))
    mixed = sampling.Fork.cat([begin(generator, 20), fork])
    drawn = complete(generator, mixed, uniform((40, 6), rng(2)), Filter(min_length=2))
    assert drawn.lengths.eq(2).all()
    assert not drawn.ids[:20, 0].eq(2).any()


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("prompt", [[1], [0, 1], [1, 1, 0]])
def test_completions_of_a_prompt_follow_the_conditional_distribution(prompt, kind):
    generator = tiny(11, 2, init_std=0.7)
    ids, lengths = every_sequence(eos_id=2)
    t = len(prompt)
    logp = plain_log_probs(generator, ids, lengths).detach()
    same = (ids[:, :t] == torch.tensor(prompt)).all(1) & (lengths > t)
    ids, lengths, logp = ids[same], lengths[same], logp[same]
    p = logp[:, t:].sum(1).exp().numpy()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    n = 8000
    fork = begin_with(kind(generator), torch.tensor([prompt]).repeat(n, 1))
    assert fork.position.tolist() == [t] * n
    drawn = complete(kind(generator), fork, uniform((n, 4), rng(3)))
    assert not drawn.ids[:, :t].any()
    where = place_of(ids[:, t:], lengths - t)
    at = [where[tuple(r[t:k])] for r, k in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)]
    assert stats.chisquare(np.bincount(at, minlength=len(p)), n * p).pvalue > 1e-3
    assert torch.allclose(drawn.logp[:, t:].double(), logp[at][:, t:], atol=1e-5)
    assert not drawn.logp[:, :t].any()


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_a_prompt_read_at_once_is_one_read_token_by_token(kind):
    generator = tiny(4, 2, layers=2)
    prompt = torch.randint(3, (6, 5), generator=rng(4))
    fork = begin_with(kind(generator), prompt)
    _, state = generator.start(6)
    for t in range(5):
        logits, state = generator.extend(prompt[:, t : t + 1], state)
    assert torch.allclose(fork_logits(kind(generator), fork), logits[:, -1], atol=1e-12)
    assert torch.allclose(fork.state.h, state.h, atol=1e-12)
    assert torch.allclose(fork.state.c, state.c, atol=1e-12)
    assert not fork.output.requires_grad
