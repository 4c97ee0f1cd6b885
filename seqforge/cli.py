"""The command line. One subcommand is one function; flags, types and help come from the dataclasses of the methods."""

import os

# A short spin, then sleep: full speed alone, and no thirtyfold slowdown beside another process. Before torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import contextlib
import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from seqforge import __version__, checkpoint, compare, corpora, evaluate, options, recipes
from seqforge.data.corpus import Corpus, decode
from seqforge.options import METHODS, Parser, RunConfig
from seqforge.run import Run, pre_trained
from seqforge.sampling import Filter, begin, chunk_rows, complete, uniform
from seqforge.tables import out, print_comparison, print_scores


def train(argv: list[str]) -> int:
    """Train a generator: seqforge train METHOD [options]."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: seqforge train METHOD [options]\n\nmethods:")
        for name, (_, _, purpose) in METHODS.items():
            print(f"  {name:<12}{purpose}")
        print("\n`seqforge train METHOD --help` explains every option; `seqforge recipes` lists ready settings.")
        return 0 if argv else 2
    method = options.known(argv[0], list(METHODS), "method")
    values = options.parse_train(method, argv[1:]).as_dict()
    recipe, given, start = values.pop("recipe"), values.pop("out"), values.pop("from")
    typed, method_config = options.build(RunConfig, values), options.build(METHODS[method][0], values)
    config = options.settle(typed)
    source = str(Path(start).resolve()) if start else None
    facts = {"seqforge": __version__, "method": method, "recipe": recipe, "from": source}
    plain = {**facts, **dataclasses.asdict(config), **dataclasses.asdict(method_config)}
    corpus = corpora.load(typed.data)  # messages name files as they were typed
    _check_start(start, corpus)
    folder = Path(given) if given else _free_folder(method)
    run = Run.create(folder, plain, **_run_options(config))
    try:
        if start:
            run.start_from(Path(start))
        return _carry_out(run, plain, config, method_config, corpus)
    except ValueError:
        if not checkpoint.every(folder / "checkpoints") and run.step == run.first_step:
            shutil.rmtree(folder)  # refused before the first step: as if never started
        raise


def resume(argv: list[str]) -> int:
    """Go on with a run that was cut off, bit for bit: seqforge resume RUN."""
    parser = Parser(prog="seqforge resume", description=resume.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    folder = parser.parse_args(argv).run
    plain = evaluate.read_config(folder)
    method = options.known(plain["method"], list(METHODS), "method")
    try:
        config, method_config = options.build(RunConfig, plain), options.build(METHODS[method][0], plain)
    except TypeError as e:
        raise ValueError(f"{folder / 'config.yaml'}: {e}; restore it or train anew") from e
    if _has_ended(folder):
        page = folder / "report.html"
        page = page if page.is_file() else _write_report(folder)
        out.print(f"{folder} has finished; its report: {page}", markup=False, soft_wrap=True)
        return 0
    config = options.settle(config)
    corpus = corpora.load(config.data)
    _check_data(folder, corpus)
    run = Run.resume(folder, **_run_options(config))
    if plain["from"] and not run.done:
        run.start_from(Path(plain["from"]))
    return _carry_out(run, plain, config, method_config, corpus)


def _run_options(config: RunConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "saving": config.checkpoint,
        "device": config.device,
        "precision": config.precision,
    }


def _check_data(folder: Path, corpus: Corpus) -> None:
    """A run goes on only with the data it began with, by the digest in its log."""
    log = folder / "log.jsonl"
    first = log.read_text().partition("\n")[0] if log.is_file() else ""
    try:
        began = json.loads(first)["data"] if first else corpus.digest
    except (ValueError, KeyError):
        return  # cut off, or not a start record: nothing to hold it to
    if began != corpus.digest:
        raise ValueError(
            f"{folder}: it began with other data (digest {began}; {corpus.source} is {corpus.digest} now); "
            "bring the file back as it was, or train anew"
        )


def _carry_out(run: Run, plain: dict, config: RunConfig, method_config: Any, corpus: Corpus) -> int:
    """Train, score, report; the same for a new run and a resumed one."""
    corpus = corpus.to(run.device)
    run.extra_files["tokenizer.json"] = corpus.tokenizer.to_str()
    if config.tensorboard:
        run.tensorboard = _tensorboard(run.folder)
    if run.once("start"):
        run.log("start", "start", data=corpus.digest, **_versions(run, config.threads))
    out.print(f"run {run.folder}", markup=False, soft_wrap=True)
    try:
        METHODS[plain["method"]][1](method_config, corpus, run)
    except KeyboardInterrupt:
        print(f"\nseqforge: interrupted; to go on: seqforge resume {run.folder}", file=sys.stderr)
        return 130
    print("scoring the generators ...", file=sys.stderr)
    result = evaluate.evaluate(run.folder, corpus, config.evaluate)
    run.log("end", "end")
    page = _write_report(run.folder)
    print_scores(result)
    out.print(f"run {run.folder}  report {page}", markup=False, soft_wrap=True)
    return 0


def _write_report(folder: Path) -> Path:
    from seqforge import report

    page = report.build(folder)
    with contextlib.suppress(ValueError):  # a run without a single curve has no picture
        report.curves_png(folder, folder / "curves.png")
    return page


def _has_ended(folder: Path) -> bool:
    """Whether the log's last record says so."""
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    try:
        return bool(lines) and json.loads(lines[-1])["kind"] == "end"
    except ValueError:  # cut off in the middle of a line
        return False


def generate(argv: list[str]) -> int:
    """Draw sequences from a run's generator: seqforge generate RUN -n 10."""
    parser = Parser(prog="seqforge generate", description=generate.__doc__)
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
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}, but must lie between -2^63 and 2^63 - 1")
    if args.out and args.out.is_dir():
        raise ValueError(f"--out {args.out}: is a folder; give the path of the file to write")
    folder = evaluate.find_checkpoint(args.run, args.checkpoint)
    generator, tokenizer = evaluate.load_generator(folder), evaluate.load_tokenizer(folder)
    filter = Filter(args.temperature, args.top_k, args.top_p)
    horizon = evaluate.read_config(args.run)["data"]["max_length"]
    rng, each = torch.Generator().manual_seed(args.seed), chunk_rows(generator, torch.device("cpu"))
    part = args.out.with_name(f".{args.out.name}.part") if args.out else None
    try:
        with part.open("w") if part else contextlib.nullcontext(sys.stdout) as sink:
            for lo in range(0, args.n, each):
                noise = uniform((min(each, args.n - lo), horizon), rng)
                drawn = complete(generator, begin(generator, len(noise)), noise, filter)
                sink.write("\n".join(decode(tokenizer, drawn.ids, drawn.lengths)) + "\n")
        if part and args.out:
            os.replace(part, args.out)
    finally:
        if part:
            part.unlink(missing_ok=True)
    return 0


def evaluate_(argv: list[str]) -> int:
    """Score a run's generators again, in place of its scores.json: seqforge evaluate RUN."""
    parser = Parser(prog="seqforge evaluate", description=evaluate_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--samples", type=int, help="sequences drawn at each temperature (default: the run's)")
    parser.add_argument("--temperatures", type=list[float], help="divisors of the logits, such as [1.0,0.8]")
    parser.add_argument("--seed", type=int, help="seed of the samples (default: one for all runs)")
    parser.add_argument("--json", action="store_true", help="print scores.json in place of the table")
    args = parser.parse_args(argv)
    stored = options.build(RunConfig, evaluate.read_config(args.run))
    given = {k: getattr(args, k) for k in ("samples", "temperatures", "seed") if getattr(args, k) is not None}
    config = dataclasses.replace(stored.evaluate, **given)
    evaluate.find_checkpoint(args.run)  # says at once where there is nothing to score
    stored = options.settle(stored)
    result = evaluate.evaluate(args.run, corpora.load(stored.data).to(stored.device), config)
    if (args.run / "report.html").is_file():
        _write_report(args.run)
    print(json.dumps(result, indent=1)) if args.json else print_scores(result)
    return 0


def report_(argv: list[str]) -> int:
    """Write a run's report, one self-contained page: seqforge report RUN."""
    from seqforge import report

    parser = Parser(prog="seqforge report", description=report_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, help="file to write (default: report.html in the run folder)")
    args = parser.parse_args(argv)
    out.print(str(report.build(args.run, args.out)), markup=False, soft_wrap=True)
    return 0


def compare_(argv: list[str]) -> int:
    """Compare finished runs at equal NLL_test, seeds grouped: seqforge compare RUN RUN ..."""
    parser = Parser(prog="seqforge compare", description=compare_.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; the first names the group others are held to")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--plot", type=Path, help="write NLL_oracle over NLL_test of all runs to this PNG")
    args = parser.parse_args(argv)
    found = compare.compare(args.runs)
    if args.plot:
        from seqforge import report

        report.compare_png(args.runs, args.plot)
    print(json.dumps(found, indent=1)) if args.json else print_comparison(found)
    return 0


def export(argv: list[str]) -> int:
    """Write a run's generator as the hub reads it: seqforge export RUN --out DIR."""
    parser = Parser(prog="seqforge export", description=export.__doc__)
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
    parser = Parser(prog="seqforge recipes", description=recipes_.__doc__)
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


def _check_start(start: str | None, corpus: Corpus) -> None:
    """A pre-training can be taken over only where it saw the same training data."""
    if start is None:
        return
    config = evaluate.read_config(Path(start))
    pre_trained(Path(start))
    other = corpora.load(options.build(RunConfig, config).data)
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
    commit = None
    if shutil.which("git") and (here / "pyproject.toml").is_file():
        git = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        commit = git.stdout.strip() or None
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(run.device),
        "precision": run.precision,
        "threads": threads,
        "seed": run.seed,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


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
        return COMMANDS[options.known(argv[0], list(COMMANDS), "command")](argv[1:])
    except ValueError as e:
        print(f"seqforge: {options.one_line(str(e))}", file=sys.stderr)
        return 2
    except OSError as e:
        where = e.filename or " ".join(argv)  # a failed write names no file
        print(f"seqforge: {where}: {e.strerror}; check the path, its permissions and the disk's free space",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("\nseqforge: interrupted; `seqforge resume RUN` goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
