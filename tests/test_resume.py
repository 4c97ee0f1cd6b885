"""A run that is cut off goes on as if it never had been: the same parameters, log and scores, bit for bit."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from seqforge import checkpoint, evaluate, report
from seqforge.cli import main
from seqforge.run import Run

TINY = ["--recipe", "seqgan-oracle-tiny", "--mle.epochs", "3", "--rounds", "3", "--generator.dropout", "0.3"]
SCENES = {
    "discriminator": ["seqgan", *TINY, "--rollout_lag", "0.8", "--teacher_forcing", "2", "--baseline", "leave-one-out"],
    "shuffled": ["seqgan", *TINY, "--reward", "shuffled", "--g_steps", "2"],
    "random": ["seqgan", *TINY, "--reward", "random", "--teacher_forcing", "1"],
    "frozen": ["seqgan", *TINY, "--reward", "frozen", "--baseline", "step"],
    "constant": ["seqgan", *TINY, "--reward", "constant", "--mle.patience", "1", "--mle.lr", "0.3"],
    "phases": ["seqgan", *TINY, "--checkpoint.seconds", "1e9", "--rollout_lag", "0.5"],  # saved at phase ends only
    "scratchgan": [
        *("scratchgan", "--recipe", "scratchgan-tiny", "--accumulate", "3"),
        *("--generator.dropout", "0.2", "--average", "0.9"),
    ],
    "cot": ["cot", "--recipe", "cot-tiny", "--mle.epochs", "2", "--average", "0.9", "--gradient", "whole"],
    "fixed mediator": [
        "cot",
        "--recipe",
        "cot-tiny",
        "--m_steps",
        "0",
        "--m_pretrain",
        "4",
        "--mediator_reads",
        "real",
    ],
    "distillation": ["distillation", "--recipe", "distillation-tiny", "--average", "0.9", "--reads", "both"],
    "mle_search": ["mle_search", "--recipe", "mle-search-tiny"],
    "leakgan": ["leakgan", "--recipe", "leakgan-tiny", "--generator.dropout", "0.3", "--mle.patience", "1"],
    "transformer": ["seqgan", *TINY, "--generator.kind", "transformer", "--rollout_lag", "0.5"],
    "dialogue": ["dialogue", "--recipe", "dialogue-tiny", "--data.train_size", "100", "--checkpoint.seconds", "0"],
    "mle": [
        *["mle", "--checkpoint.seconds", "0", "--data.vocab_size", "20", "--data.max_length", "6"],
        *["--data.train_size", "256", "--data.valid_size", "64", "--data.test_size", "64", "--generator.hidden", "8"],
        *["--generator.dropout", "0.3", "--mle.epochs", "6", "--mle.batch", "64", "--mle.lr_decay", "0.5"],
        *["--mle.lr", "0.2", "--monitor.samples", "32", "--evaluate.samples", "64"],
        *["--mle.average", "0.9", "--mle.label_smoothing", "0.1"],
    ],
}


class Cut(BaseException):
    """What no `except Exception` catches, as little as a kill."""


@pytest.fixture(autouse=True)
def short_report(monkeypatch):
    """The page has its own tests; here it would be most of the time."""

    def build(run, out=None):
        (Path(run) / "report.html").write_text("page")
        return Path(run) / "report.html"

    monkeypatch.setattr(report, "build", build)
    monkeypatch.setattr(report, "curves_png", lambda *_: None)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run of a scene that nothing interrupts, made once."""
    made = {}

    def of(scene: str) -> Path:
        if scene not in made:
            made[scene] = tmp_path_factory.mktemp("unbroken") / scene
            assert main(["train", *SCENES[scene], "--out", str(made[scene])]) == 0
        return made[scene]

    return of


def cut_at(monkeypatch, name: str, call: int) -> None:
    """`Run.<name>` raises at its call of that number, counted from 1."""
    calls, plain = [0], getattr(Run, name)

    def counted(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise Cut
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Run, name, counted)


def cut_in(monkeypatch, phase: str) -> None:
    """`Run.log` raises at the first record of a phase."""
    plain = Run.log

    def watched(self, of, *args, **kwargs):
        if of == phase:
            raise Cut
        return plain(self, of, *args, **kwargs)

    monkeypatch.setattr(Run, "log", watched)


def interrupted(scene: str, folder: Path, name: str, call: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, name, call)
        with pytest.raises(Cut):
            main(["train", *SCENES[scene], "--out", str(folder)])


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    clock = ("seconds", "date", "peak_memory")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def plain(value):
    """Tensors to lists, so that nested states compare with ==."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def assert_same(folder: Path, other: Path) -> None:
    """Both players, optimisers, random states, log and scores."""
    ends = [checkpoint.newest(f / "checkpoints", tag="final") for f in (folder, other)]
    assert ends[0].name == ends[1].name
    models = [{p.relative_to(e): p.read_bytes() for p in e.rglob("*.safetensors")} for e in ends]
    assert models[0]
    assert models[0] == models[1]
    assert log_of(folder) == log_of(other)
    states = [checkpoint.load_training(e) for e in ends]
    for state in states:
        del state["seconds"], state["log_bytes"], state["ambient"]  # wall clock; set anew by each phase
    assert plain(states[0]) == plain(states[1])
    assert (folder / "scores.json").read_text() == (other / "scores.json").read_text()


def places(scene: str, name: str, fast: str, slow: str = "") -> list:
    """Where a run is cut off: within an epoch or round (the k-th record), or between two (the k-th checkpoint)."""
    return [
        *[pytest.param(scene, name, int(k)) for k in fast.split()],
        *[pytest.param(scene, name, int(k), marks=pytest.mark.slow) for k in slow.split()],
    ]


PLACES = [
    *places("discriminator", "log", "6", "3 9 11 13 15"),
    *places("discriminator", "checkpoint", "10", "1 4 6 8"),
    *places("shuffled", "log", "", "8 12"),
    *places("random", "log", "", "7 9"),
    *places("frozen", "log", "", "9 11"),
    *places("constant", "log", "7", "4 9"),
    *places("phases", "log", "", "9 12"),
    *places("phases", "checkpoint", "", "1 2"),
    *places("leakgan", "log", "12", "3 5 9 15"),
    *places("leakgan", "checkpoint", "", "2 4 6"),
    *places("scratchgan", "log", "6", "2 4"),
    *places("fixed mediator", "log", "9", "3 4 5 7"),
    *places("fixed mediator", "checkpoint", "", "2 4 6"),
    *places("distillation", "log", "8", "4 11"),
    *places("distillation", "checkpoint", "", "2 6"),
    *places("mle_search", "log", "11", "3 5 7 14 18"),
    *places("mle_search", "checkpoint", "", "2 4 5 9"),
    *places("transformer", "log", "", "3 13"),
    *places("dialogue", "log", "9", "3 13"),
    *places("dialogue", "checkpoint", "", "2 6"),
    *places("mle", "log", "", "4 8"),
    *places("mle", "checkpoint", "", "2 5"),
]


@pytest.mark.parametrize(("scene", "name", "call"), PLACES)
def test_cut_off_and_resumed_is_never_stopped(scene, name, call, unbroken, tmp_path):
    folder = tmp_path / "run"
    interrupted(scene, folder, name, call)
    assert not (folder / "scores.json").exists()
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken(scene))


def test_cut_off_three_times(unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupted("discriminator", folder, "log", 8)
    for name, call in (("log", 2), ("checkpoint", 3)):
        with monkeypatch.context() as patch:
            cut_at(patch, name, call)
            with pytest.raises(Cut):
                main(["resume", str(folder)])
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))


def test_before_the_first_checkpoint_it_starts_again(unbroken, tmp_path, capsys):
    """A kill can come after config.yaml and before anything else: not even the folders need be there."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(unbroken("discriminator") / "config.yaml", folder)
    (folder / "log.jsonl").write_text('{"step": 0, "phase": "start"}\n{"step": 0, "ph')
    assert main(["resume", str(folder)]) == 0
    assert "no checkpoint yet, starting again from config.yaml" in capsys.readouterr().err
    assert_same(folder, unbroken("discriminator"))


def test_before_config_yaml_the_folder_is_free_again(tmp_path):
    """A kill while config.yaml was being written: `train` refused the folder, `resume` called it no run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.yaml.part").write_text("seqforge: 0.1")
    assert main(["train", *SCENES["phases"], "--out", str(folder)]) == 0
    assert not (folder / ".config.yaml.part").exists()


def damage_cut(folder: Path) -> None:
    path = folder / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def damage_flip(folder: Path) -> None:
    path = folder / "training.pt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_manifest_text(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def damage_file_gone(folder: Path) -> None:
    (folder / "discriminator" / "config.json").unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_manifest, damage_manifest_text, damage_file_gone])
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(damage, unbroken, tmp_path, capsys):
    folder = tmp_path / "run"
    interrupted("discriminator", folder, "log", 13)
    newest = checkpoint.every(folder / "checkpoints")[-1]
    damage(newest)
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert newest.name in warned[0]
    assert "taking the checkpoint before it" in warned[0]
    assert_same(folder, unbroken("discriminator"))


def test_a_damaged_last_checkpoint_of_a_phase(unbroken, tmp_path):
    """The pre-trained generator is measured at the end: its checkpoint is made anew on the way."""
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        cut_in(patch, "adversarial")
        with pytest.raises(Cut):
            main(["train", *SCENES["phases"], "--out", str(folder)])
    last = checkpoint.every(folder / "checkpoints")[-1]
    assert checkpoint.tags_of(last) == {"pre-trained"}
    damage_cut(last)
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("phases"))
    assert checkpoint.newest(folder / "checkpoints", tag="pre-trained") is not None


def test_half_written_folders_are_not_checkpoints(unbroken, tmp_path):
    folder = tmp_path / "run"
    interrupted("discriminator", folder, "log", 12)
    checkpoints = folder / "checkpoints"
    newest = checkpoint.newest(checkpoints)
    shutil.copytree(newest, checkpoints / ".step-99.part")
    (checkpoints / f".step-{checkpoint.step_of(newest) + 1}.part" / "generator").mkdir(parents=True)
    (checkpoints / "step-98.part").mkdir()
    (checkpoints / "step-97").write_text("a file")
    assert checkpoint.newest(checkpoints) == newest
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))


def test_torn_log_line_is_written_again(unbroken, tmp_path):
    folder = tmp_path / "run"
    interrupted("discriminator", folder, "log", 12)
    with (folder / "log.jsonl").open("a") as f:
        f.write('{"step": 7, "phase": "adv')
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))


def test_scoring_an_unfinished_run_does_not_end_it(unbroken, tmp_path, capsys):
    """`evaluate` writes scores.json, which resume took for the sign of a finished run: it never went on."""
    folder = tmp_path / "run"
    interrupted("discriminator", folder, "log", 12)
    assert main(["evaluate", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    assert main(["resume", str(folder)]) == 0
    assert "has finished" not in capsys.readouterr().out
    assert_same(folder, unbroken("discriminator"))


@pytest.mark.parametrize("where", ["evaluate", "end", "report"])
def test_cut_off_while_it_is_being_scored(where, unbroken, tmp_path, monkeypatch):
    """The training is over, the scores or the report are not: resume makes the rest."""
    folder, plain_log = tmp_path / "run", Run.log

    def stop(*_, **__):
        raise Cut

    def log(self, phase, kind, **values):
        return stop() if kind == "end" else plain_log(self, phase, kind, **values)

    with monkeypatch.context() as patch:
        places = {"evaluate": (evaluate, "evaluate", stop), "end": (Run, "log", log), "report": (report, "build", stop)}
        patch.setattr(*places[where])
        with pytest.raises(Cut):
            main(["train", *SCENES["discriminator"], "--out", str(folder)])
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))
    assert (folder / "report.html").is_file()


def test_a_finished_run_is_left_alone(unbroken, capsys):
    folder = unbroken("discriminator")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    assert main(["resume", str(folder)]) == 0
    assert "has finished" in capsys.readouterr().out
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_control_that_is_cut_off(call, unbroken, tmp_path):
    """`--from` takes another run's pre-training; a resume before the first checkpoint takes it again."""
    source = str(unbroken("discriminator"))
    argv = ["train", *SCENES["random"], "--from", source, "--seed", "5"]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, "log", call)
        with pytest.raises(Cut):
            main([*argv, "--out", str(tmp_path / "cut")])
    assert main(["resume", str(tmp_path / "cut")]) == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")


# --- kill -9 of a real process -------------------------------------------------------------------


def start(argv: list[str]) -> multiprocessing.process.BaseProcess:
    """The command in a process of its own. A fork server has torch loaded, so that this takes no two seconds each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqforge.cli"])
    process = context.Process(target=_child, args=(argv,))
    process.start()
    return process


def _child(argv: list[str]) -> None:
    torch.set_num_threads(1)
    raise SystemExit(main(argv))


def kill_when(folder: Path, lines: int, wait: float) -> int:
    """Train, kill -9 once the log has that many lines (-1: at once) and `wait` seconds more have passed."""
    process = start(["train", *SCENES["discriminator"], "--out", str(folder)])
    try:
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            log = folder / "log.jsonl"
            count = log.read_bytes().count(b"\n") if log.exists() else 0
            if (folder / "config.yaml").exists() and count >= lines:
                break
            time.sleep(0.001)
        time.sleep(wait)
    finally:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 6))])
def test_kill_9_at_any_moment(seed, unbroken, tmp_path):
    """Six moments spread over the run, the first right after config.yaml; a little chance in each."""
    rng = random.Random(seed)
    lines = (0, 2, 5, 8, 11, 14)[seed]
    folder = tmp_path / "run"
    code = kill_when(folder, lines, rng.uniform(0, 0.03))
    assert code == -signal.SIGKILL, f"exit code {code}: it was over before the kill, so nothing was tested"
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))


@pytest.mark.slow
def test_kill_9_many_times(unbroken, tmp_path):
    """Again and again, each time somewhat further on, until it gets through."""
    folder, rng = tmp_path / "run", random.Random(0)
    kill_when(folder, 0, 0.0)
    for _ in range(40):
        process = start(["resume", str(folder)])
        process.join(rng.uniform(0.05, 1.5))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert main(["resume", str(folder)]) == 0
    assert_same(folder, unbroken("discriminator"))
