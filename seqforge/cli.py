"""The command line. One subcommand is one function; flags, types and help come from the dataclasses of the methods."""

import os

# A short spin, then sleep: full speed alone, and no thirtyfold slowdown beside another process. Before torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqforge import __version__, cli_chat, cli_data, cli_runs, cli_sweep, cli_turing, controls, options, seeds
from seqforge.models.kinds import GeneratorConfig
from seqforge.options import Parser
from seqforge.report.folder import read_folder
from seqforge.report.scores import verdict
from seqforge.settings import RunConfig, build
from seqforge.tables import out
from seqforge.training import METHODS, Interrupted, free_folder, has_controls, resume, train, write_report


def train_(argv: list[str]) -> int:
    """Train a generator: seqforge train METHOD --data FILE."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: seqforge train METHOD [options]\n\nmethods:")
        for name, (_, _, purpose) in METHODS.items():
            print(f"  {name:<20}{purpose}")
        print("\n`seqforge train METHOD --help` explains every option; `seqforge recipes` lists ready settings.")
        return 0 if argv else 2
    method = options.known(argv[0], list(METHODS), "method")
    if any(a.partition("=")[0] == "--seeds" for a in argv) and not {"-h", "--help"} & set(argv):
        return _train_seeds(method, argv[1:])
    values = options.parse_train(method, argv[1:]).as_dict()
    recipe, given, start = values.pop("recipe"), values.pop("out"), values.pop("from")
    values.pop("seeds")
    if values.pop("at_once"):
        raise ValueError("--at-once is for several seeds; give --seeds 1,2,3 with it")
    controlled = values.pop("with_controls")
    config, method_config = build(RunConfig, values), build(METHODS[method][0], values)
    if controlled:
        _check_controls(method, method_config, start)
    _warn_if_busy(config.threads)
    return _end(train(method, config, method_config, given, start, recipe, controlled))


def _check_controls(method: str, config: Any, start: object) -> None:
    """Raises ValueError, before anything is trained, for a run that its controls would refuse when it has ended."""
    controls.check(method, config, "--with-controls: ", start)
    if isinstance(config.generator, GeneratorConfig) and not config.mle.epochs:
        raise ValueError(
            "--with-controls: mle.epochs is 0, so that there is no pre-training to gain over or to tell MLE's time by; "
            "give --mle.epochs 1 or more, or leave --with-controls out"
        )


def _train_seeds(method: str, argv: list[str]) -> int:
    """The same training for each of --seeds, in one folder."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--seeds", "--at-once", "--out"):
        early.add_argument(name, nargs="?")
    args, rest = early.parse_known_args(argv)
    wanted, together = seeds.parse(args.seeds or ""), args.at_once or "0"
    if any(a.partition("=")[0] == "--seed" for a in rest):
        raise ValueError("--seed and --seeds exclude each other; give one of them")
    values = options.parse_train(method, [*rest, "--seed", str(wanted[0])]).as_dict()  # refused once, before any starts
    _, method_config = (build(cls, values) for cls in (RunConfig, METHODS[method][0]))
    if values["with_controls"]:
        _check_controls(method, method_config, values["from"])
    limit = seeds.at_once(int(together) if together.isdigit() else -1, len(wanted))
    folder = Path(args.out) if args.out else free_folder(f"{method}-seeds")
    seeds.begin(folder, method, rest, wanted)
    return _end_seeds(folder, limit)


def _end_seeds(folder: Path, limit: int) -> int:
    """Train what is left, compare, and write the page: of those seeds that came to their end where others failed, which
    the ValueError that it then raises names.
    """
    failed = None
    try:
        seeds.carry_out(folder, limit)
    except ValueError as e:
        failed = e
    except KeyboardInterrupt as e:
        raise Interrupted(f"interrupted; to go on: seqforge resume {folder}") from e
    runs, missing = seeds.scored(folder)
    cli_runs.warn(missing)
    if runs:
        cli_runs.show_comparison(runs)
    if any(has_controls(run) for run in runs):
        if stopped := [run.name for run in runs if read_folder(run).records[-1].get("stopped")]:
            cli_runs.warn([f"no null controls, since {', '.join(stopped)} stopped early"])
        elif failed is None:
            cli_runs.show_controls(folder)
        else:
            cli_runs.warn([f"the controls are told when all seeds have ended: seqforge resume {folder}"])
    if seeds.begun(folder)[0]:
        page = cli_runs.write_page([folder], folder / "report.html")
        out.print(f"runs {folder}/seed-*  report {page}", markup=False, soft_wrap=True)
    if failed is not None:
        raise failed
    return 0


def _warn_if_busy(threads: int) -> None:
    """Threads wait for the slowest of them at every step: beside other work two can take ten times as long as one."""
    cores = os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = max(1, cores - round(busy))
    if not threads and "OMP_NUM_THREADS" not in os.environ and free < cores <= 16:
        warnings.warn(
            f"{busy:.1f} of {cores} cores are busy; if they stay so, --threads {free} is faster", stacklevel=2
        )


def resume_(argv: list[str]) -> int:
    """Go on with a run that was cut off, bit for bit: seqforge resume RUN."""
    parser = Parser(prog="seqforge resume", description=resume_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    folder = parser.parse_args(argv).run
    if (folder / seeds.FILE).is_file():
        return _end_seeds(folder, seeds.at_once(0, len(seeds.runs_of(folder))))
    if resume(folder):
        return _end(folder)
    page = folder / "report.html"
    page = page if page.is_file() else write_report(folder)
    out.print(f"{folder} has finished; its report: {page}", markup=False, soft_wrap=True)
    return _controls(folder)


def _end(folder: Path) -> int:
    """The end of a run: its scores and verdict, or why there is none, why it was stopped if it was, its best checkpoint
    and where its report is; then its null controls where they were asked for.
    """
    read = read_folder(folder)
    cli_runs.show_scores(folder)
    if not read.scores["verdict"]:
        out.print(verdict(read), markup=False)
    end = read.records[-1]
    if "stopped" in end:
        out.print(f"stopped early: {end['stopped']}", markup=False, soft_wrap=True)
    if best := end.get("best"):
        told = f"best by validation {best['checkpoint']} ({best['score']} {best['value']:.4g})"
        out.print(told, markup=False, soft_wrap=True)
    page = folder / "report.html"
    out.print(f"run {folder}" + (f"  report {page}" if page.is_file() else ""), markup=False, soft_wrap=True)
    return _controls(folder)


def _controls(folder: Path) -> int:
    """Train, or go on with, the null controls of a run that ended, and show them; nothing where none were asked for.
    One that was stopped early has none: they would train longer.
    """
    if has_controls(folder) and read_folder(folder).records[-1].get("stopped"):
        out.print("stopped early, so that it has no null controls", markup=False)
        return 0
    try:
        return cli_runs.show_controls(folder) if has_controls(folder) else 0
    except Interrupted as e:  # of one of them
        raise Interrupted(f"interrupted; to go on: seqforge resume {folder}") from e


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train_,
    "resume": resume_,
    "sweep": cli_sweep.sweep_,
    "generate": cli_runs.generate_,
    "chat": cli_chat.chat_,
    "turing": cli_turing.turing_,
    "evaluate": cli_runs.evaluate_,
    "report": cli_runs.report_,
    "compare": cli_runs.compare_,
    "export": cli_runs.export_,
    "data": cli_data.data_,
    "score": cli_data.score_,
    "recipes": cli_runs.recipes_,
}


RESUME = "; `seqforge resume RUN` goes on from the last checkpoint"


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
        code = COMMANDS[options.known(argv[0], list(COMMANDS), "command")](argv[1:])
        sys.stdout.flush()  # here a closed pipe is handled, at Python's end it is not
        return code
    except Interrupted as e:
        print(f"\nseqforge: {e}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what reads the output (`| head`) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as e:
        print(f"seqforge: {options.one_line(str(e))}", file=sys.stderr)
        return 2
    except OSError as e:
        where = e.filename or " ".join(argv)  # a failed write names no file
        print(f"seqforge: {where}: {e.strerror or e}; check the path, its permissions and the disk's free space",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        trains = argv[0] in ("train", "resume", "sweep")
        print("\nseqforge: interrupted" + RESUME * trains, file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
