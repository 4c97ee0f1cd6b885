"""The null controls of a run, and the share of its gain that the discriminator explains."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_compare import LINE, curve, lowered
from test_resume import short_report  # noqa: F401

from seqforge import controls, seeds
from seqforge.cli import main
from seqforge.tables import controls_tables
from seqforge.verdict import FILE, Judgement, save_draws


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
    held = (less / "scores.json").read_text()
    (less / "scores.json").write_text(held.replace("|n:100|", "|n:200|"))
    with pytest.raises(ValueError, match=r"n:100.* against .*n:200.*score them alike by"):
        controls.share(run, {"random": less})


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


def test_a_run_of_another_version_is_told_before_anything_is_trained(tmp_path, capsys):
    """An option that was a group of options, and is a number in its config.yaml, ended in a TypeError."""
    run = tmp_path / "run"
    run.mkdir()
    config = {"method": "seqgan", "seed": 1, "from": None, "data": {}, "checkpoint": {}, "evaluate": {}, "generator": 5}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "phase": "end", "kind": "end"}) + "\n")
    assert main(["compare", "--controls", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"{run / 'config.yaml'}: generator is 5, but must hold options; restore it or train anew" in said
    assert not (run / "controls").exists()


def shared_by(gains, name="random"):
    """What `share` says of runs whose gaps, and a control's, are these pairs, each with its own narrow interval."""

    def gap(value):
        return Judgement("oracle", "beats", value, value - 0.01, value + 0.01, 8.0, 9.0, "bootstrap", 400).as_dict()

    rows = [{"gain": gap(c), "run_against_it": gap(m - c), "share_of_d": [1 - c / m, 0.0, 1.0]} for m, c in gains]
    return [
        {"run": f"seed-{k}", "frontier": "oracle", "gain": gap(m), "controls": {name: row}}
        for k, ((m, _), row) in enumerate(zip(gains, rows, strict=True))
    ]


def test_the_share_over_seeds_by_hand():
    """Gains .4, .5, .3 of which the control has .1, .2, .15: 1 - .45 / 1.2, by the scatter of c - .375 m over .4."""
    found = controls.shares_over_seeds(shared_by([(-0.4, -0.1), (-0.5, -0.2), (-0.3, -0.15)]))
    rest = [-0.1 + 0.375 * 0.4, -0.2 + 0.375 * 0.5, -0.15 + 0.375 * 0.3]
    half = 4.303 * np.std(rest, ddof=1) / 3**0.5 / 0.4
    row = found["controls"]["random"]
    assert row["share_of_d"] == pytest.approx([0.625, 0.625 - half, 0.625 + half], abs=1e-6)
    assert (found["gain"]["by"], found["gain"]["units"], found["gain"]["gap"]) == ("seeds", 3, pytest.approx(-0.4))
    assert row["run_against_it"]["gap"] == pytest.approx(-0.25)
    ((title, _, rows),) = controls_tables(found)
    assert title.endswith("over 3 seeds")
    assert rows[1][3].startswith("62% (")


def test_no_share_is_told_of_a_gain_that_the_seeds_do_not_agree_on():
    """Each run is sure of its own gain; over the seeds it holds 0."""
    found = controls.shares_over_seeds(shared_by([(-0.5, -0.1), (-0.02, -0.01), (0.3, -0.1)]))
    assert found["gain"]["word"] == "ties with"
    assert found["controls"]["random"]["share_of_d"] is None
    one, other = shared_by([(-0.5, -0.1), (-0.4, -0.1)])
    with pytest.raises(ValueError, match="different frontiers, lm, oracle"):
        controls.shares_over_seeds([one, {**other, "frontier": "lm"}])


def test_the_share_by_parts_is_students():
    """Eight parts of the samples scatter by far more than the whole: their percentiles were told as the interval."""
    gain, own = (Judgement("lm", "beats", g, g - 0.1, g + 0.1, 8.0, 9.0, "parts", 8) for g in (-0.4, -0.1))
    mine, theirs = [-0.4] * 8, [-0.1 + 0.02 * k for k in (-3, -2, -1, 0, 0, 1, 2, 3)]
    value, low, high = controls._share("lm", gain, own, mine, theirs)
    half = 2.365 * np.std(theirs, ddof=1) / 8**0.5 / 0.4
    assert (value, low, high) == pytest.approx((0.75, 0.75 - half, 0.75 + half), rel=1e-3)
    _, low, high = controls._share("oracle", gain, own, mine, theirs)
    assert (low, high) == pytest.approx(tuple(np.percentile([1 + t / 0.4 for t in theirs], [2.5, 97.5])))
    assert controls._share("lm", gain, own, [None, *mine[1:]], [theirs[0], -0.1, *[None] * 6]) is None


def test_what_cannot_be_held_to_controls_is_told_before_anything_is_trained(tmp_path, capsys):
    """ScratchGAN ended in a TypeError, and a run from another's pre-training only after four controls."""
    never = tmp_path / "never"
    assert main(["train", "scratchgan", "--recipe", "scratchgan-tiny", "--with-controls", "--out", str(never)]) == 2
    assert "method scratchgan has no pre-training" in capsys.readouterr().err
    seqgan = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--with-controls", "--out", str(never)]
    assert main([*seqgan, "--from", "other"]) == 2
    assert "took its pre-training from other (--from)" in capsys.readouterr().err
    assert main([*seqgan, "--seeds", "1,2", "--reward", "constant"]) == 2
    assert "reward constant has no null controls" in capsys.readouterr().err
    assert not never.exists()


def test_options_that_the_controls_do_not_take_are_refused(capsys):
    for wrong, told in ((["--plot", "x.png"], "no --plot"), (["--format", "nonsense"], "--format is 'nonsense'")):
        assert main(["compare", "--controls", "run", *wrong]) == 2
        assert told in capsys.readouterr().err


def test_controls_of_seeds_are_one_table(tmp_path, capsys, monkeypatch):
    """One table, with the share over the seeds, in each format."""
    each = iter(shared_by([(-0.4, -0.1), (-0.41, -0.2)]) * 3)
    monkeypatch.setattr(controls, "carry_out", lambda _: {})
    monkeypatch.setattr(controls, "share", lambda *_: next(each))
    seeds.begin(tmp_path / "f", "seqgan", [], [0, 1])
    command = ["compare", "--controls", str(tmp_path / "f"), "--format"]
    assert main([*command, "json"]) == 0
    share = json.loads(capsys.readouterr().out)["controls"]["random"]["share_of_d"][0]
    assert share == pytest.approx(1 - 0.3 / 0.81)
    assert main([*command, "markdown"]) == 0
    assert "| random | -0.150 (" in capsys.readouterr().out
    assert main([*command, "latex"]) == 0
    assert r"63\% (" in capsys.readouterr().out
