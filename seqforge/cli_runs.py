"""Commands on a run folder: generate, evaluate, report, compare, export; and the list of recipes."""

import contextlib
import dataclasses
import json
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from jsonargparse import Namespace
from rich.table import Table
from tokenizers import Tokenizer

from seqforge import compare, controls, corpora, evaluate, export, generate, loading, recipes, seeds, tunes, watch
from seqforge.chat import Speaker
from seqforge.data.midi import SUFFIXES
from seqforge.data.music import MusicConfig
from seqforge.data.tokens import unknown_id
from seqforge.models.transformer import Source
from seqforge.options import Parser
from seqforge.sampling import Filter
from seqforge.settings import RunConfig, build, settle
from seqforge.tables import (
    as_latex,
    as_markdown,
    comparison_tables,
    controls_tables,
    out,
    print_comparison,
    print_controls,
    print_scores,
)
from seqforge.training import default_options, write_report


def generate_(argv: list[str]) -> int:
    """Draw sequences from a run's generator: seqforge generate RUN -n 10."""
    parser = Parser(prog="seqforge generate", description=generate_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("-n", type=int, default=10, help="how many sequences")
    parser.add_argument("--temperature", type=float, default=1.0, help="divisor of the logits; below 1 is sharper")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that hold this share only")
    parser.add_argument("--prompt", default="", help="a beginning to complete; of tunes also a MIDI file")
    parser.add_argument("--label", help="of labelled texts: the label to draw texts of")
    parser.add_argument("--prompt-bars", type=int, help="bars of a MIDI prompt (default: half the length)")
    parser.add_argument("--min-length", type=int, default=0, help="least tokens, end token included")
    parser.add_argument("--max-length", type=int, help="most tokens, end token included (default: the run's)")
    parser.add_argument("--unique", action="store_true", help="no sequence twice")
    parser.add_argument("--no-unk", action="store_true", help="never draw the unknown token")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same sequences")
    parser.add_argument(
        "--checkpoint",
        help="pre-trained, counterpart (MLE's), best (by validation), final, or a step (default: the newest)",
    )
    parser.add_argument("--json", action="store_true", help="JSON lines: text, log-probabilities (nats) and ids")
    parser.add_argument("--out", type=Path, help="file to write, one sequence a line; .jsonl means --json. Of tunes "
                        "also a new folder, for a .mid of each")  # fmt: skip
    parser.add_argument("--images", action="store_true", help="of tunes: a piano roll of each as PNG beside its .mid")
    parser.add_argument("--tempo", type=float, default=120.0, help="of tunes: quarters a minute in the .mid files")
    args = parser.parse_args(argv)
    if args.n < 1:
        raise ValueError(f"-n is {args.n}, but must be at least 1")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}, but must lie between -2^63 and 2^63 - 1")
    folder = loading.find_checkpoint(args.run, args.checkpoint)
    generator, tokenizer = loading.load_generator(folder), loading.load_tokenizer(folder)
    data = loading.read_config(args.run)["data"]
    context = _label(args, data.get("condition") == "label", getattr(generator, "encoder", None) is not None)
    horizon = data["max_length"] if args.max_length is None else args.max_length
    if horizon < 1 or not 0 <= args.min_length <= horizon:
        raise ValueError(f"--min-length is {args.min_length}, --max-length {horizon}; give 0 <= min <= max, max >= 1")
    tune_config = tunes.config_of(data)
    folder_out = _tune_folder(args, tune_config)
    numbers = data["source"] == "oracle" or data.get("tokenizer") == "ids"
    unknown = None if numbers else unknown_id(tokenizer, data.get("unk_token", "<unk>"))
    banned = (unknown,) if (args.no_unk or tune_config) and unknown is not None else ()
    filter = Filter(args.temperature, args.top_k, args.top_p, banned, args.min_length)
    if tune_config and args.prompt.lower().endswith(SUFFIXES):
        args.prompt = " ".join(tunes.prompt_words(Path(args.prompt), tune_config, args.prompt_bars, horizon))
    prompt = _prompt_ids(tokenizer, args.prompt, unknown, generator.eos_id, numbers)
    drawn = generate.generate(generator, tokenizer, args.n, horizon, filter, args.seed, prompt, args.unique, context)
    if folder_out and tune_config:
        texts = (one.text for one in drawn)
        n, whole = tunes.write(texts, tune_config, folder_out, args.tempo, args.images)
        out.print(f"{n} tunes in {folder_out}, {whole} of them decoded without repair", markup=False, soft_wrap=True)
        return 0
    as_json = args.json or (args.out is not None and args.out.suffix == ".jsonl")
    with sink(args.out) as file:
        for one in drawn:
            file.write((one.as_json() if as_json else " ".join(one.text.splitlines())) + "\n")
    return 0


def _label(args: Namespace, labels: bool, answers: bool) -> Source | None:
    """The source of a run of labelled texts, None for a run without sources. Raises ValueError where it must be given,
    or does not fit.
    """
    if args.label is None:
        if answers:
            how = "name a label: --label" if labels else f"ask it by `seqforge chat {args.run}`"
            raise ValueError(f"{args.run}: its generator answers a source; {how}")
        return None
    if not labels:
        raise ValueError(f"--label: {args.run} was not trained with --condition label; leave it out")
    if args.prompt:
        raise ValueError("--prompt: does not go with --label; leave one of them out")
    return Speaker.of(args.run, args.checkpoint).source([args.label.strip()])


def _tune_folder(args: Namespace, config: MusicConfig | None) -> Path | None:
    """Where .mid files go; None where words are written. Raises ValueError for options that would do nothing."""
    into = args.out if config and args.out is not None and args.out.suffix not in (".txt", ".jsonl") else None
    with_out, with_prompt = "--out FOLDER", "--prompt FILE.mid"
    is_file = config and args.prompt.lower().endswith(SUFFIXES)
    for name, fails, needs in (
        ("--images", args.images and not into, with_out),
        ("--tempo", args.tempo != 120.0 and not into, with_out),
        ("--prompt-bars", args.prompt_bars is not None and not is_file, with_prompt),
    ):
        if fails:
            raise ValueError(f"{name}: needs a run of music and {needs}")
    if into and args.json:
        raise ValueError("--json: a folder of .mid files has none; give --out FILE.jsonl")
    if not 1 <= args.tempo <= 1000:
        raise ValueError(f"--tempo is {args.tempo:g}, but must lie between 1 and 1000 quarters a minute")
    return tunes.check_folder(into) if into else None


def _prompt_ids(tokenizer: Tokenizer, prompt: str, unknown: int | None, end: int | None, numbers: bool) -> list[int]:
    """The ids of a prompt. Raises ValueError where it holds what the run does not know, or an end."""
    found = tokenizer.encode(prompt, add_special_tokens=False)
    if end in found.ids:
        raise ValueError(f"--prompt: {prompt!r} holds the end token {tokenizer.id_to_token(end)}; leave it out")
    if len(found.ids) and unknown in found.ids:
        at = found.ids.index(unknown)
        start, end = found.offsets[at]
        if prompt[start:end] != tokenizer.id_to_token(found.ids[at]):
            raise ValueError(f"--prompt: {prompt[start:end]!r} is not in the vocabulary of this run; use another word")
    words = prompt.split()
    if words and not len(found.ids):
        raise ValueError(f"--prompt: the run's tokenizer finds no token in {prompt!r}")
    strange = next((w for w in words if tokenizer.token_to_id(w) is None), None) if numbers else None
    if strange is not None:
        raise ValueError(f"--prompt: {strange!r} is no token id of this run; use another")
    return found.ids


@contextlib.contextmanager
def sink(path: Path | None) -> Iterator[TextIO]:
    """The terminal, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()  # a closed pipe is found out here, where it is handled, not when Python ends
        return
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; give the path of the file to write")
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as f:
            yield f
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def evaluate_(argv: list[str]) -> int:
    """Score a run's generators again, in place of its scores.json: seqforge evaluate RUN. With --watch, every
    checkpoint of it as it appears, beside the training, against the validation set: evaluations.csv."""
    parser = Parser(prog="seqforge evaluate", description=evaluate_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--samples", type=int, help="sequences drawn at each temperature (default: the run's)")
    parser.add_argument("--temperatures", type=list[float], help="divisors of the logits, such as [1.0,0.8]")
    parser.add_argument("--metrics", type=names_of, help="text metrics, such as bleu,mauve,lm; or all")
    parser.add_argument("--embedder", help="of fed and mauve: tfidf, or st:MODEL (default: the run's)")
    parser.add_argument("--seed", type=int, help="seed of the samples (default: one for all runs)")
    parser.add_argument("--json", action="store_true", help="print scores.json in place of the table")
    parser.add_argument("--watch", action="store_true", help="each checkpoint as it appears, until the training ends")
    parser.add_argument("--poll", type=float, help="with --watch: seconds between two looks (default: 5)")
    parser.add_argument("--score", help="with --watch: what the best checkpoint is chosen by (default: the run's)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one with --watch, else torch's choice")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where to score (default: where it trained)")
    for name in PLACES:
        flag = "--data" if name == "source" else f"--data.{name}"
        parser.add_argument(flag, dest=name, help=f"where {flag} of the training lies on this machine")
    parser.add_argument("--training", type=int, help=SUPPRESS)  # the process that started this one: watch.beside
    args = parser.parse_args(argv)
    _check_watch(args)
    if args.watch:
        torch.set_num_threads(args.threads or 1)
        return _watch(args)
    stored = _changed(args, build(RunConfig, loading.read_config(args.run)))
    config = stored.evaluate
    loading.find_checkpoint(args.run)  # says at once where there is nothing to score
    stored = settle(dataclasses.replace(stored, threads=args.threads))  # not the training's
    corpus = corpora.load(stored.data)
    corpora.check(args.run, corpus)
    result = evaluate.evaluate(args.run, corpus.to(stored.device), config)
    if (args.run / "report.html").is_file():
        write_report(args.run)
    print(json.dumps(result, indent=1)) if args.json else print_scores(result)
    return 0


def _check_watch(args: Namespace) -> None:
    """Raises ValueError for numbers out of range, and for options that would do nothing with --watch or without it."""
    if args.threads < 0 or (args.poll is not None and not args.poll > 0):
        raise ValueError(f"--threads is {args.threads}, --poll {args.poll}; give 0 or more, and more than 0 seconds")
    if args.watch:
        idle, remedy = {"--json": args.json, "--temperatures": args.temperatures}, "with --watch; leave it out"
    else:
        idle, remedy = {"--poll": args.poll, "--score": args.score}, "without --watch; give that too, or leave it out"
    for name in (name for name, given in idle.items() if given):
        raise ValueError(f"{name} does nothing {remedy}")


def _watch(args: Namespace) -> int:
    watch.watch(args.run, lambda stored: _changed(args, stored), args.poll or 5.0, args.training)
    out.print(str(args.run / "evaluations.csv"), markup=False, soft_wrap=True)
    return 0


PLACES = ("source", "oracle_file", "valid", "test", "tokenizer")  # options of the data that may name a path


def _changed(args: Namespace, stored: RunConfig) -> RunConfig:
    """A run's configuration with the options of an evaluation that were given."""

    def given(*names: str) -> dict[str, Any]:
        return {k: getattr(args, k) for k in names if getattr(args, k) is not None}

    scoring = given("samples", "temperatures", "seed", "metrics", "embedder", "score")
    data, evaluation = given(*PLACES), dataclasses.replace(stored.evaluate, **scoring)
    changes = {"data": dataclasses.replace(stored.data, **data), "evaluate": evaluation, **given("device")}
    return dataclasses.replace(stored, **changes)


def names_of(text: str | list[str]) -> list[str]:
    """`bleu,mauve` or `[bleu,mauve]`; a list is as it is, since the parser asks again for what it has parsed."""
    if isinstance(text, list):
        return text
    return [name.strip() for name in text.strip("[] ").split(",") if name.strip()]


def show_scores(run: Path) -> None:
    """The table of a run's scores.json."""
    print_scores(json.loads((run / "scores.json").read_text()))


def report_(argv: list[str]) -> int:
    """Write the report of one run or several, one self-contained page: seqforge report RUN [RUN ...]."""
    from seqforge import report

    parser = Parser(prog="seqforge report", description=report_.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders of seeds")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: report.html in the folder; needed for several)"
    )
    parser.add_argument("--png", type=Path, help="write every picture to this folder instead, a PNG each")
    args = parser.parse_args(argv)
    runs, missing = _of_each(args.runs, seeds.begun)
    warn(missing)
    if args.png:
        if args.out:
            raise ValueError("--png: goes without --out; leave one of them out")
        one = len(runs) == 1
        paths = report.pictures_png(runs[0], args.png) if one else report.many_png(runs, args.png, default_options)
        for path in paths:
            out.print(str(path), markup=False, soft_wrap=True)
        return 0
    if len(args.runs) > 1 and args.out is None:
        raise ValueError(f"a report of {len(args.runs)} runs needs --out FILE")
    if len(args.runs) == 1 and not are_seeds(args.runs[0]):
        page = report.build(args.runs[0], args.out)
    else:
        page = write_page(args.runs, args.out or args.runs[0] / "report.html")
    out.print(str(page), markup=False, soft_wrap=True)
    return 0


def are_seeds(folder: Path) -> bool:
    return (folder / seeds.FILE).is_file()


def write_page(folders: list[Path], to: Path) -> Path:
    """The page of several runs, or folders of seeds; seeds that have no run are named on it."""
    from seqforge.report import build_many

    runs, missing = _of_each(folders, seeds.begun)
    return build_many(runs, to, default_options, missing)


def _of_each(
    folders: list[Path], of_seeds: Callable[[Path], tuple[list[Path], list[str]]]
) -> tuple[list[Path], list[str]]:
    """Runs, of a folder of seeds those that it has, and in sentences which are missing. Raises ValueError for a folder
    that has none.
    """
    runs, missing = [], []
    for folder in folders:
        found, told = of_seeds(folder) if are_seeds(folder) else ([folder], [])
        if not found:
            raise ValueError(f"{folder}: none of its seeds has come so far; to go on: seqforge resume {folder}")
        runs, missing = [*runs, *found], [*missing, *told]
    return runs, missing


def warn(sentences: list[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)


def compare_(argv: list[str]) -> int:
    """Compare finished runs at equal diversity, seeds grouped: seqforge compare RUN RUN ..."""
    parser = Parser(prog="seqforge compare", description=compare_.__doc__)
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        help="run folders, or folders of seeds; the first names the group others are held to",
    )
    parser.add_argument(
        "--controls",
        type=Path,
        help="train the null controls of this run, or folder of seeds, and say what D's share is",
    )
    parser.add_argument("--json", action="store_true", help="short for --format json")
    parser.add_argument("--format", default="table", help="table, json, markdown or latex (for booktabs)")
    parser.add_argument(
        "--plot",
        type=Path,
        help="write NLL_oracle over NLL_test of all runs to this PNG; of runs on a grammar, right samples by round",
    )
    args = parser.parse_args(argv)
    shown = "json" if args.json else args.format
    if shown not in ("table", *FORMATS):
        raise ValueError(f"--format is {shown!r}, but must be one of: table, {', '.join(FORMATS)}")
    if args.controls:
        if args.runs or args.plot:
            raise ValueError("--controls takes one run, or a folder of seeds, no other runs and no --plot")
        return show_controls(args.controls, shown)
    if not args.runs:
        raise ValueError("compare: no runs; give run folders, or --controls RUN")
    runs, missing = _of_each(args.runs, seeds.scored)
    warn(missing)
    found = compare.compare(runs, default_options)
    if args.plot:
        from seqforge import report

        report.compare_png(runs, args.plot)
    if shown == "table":
        print_comparison(found)
    else:
        print(FORMATS[shown](found, comparison_tables))
    return 0


def runs_of(folder: Path) -> list[Path]:
    """A run, or those of a folder of seeds."""
    return seeds.runs_of(folder) if are_seeds(folder) else [folder]


def show_controls(folder: Path, shown: str = "table") -> int:
    """Train the controls that are missing of a run, or of each run of a folder of seeds, and print the share of the
    gain that D explains.
    """
    each = [controls.share(run, controls.carry_out(run)) for run in runs_of(folder)]
    found = controls.shares_over_seeds(each) if len(each) > 1 else each[0]
    if shown == "table":
        print_controls(found)
    else:
        print(FORMATS[shown](found, controls_tables))
    return 0


FORMATS: dict[str, Callable[[dict, Callable[[dict], list]], str]] = {
    "json": lambda found, _: json.dumps(found, indent=1),
    "markdown": lambda found, tables: as_markdown(tables(found)),
    "latex": lambda found, tables: as_latex(tables(found)),
}


def show_comparison(runs: list[Path]) -> None:
    """The table of several runs."""
    print_comparison(compare.compare(runs, default_options))


def export_(argv: list[str]) -> int:
    """Write a run's generator as the hub reads it: seqforge export RUN --out DIR."""
    parser = Parser(prog="seqforge export", description=export_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, required=True, help="new folder for weights, tokenizer and model card")
    parser.add_argument(
        "--checkpoint",
        help="pre-trained, counterpart (MLE's), best (by validation), final, or a step (default: the newest)",
    )
    parser.add_argument("--push", help="also push it to this repository of the Hugging Face hub (USER/NAME)")
    args = parser.parse_args(argv)
    folder = export.export(args.run, args.out, args.checkpoint)
    if args.push:
        _push(folder, args.push)
    out.print(str(folder), markup=False, soft_wrap=True)
    return 0


def _push(folder: Path, name: str) -> None:
    """Send an exported folder to the hub. Raises ValueError for all that keeps it from there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except HFValidationError as e:
        raise ValueError(f"--push {name}: {e}; the export itself is in {folder}") from e
    except Exception as e:  # of the hub, of the connection, of the library beneath: as many kinds as versions
        raise ValueError(
            f"--push {name}: {str(e) or type(e).__name__}; log in by `hf auth login`, or look to the connection. The "
            f"export is in {folder}; `hf upload {name} {folder}` sends it"
        ) from e


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
