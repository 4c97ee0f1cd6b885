"""The null controls of a run, and the share of its gain that the discriminator explains."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_compare import LINE, curve, lowered
from test_resume import short_report  # noqa: F401

from seqforge import controls
from seqforge.cli import main
from seqforge.verdict import FILE, save_draws


def scored_run(folder, generators):
    """A run whose generators have these points, and draws that move all of a generator's qualities by one number."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": "seqgan", "seed": 0}))
    rows = [{"name": name, "scores": curve(points)} for name, points, _ in generators]
    (folder / "scores.json").write_text(json.dumps({"generators": rows}))
    held = {}
    for (name, _, moves), row in zip(generators, rows, strict=True):
        held[name] = {
            (s["name"], s["temperature"]): s["value"] + (moves if s["name"] == "nll_oracle" else 0 * moves)
            for s in row["scores"]
        }
    save_draws(folder / FILE, held)
    return folder


def test_the_share_by_hand(tmp_path):
    """The run gains .4, a control .1: D explains three quarters; where nothing is gained there is nothing to share."""
    moves = np.random.default_rng(0).normal(0, 0.02, 400)
    still = np.zeros(400)
    run = scored_run(tmp_path / "run", [("pre-trained", LINE, still), ("final", lowered(0.4), moves)])
    less = scored_run(tmp_path / "less", [("final", lowered(0.1), still)])
    found = controls.share(run, {"random": less})
    share, low, high = found["controls"]["random"]["share_of_d"]
    assert share == pytest.approx(0.75, abs=1e-6)
    gains = 0.4 - moves  # of each draw
    assert (low, high) == pytest.approx(tuple(np.percentile(1 - 0.1 / gains, [2.5, 97.5])), abs=2e-3)
    assert found["gain"]["word"] == "beats"
    assert found["controls"]["random"]["run_against_it"]["gap"] == pytest.approx(-0.3, abs=1e-6)
    worse = scored_run(tmp_path / "worse", [("pre-trained", LINE, still), ("final", lowered(-0.1), moves)])
    assert controls.share(worse, {"random": less})["controls"]["random"]["share_of_d"] is None


def test_every_control_is_trained_once_from_the_same_pre_training(tmp_path, capsys):
    tiny = [
        "train",
        "seqgan",
        "--recipe",
        "seqgan-oracle-tiny",
        "--mle.epochs",
        "1",
        "--rounds",
        "1",
        "--rollouts",
        "1",
    ]
    run = tmp_path / "run"
    small = ["--baseline", "leave-one-out", "--evaluate.samples", "64"]
    assert main([*tiny, *small, "--with-controls", "--out", str(run)]) == 0
    assert "share of the gain" in capsys.readouterr().out.replace("\n", " ")
    assert main(["compare", "--controls", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["controls"]) == ["constant", "random", "shuffled", "frozen", "mle"]
    for name in ("constant", "random", "shuffled", "frozen"):
        config = yaml.safe_load((run / "controls" / name / "config.yaml").read_text())
        assert (config["reward"], config["rounds"], config["from"]) == (name, 1, str(run))
    longer = yaml.safe_load((run / "controls" / "mle" / "config.yaml").read_text())
    assert longer["mle"]["epochs"] == longer["mle"]["patience"] >= 1
    before = {p: p.stat().st_mtime_ns for p in run.rglob("controls/*/log.jsonl")}
    assert main(["compare", "--controls", str(run)]) == 0
    capsys.readouterr()
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("controls/*/log.jsonl")}
    assert main(["compare", "--controls", str(run / "controls" / "random")]) == 2
    assert "reward random has no null controls" in capsys.readouterr().err


def test_what_has_no_controls_is_told(capsys):
    assert main(["compare"]) == 2
    assert "give run folders, or --controls RUN" in capsys.readouterr().err
    for method, told in (("mle", "method mle"), ("seqgan", "reward shuffled")):
        reward = ["--reward", "shuffled"] if method == "seqgan" else []
        assert main(["train", method, *reward, "--with-controls", "--out", "never"]) == 2
        assert f"{told} has no null controls" in capsys.readouterr().err
    assert not Path("never").exists()
