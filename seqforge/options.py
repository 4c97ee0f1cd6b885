"""From flags and recipes to configurations. Flags, types and help come from the dataclasses of the methods."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace

from seqforge import corpora, recipes
from seqforge.evaluate import EvaluateConfig
from seqforge.methods import mle, seqgan
from seqforge.run import CheckpointConfig

METHODS: dict[str, tuple[type, Callable, str]] = {
    "mle": (mle.MLETrainConfig, mle.train, "maximum likelihood by teacher forcing"),
    "seqgan": (seqgan.SeqGANConfig, seqgan.train, "policy gradient on a CNN discriminator's verdict (Yu et al. 2017)"),
}


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run is carried out.

    Args:
        seed: seed of everything random in the run except its data (see --data.seed)
        device: where to compute; auto takes a GPU if there is one
        precision: of the discriminator's matrix products, training and scoring; auto is bf16 where the processor has it
        threads: CPU threads; 0 is torch's choice, one for each core unless OMP_NUM_THREADS says otherwise
        tensorboard: also write the curves for TensorBoard, into the run folder
        data: what to train on
        checkpoint: when the run is saved
        evaluate: how the generators are scored at the end
    """

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    tensorboard: bool = False
    data: corpora.DataConfig = field(default_factory=corpora.DataConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self):
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}, but must be 0 (one for each core) or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more")


class Parser(ArgumentParser):
    """Errors are one ValueError, which names the nearest known option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)  # `--recip X` must not pass for --recipe

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(_nearest_named(one_line(message), self))


def one_line(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip()


def _nearest_named(message: str, parser: ArgumentParser) -> str:
    """Add "did you mean" where the message names an option that is not known."""
    known = [o for a in parser._actions for o in a.option_strings]
    found = re.search(r"[Uu]nrecognized arguments?: (--[^\s=]+)", message)
    near = difflib.get_close_matches(found.group(1), known, 1, 0.5) if found else []
    return f"{message}; did you mean {near[0]}?" if near else message


def _train_parser(method: str) -> Parser:
    config, _, purpose = METHODS[method]
    parser = Parser(prog=f"seqforge train {method}", description=f"{method}: {purpose}.")
    parser.add_argument("--recipe", help="a shipped recipe's name (see `seqforge recipes`) or a YAML file of your own")
    parser.add_argument("--out", help="folder of the run; without it runs/METHOD-1, -2, ...")
    parser.add_argument("--from", help="a run whose finished pre-training this one takes over, as controls do")
    parser.add_class_arguments(RunConfig, None)
    parser.add_class_arguments(config, None)
    for action in parser._actions:  # jsonargparse would read these as files; `--data X` is the source
        if action.help and "Path to a configuration file" in action.help:
            short = action.option_strings == ["--data"]
            action.help = "short for --data.source" if short else argparse.SUPPRESS
    return parser


def build(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from nested plain values."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    hints = {name: _dataclass_of(cls, name) for name in fields}
    for k, v in values.items():
        if hints.get(k) and not isinstance(v, dict):
            raise TypeError(f"{k} is {v}, but must hold options")
    return cls(**{k: build(inner, v) if (inner := hints[k]) else v for k, v in values.items() if k in fields})


def _dataclass_of(cls: type, name: str) -> type | None:
    default = next(f for f in dataclasses.fields(cls) if f.name == name).default_factory
    return default if isinstance(default, type) and dataclasses.is_dataclass(default) else None


def _keys(cls: type, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration, groups included."""
    found = set()
    for f in dataclasses.fields(cls):
        inner = _dataclass_of(cls, f.name)
        found |= {prefix + f.name} | (_keys(inner, f"{prefix}{f.name}.") if inner else set())
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in values.items():
        flat |= _flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v}
    return flat


def _recipe_values(name: str, method: str) -> dict[str, Any]:
    """A recipe as flat values, checked against the options of the method."""
    recipe = recipes.read(name)
    if recipe.get("method") != method:
        raise ValueError(f"recipe {name} is for `{recipe.get('method')}`, not for `{method}`")
    facts = ("method", "purpose", "time", "seqforge", "recipe")  # the last two: a run's config.yaml is a recipe too
    body = {k: v for k, v in recipe.items() if k not in facts}
    if isinstance(body.get("data"), str):
        body["data"] = {"source": body["data"]}
    known = (_keys(RunConfig) | _keys(METHODS[method][0])) | {"from"}
    groups = {key.rpartition(".")[0] for key in known} - {""}
    for key, value in _flat(body).items():
        if key in groups:
            raise ValueError(f"recipe {name}: {key} is {value}, but must hold options, such as `{key}: {{...}}`")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            raise ValueError(f"recipe {name}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else ""))
    return _flat(body)


def _expand(argv: list[str]) -> list[str]:
    """`--data X` -> `--data.source X`, and `--tensorboard` alone -> `--tensorboard=true`."""
    argv = [re.sub(r"^--data(=|$)", r"--data.source\1", a) for a in argv]
    bare = [a == "--tensorboard" and not re.match(r"[^-]", b) for a, b in zip(argv, [*argv[1:], ""], strict=True)]
    return [f"{a}=true" if flag else a for a, flag in zip(argv, bare, strict=True)]


def parse_train(method: str, argv: list[str]) -> Namespace:
    parser = _train_parser(method)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")
    recipe = early.parse_known_args(argv)[0].recipe
    if recipe and "--help" not in argv and "-h" not in argv:
        values = {k: v for k, v in _recipe_values(recipe, method).items() if v is not None}
        argv = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()] + argv
    return parser.parse_args(_expand(argv))


def known(word: str, words: list[str], kind: str) -> str:
    if word in words:
        return word
    near = difflib.get_close_matches(word, words, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown {kind} {word!r}{hint} ({kind}s: {', '.join(words)})")


def device(name: str) -> str:
    """The device a name means on this machine. Raises ValueError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no GPU; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def precision(name: str, device: str) -> str:
    """bf16 by "auto" only where the processor computes it natively."""
    if name != "auto":
        return name
    if device == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, name, lambda: False)() for name in tests)
    return "bf16" if native else "fp32"


def settle(config: RunConfig) -> RunConfig:
    """Every "auto" resolved and every path absolute, so that the run goes on alike from any folder; threads are set."""
    where = device(config.device)
    if where == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # the generator's numbers are float32's
    if config.threads:
        torch.set_num_threads(config.threads)
    data = config.data
    paths = {k: v for k in ("source", "oracle_file") if (v := getattr(data, k)) and Path(v).exists()}
    data = dataclasses.replace(data, **{k: str(Path(v).resolve()) for k, v in paths.items() if v != "oracle"})
    numeric = precision(config.precision, where)
    return dataclasses.replace(config, device=where, precision=numeric, threads=torch.get_num_threads(), data=data)
