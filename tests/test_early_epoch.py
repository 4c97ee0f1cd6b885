"""MLE as good as a run has it: of a pre-training that goes on past its best epoch, that epoch is the rival."""

import json

import numpy as np
import pytest
import torch

from seqforge import checkpoint, evaluate, loading, verdict
from seqforge.cli import main
from seqforge.compare import compare
from seqforge.report import comparison
from seqforge.report.figures import places_of
from seqforge.report.folder import read_folder
from seqforge.report.frontier import judged

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--data.train_size", "64", "--report", "false"]
TINY += ["--evaluate.temperatures", "[1.0,0.6,0.4]"]
FITTED = ["--mle.epochs", "14", "--mle.lr", "0.1"]
NAMES = ["pre-trained", verdict.EARLY, "final"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose pre-training learns 64 sequences by heart, and a control of another patience that starts there."""
    folder = tmp_path_factory.mktemp("early")
    assert main([*TINY, *FITTED, "--mle.patience", "0", "--out", str(folder / "run")]) == 0
    control = [*TINY, "--mle.patience", "2", "--from", str(folder / "run"), "--reward", "constant"]
    assert main([*control, "--out", str(folder / "control")]) == 0
    return folder / "run"


def scores(run) -> dict:
    return json.loads((run / "scores.json").read_text())


def at_one(generator: dict) -> dict:
    return {s["name"]: s["value"] for s in generator["scores"] if s["temperature"] == 1.0}


def test_the_verdict_is_held_to_the_best_epoch(run):
    before, early, final = scores(run)["generators"]
    assert [g["name"] for g in (before, early, final)] == NAMES
    assert at_one(early)["nll_test"] < at_one(before)["nll_test"] - 0.1  # or the scene shows nothing
    draws = [verdict.load_draws(run / verdict.FILE, name) for name in NAMES]
    wanted = verdict.judge("oracle", final["scores"], early["scores"], draws[2], draws[1])
    assert wanted is not None
    assert [j["gap"] for j in scores(run)["judgements"]] == [pytest.approx(wanted.gap)]
    told = scores(run)["verdict"]
    assert "its MLE stopped early" in told
    assert f"for {at_one(early)['nll_test']:.3f}." in told
    (line,) = judged(read_folder(run).scores).values()
    assert "its MLE stopped early" in line
    (group,) = compare([run])["groups"].values()
    assert ["its MLE stopped early" in v["reason"] for v in group["verdicts"]] == [True]
    assert group["to_pretrained"]["over_range"]["gap"][0] == pytest.approx(wanted.gap)


def test_the_model_card_of_the_pre_trained_is_not_that_of_the_best_epoch(run, tmp_path):
    """The weights exported were the last epoch's, and the scores those of MLE stopped early."""
    assert main(["export", str(run), "--checkpoint", "pre-trained", "--out", str(tmp_path / "hub")]) == 0
    before, early, _ = (at_one(g)["nll_test"] for g in scores(run)["generators"])
    card = (tmp_path / "hub" / "README.md").read_text()
    assert f"| nll_test | 1 | {before:.4f}" in card
    assert f"{early:.4f}" not in card


def test_it_is_the_epoch_of_the_lowest_validation_nll(run):
    """Of every epoch, not only of those that were looked at (monitor.every 2), on the whole validation set."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [r["nll_valid"] for r in lines if r["phase"] == "mle" and r["kind"] == "train"]
    folder = checkpoint.newest(run / "checkpoints", tag="pre-trained")
    best = checkpoint.load_training(folder)["kept"]["mle.best"]
    assert best["nll"] == min(losses)
    found = evaluate.early(folder, loading.load_generator(folder), "fp32")
    assert all(torch.equal(v, best["weights"][k]) for k, v in found.state_dict().items())


def test_a_run_that_starts_from_it_is_held_to_the_same_epoch(run):
    (early,) = [g for g in scores(run)["generators"] if g["name"] == verdict.EARLY]
    (same,) = [g for g in scores(run.parent / "control")["generators"] if g["name"] == verdict.EARLY]
    assert at_one(same) == at_one(early)


def test_the_picture_of_many_runs_shows_its_temperatures_at_the_paths_nll_test(run, tmp_path, monkeypatch):
    """Where it lies below the paths the picture reaches down to it."""
    drawn, plain = [], comparison.write_png
    monkeypatch.setattr(comparison, "write_png", lambda figure, out: (drawn.append(figure), plain(figure, out)))
    comparison.compare_png([run, run.parent / "control"], tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    early = lines[f"{verdict.EARLY}, over temperatures"]
    assert "pre-trained, over temperatures" in lines
    left, right, low, _ = axes.axis()
    there = np.interp([left, right], early.get_xdata(), early.get_ydata())
    assert early.get_xdata()[0] < left < right < early.get_xdata()[-1]
    assert low < there.min() < min(y for line in axes.get_lines()[:1] for y in line.get_ydata())


def test_so_is_one_that_starts_from_a_run_of_likelihood_alone(tmp_path):
    world = {"source": "oracle", "vocab_size": 20, "max_length": 6, "oracle_embedding": 4, "oracle_hidden": 4}
    world |= {"train_size": 64, "valid_size": 64, "test_size": 128}
    likelihood = ["train", "mle", "--generator.embedding", "8", "--generator.hidden", "8", "--mle.batch", "32", *FITTED]
    likelihood += [f"--data.{k}={v}" for k, v in world.items()]
    likelihood += ["--evaluate.samples", "64", "--monitor.samples", "64", "--report", "false"]
    assert main([*likelihood, "--mle.patience", "0", "--out", str(tmp_path / "mle")]) == 0
    assert main([*TINY, "--from", str(tmp_path / "mle"), "--out", str(tmp_path / "run")]) == 0
    assert [g["name"] for g in scores(tmp_path / "run")["generators"]] == NAMES


def test_a_later_stage_that_is_better_by_validation_does_not_hide_it(tmp_path):
    argv = ["train", "cot", "--recipe", "cot-tiny", "--data.train_size", "64", "--report", "false", *FITTED]
    argv += ["--mle.patience", "0", "--rounds", "20", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    assert [g["name"] for g in scores(tmp_path / "run")["generators"]] == NAMES


def test_leakgans_best_epoch_has_its_own_discriminator(tmp_path):
    argv = ["train", "leakgan", "--recipe", "leakgan-tiny", "--report", "false", *FITTED, "--mle.patience", "0"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    folder = checkpoint.newest(tmp_path / "run" / "checkpoints", tag="pre-trained")
    best = checkpoint.load_training(folder)["kept"]["mle.best"]
    found = evaluate.early(folder, loading.load_generator(folder), "fp32")
    own = {k.removeprefix("generator."): v for k, v in best["weights"].items() if k.startswith("generator.")}
    assert all(torch.equal(v, own[k]) for k, v in found.state_dict().items())
    assert [g["name"] for g in scores(tmp_path / "run")["generators"]] == NAMES


def test_a_pre_training_that_stops_at_its_best_epoch_is_its_own_rival(tmp_path):
    assert main([*TINY, *FITTED, "--mle.patience", "2", "--out", str(tmp_path / "run")]) == 0
    assert [g["name"] for g in scores(tmp_path / "run")["generators"]] == ["pre-trained", "final"]
    assert verdict.rival(scores(tmp_path / "run")["generators"])["name"] == "pre-trained"


def test_series_keep_their_colours():
    assert places_of([*NAMES, "the oracle itself"]) == {
        "pre-trained": 0,
        "final": 1,
        "the oracle itself": 2,
        verdict.EARLY: 3,
    }
    assert places_of(["a", "b", "c"]) == {"a": 0, "b": 1, "c": 2}
    assert places_of(["pre-trained", verdict.COUNTERPART]) == {"pre-trained": 0, verdict.COUNTERPART: 1}
