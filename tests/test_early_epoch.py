"""MLE as good as a run has it: of a pre-training that goes on past its best epoch, that epoch is the rival."""

import json
import shutil

import pytest

from seqforge import checkpoint, evaluate, verdict
from seqforge.cli import main
from seqforge.compare import compare
from seqforge.report.figures import places_of
from seqforge.report.folder import read_folder
from seqforge.report.frontier import judged

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--data.train_size", "64", "--report", "false"]
TINY += ["--evaluate.temperatures", "[1.0,0.6,0.4]"]
FITTED = ["--mle.epochs", "14", "--mle.lr", "0.1", "--monitor.every", "1"]
NAMES = ["pre-trained", verdict.EARLY, "final"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose pre-training learns its 64 sequences by heart, and a control that starts from it."""
    folder = tmp_path_factory.mktemp("early")
    assert main([*TINY, *FITTED, "--mle.patience", "0", "--out", str(folder / "run")]) == 0
    control = [*TINY, "--mle.patience", "2", "--from", str(folder / "run"), "--reward", "constant"]
    assert main([*control, "--out", str(folder / "control")]) == 0
    return folder / "run"


def scores(run) -> dict:
    return json.loads((run / "scores.json").read_text())


def test_the_verdict_is_held_to_the_best_epoch(run):
    before, early, final = scores(run)["generators"]
    assert [g["name"] for g in (before, early, final)] == NAMES
    assert early["step"] < before["step"] < final["step"]
    assert early["checkpoint"] == checkpoint.best_of(run)
    test = {g["name"]: next(s["value"] for s in g["scores"] if s["name"] == "nll_test") for g in (before, early)}
    assert test[verdict.EARLY] < test["pre-trained"] - 0.1  # or the scene shows nothing
    draws = [verdict.load_draws(run / verdict.FILE, name) for name in NAMES]
    wanted = verdict.judge("oracle", final["scores"], early["scores"], draws[2], draws[1])
    assert wanted is not None
    assert [j["gap"] for j in scores(run)["judgements"]] == [pytest.approx(wanted.gap)]
    told = scores(run)["verdict"]
    assert "its MLE stopped early" in told
    assert f"for {test[verdict.EARLY]:.3f}." in told
    assert all("its MLE stopped early" in line for line in judged(read_folder(run).scores).values())
    assert all("its MLE stopped early" in v["reason"] for g in compare([run])["groups"].values() for v in g["verdicts"])


def test_a_run_that_starts_from_it_is_held_to_the_same_epoch(run):
    (early,) = [g for g in scores(run)["generators"] if g["name"] == verdict.EARLY]
    control = run.parent / "control"  # of another patience, which is not that of the pre-training
    (same,) = [g for g in scores(control)["generators"] if g["name"] == verdict.EARLY]
    assert [(s["name"], s["value"]) for s in same["scores"]] == [(s["name"], s["value"]) for s in early["scores"]]


def test_where_the_run_started_from_is_gone_it_says_so(run, tmp_path):
    shutil.copytree(run.parent / "control", tmp_path / "control")
    config = (tmp_path / "control" / "config.yaml").read_text()
    (tmp_path / "control" / "config.yaml").write_text(config.replace(str(run), str(tmp_path / "gone")))
    with pytest.warns(UserWarning, match=r"gone, which .*control started from, is gone"):
        assert evaluate.early_epoch(tmp_path / "control") is None


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
