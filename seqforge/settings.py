"""Where and how a run is carried out; what every configuration shares: built from plain values, checked, settled."""

import ctypes
import dataclasses
import math
import sys
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from seqforge import corpora
from seqforge.data import tokens
from seqforge.data.config import DataConfig
from seqforge.evaluate import EvaluateConfig
from seqforge.health import HealthConfig, check_signs
from seqforge.run import CheckpointConfig

# Words that an option knows by themselves, whatever a file beside may be called.
NO_PATHS = {"source": corpora.WORLDS, "tokenizer": (*get_args(tokens.Kind), "ids", "auto")}


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run is carried out.

    Args:
        seed: seed of everything random in the run except its data (see --data.seed)
        device: where to compute; auto takes a GPU if there is one
        precision: of the discriminator's matrix products (LeakGAN's features too), and of a step's with the generator's
            output layer where its loss is a likelihood or a policy gradient; the generator is sampled and scored in
            float32. auto is bf16 where the processor has it
        threads: CPU threads; 0 is torch's choice, one for each core unless OMP_NUM_THREADS says otherwise
        tensorboard: also write the curves for TensorBoard, into the run folder
        report: draw report.html and curves.png at the end; `seqforge report RUN` draws the page at any time
        data: what to train on
        checkpoint: when the run is saved
        evaluate: how the generators are scored at the end
        health: when a run warns that it goes wrong
        stop_on: signs that end the run in order, of collapse, repeats, lengths, hacking, forgetting, saturated, chance
            (`--stop-on collapse,hacking`)
    """

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    tensorboard: bool = False
    report: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    stop_on: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}, but must be 0 (one for each core) or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more")
        check_signs(self.stop_on)
        if self.stop_on and not self.health.watch:
            raise ValueError(f"stop_on is {self.stop_on}, but health.watch is off; switch it on")


def build(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from nested plain values."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    hints = {name: dataclass_of(cls, name) for name in fields}
    for k, v in values.items():
        if hints.get(k) and not isinstance(v, dict):
            raise TypeError(f"{k} is {v}, but must hold options")
    return cls(**{k: build(inner, v) if (inner := hints[k]) else v for k, v in values.items() if k in fields})


def keys_of(cls: type, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration, groups included."""
    found = set()
    for f in dataclasses.fields(cls):
        inner = dataclass_of(cls, f.name)
        found |= {prefix + f.name} | (keys_of(inner, f"{prefix}{f.name}.") if inner else set())
    return found


def dataclass_of(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, if it is a group of options."""
    kind = typing.get_type_hints(cls)[name]
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def check_words(config: Any) -> None:
    """Raises ValueError for an option that takes one of a few words and has another, which Python does not check, and
    for a number that is not finite, which passes for small and for large enough.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_words(value)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} is {value}, but must be a finite number")
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name} is {value!r}, but must be one of: {', '.join(map(str, get_args(hint)))}")


def settle(config: RunConfig) -> RunConfig:
    """Every "auto" resolved and every path absolute, so that the run goes on alike from any folder; threads are set.

    Numbers below 1e-38 become 0 from here on: of saturated gates the gradients are such, and a processor takes a
    hundred times longer for each (half of a LeakGAN's step, measured).
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    where = device(config.device)
    if where == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # the generator's numbers are float32's
    if config.threads:
        torch.set_num_threads(config.threads)
    data = config.data
    names = ("source", "oracle_file", "valid", "test", "tokenizer")
    paths = {k: v for k in names if (v := getattr(data, k)) and v not in NO_PATHS.get(k, ()) and Path(v).exists()}
    data = dataclasses.replace(data, **{k: str(Path(v).resolve()) for k, v in paths.items()})
    numeric = precision(config.precision, where)
    return dataclasses.replace(config, device=where, precision=numeric, threads=torch.get_num_threads(), data=data)


def keep_freed_memory() -> None:
    """Have glibc's malloc reuse freed blocks of up to 32 MiB. By itself it hands them back to the system, and a step,
    whose gradients come and go, then waits for new pages: up to half of its time on a virtual machine. Other systems'
    allocators are left as they are.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        mallopt(mmap_threshold, 32 * 2**20)  # the most there is
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)


def device(name: str) -> str:
    """The device a name means on this machine. Raises ValueError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no GPU; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def precision(name: str, device: str) -> str:
    """bf16 by "auto" only where the processor computes it natively."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, test, lambda: False)() for test in tests)
    if name == "bf16" and not native:
        warnings.warn("--precision bf16: this processor emulates it, a hundred times slower than fp32", stacklevel=2)
    return name if name != "auto" else "bf16" if native else "fp32"
