"""A checkpoint is there complete or not at all, whatever fails while it is written."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from seqforge import checkpoint
from seqforge.cli import main
from seqforge.run import Run

TRAINING = {"step": 3, "done": {"mle": 3}, "kept": {}, "rngs": {}}
TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "3", "--rounds", "2"]


class Killed(BaseException):
    """Like a kill -9: no `except` of ours runs."""


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def write(folder: Path, tag: str | None = None, seed: int = 0, training: dict = TRAINING) -> None:
    checkpoint.write(folder, {"generator": model(seed)}, training, {"tokenizer.json": "{}"}, tag)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visible(checkpoints: Path) -> list[str]:
    return sorted(p.name for p in checkpoints.iterdir() if not p.name.startswith("."))


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "step-3", "pre-trained")
    checkpoint.verify(tmp_path / "step-3")
    other = model(1)
    checkpoint.load_model(tmp_path / "step-3" / "generator", other)
    assert torch.equal(other.weight, model(0).weight)
    assert checkpoint.load_training(tmp_path / "step-3") == TRAINING
    assert checkpoint.tags_of(tmp_path / "step-3") == {"pre-trained"}
    listed = json.loads((tmp_path / "step-3" / "manifest.json").read_text())["sha256"]
    assert set(listed) == set(tree(tmp_path / "step-3")) - {"manifest.json"}


def test_the_training_state_may_not_execute_anything(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    write(tmp_path / "step-3")
    torch.save({"x": Evil()}, tmp_path / "step-3" / "training.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
        checkpoint.load_training(tmp_path / "step-3")
    assert not (tmp_path / "executed").exists()


def failing(patch: pytest.MonkeyPatch, point: str, call: int, error: BaseException) -> None:
    """The call of that number of one step in writing a checkpoint raises."""
    owner, name = {
        "mkdir": (Path, "mkdir"),
        "save_file": (checkpoint, "save_file"),
        "torch.save": (torch, "save"),
        "write_text": (Path, "write_text"),
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "rmtree": (shutil, "rmtree"),
    }[point]
    plain, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise error
        return plain(*args, **kwargs)

    patch.setattr(owner, name, counted)


POINTS = [
    *[("mkdir", 1), ("mkdir", 2), ("save_file", 1), ("torch.save", 1)],
    *[("write_text", k) for k in (1, 2, 3)],
    *[("fsync", k) for k in (1, 3, 5)],
    ("rename", 1),
]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()], ids=["fails", "killed"])
@pytest.mark.parametrize(("point", "call"), POINTS)
def test_a_failure_at_any_point_leaves_nothing_half_there(point, call, error, tmp_path):
    write(tmp_path / "step-1")
    write(tmp_path / "step-2", seed=1)
    before = tree(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, point, call, error)
        with pytest.raises((OSError, Killed)):
            write(tmp_path / "step-3")
    assert visible(tmp_path) == ["step-1", "step-2"]
    assert {k: v for k, v in tree(tmp_path).items() if ".part" not in k} == before
    assert checkpoint.newest(tmp_path) == tmp_path / "step-2"
    write(tmp_path / "step-3")  # what a kill left behind is in nobody's way
    checkpoint.verify(tmp_path / "step-3")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()], ids=["fails", "killed"])
@pytest.mark.parametrize(("point", "call"), [*POINTS, ("rename", 2), ("rmtree", 1), ("rmtree", 2)])
def test_the_same_step_again_never_loses_the_one_that_is_there(point, call, error, tmp_path):
    """A step that ends a phase is written a second time, with its tag. The first was removed before the rename: with
    --checkpoint.newest 1, a kill between the two left no checkpoint at all and the training began anew."""
    made = Run.create(tmp_path / "run", {"method": "mle"}, seed=0)
    made.keep("generator", model())
    made.step = 3
    made.log("mle", "train", epoch=0)
    made.checkpoint()
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, point, call, error)
        with contextlib.suppress(OSError, Killed):
            made.checkpoint("pre-trained")
    again = Run.resume(tmp_path / "run", seed=0)
    assert again.step == 3
    assert torch.equal(again.keep("generator", model(1)).weight, model().weight)
    again.checkpoint("final")
    assert visible(tmp_path / "run" / "checkpoints") == ["step-3"]
    assert "final" in checkpoint.tags_of(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_one_step_can_end_two_phases(tmp_path):
    write(tmp_path / "step-3")
    write(tmp_path / "step-3", "pre-trained")
    write(tmp_path / "step-3", "final")
    assert checkpoint.tags_of(tmp_path / "step-3") == {"pre-trained", "final"}
    assert checkpoint.newest(tmp_path, "pre-trained") == checkpoint.newest(tmp_path, "final") == tmp_path / "step-3"
    assert visible(tmp_path) == ["step-3"]


def test_no_rounds_no_second_folder(tmp_path):
    assert main([*TINY, "--rounds", "0", "--out", str(tmp_path / "run")]) == 0
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert checkpoint.tags_of(newest) == {"pre-trained", "final"}


@pytest.mark.parametrize(("keep", "left"), [(1, [2, 9, 10]), (2, [2, 8, 9, 10]), (9, [1, 2, 8, 9, 10])])
def test_pruning_keeps_the_newest_and_the_tagged(keep, left, tmp_path):
    """step-10 is newer than step-9, though not by the alphabet."""
    for step, tag in ((1, None), (2, "pre-trained"), (8, None), (9, None), (10, "final")):
        write(tmp_path / f"step-{step}", tag)
    checkpoint.prune(tmp_path, keep)
    assert [checkpoint.step_of(p) for p in checkpoint.every(tmp_path)] == left
    assert not list(tmp_path.glob(".*"))


def test_a_run_keeps_as_many_as_asked(tmp_path):
    argv = [*TINY, "--rounds", "5", "--checkpoint.newest", "3", "--checkpoint.seconds", "0", "--monitor.every", "0"]
    argv += ["--counterpart.epochs", "0"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    steps = [checkpoint.step_of(p) for p in checkpoint.every(tmp_path / "run" / "checkpoints")]
    assert steps == [5, 8, 9, 10]  # end of the pre-training, and the newest three


def test_a_kill_while_pruning_leaves_no_torn_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        write(tmp_path / f"step-{step}")
    with monkeypatch.context() as patch:
        failing(patch, "rmtree", 1, Killed())
        with pytest.raises(Killed):
            checkpoint.prune(tmp_path, 1)
    for folder in checkpoint.every(tmp_path):
        checkpoint.verify(folder)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-3"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest"),
        (lambda f: (f / "manifest.json").write_text('{"tags": []}'), "manifest"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "manifest"),
        (lambda f: (f / "training.pt").unlink(), "training.pt: missing"),
        (lambda f: (f / "training.pt").write_bytes(b""), "training.pt: damaged"),
        (lambda f: (f / "generator" / "config.json").write_text("{ }"), "config.json: damaged"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(damage, said, tmp_path, recwarn):
    write(tmp_path / "step-1")
    write(tmp_path / "step-2")
    damage(tmp_path / "step-2")
    assert checkpoint.newest(tmp_path) == tmp_path / "step-1"
    (warning,) = recwarn
    assert said in str(warning.message)
    assert "step-2" in str(warning.message)


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "absent") is None
    write(tmp_path / "step-1")
    assert checkpoint.newest(tmp_path, tag="final") is None


def test_another_shape_is_named(tmp_path):
    write(tmp_path / "step-1")
    with pytest.raises(ValueError, match=r"another shape: weight is \(2, 3\) there, but \(2, 4\)"):
        checkpoint.load_model(tmp_path / "step-1" / "generator", nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"bias is \(2,\) there, but absent"):
        checkpoint.load_model(tmp_path / "step-1" / "generator", nn.Linear(3, 2, bias=False))


# --- a full disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("point", ["mkdir", "save_file", "write_text", "fsync"])
def test_a_full_disk_says_so(point, code, tmp_path, monkeypatch):
    write(tmp_path / "checkpoints" / "step-1")
    with monkeypatch.context() as patch:
        failing(patch, point, 1, OSError(code, os.strerror(code)))
        with pytest.raises(ValueError, match=r"no space left.*Free some space.*seqforge resume"):
            write(tmp_path / "checkpoints" / "step-2")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


@pytest.mark.parametrize("name", ["log", "write_samples"])
def test_a_full_disk_beside_the_checkpoints_says_where(name, tmp_path, capsys):
    """Python's error for a failed write names no file: the line began with `seqforge: : No space left`."""
    plain = getattr(Run, name)

    def fail(self, *args, **kwargs):
        if self.step >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, name, fail)
        assert main([*TINY, "--out", str(tmp_path / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seqforge: ")]
    assert len(said) == 1
    assert str(tmp_path / "run") in said[0]
    assert "space" in said[0]
    assert main(["resume", str(tmp_path / "run")]) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of four megabytes; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip("no right to mount a file system here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("spare", [4, 12, 24, 48])
def test_a_real_full_disk(spare, small_disk, capsys):
    """Exit 2 and one line; what was saved before is whole, and with some space freed it goes on.

    `spare`: kilobytes left after the first checkpoint, so that another write fails each time (samples, weights, log).
    """
    argv = [*TINY, "--checkpoint.seconds", "0", "--checkpoint.newest", "9"]
    plain = checkpoint.write

    def fill_after(folder, *args):
        plain(folder, *args)
        if not (small_disk / "ballast").exists():
            free = shutil.disk_usage(small_disk).free
            (small_disk / "ballast").write_bytes(b"x" * (free - spare * 1024))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", fill_after)
        assert main([*argv, "--out", str(small_disk / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seqforge: ")]
    assert len(said) == 1
    assert "space" in said[0]
    assert str(small_disk / "run") in said[0]
    whole = checkpoint.every(small_disk / "run" / "checkpoints")
    assert whole
    for folder in whole:
        checkpoint.verify(folder)
    (small_disk / "ballast").unlink()
    assert main(["resume", str(small_disk / "run")]) == 0
    assert checkpoint.newest(small_disk / "run" / "checkpoints", tag="final") is not None
