"""Distillation: the divergence from the teachers and its gradient against everything listed, and whole runs."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from worlds import Headless, every_sequence, far, garbled, gradients, plain_log_probs, rng, runs_of_one_token, tiny

from seqforge import checkpoint, objectives
from seqforge.likelihood import log_probs, weighted_distillation
from seqforge.methods import distillation, mle
from seqforge.methods.distillation import DistillationConfig, TeacherConfig
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models.ensemble import Ensemble
from seqforge.models.kinds import GeneratorConfig
from seqforge.models.lstm import LSTMGenerator
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import mask_of, sample, sample_mean, uniform


def three(eos_id=None, bias: int = 0) -> list[LSTMGenerator]:
    """Teachers of unlike sizes."""
    return [tiny(s, eos_id=eos_id, hidden=h) for s, h in ((2 + bias, 6), (3 + bias, 4), (4 + bias, 5))]


def next_log_probs(models, ids) -> torch.Tensor:
    """log of the models' mean probability of every token in the place of y_t (S,T,V), by plain cells alone."""
    whole, found = torch.full((len(ids),), ids.shape[1]), []
    for v, t in itertools.product(range(3), range(ids.shape[1])):
        other = ids.clone()
        other[:, t] = v
        found.append(torch.stack([plain_log_probs(m, other, whole)[:, t].exp() for m in models]).mean(0).log())
    return torch.stack(found, 1).unflatten(1, (3, ids.shape[1])).transpose(1, 2)


def step_kl(student, teachers, ids, lengths) -> torch.Tensor:
    """KL(teachers(. | y_<t) || student(. | y_<t)) (S,T)."""
    log_q, log_p = next_log_probs(teachers, ids).detach(), next_log_probs([student], ids)
    return (log_q.exp() * (log_q - log_p)).sum(-1) * mask_of(lengths, ids.shape[1])


KINDS = list(itertools.product([lambda g: g, Headless], repeat=2))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("eos_id", [None, 2])
def test_divergence_and_gradient_are_those_written_out(count, kinds, eos_id):
    student, teachers = tiny(1, eos_id=eos_id), three(eos_id)[:count]
    ids, lengths = every_sequence(eos_id=eos_id)
    weight = torch.rand(ids.shape, generator=rng(3), dtype=torch.float64)  # past the ends as well: it must not count
    read = garbled(ids, lengths) if eos_id is not None else ids
    loss, kl = weighted_distillation(kinds[0](student), [kinds[1](t) for t in teachers], read, lengths, weight)
    truth = step_kl(student, teachers, ids, lengths)
    assert (kl - truth).abs().max() <= 1e-10
    assert not kl.requires_grad
    assert float((loss - (weight * truth).sum()).detach().abs()) <= 1e-10
    assert far(gradients(loss, student), gradients((weight * truth).sum(), student)) <= 1e-10
    assert float(truth.detach().max()) > 0.1


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_expected_over_the_teachers_samples_it_is_the_divergence_of_whole_sequences(count, eos_id):
    """sum_s Q(s) (loss of s) = KL(Q || student), and so its gradient, where Q is the ensemble's own distribution."""
    student, teachers = tiny(1, eos_id=eos_id), three(eos_id)[:count]
    ids, lengths = every_sequence(eos_id=eos_id)
    mask = mask_of(lengths, 4)
    at = next_log_probs(teachers, ids).gather(2, ids[..., None])[..., 0] * mask
    log_q = at.sum(1).detach()
    assert float(log_q.exp().sum()) == pytest.approx(1, abs=1e-10)
    loss, _ = weighted_distillation(student, teachers, ids, lengths, log_q.exp()[:, None] * mask)
    truth = (log_q.exp() * (log_q - plain_log_probs(student, ids, lengths).sum(1))).sum()
    assert loss.item() == pytest.approx(truth.item(), abs=1e-10)
    assert far(gradients(loss, student), gradients(truth, student)) <= 1e-10


def test_chunks_of_many_words_are_within_the_rounding_of_float32():
    """The path that trains: 5,000 words, chunks smaller than the batch, three teachers."""
    student, double = (tiny(1, vocab=5000, dtype=d) for d in (torch.float32, torch.float64))
    teachers = [tiny(s, vocab=5000, dtype=torch.float32, hidden=7) for s in (2, 3, 4)]
    drawn = sample(teachers[0], uniform((30, 6), rng(1)))
    weight = objectives.mle_weight(mask_of(drawn.lengths, 6))
    loss, kl = weighted_distillation(student, teachers, drawn.ids, drawn.lengths, weight)
    exact = [Headless(t.double()) for t in teachers]
    truth, exact_kl = weighted_distillation(Headless(double), exact, drawn.ids, drawn.lengths, weight.double())
    assert (kl - exact_kl).abs().max() <= 1e-4
    ours, theirs = gradients(loss, student), gradients(truth, double)
    assert all((ours[k] - theirs[k]).abs().max() <= 1e-5 * theirs[k].abs().max() for k in theirs)


# --- ensemble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos_id", [None, 2])
def test_an_ensemble_is_the_mean_of_its_members_probabilities(eos_id):
    teachers = three(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    at = next_log_probs(teachers, ids).gather(2, ids[..., None])[..., 0] * mask_of(lengths, 4)
    found = log_probs(Ensemble(teachers), ids, lengths)
    assert (found - at).abs().max() <= 1e-10
    apart = torch.stack([plain_log_probs(t, ids, lengths).sum(1).exp() for t in teachers]).mean(0)
    assert (found.sum(1).exp() - apart).abs().max() > 1e-3  # not a draw of one teacher for the whole sequence


def test_an_ensemble_draws_what_it_says():
    ensemble = Ensemble(three(2))
    ids, lengths = every_sequence(eos_id=2)
    p = log_probs(ensemble, ids, lengths).sum(1).exp().detach()
    drawn = sample(ensemble, uniform((20_000, 4), rng(1)).double())
    key = [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
    seen = [tuple(row[:n].tolist()) for row, n in zip(drawn.ids, drawn.lengths, strict=True)]
    count = {k: seen.count(k) / len(seen) for k in key}
    assert max(abs(count[k] - float(q)) / (float(q) / len(seen)) ** 0.5 for k, q in zip(key, p, strict=True)) < 4.5
    assert torch.allclose(drawn.logp, log_probs(ensemble, drawn.ids, drawn.lengths).float(), atol=1e-5)


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_draws_from_the_mean_are_those_of_the_ensemble(eos_id, kind):
    """By the frequency of every sequence; and each generator's noise fills [0,1)."""
    teachers = three(eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    p = log_probs(Ensemble(teachers), ids, lengths).sum(1).exp().detach()
    drawn, ends = sample_mean([kind(t) for t in teachers], uniform((20_000, 4), rng(1)).double())
    key = [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
    seen = collections.Counter(tuple(row[:n].tolist()) for row, n in zip(drawn, ends, strict=True))
    assert sum(seen[k] for k in key) == 20_000
    assert max(abs(seen[k] - 20_000 * q) / (20_000 * q) ** 0.5 for k, q in zip(key, p.tolist(), strict=True)) < 4.5
    assert not drawn[torch.arange(4) >= ends[:, None]].any()


def test_one_generators_draws_are_the_usual_and_the_largest_noise_is_below_one():
    generator = tiny(3, vocab=7000, hidden=6, dtype=torch.float32)
    noise = uniform((300, 5), rng(16))
    ids, lengths = sample_mean([generator], noise)
    assert torch.equal(ids, sample(generator, noise).ids)
    assert torch.equal(lengths, torch.full((300,), 5))
    last = torch.full((3, 5), 1 - 2.0**-24)
    assert int(sample_mean([generator] * 5, last)[0].max()) < 7000


def test_states_of_an_ensemble_are_values():
    ensemble = Ensemble(three())
    _, state = ensemble.start(2)
    one, after = ensemble.extend(torch.tensor([[0, 1], [2, 2]]), state)
    again, _ = ensemble.extend(torch.tensor([[0, 1], [2, 2]]), state)
    assert torch.equal(one, again)
    swapped, _ = ensemble.extend(torch.tensor([[1], [1]]), after.select(torch.tensor([1, 0])))
    straight, _ = ensemble.extend(torch.tensor([[1], [1]]), after)
    assert torch.equal(swapped.flip(0), straight)
    both, _ = ensemble.extend(torch.tensor([[1], [1], [1]]), type(after).cat([after.select(torch.tensor([1])), after]))
    assert torch.allclose(both, torch.cat([straight[1:], straight]), atol=1e-12)


def test_members_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="they must be one"):
        Ensemble([tiny(1), tiny(2, vocab=4)])
    with pytest.raises(ValueError, match="they must be one"):
        Ensemble([tiny(1), tiny(2, eos_id=2)])


# --- runs ---------------------------------------------------------------------------------------------------------

BASE = DistillationConfig(
    generator=GeneratorConfig(embedding=8, hidden=12),
    teacher=TeacherConfig(embedding=8, hidden=16, dropout=0.0),
    mle=MLEConfig(epochs=12, batch=32, lr=0.02, patience=0),
    monitor=MonitorConfig(every=0, samples=16, lines=2),
    batch=32,
    lr=0.02,
)


def run_of(folder, **options) -> tuple[LSTMGenerator, Run]:
    run = Run.create(folder, {"method": "distillation"}, seed=3, saving=CheckpointConfig(seconds=1e9))
    return distillation.train(dataclasses.replace(BASE, **options), runs_of_one_token(), run), run


def log(run: Run, phase: str = "distillation") -> list[dict]:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [r for r in lines if r["kind"] == "train" and r["phase"] == phase]


@pytest.mark.parametrize("reads", ["samples", "real", "both"])
def test_the_student_comes_to_its_teacher(reads, tmp_path):
    student, run = run_of(tmp_path / "run", rounds=6, steps=50, reads=reads)
    divergence = [r["divergence"] for r in log(run)]
    assert divergence[-1] < 0.05 < 0.2 < divergence[0]
    nll_teacher = log(run, "teacher 1")[-1]["nll_valid"]
    assert mle.validation_nll(student, runs_of_one_token().valid) == pytest.approx(nll_teacher, abs=0.05)


@pytest.mark.parametrize(
    "kinds",
    [
        ("transformer", "lstm"),
        pytest.param(("lstm", "transformer"), marks=pytest.mark.slow),
        pytest.param(("transformer", "transformer"), marks=pytest.mark.slow),
    ],
)
def test_student_and_teachers_are_of_either_kind(kinds, tmp_path):
    options = {"generator": GeneratorConfig(kind=kinds[0], embedding=8, hidden=12), "teachers": 2}
    teacher = TeacherConfig(kind=kinds[1], embedding=8, hidden=16, dropout=0.0)
    _, run = run_of(tmp_path / "run", rounds=3, steps=30, **options, teacher=teacher)
    assert [type(run._models[n]).__name__[:4].lower() for n in ("generator", "teacher-2")] == [k[:4] for k in kinds]
    divergence = [r["divergence"] for r in log(run)]
    assert divergence[-1] < divergence[0] / 2


def test_each_reads_what_it_is_told(tmp_path, monkeypatch):
    seen, plain = [], distillation.distillation_loss
    real = {tuple(row) for row in runs_of_one_token().train.ids.tolist()}

    def watch(student, teachers, read):
        seen.append([tuple(row) in real for row in read.ids.tolist()])
        assert student.training
        assert not any(t.training or t.head.weight.requires_grad for t in teachers)
        return plain(student, teachers, read)

    monkeypatch.setattr(distillation, "distillation_loss", watch)
    likelihood = dataclasses.replace(BASE.mle, epochs=1, lr=1e-6)  # it draws nearly evenly
    for reads, least, rows in (("samples", 0.0, 32), ("real", 1.0, 32), ("both", 0.5, 64)):
        seen.clear()
        run_of(tmp_path / reads, mle=likelihood, rounds=1, steps=3, reads=reads)
        assert {len(row) for row in seen} == {rows}
        assert least <= np.mean(seen) < least + 0.2


def test_every_teacher_has_a_seed_of_its_own_and_is_kept_without_its_optimiser(tmp_path):
    _, run = run_of(tmp_path / "run", teachers=3, rounds=1, steps=2, mle=dataclasses.replace(BASE.mle, epochs=2))
    final = checkpoint.newest(run.folder / "checkpoints", tag="final")
    assert final is not None
    assert {p.name for p in final.iterdir() if p.is_dir()} == {"generator", "teacher-1", "teacher-2", "teacher-3"}
    losses = [log(run, f"teacher {k}")[-1]["nll_valid"] for k in (1, 2, 3)]
    assert len(set(losses)) == 3
    assert sorted(checkpoint.load_training(final)["kept"]) == ["best", "generator.optimizer", "health"]


def test_another_runs_start_is_refused(tmp_path):
    """It warmed the student, said nothing, and `compare` took it for one of the others."""
    run = Run.create(tmp_path / "run", {"method": "distillation"}, seed=1)
    run.first_step = 5
    with pytest.raises(ValueError, match="leave --from out"):
        distillation.train(BASE, runs_of_one_token(), run)


def test_patience_takes_the_round_of_the_lowest_validation_nll(tmp_path):
    student, run = run_of(tmp_path / "run", rounds=40, steps=10, patience=2, lr=0.1, average=0.9)
    found = [r["nll_valid"] for r in log(run)]
    assert len(found) < 40
    assert len(found) - 1 - int(np.argmin(found)) == 2
    assert mle.validation_nll(student, runs_of_one_token().valid) == pytest.approx(min(found), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"teachers": 0}, "teachers is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr_decay": 0.0}, "lr_decay is 0.0"),
        ({"average": 1.0}, "average is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"mle": MLEConfig(epochs=0)}, "mle.epochs is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        DistillationConfig(**options)
