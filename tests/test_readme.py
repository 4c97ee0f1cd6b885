"""What the README says, runs: its Python example as it stands, its commands with the tests' recipe for the demo's."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_seeds import Done
from test_sweep import in_this_process

from seqforge import seeds, sweep
from seqforge.cli import main
from seqforge.turing_server import Server

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs_as_it_stands(elsewhere, capsys):
    (example,) = blocks("python")
    names: dict = {}
    exec(example, names)
    printed = capsys.readouterr().out.splitlines()
    assert all(float(line.split()[0]) < 0 < len(line.split()[1]) for line in printed[:3])
    again, generator = names["again"], names["generator"]
    assert all((a == b).all() for a, b in zip(again.parameters(), generator.parameters(), strict=True))
    assert (elsewhere / "model" / "model.safetensors").is_file()
    assert {p.name for p in (elsewhere / "runs" / "notebook").iterdir()} >= {
        "report.html",
        "scores.json",
        "config.yaml",
    }


SMALL = "--mle.epochs=1 --rounds=1 --d_pretrain=1 --d_samples=32 --rollouts=2 --batch=8 --evaluate.samples=64"
TURING = "--n 4 --port 0 --no-browser"  # of the six test sequences there are
SWEEP = "--variants whole --seeds 1 --rounds 1 --steps 1 --batch 8 --evaluate.samples 64 --monitor.samples 8"
SWEEP += " --generator.hidden 8 --generator.trainable 8 --discriminator.hidden 8"
SWEEP += " --counterpart.epochs 0 --data.train_size 400 --data.valid_size 100 --data.test_size 100"


def test_every_command_runs(elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=Done))
    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=in_this_process, DEVNULL=None))
    monkeypatch.setattr(Server, "serve_forever", lambda self: None)
    for name, shift in (("mine", 0), ("test", 1), ("samples", 2)):
        nouns, verbs = ["man", "dog", "bird", "horse"], ["sees", "follows", "likes"]
        rows = [f"a {nouns[i % 4]} {verbs[(i // 4 + shift) % 3]} a {nouns[(i // 3 + shift) % 4]}." for i in range(60)]
        Path(f"{name}.txt").write_text("\n".join(rows))
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("seqforge ")]
    assert {c[0] for c in commands} >= {
        "train",
        "resume",
        "generate",
        "evaluate",
        "report",
        "compare",
        "export",
        "data",
        "score",
        "turing",
    }
    for command in commands:
        if command[0] == "train":
            command = [a.replace("demo", "seqgan-oracle-tiny").replace("1,2,3", "1,2") for a in command]
            command = [*command, "--rounds", "2"] if "--rounds" in command else command
            command = [*command, *SMALL.split()] if "mine.txt" in command else command
        command = [*command, *SWEEP.split()] if command[0] == "sweep" else command
        command = [*command, *TURING.split()] if command[0] == "turing" else command
        assert main(command) == 0, command
    assert (elsewhere / "runs" / "mine" / "report.html").is_file()
    assert "equal NLL_test" in capsys.readouterr().out
    assert main(["compare", "runs/mine", "runs/control", "--json"]) == 0
    (gap,) = json.loads(capsys.readouterr().out)["gaps"]
    assert gap["against"] == "seqgan, shuffled reward"
    assert gap["at_one"]["seeds"] == [1] or gap["over_range"]["seeds"] == [1]  # the same seed, so that they pair


def test_the_make_targets_it_names_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
