"""Variants of a recipe with several seeds: what is run, what is kept, what the table says."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from seqforge import options, sweep
from seqforge.cli import main
from seqforge.recipes import read as read_recipe

SWEEP = {
    "recipe": "scratchgan-tiny",
    "seeds": [1, 2],
    "options": {"rounds": 2, "evaluate": {"samples": 64}},
    "variants": {"whole": {}, "end": {"reward_at": "end", "discriminator": {"dropout": 0.0}}},
}


@pytest.fixture
def plan(tmp_path) -> str:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    return str(tmp_path / "mine.yaml")


def test_every_variant_is_run_with_every_seed_once(plan, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ["sweep", plan, "--out", str(out), "--threads", "1", "--rounds", "1"]
    assert main([*command, "--seeds", "1"]) == 0
    assert main(command) == 0
    said = capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["end-1", "end-2", "whole-1", "whole-2"]
    end = yaml.safe_load((out / "end-2" / "config.yaml").read_text())
    assert (end["seed"], end["rounds"], end["reward_at"], end["discriminator"]["dropout"]) == (2, 1, "end", 0.0)
    assert end["evaluate"]["samples"] == 64
    assert "| whole |" in said
    assert (out / "sweep.md").read_text() in said
    with (out / "sweep.csv").open() as f:
        rows = list(csv.DictReader(f))
    mine = next(r for r in rows if (r["variant"], r["score"], r["temperature"]) == ("end", "nll_test", "1.0"))
    values = [nll_test(out / f"end-{seed}") for seed in (1, 2)]
    assert float(mine["mean"]) == pytest.approx(sum(values) / 2)
    assert float(mine["half_interval"]) == pytest.approx(12.706 * abs(values[0] - values[1]) / 2, rel=1e-3)
    monkeypatch.setattr(sweep.subprocess, "run", lambda *_, **__: pytest.fail("all runs have finished"))
    assert main(command) == 0


def nll_test(run: Path) -> float:
    final = next(g for g in json.loads((run / "scores.json").read_text())["generators"] if g["name"] == "final")
    return next(s["value"] for s in final["scores"] if s["name"] == "nll_test" and s["temperature"] == 1)


def test_a_run_that_was_cut_off_is_resumed(plan, tmp_path, monkeypatch):
    trial = sweep.trials(sweep.read(plan), tmp_path / "out", [1], ["end"], [])[0]
    trial.folder.mkdir(parents=True)
    (trial.folder / "config.yaml").write_text("{}")
    seen = []
    monkeypatch.setattr(sweep.subprocess, "run", lambda command, **_: seen.append(command) or Ended(1))
    with pytest.raises(ValueError, match="resume ended with 1; the same sweep again"):
        sweep.carry_out(trial, 0)
    assert seen[0][-2:] == ["resume", str(trial.folder)]


class Ended:
    def __init__(self, returncode: int):
        self.returncode = returncode


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"variants": None}, "variants"),
        ({"variants": {"a/b": {}}}, "a/b"),
        ({"variants": {"a": [1]}}, "'a'"),
        ({"colour": 1}, "unknown key colour"),
        ({"recipe": "scratchgan-tinny"}, "did you mean scratchgan-tiny"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(change, named, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**SWEEP, **change}))
    assert main(["sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err


def test_what_is_not_there_is_named(plan, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["sweep", "scratchgan-ablation", *out]) == 2
    assert "did you mean scratchgan-ablations" in capsys.readouterr().err
    assert main(["sweep", plan, *out, "--variants", "whole,none"]) == 2
    assert "no variant none" in capsys.readouterr().err
    assert main(["sweep", plan, *out, "--seeds", "one"]) == 2
    assert "--seeds one" in capsys.readouterr().err
    assert main(["sweep", plan, *out, "--round", "3"]) == 2
    assert "did you mean --rounds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sweep.names())
def test_every_variant_that_ships_is_one_the_method_takes(name, tmp_path):
    plan = sweep.read(name)
    assert plan["purpose"]
    method = read_recipe(plan["recipe"])["method"]
    for trial in sweep.trials(plan, tmp_path, [1], [], []):
        options.parse_train(method, trial.argv[1:])
