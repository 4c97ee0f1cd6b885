"""Variants of a recipe with several seeds: what is run, what is kept, what the table says."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from seqforge import options, sweep
from seqforge.cli import main
from seqforge.frontier import gap_over_range
from seqforge.verdict import Judgement

SWEEP = {
    "recipe": "scratchgan-tiny",
    "seeds": [1, 2],
    "options": {"rounds": 2, "report": False, "counterpart": {"epochs": 0}, "evaluate": {"samples": 64}},
    "variants": {"whole": {}, "end": {"reward_at": "end", "discriminator": {"dropout": 0.0}}},
}


@pytest.fixture
def plan(tmp_path) -> str:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    return str(tmp_path / "mine.yaml")


def test_every_variant_is_run_with_every_seed_once(plan, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ["sweep", plan, "--out", str(out), "--at-once", "2", "--rounds", "1"]
    assert main([*command, "--seeds", "1"]) == 0
    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=in_this_process, DEVNULL=None))
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
    capsys.readouterr()
    assert main([*command, "--lr", "0.5"]) == 2
    assert "whole-1: was begun with other options (--lr 0.5); choose another --out" in capsys.readouterr().err


def nll_test(run: Path) -> float:
    final = next(g for g in json.loads((run / "scores.json").read_text())["generators"] if g["name"] == "final")
    return next(s["value"] for s in final["scores"] if s["name"] == "nll_test" and s["temperature"] == 1)


def test_a_run_that_was_cut_off_is_resumed(plan, tmp_path, monkeypatch):
    trial = sweep.trials(sweep.read(plan), tmp_path / "out", [1], ["end"], [])[0]
    trial.folder.mkdir(parents=True)
    (trial.folder / "config.yaml").write_text("{}")
    seen = []
    monkeypatch.setattr(sweep.subprocess, "run", lambda _, input, **__: seen.append(json.loads(input)) or Ended(1))
    with pytest.raises(ValueError, match="end-1: ended with 1; the same sweep again"):
        list(sweep.carry_out([trial], 0))
    assert seen == [[["resume", str(trial.folder)]]]


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
        ({"versus": "nobody"}, "versus is 'nobody'"),
        ({"variants": {"a": {"from": "b"}}}, "from 'b'"),
        ({"grid": {"size": [1]}}, "grid axis 'size'"),
        ({"grid": {"size": {"a/b": {}}}}, "'a/b'"),
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
    assert "--seeds is 'one'" in capsys.readouterr().err
    assert main(["sweep", plan, *out, "--round", "3"]) == 2
    assert "did you mean --rounds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sweep.names())
def test_every_variant_that_ships_is_one_the_method_takes(name, tmp_path):
    plan = sweep.read(name)
    assert plan["purpose"]
    planned = sweep.trials(plan, tmp_path, [1], [], [])
    for trial in [*planned[: len(plan["variants"])], *planned[-len(plan["variants"]) :]]:
        options.parse_train(trial.argv[0], trial.argv[1:])


GRID = {
    "versus": "mle",
    "seeds": [1, 2],
    "options": {
        "report": False,
        "data": {"source": "copying", "reach": 1, "valid_size": 50, "test_size": 200, "max_length": 6, "vocab_size": 6},
        "generator": {"embedding": 4, "hidden": 4, "dropout": 0.0},
        "evaluate": {"samples": 200, "temperatures": [1.0, 0.7]},
    },
    "grid": {"amount": {"few": {"data": {"train_size": 60}}, "many": {"data": {"train_size": 120}}}},
    "variants": {
        "mle": {"recipe": "worlds-mle", "mle": {"epochs": 4}},
        "again": {"recipe": "worlds-seqgan", "from": "mle", "rounds": 0, "d_pretrain": 0},
        "broken": {"recipe": "worlds-mle", "mle": {"epochs": 1, "lr": 1e-9}},
    },
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A sweep over a grid: one variant is the one it is held to, one has learned nothing."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "subprocess", SimpleNamespace(run=in_this_process, DEVNULL=None))
        assert main(["sweep", str(folder / "grid.yaml"), "--out", str(folder / "out")]) == 0
    return folder


def in_this_process(_, input: str, **__) -> Ended:
    """Spares the start of another; test_every_variant_is_run_with_every_seed_once has real ones."""
    return Ended(next((code for command in json.loads(input) if (code := main(command))), 0))


def test_every_cell_of_a_grid_is_held_to_one_variant(grid):
    out = grid / "out"
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["few", "many"]
    assert sorted(p.name for p in (out / "few").iterdir()) == sorted(
        f"{v}-{s}" for v in GRID["variants"] for s in (1, 2)
    )
    for amount, size in (("few", 60), ("many", 120)):
        config = yaml.safe_load((out / amount / "again-2" / "config.yaml").read_text())
        assert (config["data"]["train_size"], config["seed"], config["rounds"]) == (size, 2, 0)
        assert config["from"] == str((out / amount / "mle-2").resolve())
    with (out / "verdicts.csv").open() as f:
        rows = {(r["cell"], r["variant"]): r for r in csv.DictReader(f)}
    assert rows.keys() == {(c, v) for c in ("few", "many") for v in ("again", "broken")}
    for cell in ("few", "many"):
        assert rows[cell, "again"]["word"] == "ties with"  # the very same generator
        assert float(rows[cell, "again"]["gap"]) == pytest.approx(0, abs=1e-9)
        assert (rows[cell, "again"]["seeds"], rows[cell, "again"]["by"]) == ("2", "seeds")
        assert rows[cell, "broken"]["word"] in ("", "loses to")  # its NLL_test may be out of the other's reach
    text = (out / "sweep.md").read_text()
    assert "| held to mle | again | broken |" in text
    assert "| few | ties: +0.000 ± 0.000 |" in text or "| few | ties: -0.000 ± 0.000 |" in text
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_grid_the_verdicts_are_a_row_a_variant(grid, tmp_path):
    """The runs of one cell, held to one another where they lie."""
    plan = {k: v for k, v in GRID.items() if k != "grid"} | {"seeds": [1, 2]}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plan))
    shutil.copytree(grid / "out" / "few", tmp_path / "out")
    assert main(["sweep", str(tmp_path / "plain.yaml"), "--out", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "sweep.md").read_text().splitlines()
    assert lines[:2] == ["| held to mle | verdict |", "|---|---|"]
    assert lines[2].startswith("| again | ties: ")
    assert lines[3].startswith("| broken | ")


def test_the_gap_of_a_cell_is_the_mean_over_its_seeds(grid):
    planned = sweep.trials(sweep.read(str(grid / "grid.yaml")), grid / "out", [1, 2], [], [])
    done = [t for t in planned if t.variant in ("again", "broken")]
    held = {(h.cell, h.variant): h for h in sweep.verdicts(done, "broken")}
    for cell in (("few",), ("many",)):
        gaps = []
        for seed in (1, 2):
            mine, theirs = (
                sweep.final_scores(next(t for t in done if (t.cell, t.variant, t.seed) == (cell, v, seed)))
                for v in ("again", "broken")
            )
            gaps.append(gap_over_range(mine, theirs))
        found, told = held[cell, "again"], [g for g in gaps if g is not None]
        assert found.shared == len(told)
        if told:
            assert found.judgement.gap == pytest.approx(sum(told) / len(told))


def test_a_grid_goes_on_cell_by_cell(grid, monkeypatch):
    seen = []
    plan = sweep.read(str(grid / "grid.yaml"))
    planned = sweep.trials(plan, grid / "out", [1, 2, 3], [], [])
    monkeypatch.setattr(sweep.subprocess, "run", lambda _, input, **__: seen.append(json.loads(input)) or Ended(0))
    list(sweep.carry_out(planned, 1, at_once=2))
    assert len(seen) == 2  # a process for the cell of either amount, with the seed that is new
    assert all("--seed" in c and c[c.index("--seed") + 1] == "3" for job in seen for c in job)
    assert [[Path(c[-1]).name for c in job] for job in seen] == [["mle-3", "again-3", "broken-3"]] * 2


def test_a_variant_brings_what_it_is_held_to_and_starts_from(tmp_path):
    """Without its `versus` there was nothing to hold it to, and every cell said "no range shared"."""
    plan = {"variants": {"a": {}, "b": {"from": "a"}, "c": {"from": "b"}, "d": {}}, "versus": None}
    assert sweep.needed(plan, ["c"]) == ["a", "b", "c"]
    assert sweep.needed({**plan, "versus": "d"}, ["b"]) == ["a", "b", "d"]
    assert sweep.needed({**plan, "versus": "d"}, []) == ["a", "b", "c", "d"]
    assert sweep.needed(plan, ["d"]) == ["d"]


def test_options_of_the_command_line_are_for_all_but_for_what_a_variant_is_about(tmp_path):
    plan = sweep.read("scratchgan-vectors")
    for trial in sweep.trials(plan, tmp_path, [1], [], ["--vectors", "glove.txt", "--rounds", "3"]):
        config = options.parse_train(trial.argv[0], trial.argv[1:])
        assert config.rounds == 3
        assert config.vectors == ("none" if trial.variant == "no-vectors" else "glove.txt")
        assert config.freeze == (trial.variant == "frozen")


def test_told_without_a_shared_range_or_of_some_seeds():
    judged = Judgement("oracle", "beats", -0.12, -0.15, -0.09, 1.0, 2.0, "seeds", 2)
    assert sweep.told(sweep.Held(("a",), "x", judged, 2, 3)) == "beats: -0.120 ± 0.030 (2 of 3 seeds)"
    assert sweep.told(sweep.Held(("a",), "x", None, 0, 3)) == "no range shared"
    alone = Judgement("oracle", "beats", -0.12, -0.15, -0.09, 1.0, 2.0, "bootstrap", 400)
    told = "no verdict: -0.120 ± 0.030 (1 of 3 seeds, sampling error of one seed)"
    assert sweep.told(sweep.Held(("a",), "x", alone, 1, 3)) == told


def test_a_run_scored_on_its_way_has_not_finished(tmp_path):
    """`seqforge evaluate` of a run that was cut off made it finished, and it was never resumed."""
    trial = sweep.Trial("a", 1, tmp_path, [])
    for name in ("newest", "final"):
        generator = {"name": name, "scores": [{"name": "nll_test"}]}
        (tmp_path / "scores.json").write_text(json.dumps({"generators": [generator]}))
        assert sweep.finished(trial) == (name == "final")


def test_variants_measured_otherwise_are_not_held_to_each_other(grid):
    """One was scored on other samples than the other, and got a verdict all the same."""
    plan = sweep.read(str(grid / "grid.yaml"))
    done = [t for t in sweep.trials(plan, grid / "out", [1], [], []) if t.variant != "broken"]
    path = done[0].folder / "scores.json"
    before = path.read_text()
    path.write_text(before.replace("|n:", "|n:9"))
    with pytest.raises(ValueError, match=r"cannot be compared: .* against .*; take runs of the same data"):
        sweep.verdicts(done, plan["versus"])
    path.write_text(before)


def test_a_variant_that_starts_from_another_run_is_another_variant(tmp_path):
    def planned(start: str) -> list[sweep.Trial]:
        options = {"a": {}, "b": {}, "c": {"from": start}}
        plan = {**SWEEP, "grid": {}, "versus": None, "variants": options}
        return sweep.trials(plan, tmp_path, [1], ["c"], [])

    for trial in planned("a"):
        trial.folder.mkdir()
        (trial.folder / "config.yaml").touch()
    sweep.remember(planned("a"), tmp_path)
    sweep.remember(planned("a"), tmp_path)
    with pytest.raises(ValueError, match=r"c-1: was begun with other options \(--from=a-1 --from=b-1\)"):
        sweep.remember(planned("b"), tmp_path)
