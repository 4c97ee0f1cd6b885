"""A run: its folder, seeds, log, checkpoints, and how it goes on after a stop as if there had been none.

A method writes its loops over `run.loop`, hands whatever has state to `run.keep`, and draws from `run.rng`. A
checkpoint is taken between two iterations, so that everything kept belongs to the same moment.
"""

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar

import torch
import yaml
from torch import nn

from seqforge import checkpoint, progress, ranges
from seqforge.health import Watch


class Stateful(Protocol):
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict, /) -> Any: ...


T = TypeVar("T", bound=Stateful)


class NotFinite(ValueError):
    """A logged number or a parameter of a run became infinite or not a number: the training diverged. fact: which."""

    def __init__(self, fact: str, advice: str = ""):
        super().__init__(fact + advice)
        self.fact = fact


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved.

    Args:
        seconds: least time between two checkpoints (s); 0 saves after every epoch or round
        newest: how many of the newest to keep; those at the end of a phase and the best by validation stay besides
        every: also after every so many epochs or rounds, to be evaluated (`seqforge evaluate RUN --watch`); 0: not
        milestones: how many of those to keep, the best besides; 0: all
    """

    seconds: float = 60.0
    newest: int = 2
    every: int = 0
    milestones: int = 0

    def __post_init__(self):
        ranges.check(
            self, "checkpoint.", seconds="0 or more", newest="at least 1", every="0 or more", milestones="0 or more"
        )


def derive_seed(seed: int, name: str) -> int:
    """A seed for one named stream: streams of different names or seeds share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


Part = Literal["pre-training", "counterpart"]  # of another run, that `--from` takes over


def start_of(run: Path, part: Part) -> Path:
    """The checkpoint that `--from RUN` starts from: the end of its pre-training, or of a run by likelihood alone; or,
    for a method without pre-training, of the likelihood training of its counterpart.
    """
    places = run / "checkpoints"
    final = checkpoint.newest(places, tag="final")
    if part == "counterpart":
        found = checkpoint.newest(places, tag="counterpart")
        if found is None and final is not None:
            raise ValueError(
                f"--from {run}: it trained no MLE counterpart, which is all that a method without pre-training takes "
                "over; give a run that did, or leave --from out"
            )
    else:
        found = checkpoint.newest(places, tag="pre-trained")
        if found is None:
            found = final if final and "mle" in checkpoint.load_training(final)["done"] else None
    if found is None and final is not None:
        raise ValueError(
            f"--from {run}: its method has no pre-training to take over; give a run of mle, or of one that pre-trains"
        )
    if found is None:
        raise ValueError(f"--from {run}: its {part} has not ended yet; let it get further")
    return found


def _load(thing: Stateful, state: dict, options_too: bool) -> None:
    """Load; an optimiser that a run takes over from another keeps the step size and decay of its own configuration."""
    if isinstance(thing, torch.optim.Optimizer) and not options_too:
        options = [{k: v for k, v in group.items() if k != "params"} for group in thing.param_groups]
        thing.load_state_dict(state)
        for group, own in zip(thing.param_groups, options, strict=True):
            group.update(own)
    else:
        thing.load_state_dict(state)


def group_of(phase: str, kind: str) -> str:
    """Where TensorBoard shows the figures of a record: what is read for the health of a run beside the methods' own."""
    return f"{phase} health" if kind == "health" else phase


class Run:
    """A run folder being written. Make one by `Run.create` or `Run.resume`."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        saving: CheckpointConfig = CheckpointConfig(),
        device: str = "cpu",
        precision: str = "fp32",
        health: Watch | None = None,
    ):
        self.folder, self.seed, self.saving = folder, seed, saving
        self.device, self.precision = torch.device(device), precision
        self.step = self.first_step = 0
        self.tokens = 0  # read or drawn in the generator's updates; the methods count
        self.done: dict[str, int] = {}  # phase -> iterations finished
        self.marks: set[str] = set()  # what `once` has let through
        self.extra_files: dict[str, str] = {}
        self.tensorboard: Any = None
        self._models: dict[str, nn.Module] = {}
        self._kept: dict[str, Stateful] = {}
        self._rngs: dict[str, torch.Generator] = {}
        self._restored: dict = {}
        self._from: Path | None = None
        self.start: Path | None = None  # the run it began from
        self._begun = self._saved = time.monotonic()
        self._note: dict[str, str] = {}
        self.health = self.keep("health", health or Watch())

    @classmethod
    def create(cls, folder: Path, config: dict, **kwargs) -> "Run":
        """A new run in a folder that does not exist or is empty; writes config.yaml."""
        if folder.exists() and (not folder.is_dir() or any(p.name != ".config.yaml.part" for p in folder.iterdir())):
            raise ValueError(
                f"{folder}: exists already; choose another --out, or go on with it: seqforge resume {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".config.yaml.part"
        part.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        part.rename(folder / "config.yaml")
        (folder / "checkpoints").mkdir()
        (folder / "samples").mkdir()
        return cls(folder, **kwargs)

    @classmethod
    def resume(cls, folder: Path, **kwargs) -> "Run":
        """A run that goes on from its newest whole checkpoint, or from the start where there is none yet."""
        run = cls(folder, **kwargs)
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "samples").mkdir(exist_ok=True)
        checkpoint.recover(folder / "checkpoints")
        found = checkpoint.newest(folder / "checkpoints")
        log = folder / "log.jsonl"
        if found is None:
            damaged = len(checkpoint.every(folder / "checkpoints"))
            what = f"none of its {damaged} checkpoints is whole" if damaged else "no checkpoint yet"
            warnings.warn(f"{folder}: {what}, starting again from config.yaml", stacklevel=2)
            log.unlink(missing_ok=True)
            return run
        run._restore(found)
        run._restored = checkpoint.load_training(found)
        run._begun -= run._restored["seconds"]
        run.tokens = run._restored["tokens"]
        run.keep("health", run.health)
        if run.health.best and not (folder / "checkpoints" / run.health.best["checkpoint"]).is_dir():
            run.health.best = {}  # a later one took its place, and was damaged
        for name, state in run._restored["rngs"].items():
            run.rng(name).set_state(state)
        with log.open("r+b") as f:  # what was logged after the checkpoint will be logged again
            f.truncate(run._restored["log_bytes"])
        return run

    def start_from(self, other: Path, part: Part = "pre-training") -> None:
        """Take over another run's finished pre-training, or MLE's counterpart: its players and its finished phases, not
        its random state.
        """
        self._restore(start_of(other, part))
        self.start = other
        self.first_step = self.step
        self.marks -= {
            "start",
            "pre-trained",
            "counterpart",
            "measured",
            "vectors",
            "chosen",
            "mediator.chosen",
            "start.considered",
        }  # this run says what it is, and saves that point as its own
        for name in ("best", "mediator.best"):  # of what comes after a pre-training
            self._restored["kept"].pop(name, None)
        self.done = dict.fromkeys(self.done, 2**31)  # taken over as it is, whatever this configuration says of it

    def take_over(self, name: str) -> bool:
        """Copy a file of the run that this one started from; whether there was one. It appears whole."""
        if self.start is None or not (self.start / name).is_file():
            return False
        part = self.folder / f".{name}.part"
        shutil.copyfile(self.start / name, part)
        part.replace(self.folder / name)
        return True

    def _restore(self, found: Path) -> None:
        self._from = found
        training = checkpoint.load_training(found)
        self._restored = {"kept": training["kept"]}
        self.step, self.done, self.marks = training["step"], training["done"], set(training["marks"])

    def keep(self, name: str, thing: T) -> T:
        """Save `thing` with every checkpoint from now on; where the run goes on from one that has it, load it now.

        A model kept under a name that is kept already takes its place as it is.
        """
        if isinstance(thing, nn.Module):
            again = name in self._models
            self._models[name] = thing
            if not again and self._from is not None and (self._from / name).is_dir():
                checkpoint.load_model(self._from / name, thing)
        else:
            self._kept[name] = thing
            if name in self._restored.get("kept", {}):
                _load(thing, self._restored["kept"][name], options_too="ambient" in self._restored)
        return thing

    def drop(self, *names: str) -> None:
        """Save these no more."""
        for name in names:
            self._models.pop(name, None)
            self._kept.pop(name, None)

    def rng(self, name: str) -> torch.Generator:
        """The stream of that name, on the CPU, seeded from the run's seed; its state is saved with every checkpoint."""
        if name not in self._rngs:
            self._rngs[name] = torch.Generator().manual_seed(derive_seed(self.seed, name))
        return self._rngs[name]

    def loop(self, phase: str, total: int) -> Iterator[int]:
        """0 .. total-1, less what is done; after each the step advances and a checkpoint is taken when one is due.

        torch's ambient random state, which dropout uses, is set at the start of a phase and restored on a resume.
        """
        first = self.done.get(phase, 0)
        if first >= total or self.health.stopped:
            return
        torch.manual_seed(derive_seed(self.seed, phase))
        if first and "ambient" in self._restored:
            torch.set_rng_state(self._restored["ambient"])
            if self._restored["ambient_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._restored["ambient_cuda"])
        for i in progress.track(range(first, total), first, total, phase, self._note):
            if self.done.get(phase, 0) >= total:
                return
            self.health.look = None  # the generator is another from here on
            yield i
            self.step += 1
            self.done[phase] = max(self.done.get(phase, 0), i + 1)
            milestone = self.saving.every and phase != "counterpart" and self.step % self.saving.every == 0
            if milestone or self.health.improved or time.monotonic() - self._saved >= self.saving.seconds:
                self.checkpoint(tag=checkpoint.MILESTONE if milestone else None)
            if self.health.stopped:
                return

    def finish(self, phase: str) -> None:
        """End a phase's loop early: it counts as done, also after a resume."""
        self.done[phase] = 2**31

    def once(self, name: str) -> bool:
        """True the first time in the life of the run; for what stands between two loops."""
        first = name not in self.marks
        self.marks.add(name)
        return first

    def log(self, phase: str, kind: str, **values: Any) -> None:
        """Append a record to log.jsonl, and the warnings that it gives rise to (health.py). Raises NotFinite for a
        number that is not, after a warning in the record's place: the run stops there.
        """
        scalars = {k: v for k, v in values.items() if isinstance(v, float)}
        scalars |= {k: v["value"] for k, v in values.get("scores", {}).items()}
        for name, value in scalars.items():
            if not math.isfinite(value):
                self._stop(phase, name, value)
        self._append(phase, kind, values)
        self._note["text"] = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items())
        if self.tensorboard is not None:
            for name, value in scalars.items():
                self.tensorboard.add_scalar(f"{group_of(phase, kind)}/{name}", value, self.step)
        for warning in self.health.read(self.step, phase, kind, values):
            self._append(phase, "warning", warning)
            progress.warn(warning["message"])

    def _append(self, phase: str, kind: str, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._begun, 3)
        place = {"step": self.step, "phase": phase, "kind": kind, "seconds": seconds, "tokens": self.tokens}
        with (self.folder / "log.jsonl").open("a") as f:
            f.write(json.dumps({**place, **values}) + "\n")

    def check(self, phase: str, name: str, model: nn.Module) -> None:
        """Raise NotFinite, after a warning in the log, where a parameter is not: it must be neither sampled from nor
        saved.
        """
        for key, p in model.named_parameters():
            if not bool(p.isfinite().all()):
                self._stop(phase, f"{name}.{key}", float(p[~p.isfinite()][0]))

    def _stop(self, phase: str, name: str, value: float) -> NoReturn:
        warning = self.health.diverged(self.step, phase, name, value, self.precision == "bf16")
        self._append(phase, "warning", warning)
        advice, places = "", self.folder / "checkpoints"
        if checkpoint.every(places):
            advice = f". The last good checkpoint is in {places}, and a resume from it would come to the same"
        if warning["try"]:
            advice += f". Try {', '.join(warning['try'])}"
        raise NotFinite(f"step {self.step}, {phase}: {name} is {value}", advice)

    def checkpoint(self, tag: str | None = None) -> Path:
        """Save everything kept, name the best by validation; prune the untagged ones to the newest few."""
        self.health.saved(self.step)
        folder = self.folder / "checkpoints" / f"step-{self.step}"
        log = self.folder / "log.jsonl"
        if log.exists():
            with log.open("rb") as f:
                os.fsync(f.fileno())
        training = {
            "step": self.step,
            "done": dict(self.done),
            "marks": sorted(self.marks),
            "kept": {name: thing.state_dict() for name, thing in self._kept.items()},
            "rngs": {name: rng.get_state() for name, rng in self._rngs.items()},
            "ambient": torch.get_rng_state(),
            "ambient_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "seconds": time.monotonic() - self._begun,
            "tokens": self.tokens,
            "log_bytes": log.stat().st_size if log.exists() else 0,
        }
        checkpoint.write(folder, self._models, training, self.extra_files, tag)
        if self.health.best:
            self.write_json(checkpoint.BEST, self.health.best)
        checkpoint.prune(self.folder / "checkpoints", self.saving.newest, self.saving.milestones)
        self._saved = time.monotonic()
        return folder

    def close(self) -> None:
        """Write out what TensorBoard's writer still holds."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """A file of the run folder, complete or not at all."""
        part = self.folder / f".{name}.part"
        part.write_text(json.dumps(content, ensure_ascii=False))
        part.replace(self.folder / name)

    def write_samples(self, lines: list[str]) -> None:
        """samples/step-N.txt, one sequence a line, whatever breaks of lines a model has learned to write."""
        text = "".join(" ".join(line.splitlines()) + "\n" for line in lines)
        (self.folder / "samples" / f"step-{self.step}.txt").write_text(text)
