"""Losses by hand, and the policy gradient against the gradient of the true expected reward over all sequences."""

import math

import pytest
import torch
from worlds import alive, every_sequence, far, gradients, plain_log_probs, rng, table_score, tiny, true_q

from seqforge.likelihood import weighted_nll
from seqforge.objectives import advantage, discriminator_loss, mle_weight, reinforce_weight
from seqforge.sampling import mask_of


def world(eos_id):
    """A generator, all its sequences, their probabilities, true action values, and d E[reward] / d parameters."""
    generator = tiny(1, eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    logp = plain_log_probs(generator, ids, lengths).sum(1)
    reward = table_score()(ids, lengths)
    truth = gradients((logp.exp() * reward).sum(), generator)
    p = logp.detach().exp()
    q, _ = true_q(p, reward, ids, lengths)
    return generator, ids, lengths, p, q, alive(lengths), truth


def ascent(generator, ids, lengths, weight):
    """What descending the loss of these weights climbs."""
    return gradients(-weighted_nll(generator, ids, lengths, weight)[0], generator)


def times(factor, grads):
    return {k: factor * g for k, g in grads.items()}


@pytest.mark.parametrize("eos_id", [None, 2])
def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(eos_id):
    generator, ids, lengths, p, q, mask, truth = world(eos_id)
    weight = p[:, None] * reinforce_weight(advantage(q, mask, "none"), mask, "sum")
    assert far(ascent(generator, ids, lengths, weight), truth) <= 1e-9
    assert max(float(g.abs().max()) for g in truth.values()) > 1e-2
    late = p[:, None] * reinforce_weight(torch.roll(q, 1, 1) * mask, mask, "sum")  # values off by one position
    assert far(ascent(generator, ids, lengths, late), truth) > 1e-3


def expected_weight(p, q, mask, baseline):
    """Sum over all pairs of sequences: what each token's weight is on average in batches of two."""
    total = torch.zeros_like(q)
    for a in range(len(p)):
        for b in range(len(p)):
            pair = torch.tensor([a, b])
            w = p[a] * p[b] * reinforce_weight(advantage(q[pair], mask[pair], baseline), mask[pair], "sum")
            total[a] += w[0]
            total[b] += w[1]
    return total


def test_a_baseline_of_the_other_rows_leaves_the_expected_gradient_as_it_is():
    generator, ids, lengths, p, q, mask, truth = world(None)
    weight = expected_weight(p, q, mask, "leave-one-out")
    assert far(ascent(generator, ids, lengths, weight), times(2, truth)) <= 1e-9
    assert float((weight - 2 * p[:, None] * q).abs().max()) > 1e-3  # though no weight is what it was


def test_a_baseline_that_includes_the_row_shrinks_the_expected_gradient_by_one_part_in_the_batch():
    generator, ids, lengths, p, q, mask, truth = world(None)
    weight = expected_weight(p, q, mask, "step")
    assert far(ascent(generator, ids, lengths, weight), times(2 * (1 - 1 / 2), truth)) <= 1e-9


def test_where_rows_end_early_a_baseline_only_leaves_out_rows_alone_at_their_position():
    """The expectation of leave-one-out is the true gradient with position t weighted by the chance of company there."""
    generator, ids, lengths, p, q, mask, truth = world(2)
    company = (p[:, None] * mask).sum(0)
    weight = expected_weight(p, q, mask, "leave-one-out")
    got = ascent(generator, ids, lengths, weight)
    assert far(got, ascent(generator, ids, lengths, 2 * p[:, None] * q * company)) <= 1e-9
    assert far(got, times(2, truth)) > 1e-3


Q = torch.tensor([[1.0, 2.0, 9.0], [3.0, 7.0, 9.0], [8.0, 9.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("none", [[1, 2, 9], [3, 7, 0], [8, 0, 0]]),
        ("step", [[-3, -2.5, 0], [-1, 2.5, 0], [4, 0, 0]]),  # means 4, 4.5, 9
        ("leave-one-out", [[-4.5, -5, 0], [-1.5, 5, 0], [6, 0, 0]]),  # others of the first column: 5.5, 4.5, 2
    ],
)
def test_advantages_by_hand(baseline, expected):
    assert advantage(Q, MASK, baseline).tolist() == expected
    garbage = torch.where(MASK, Q, torch.tensor(1e6))
    assert advantage(garbage, MASK, baseline).tolist() == expected


@pytest.mark.parametrize("baseline", ["step", "leave-one-out"])
def test_a_row_alone_has_no_advantage(baseline):
    assert advantage(Q[:1], MASK[:1], baseline).tolist() == [[0, 0, 0]]


def test_no_baseline_is_the_default_as_in_seqgan():
    assert torch.equal(advantage(Q, MASK), advantage(Q, MASK, "none"))
    assert torch.equal(reinforce_weight(Q, MASK), reinforce_weight(Q, MASK, "sum"))


def test_the_policy_gradient_sums_over_tokens_or_takes_their_mean():
    assert reinforce_weight(Q, MASK, "sum").tolist() == [[1, 2, 9], [3, 7, 0], [8, 0, 0]]
    mean = [[1 / 6, 2 / 6, 9 / 6], [3 / 6, 7 / 6, 0], [8 / 6, 0, 0]]
    assert torch.allclose(reinforce_weight(Q, MASK, "mean"), torch.tensor(mean))


def test_likelihood_weighs_every_token_of_the_batch_alike():
    assert torch.allclose(mle_weight(MASK), MASK / 6)
    generator = tiny(2, 2)
    ids, lengths = every_sequence(eos_id=2)
    loss, logp = weighted_nll(generator, ids, lengths, mle_weight(mask_of(lengths, 4)))
    assert float(loss.detach()) == pytest.approx(-float(logp.sum() / lengths.sum()), rel=1e-6)


@pytest.mark.parametrize("function", [advantage, reinforce_weight])
def test_ranks_that_differ_are_a_bug_of_ours(function):
    with pytest.raises(AssertionError):
        function(Q[:, 0], MASK)


def test_the_discriminators_loss_by_hand():
    logit, label = torch.tensor([2.0, -1.0, 0.5, 0.0]), torch.tensor([True, True, False, False])
    p = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.5, 0.0)]
    expected = -(math.log(p[0]) + math.log(p[1]) + math.log(1 - p[2]) + math.log(1 - p[3])) / 4
    assert float(discriminator_loss(logit, label)) == pytest.approx(expected, rel=1e-6)
    assert float(discriminator_loss(torch.tensor([-90.0]), torch.tensor([1]))) == pytest.approx(90)  # no clip
    half = discriminator_loss(logit.bfloat16(), label)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(expected, rel=1e-6)  # these logits are exact in bfloat16


def test_one_logit_is_the_authors_softmax_over_two():
    """Their two columns with logits (a, b) are one logit b - a: the same loss and the same p(real)."""
    two = torch.randn(20, 2, generator=rng(3), dtype=torch.float64)
    label = torch.randint(2, (20,), generator=rng(4))
    expected = torch.nn.functional.cross_entropy(two, label)
    assert float(discriminator_loss(two[:, 1] - two[:, 0], label)) == pytest.approx(float(expected), rel=1e-6)
