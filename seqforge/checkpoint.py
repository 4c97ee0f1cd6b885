"""Checkpoints that appear complete or not at all, and say so when one is damaged.

A checkpoint is a folder written under another name, synced, and renamed: a crash leaves the one before. `manifest.json`
holds the sha256 of every file.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None


MILESTONE = "milestone"
BEST = "best.json"  # in the run folder, by the training; in evaluations/, by an evaluator beside


def write(folder: Path, models: dict[str, nn.Module], training: dict, extra: dict[str, str], tag: str | None) -> None:
    """Write checkpoint `folder`: training.pt, and each model as safetensors, config.json and the `extra` text files."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, model in models.items():
            _write_model(part / name, model, extra)
        torch.save(training, part / "training.pt")
        files = sorted(p for p in part.rglob("*") if p.is_file())
        tags = sorted(tags_of(folder) | ({tag} if tag else set()))  # one step may be the end of two phases
        listing = {"tags": tags, "sha256": {p.relative_to(part).as_posix(): _sha256(p) for p in files}}
        (part / "manifest.json").write_text(json.dumps(listing, indent=1))
        for path in [*files, part / "manifest.json"]:
            _sync(path)
        old = folder.with_name(f".{folder.name}.old")
        if folder.exists():  # the same step again: aside until the new one stands, see `recover`
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        part.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        shutil.rmtree(part, ignore_errors=True)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"{folder}: no space left on the disk; the checkpoints before it are whole. "
                f"Free some space, then: seqforge resume {folder.parent.parent}"
            ) from e
        raise
    except (RuntimeError, SafetensorError) as e:  # torch.save and save_file report a failed write so
        shutil.rmtree(part, ignore_errors=True)
        raise ValueError(
            f"{folder}: could not be written ({e}); the checkpoints before it are whole. "
            f"Check the disk's free space, then: seqforge resume {folder.parent.parent}"
        ) from e


def _write_model(folder: Path, model: nn.Module, extra: dict[str, str]) -> None:
    folder.mkdir()
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    sizes = getattr(model, "_hub_mixin_config", None) or {}
    (folder / "config.json").write_text(json.dumps({"architectures": [type(model).__name__], **sizes}, indent=1))
    for name, text in extra.items():
        (folder / name).write_text(text)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def every(checkpoints: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    found = [p for p in checkpoints.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of)


def recover(checkpoints: Path) -> None:
    """Put back what a kill between two renames left aside. Only for the one who writes: not beside a running one."""
    for old in checkpoints.glob(".step-*.old"):
        folder = old.with_name(old.name[1:].removesuffix(".old"))
        shutil.rmtree(old) if folder.exists() else old.rename(folder)


def manifest(folder: Path) -> dict:
    """The manifest of a checkpoint. Raises ValueError where it is missing or unreadable."""
    try:
        found = json.loads((folder / "manifest.json").read_text())
        if not isinstance(found, dict) or not {"tags", "sha256"} <= found.keys():
            raise ValueError("it lists no files")
        return found
    except (OSError, ValueError) as e:
        raise ValueError(f"{folder}: damaged checkpoint, its manifest.json cannot be read ({e})") from e


def weights_of(folder: Path) -> str | None:
    """A digest of the weights in a checkpoint; None where its manifest cannot be read. The end of a run may put others
    in the place of those of its last step.
    """
    try:
        listed = manifest(folder)["sha256"]
    except ValueError:
        return None
    weights = sorted(item for item in listed.items() if item[0].endswith(".safetensors"))
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]


def tags_of(folder: Path) -> set[str]:
    """What marks a checkpoint ("pre-trained", "final"); a passing one, a damaged one and none at all have no mark."""
    try:
        return set(manifest(folder)["tags"])
    except ValueError:
        return set()


def verify(folder: Path) -> None:
    """Raise ValueError naming the first file that is missing or differs from the manifest."""
    for name, expected in manifest(folder)["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: missing from the checkpoint")
        if _sha256(path) != expected:
            raise ValueError(f"{path}: damaged, its checksum differs from the manifest's")


def newest(checkpoints: Path, tag: str | None = None, having: str = "") -> Path | None:
    """The newest whole checkpoint (with that tag, having that player); damaged ones are named in a warning and passed
    over.
    """
    for folder in reversed(every(checkpoints)):
        try:
            if (tag is not None and tag not in tags_of(folder)) or not (folder / having).is_dir():
                continue
            verify(folder)
            return folder
        except ValueError as e:
            warnings.warn(f"{e}; taking the checkpoint before it", stacklevel=2)
    return None


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on a file while the body runs; False where another process does and `wait` is off. It ends with the
    process. Where the system has no such locks, True.
    """
    if fcntl is None:
        yield True
        return
    with path.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this checkpoint is ours alone while the body runs, to evaluate or to remove it (RUN/evaluations)."""
    place = folder.parent.parent / "evaluations"
    if not place.is_dir():  # nobody evaluates this run
        yield True
        return
    with locked(place / f".{folder.name}.lock", wait=False) as mine:
        yield mine


def best_of(folder: Path) -> str | None:
    """The name of the checkpoint that best.json in a folder names, if there is one."""
    try:
        return json.loads((folder / BEST).read_text())["checkpoint"]
    except (OSError, ValueError, KeyError):
        return None


def prune(checkpoints: Path, keep: int, milestones: int = 0) -> None:
    """Remove all but the newest `keep` untagged checkpoints, and, unless milestones is 0, all but that many of those
    that are milestones only. The best, one under evaluation, and a milestone that waits for its evaluation stay.
    """
    tags = {p: tags_of(p) for p in every(checkpoints)}
    untagged = [p for p, t in tags.items() if not t]
    passing = [p for p, t in tags.items() if t == {MILESTONE}] if milestones else []
    evaluations = checkpoints.parent / "evaluations"
    for folder in (untagged[:-keep] if keep else untagged) + passing[: -milestones or None]:
        nothing = not (folder / "generator").is_dir()  # to score
        scored = nothing or (evaluations / f"{folder.name}.json").is_file()
        waits = folder in passing and evaluations.is_dir() and not scored
        if waits:
            continue
        with claimed(folder) as ours:  # who scores it names the best before letting go
            if ours and folder.name not in (best_of(checkpoints.parent), best_of(evaluations)):
                gone = folder.with_name(f".{folder.name}.part")  # half-removed it must not look like a checkpoint
                folder.rename(gone)
                shutil.rmtree(gone)


def load_training(folder: Path) -> dict:
    """The training state of a checkpoint: tensors and plain values only."""
    return torch.load(folder / "training.pt", map_location="cpu", weights_only=True)


def load_model(folder: Path, model: nn.Module) -> None:
    """Load weights into `model`. Raises ValueError naming the first tensor of another shape, or what else of the
    config.json beside them the model is not: weights of the same shape may be read in another way.
    """
    found = load_file(folder / "model.safetensors")
    own = model.state_dict()
    for name in sorted(own.keys() | found.keys()):
        here, there = (tuple(d[name].shape) if name in d else "absent" for d in (own, found))
        if here != there:
            raise ValueError(
                f"{folder}: checkpoint of another shape: {name} is {there} there, but {here} by this configuration; "
                "use the sizes in the config.json beside it"
            )
    sizes = getattr(model, "_hub_mixin_config", None) or {}
    here = _identity(json.loads(json.dumps(sizes)))
    there = _identity(json.loads((folder / "config.json").read_text()))
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            raise ValueError(
                f"{folder}: checkpoint of another model: {name} is {there[name]} there, but {here[name]} by this "
                "configuration; use what the config.json beside it says"
            )
    model.load_state_dict(found)


def _identity(sizes: dict) -> dict:
    """What of a model's arguments decides what its weights mean: not how it starts or is trained."""
    kept = {k: v for k, v in sizes.items() if k not in ("seed", "init_std", "architectures") and "dropout" not in k}
    return {k: _identity(v) if isinstance(v, dict) else v for k, v in kept.items()}
