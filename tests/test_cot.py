"""Cooperative training: the divergence and its gradient against everything listed."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from worlds import Headless, every_sequence, far, garbled, gradients, plain_log_probs, rng, tiny

from seqforge import objectives
from seqforge.data.corpus import Split
from seqforge.likelihood import weighted_divergence, weighted_nll
from seqforge.methods.cot import CoTConfig, generator_loss, mediator_loss
from seqforge.sampling import Samples, mask_of, sample, uniform

EOS_IDS = (None, 2)


def pair(eos_id, bias: bool = True):
    """A generator and a mediator of other sizes."""
    return tiny(1, eos_id=eos_id), tiny(2, eos_id=eos_id, embedding=5, hidden=6)


def listed_kl(generator, mediator, ids, lengths) -> torch.Tensor:
    """KL(G || M) of whole sequences in nats, from every sequence there is."""
    log_g, log_m = (plain_log_probs(m, ids, lengths).sum(1) for m in (generator, mediator))
    return (log_g.exp() * (log_g - log_m)).sum()


def step_kl(generator, mediator, ids, lengths) -> torch.Tensor:
    """KL(G(. | y_<t) || M(. | y_<t)) (S,T): each next token put in the place of y_t in turn, plain cells only."""
    out = []
    for t in range(ids.shape[1]):
        logs = []
        for model in (generator, mediator):
            columns = []
            for v in range(3):
                other = ids.clone()
                other[:, t] = v
                columns.append(plain_log_probs(model, other, torch.full_like(lengths, ids.shape[1]))[:, t])
            logs.append(torch.stack(columns, 1))
        out.append((logs[0].exp() * (logs[0] - logs[1])).sum(1))
    return torch.stack(out, 1) * mask_of(lengths, ids.shape[1])


@pytest.mark.parametrize("kinds", list(itertools.product([lambda g: g, Headless], repeat=2)))
@pytest.mark.parametrize("eos_id", EOS_IDS)
def test_divergence_and_gradient_are_those_written_out(kinds, eos_id):
    generator, mediator = pair(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    weight = torch.rand(ids.shape, generator=rng(3), dtype=torch.float64)  # past the ends as well: it must not count
    read = (kinds[0](generator), kinds[1](mediator), garbled(ids, lengths) if eos_id is not None else ids, lengths)
    loss, kl = weighted_divergence(*read, weight)
    truth = step_kl(generator, mediator, ids, lengths)
    assert (kl - truth).abs().max() <= 1e-10
    assert not kl.requires_grad
    assert abs(float((loss - (weight * truth).sum()).detach())) <= 1e-10
    assert far(gradients(loss, generator), gradients((weight * truth).sum(), generator)) <= 1e-10
    assert float(truth.detach().max()) > 0.1


@pytest.mark.parametrize("eos_id", EOS_IDS)
def test_expected_loss_is_the_divergence_of_whole_sequences(eos_id):
    """The chain rule: sum_s G(s) sum_t KL_t(s) = KL(G || M)."""
    generator, mediator = pair(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    p = plain_log_probs(generator, ids, lengths).sum(1).exp().detach()
    loss, _ = weighted_divergence(generator, mediator, ids, lengths, p[:, None] * mask_of(lengths, 4))
    assert loss.item() == pytest.approx(listed_kl(generator, mediator, ids, lengths).item(), abs=1e-10)


@pytest.mark.parametrize("eos_id", EOS_IDS)
@pytest.mark.parametrize("kind", [lambda g: g, Headless])
def test_whole_gradient_is_that_of_the_divergence_of_whole_sequences(eos_id, kind):
    """Expected over all samples: sum_s G(s) (gradient of a sample's loss) = d KL(G || M); the local one is another."""
    generator, mediator = pair(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    mask = mask_of(lengths, 4)
    weight = plain_log_probs(generator, ids, lengths).sum(1).exp().detach()[:, None] * mask
    local, kl = weighted_divergence(kind(generator), kind(mediator), ids, lengths, weight)
    later = objectives.still_to_come(kl, mask)
    whole = local + weighted_nll(kind(generator), ids, lengths, -weight * later)[0]
    truth = gradients(listed_kl(generator, mediator, ids, lengths), generator)
    assert far(gradients(whole, generator), truth) <= 1e-10
    local, _ = weighted_divergence(kind(generator), kind(mediator), ids, lengths, weight)
    assert far(gradients(local, generator), truth) > 1e-3


@pytest.mark.parametrize("baseline", ["none", "leave-one-out", "step"])
def test_the_loss_of_a_batch_is_put_together_as_the_header_says(baseline):
    generator, mediator = pair(2)
    ids, lengths = every_sequence(eos_id=2)
    fake, mask = Samples(ids, lengths, torch.zeros(ids.shape)), mask_of(lengths, 4)
    loss, kl = generator_loss(generator, mediator, fake, CoTConfig(gradient="local"))
    assert loss.item() == pytest.approx(float(kl.sum() / lengths.sum()))
    found = gradients(
        generator_loss(generator, mediator, fake, CoTConfig(gradient="whole", baseline=baseline))[0], generator
    )
    later = torch.zeros_like(kl)
    for b, t in itertools.product(range(len(ids)), range(4)):
        later[b, t] = kl[b, t + 1 :].sum() if t < lengths[b] else 0
    if baseline != "none":
        for t in range(4):
            rows = mask[:, t].nonzero().squeeze(1)
            mean = later[rows, t].clone()
            for i, r in enumerate(rows):
                others = [j for j in range(len(rows)) if baseline == "step" or j != i]
                later[r, t] -= mean[others].mean()
    logp = plain_log_probs(generator, ids, lengths)
    written = (step_kl(generator, mediator, ids, lengths) + logp * later).sum() / lengths.sum()
    assert far(found, gradients(written, generator)) <= 1e-7  # the weights are float32


@pytest.mark.parametrize("eos_id", EOS_IDS)
def test_forward_is_the_divergence_the_other_way_round_at_the_same_prefixes(eos_id):
    generator, mediator = pair(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    fake = Samples(ids, lengths, torch.zeros(ids.shape))
    loss, kl = generator_loss(generator, mediator, fake, CoTConfig(kl="forward"))
    truth = step_kl(mediator, generator, ids, lengths)
    assert (kl - truth).abs().max() <= 1e-10
    assert far(gradients(loss, generator), gradients(truth.sum() / lengths.sum(), generator)) <= 1e-7
    assert (truth - step_kl(generator, mediator, ids, lengths)).abs().max() > 1e-2
    with pytest.raises(ValueError, match="leave it out with kl forward"):
        CoTConfig(kl="forward", gradient="whole")


def test_still_to_come():
    cost = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    mask = mask_of(torch.tensor([4, 2]), 4)
    assert objectives.still_to_come(cost, mask).tolist() == [[14, 12, 8, 0], [2, 0, 0, 0]]


def test_mediator_weighs_sequences_alike_at_any_length():
    """Its loss is -log of the mixture's sequences, so that its optimum is the mixture: a long fake is one sequence."""
    _, mediator = pair(2)
    ids, lengths = every_sequence(eos_id=2)
    long, short = lengths == 4, lengths == 1
    real = Split(ids[short], lengths[short])
    fake = Samples(ids[long], lengths[long], torch.zeros(int(long.sum()), 4))
    logp = plain_log_probs(mediator, ids, lengths)
    together = -(logp[short].sum() + logp[long].sum()) / (lengths[short].sum() + lengths[long].sum())
    assert mediator_loss(mediator, real, fake).item() == pytest.approx(together.item(), rel=1e-6)
    alone = -logp[short].sum() / lengths[short].sum()
    assert mediator_loss(mediator, real, None).item() == pytest.approx(alone.item(), rel=1e-6)


def test_smoothed_targets_of_the_mediator_are_the_written_out_ones():
    _, mediator = pair(2)
    ids, lengths = every_sequence(eos_id=2)
    first, state = mediator.start(len(ids))
    logits = torch.cat([first[:, None], mediator.extend(ids[:, :-1], state)[0]], dim=1)
    logp = torch.log_softmax(logits, dim=-1)
    chosen, mask = logp.gather(2, ids[..., None])[..., 0], mask_of(lengths, 4)
    truth = -((0.9 * chosen + 0.1 * logp.mean(-1)) * mask).sum() / mask.sum()
    loss = mediator_loss(mediator, Split(ids, lengths), None, smoothing=0.1)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
    assert far(gradients(loss, mediator), gradients(truth, mediator)) <= 1e-6


def test_one_weight_of_float32_is_within_its_rounding():
    """The path that trains: 5,000 words, chunks smaller than the batch, against autograd in double precision."""
    generator, mediator = tiny(1, vocab=5000, dtype=torch.float32), tiny(2, vocab=5000, hidden=7, dtype=torch.float32)
    noise = uniform((30, 6), rng(1))
    drawn = sample(generator, noise)
    weight = objectives.mle_weight(mask_of(drawn.lengths, 6))
    loss, kl = weighted_divergence(generator, mediator, drawn.ids, drawn.lengths, weight)
    double = tiny(1, vocab=5000), tiny(2, vocab=5000, hidden=7)
    logs = []
    for model in double:
        first, state = model.start(30)
        later, _ = model.extend(drawn.ids[:, :-1], state)
        logs.append(torch.log_softmax(torch.cat([first[:, None], later], 1), -1))
    truth = F.kl_div(logs[1].detach(), logs[0], reduction="none", log_target=True).sum(-1)
    assert (kl - truth).abs().max() <= 1e-4
    ours, exact = gradients(loss, generator), gradients(truth.mean(), double[0])
    assert all((ours[k] - exact[k]).abs().max() <= 1e-5 * exact[k].abs().max() for k in exact)
