"""The command line. One subcommand is one function; flags, types and help come from the dataclasses of the methods."""

import os

# A short spin, then sleep: full speed alone, and no thirtyfold slowdown beside another process. Before torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import argparse
import contextlib
import dataclasses
import difflib
import json
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from seqforge import __version__, checkpoint, compare, corpora, evaluate, recipes
from seqforge.data.corpus import Corpus, decode
from seqforge.evaluate import EvaluateConfig
from seqforge.methods import mle, seqgan
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Filter, begin, chunk_rows, complete, uniform

METHODS: dict[str, tuple[type, str]] = {
    "mle": (mle.MLETrainConfig, "maximum likelihood by teacher forcing"),
    "seqgan": (seqgan.SeqGANConfig, "policy gradient on a CNN discriminator's verdict (Yu et al. 2017)"),
}
out = Console(highlight=False)


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run is carried out.

    Args:
        seed: seed of everything random in the run except its data (see --data.seed)
        device: where to compute; auto takes a GPU if there is one
        precision: of the discriminator's matrix products; auto is bf16 where the processor computes it natively
        threads: CPU threads; 0 is one for each core
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


class _Parser(ArgumentParser):
    """Errors are one ValueError, which names the nearest known option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(_nearest_named(_one_line(message), self))


def _one_line(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip()


def _nearest_named(message: str, parser: ArgumentParser) -> str:
    """Add "did you mean" where the message names an option that is not known."""
    known = [o for a in parser._actions for o in a.option_strings]
    found = re.search(r"[Uu]nrecognized arguments?: (--[^\s=]+)", message)
    near = difflib.get_close_matches(found.group(1), known, 1, 0.5) if found else []
    return f"{message}; did you mean {near[0]}?" if near else message


def _train_parser(method: str) -> _Parser:
    config, purpose = METHODS[method]
    parser = _Parser(prog=f"seqforge train {method}", description=f"{method}: {purpose}.")
    parser.add_argument("--recipe", help="a shipped recipe's name (see `seqforge recipes`) or a YAML file of your own")
    parser.add_argument("--out", help="folder of the run (default: runs/METHOD-1, -2, ...)")
    parser.add_argument("--from", help="a run whose finished pre-training this one takes over, as controls do")
    parser.add_class_arguments(RunConfig, None)
    parser.add_class_arguments(config, None)
    for action in parser._actions:  # jsonargparse would read these as files; `--data X` is the source
        if action.help and "Path to a configuration file" in action.help:
            short = action.option_strings == ["--data"]
            action.help = "short for --data.source" if short else argparse.SUPPRESS
    return parser


def _build(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from nested plain values."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    hints = {name: _dataclass_of(cls, name) for name in fields}
    return cls(**{k: _build(inner, v) if (inner := hints[k]) else v for k, v in values.items() if k in fields})


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
    body = {k: v for k, v in recipe.items() if k not in ("method", "purpose", "time")}
    if isinstance(body.get("data"), str):
        body["data"] = {"source": body["data"]}
    known = (_keys(RunConfig) | _keys(METHODS[method][0])) - {"data"}
    for key in _flat(body):
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            raise ValueError(f"recipe {name}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else ""))
    return _flat(body)


def _expand(argv: list[str]) -> list[str]:
    """`--data X` -> `--data.source X`."""
    return [re.sub(r"^--data(=|$)", r"--data.source\1", a) for a in argv]


def _parse_train(method: str, argv: list[str]) -> Namespace:
    parser = _train_parser(method)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    recipe = early.parse_known_args(argv)[0].recipe
    if recipe and "--help" not in argv and "-h" not in argv:
        parser.set_defaults(_recipe_values(recipe, method))
    return parser.parse_args(_expand(argv))


def train(argv: list[str]) -> int:
    """Train a generator: seqforge train METHOD [options]."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: seqforge train METHOD [options]\n\nmethods:")
        for name, (_, purpose) in METHODS.items():
            print(f"  {name:<12}{purpose}")
        print("\n`seqforge train METHOD --help` explains every option; `seqforge recipes` lists ready settings.")
        return 0 if argv else 2
    method = _known(argv[0], list(METHODS), "method")
    values = _parse_train(method, argv[1:]).as_dict()
    recipe, given, start = values.pop("recipe"), values.pop("out"), values.pop("from")
    config, method_config = _build(RunConfig, values), _build(METHODS[method][0], values)
    facts = {"seqforge": __version__, "method": method, "recipe": recipe, "from": start}
    threads = _prepare(config)
    plain = {**facts, **dataclasses.asdict(config), **dataclasses.asdict(method_config), "threads": threads}
    corpus = corpora.load(config.data)
    _check_start(start, corpus)
    folder = Path(given) if given else _free_folder(method)
    run = Run.create(folder, plain, seed=config.seed, saving=config.checkpoint, device=_device(config.device))
    try:
        if start:
            run.start_from(Path(start))
        return _carry_out(run, plain, config, method_config, corpus)
    except ValueError:
        if not checkpoint.every(folder / "checkpoints") and run.step == 0:
            shutil.rmtree(folder)  # refused before the first step: as if never started
        raise


def resume(argv: list[str]) -> int:
    """Go on with a run that was cut off, bit for bit: seqforge resume RUN."""
    parser = _Parser(prog="seqforge resume", description=resume.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    folder = parser.parse_args(argv).run
    plain = evaluate.read_config(folder)
    method = _known(plain["method"], list(METHODS), "method")
    try:
        config, method_config = _build(RunConfig, plain), _build(METHODS[method][0], plain)
    except TypeError as e:
        raise ValueError(f"{folder / 'config.yaml'}: {e}; restore it or train anew") from e
    if (folder / "scores.json").is_file():
        out.print(f"{folder} has finished; nothing to do. See `seqforge report {folder}`.", markup=False)
        return 0
    _prepare(config)
    corpus = corpora.load(config.data)
    run = Run.resume(folder, seed=config.seed, saving=config.checkpoint, device=_device(config.device))
    if plain["from"] and not run.done:
        run.start_from(Path(plain["from"]))
    return _carry_out(run, plain, config, method_config, corpus)


def _carry_out(run: Run, plain: dict, config: RunConfig, method_config: Any, corpus: Corpus) -> int:
    """Train, score, report; the same for a new run and a resumed one."""
    from seqforge import report

    precision = _precision(config.precision, run.device)
    corpus = corpus.to(run.device)
    run.extra_files["tokenizer.json"] = corpus.tokenizer.to_str()
    if config.tensorboard:
        run.tensorboard = _tensorboard(run.folder)
    if run.once("start"):
        run.log("start", "start", precision=precision, data=corpus.digest, **_versions(run, plain["threads"]))
    module: Callable = {"mle": mle.train, "seqgan": seqgan.train}[plain["method"]]
    extra = {"precision": precision} if plain["method"] == "seqgan" else {}
    module(method_config, corpus, run, **extra)
    print("scoring the generators ...", file=sys.stderr)
    result = evaluate.evaluate(run.folder, corpus, config.evaluate)
    run.log("end", "end")
    page = report.build(run.folder)
    with contextlib.suppress(ValueError):  # a run without a single curve has no picture
        report.curves_png(run.folder, run.folder / "curves.png")
    _print_scores(result)
    out.print(f"run {run.folder}  report {page}", markup=False, soft_wrap=True)
    return 0


def generate(argv: list[str]) -> int:
    """Draw sequences from a run's generator: seqforge generate RUN -n 10."""
    parser = _Parser(prog="seqforge generate", description=generate.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("-n", type=int, default=10, help="how many sequences")
    parser.add_argument("--temperature", type=float, default=1.0, help="divisor of the logits; below 1 is sharper")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that hold this share only")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same sequences")
    parser.add_argument("--checkpoint", help="pre-trained, final, or a step (default: the newest)")
    parser.add_argument("--out", type=Path, help="file to write, one sequence a line (default: the terminal)")
    args = parser.parse_args(argv)
    if args.n < 1:
        raise ValueError(f"-n is {args.n}, but must be at least 1")
    folder = evaluate.find_checkpoint(args.run, args.checkpoint)
    generator, tokenizer = evaluate.load_generator(folder), evaluate.load_tokenizer(folder)
    filter = Filter(args.temperature, args.top_k, args.top_p)
    horizon = evaluate.read_config(args.run)["data"]["max_length"]
    rng, each = torch.Generator().manual_seed(args.seed), chunk_rows(generator, torch.device("cpu"))
    part = args.out.with_name(f".{args.out.name}.part") if args.out else None
    with part.open("w") if part else contextlib.nullcontext(sys.stdout) as sink:
        for lo in range(0, args.n, each):
            noise = uniform((min(each, args.n - lo), horizon), rng)
            drawn = complete(generator, begin(generator, len(noise)), noise, filter)
            sink.write("\n".join(decode(tokenizer, drawn.ids, drawn.lengths)) + "\n")
    if part:
        os.replace(part, args.out)
    return 0


def evaluate_(argv: list[str]) -> int:
    """Score a run's pre-trained and newest generator again: seqforge evaluate RUN."""
    parser = _Parser(prog="seqforge evaluate", description=evaluate_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--samples", type=int, help="sequences drawn at each temperature (default: the run's)")
    parser.add_argument("--temperatures", type=list[float], help="divisors of the logits, such as [1.0,0.8]")
    parser.add_argument("--seed", type=int, help="seed of the samples (default: one for all runs)")
    parser.add_argument("--json", action="store_true", help="print scores.json in place of the table")
    args = parser.parse_args(argv)
    stored = _build(RunConfig, evaluate.read_config(args.run))
    given = {k: getattr(args, k) for k in ("samples", "temperatures", "seed") if getattr(args, k) is not None}
    config = dataclasses.replace(stored.evaluate, **given)
    evaluate.find_checkpoint(args.run)  # says at once where there is nothing to score
    _prepare(stored)
    result = evaluate.evaluate(args.run, corpora.load(stored.data).to(_device(stored.device)), config)
    print(json.dumps(result, indent=1)) if args.json else _print_scores(result)
    return 0


def report_(argv: list[str]) -> int:
    """Write a run's report, one self-contained page: seqforge report RUN."""
    from seqforge import report

    parser = _Parser(prog="seqforge report", description=report_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, help="file to write (default: report.html in the run folder)")
    args = parser.parse_args(argv)
    out.print(str(report.build(args.run, args.out)), markup=False, soft_wrap=True)
    return 0


def compare_(argv: list[str]) -> int:
    """Compare finished runs at equal NLL_test, seeds grouped: seqforge compare RUN RUN ..."""
    parser = _Parser(prog="seqforge compare", description=compare_.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; the first names the group others are held to")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--plot", type=Path, help="write NLL_oracle over NLL_test of all runs to this PNG")
    args = parser.parse_args(argv)
    found = compare.compare(args.runs)
    if args.plot:
        from seqforge import report

        report.compare_png(args.runs, args.plot)
    print(json.dumps(found, indent=1)) if args.json else _print_comparison(found)
    return 0


def export(argv: list[str]) -> int:
    """Write a run's generator as the hub reads it: seqforge export RUN --out DIR."""
    parser = _Parser(prog="seqforge export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, required=True, help="new folder for weights, tokenizer and model card")
    parser.add_argument("--checkpoint", help="pre-trained, final, or a step (default: the newest)")
    parser.add_argument("--push", help="also push it to this repository of the Hugging Face hub (USER/NAME)")
    args = parser.parse_args(argv)
    folder = evaluate.export(args.run, args.out, args.checkpoint)
    if args.push:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(args.push, exist_ok=True)
        api.upload_folder(repo_id=args.push, folder_path=folder)
    out.print(str(folder), markup=False, soft_wrap=True)
    return 0


def recipes_(argv: list[str]) -> int:
    """List the shipped recipes: seqforge recipes [NAME shows one]."""
    parser = _Parser(prog="seqforge recipes", description=recipes_.__doc__)
    parser.add_argument("name", nargs="?", help="a recipe to print")
    args = parser.parse_args(argv)
    if args.name:
        print(recipes.path_of(args.name).read_text(), end="")
        return 0
    table = Table("recipe", "method", "purpose", "time on 2 cores", box=None, pad_edge=False)
    for name in recipes.names():
        r = recipes.read(name)
        table.add_row(name, r["method"], r["purpose"], r["time"])
    out.print(table)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "resume": resume,
    "generate": generate,
    "evaluate": evaluate_,
    "report": report_,
    "compare": compare_,
    "export": export,
    "recipes": recipes_,
}


def _known(word: str, words: list[str], kind: str) -> str:
    if word in words:
        return word
    near = difflib.get_close_matches(word, words, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown {kind} {word!r}{hint} ({kind}s: {', '.join(words)})")


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no GPU; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _precision(name: str, device: torch.device) -> str:
    if name != "auto":
        return name
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native else "fp32"


def _prepare(config: RunConfig) -> int:
    """Check the device and set the threads; the number in force."""
    _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    return torch.get_num_threads()


def _check_start(start: str | None, corpus: Corpus) -> None:
    """A pre-training can be taken over only where it saw the same training data."""
    if start is None:
        return
    evaluate.find_checkpoint(Path(start), "pre-trained")
    other = corpora.load(_build(RunConfig, evaluate.read_config(Path(start))).data)
    if other.digest != corpus.digest:
        raise ValueError(
            f"--from {start}: it was trained on other data ({other.source}, digest {other.digest}; here "
            f"{corpus.source}, {corpus.digest}); give the same --data options"
        )


def _free_folder(method: str) -> Path:
    n = 1
    while (folder := Path("runs") / f"{method}-{n}").exists():
        n += 1
    return folder


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise ValueError("--tensorboard: not installed; pip install 'seqforge[tensorboard]'") from e
    return SummaryWriter(str(folder / "tensorboard"))


def _versions(run: Run, threads: int) -> dict[str, Any]:
    """What ran, for the log. The commit is that of a source checkout, null for an installed wheel."""
    here = Path(__file__).parent.parent
    git = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = git.stdout.strip() if git.returncode == 0 and (here / "pyproject.toml").is_file() else None
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(run.device),
        "threads": threads,
        "seed": run.seed,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def _print_scores(result: dict) -> None:
    columns = result["generators"] + result["references"]
    table = Table("score", "temperature", *[c["name"] for c in columns], box=None, pad_edge=False)
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for c in columns:
        for s in c["scores"]:
            error = "" if s["stderr"] is None else f" ± {s['stderr']:.3f}"
            rows.setdefault((s["name"], s["temperature"]), {})[c["name"]] = f"{s['value']:.3f}{error}"
    for (name, temperature), cells in sorted(rows.items(), key=lambda r: (r[0][0], -r[0][1])):
        table.add_row(name, f"{temperature:g}", *[cells.get(c["name"], "") for c in columns])
    out.print(table)
    out.print("all in nats per token, ± one standard error")
    if result["verdict"]:
        out.print(result["verdict"], markup=False)


def _print_comparison(found: dict) -> None:
    table = Table("runs", "seeds", "NLL_oracle", "NLL_test", "entropy", "gap to its pre-trained", box=None)
    for name, g in found["groups"].items():
        cells = [_with_interval(g["scores"].get(k)) for k in ("nll_oracle", "nll_test", "entropy")]
        table.add_row(name, str(len(g["seeds"])), *cells, _with_interval(g["gap_to_pretrained"]))
    out.print(table)
    out.print("temperature 1, nats per token, mean ± 95 % interval over seeds; gap: NLL_oracle at equal NLL_test")
    for gap in found["gaps"]:
        out.print(f"{gap['of']} less {gap['against']}, paired by seed: {_with_interval(gap['gap'])}", markup=False)


def _with_interval(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "-"
    mean, half = pair
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    if not argv or argv[0] in ("-h", "--help", "--version"):
        if argv and argv[0] == "--version":
            print(f"seqforge {__version__}")
            return 0
        print("usage: seqforge COMMAND [options]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<12}{command.__doc__}")
        print("\n`seqforge COMMAND --help` explains every option.")
        return 0 if argv else 2
    try:
        return COMMANDS[_known(argv[0], list(COMMANDS), "command")](argv[1:])
    except ValueError as e:
        print(f"seqforge: {_one_line(str(e))}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"seqforge: {e.filename or ''}: {e.strerror}; check the path, its permissions and the disk's free space",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("\nseqforge: interrupted; `seqforge resume RUN` goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
