"""Likelihood's options: label smoothing against torch's, the average of the weights written out, whole runs."""

import dataclasses
import json

import pytest
import torch
from torch.nn import functional as F
from worlds import Headless, every_sequence, far, garbled, gradients, rng, runs_of_one_token, tiny

from seqforge import corpora
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.likelihood import weighted_nll
from seqforge.methods import mle
from seqforge.methods.leakgan import LeakGANConfig
from seqforge.methods.mle import MLEConfig, MLETrainConfig, MonitorConfig
from seqforge.methods.scheduled_sampling import ScheduledSamplingConfig
from seqforge.metrics import nll
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Samples, mask_of


def smoothed(generator, ids, lengths, weight, smoothing) -> torch.Tensor:
    """torch's own label smoothing, with a weight for each token within the sequences."""
    first, state = generator.start(len(ids))
    later, _ = generator.extend(ids[:, :-1], state)
    logits = torch.cat([first[:, None], later], 1)
    each = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none", label_smoothing=smoothing)
    return (each.view(ids.shape) * weight * mask_of(lengths, ids.shape[1])).sum()


@pytest.mark.parametrize("kind", [lambda g: g, Headless])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("eos_id", [None, 2])
def test_label_smoothing_is_torchs(kind, smoothing, eos_id):
    generator = tiny(1, eos_id=eos_id)
    ids, lengths = every_sequence(eos_id=eos_id)
    weight = torch.rand(ids.shape, generator=rng(3), dtype=torch.float64)  # past the ends as well: it must not count
    read = garbled(ids, lengths) if eos_id is not None else ids
    loss, logp = weighted_nll(kind(generator), read, lengths, weight, smoothing=smoothing)
    truth = smoothed(generator, ids, lengths, weight, smoothing)
    assert loss.item() == pytest.approx(truth.item(), abs=1e-10)
    assert far(gradients(loss, generator), gradients(truth, generator)) <= 1e-10
    plain, plain_logp = weighted_nll(kind(generator), ids, lengths, weight)
    assert torch.equal(logp, plain_logp)  # what is logged is the likelihood
    assert (abs(float((loss - plain).detach())) > 1e-2) == (smoothing > 0)


def test_a_head_without_bias_smooths_alike():
    generator = tiny(1)
    generator.head = torch.nn.Linear(4, 3, bias=False).double()
    ids, lengths = every_sequence()
    weight = torch.ones(ids.shape, dtype=torch.float64)
    loss, _ = weighted_nll(generator, ids, lengths, weight, smoothing=0.3)
    truth = smoothed(generator, ids, lengths, weight, 0.3)
    assert far(gradients(loss, generator), gradients(truth, generator)) <= 1e-10


def test_smoothing_reads_what_scheduled_sampling_reads():
    """The text read is another than the targets."""
    generator, (ids, lengths) = tiny(1), every_sequence()
    read, weight = ids.clamp_max(1), torch.ones(ids.shape, dtype=torch.float64)
    found, headless = (weighted_nll(k, ids, lengths, weight, read, 0.3)[0] for k in (generator, Headless(generator)))
    assert found.item() == pytest.approx(headless.item(), abs=1e-10)
    assert abs(float((found - weighted_nll(generator, ids, lengths, weight, None, 0.3)[0]).detach())) > 1e-2


def test_the_likelihood_loss_smooths_as_told():
    generator, (ids, lengths) = tiny(1, eos_id=2), every_sequence(eos_id=2)
    loss, _ = mle.likelihood_loss(generator, Split(ids, lengths), 0.2)
    truth = smoothed(generator, ids, lengths, torch.ones(ids.shape) / lengths.sum(), 0.2)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-6)


def test_the_average_is_the_written_out_one():
    """Decay .7: 1/10, 2/11, ... until that passes .7, which is from step 21 on."""
    average = tiny(1)
    expected = {k: p.detach().clone() for k, p in average.named_parameters()}
    for step in range(30):
        model = tiny(step + 2)
        mle.follow(average, model, 0.7, step)
        d = (1 + step) / (10 + step) if step < 20 else 0.7
        expected = {k: d * expected[k] + (1 - d) * p.detach() for k, p in model.named_parameters()}
    assert all(torch.allclose(p, expected[k], atol=1e-12) for k, p in average.named_parameters())


def run_of(folder, **options) -> tuple[LSTMGenerator, Run]:
    run = Run.create(folder, {"method": "mle"}, seed=3, saving=CheckpointConfig(seconds=1e9))
    sizes, monitor = LSTMConfig(embedding=8, hidden=16), MonitorConfig(every=0, samples=16, lines=2)
    likelihood = dataclasses.replace(MLEConfig(epochs=4, batch=32, patience=0), **options)
    return mle.train(MLETrainConfig(sizes, likelihood, monitor), runs_of_one_token(), run), run


def log(run) -> list[dict]:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [r for r in lines if r["kind"] == "train"]


def test_the_average_is_what_is_validated_and_kept_and_the_training_is_the_same(tmp_path):
    last, plain = run_of(tmp_path / "last")
    mean, run = run_of(tmp_path / "mean", average=0.95)
    assert [r["nll_train"] for r in log(run)] == [r["nll_train"] for r in log(plain)]
    assert mle.validation_nll(mean, runs_of_one_token().valid) == log(run)[-1]["nll_valid"]
    assert log(run)[-1]["nll_valid"] != log(plain)[-1]["nll_valid"]
    assert not torch.equal(last.head.weight, mean.head.weight)
    final = next((run.folder / "checkpoints").iterdir())
    assert {p.name for p in final.iterdir() if p.is_dir()} == {"generator"}  # the average has become it


def test_patience_takes_the_best_average(tmp_path):
    found, run = run_of(tmp_path / "run", epochs=60, patience=2, lr=0.2, average=0.9)
    losses = [r["nll_valid"] for r in log(run)]
    assert len(losses) < 60
    assert mle.validation_nll(found, runs_of_one_token().valid) == pytest.approx(min(losses), abs=1e-9)


def test_smoothing_keeps_a_model_from_being_sure(tmp_path):
    """Fitted to smoothed targets a token that always follows gets 1 - smoothing (1 - 1/V) at most, about."""
    sure, _ = run_of(tmp_path / "sure", epochs=40, lr=0.02)
    soft, _ = run_of(tmp_path / "soft", epochs=40, lr=0.02, label_smoothing=0.3)

    @torch.no_grad()
    def third(model):  # after 0 0 it goes on with 0 or ends
        _, state = model.start(1)
        return torch.softmax(model.extend(torch.tensor([[0, 0]]), state)[0][0, -1], -1)

    assert float(third(sure)[[0, 3]].sum()) > 0.95
    assert float(third(soft)[[0, 3]].sum()) == pytest.approx(1 - 0.3 * 4 / 6, abs=0.06)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_what_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match=f"mle.label_smoothing is {value}"):
        MLEConfig(label_smoothing=value)
    with pytest.raises(ValueError, match=f"mle.average is {value}"):
        MLEConfig(average=value)


def test_a_method_with_a_likelihood_of_its_own_says_what_that_lacks(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"mle.average is 0.9, which scheduled sampling does not have"):
        ScheduledSamplingConfig(mle=MLEConfig(average=0.9))
    with pytest.raises(ValueError, match=r"mle.label_smoothing is 0.5, which leakgan does not have"):
        LeakGANConfig(mle=MLEConfig(label_smoothing=0.5))
    argv = ["train", "leakgan", "--recipe", "leakgan-tiny", "--mle.average", ".9", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "mle.average is 0.9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "recipe", "option", "phase"),
    [
        ("seqgan", "seqgan-oracle-tiny", "mle.average", "mle"),
        ("cot", "cot-tiny", "average", "cooperative"),
        ("distillation", "distillation-tiny", "average", "distillation"),
    ],
)
def test_what_checkpoints_hold_is_what_is_validated(method, recipe, option, phase, tmp_path):
    """The average was validated and the learner saved until the end: best.json chose among others than measured."""
    argv = ["train", method, "--recipe", recipe, f"--{option}", ".9", "--monitor.every", "1"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    both = [[r["nll_valid"] for r in records if (r["phase"], r["kind"]) == (phase, k)] for k in ("train", "health")]
    assert len(both[0]) > 1
    assert both[1][: len(both[0])] == pytest.approx(both[0], abs=1e-5)


def test_where_a_grammar_is_known_every_look_says_how_much_is_grammatical(tmp_path, monkeypatch):
    """Sentences of the corpus are; the same backwards are not, and of half and half it is the half."""
    corpus = corpora.load(DataConfig(source="demo", train_size=600, valid_size=20, test_size=200))
    generator = LSTMGenerator(corpus.vocab_size, embedding=4, hidden=4, eos_id=corpus.eos_id)
    run = Run.create(tmp_path / "run", {"method": "mle"}, seed=0)
    ids, lengths = corpus.test.ids, corpus.test.lengths
    back = ids.clone()
    for row, n in zip(back, lengths.tolist(), strict=True):
        row[: n - 1] = row[: n - 1].flip(0)
    plain = nll.all_nll
    for sentences, share in ((ids, 1.0), (back, 0.0), (torch.cat([ids[:100], back[100:]]), 0.5)):
        drawn = Samples(sentences, lengths, torch.zeros(sentences.shape))
        monkeypatch.setattr(nll, "all_nll", lambda *given, drawn=drawn: (plain(*given)[0], drawn))
        mle.measure(generator, corpus, MonitorConfig(samples=50), run, "mle")
        records = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        found = [r["scores"] for r in records if r["kind"] == "evaluation"][-1]
        assert found["grammatical"]["value"] == pytest.approx(share, abs=0.02)
