"""Several seeds of one experiment: a process each, in turn or side by side, in one folder, with one report.

A folder holds seeds.json (the seeds and the options they share), seed-N/ (the run of each), seed-N.log (what it said).
"""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

FILE = "seeds.json"


def parse(text: str) -> list[int]:
    """`1,2,3` -> seeds. Raises ValueError for what is no list of distinct numbers from 0 on."""
    words = [w.strip() for w in text.strip("[] ").split(",")]
    if not all(w.isdigit() for w in words) or len({int(w) for w in words}) < len(words):
        raise ValueError(f"--seeds is {text!r}, but must be distinct numbers from 0 on, such as 1,2,3")
    return [int(w) for w in words]


def at_once(wanted: int, seeds: int) -> int:
    """How many processes of one thread each: as many as cores are free, unless told. Raises ValueError below 0."""
    if wanted < 0:
        raise ValueError(f"--at-once is {wanted}, but must be 1 or more, or 0 for as many as cores are free")
    if wanted:
        return min(seeds, wanted)
    cores, busy = os.cpu_count() or 1, round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
    free = min(seeds, max(1, cores - busy))
    if free < (most := min(seeds, cores)):  # the load is a minute's mean: it may be of what has just ended
        warnings.warn(f"{busy} of {cores} cores are busy: {free} at once; --at-once {most} does not wait", stacklevel=2)
    return free


def begin(folder: Path, method: str, argv: list[str], seeds: list[int]) -> None:
    """A new folder for these seeds. Raises ValueError where it holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; choose another --out, or go on with it: seqforge resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"method": method, "seeds": seeds, "argv": argv, "cwd": str(Path.cwd())}
    part = folder / f".{FILE}.part"
    part.write_text(json.dumps(plan, indent=1))
    part.replace(folder / FILE)


def runs_of(folder: Path) -> list[Path]:
    """The run folder of each seed, there or not yet."""
    return [folder / f"seed-{s}" for s in read(folder)["seeds"]]


def begun(folder: Path) -> tuple[list[Path], list[str]]:
    """The runs of those seeds that have begun, and in a sentence each that others have not."""
    return _without(folder, _unbegun)


def scored(folder: Path) -> tuple[list[Path], list[str]]:
    """The runs of those seeds that have been scored at their end, and in a sentence each what others lack."""
    return _without(folder, _unscored)


def _without(folder: Path, lack_of: Callable[[Path], str | None]) -> tuple[list[Path], list[str]]:
    found, told = [], []
    for seed, run in zip(read(folder)["seeds"], runs_of(folder), strict=True):
        if lack := lack_of(run):
            told.append(f"Seed {seed} is missing: {lack}; to go on with it: seqforge resume {folder}")
        else:
            found.append(run)
    return found, told


def _unbegun(run: Path) -> str | None:
    return None if (run / "config.yaml").is_file() else f"there is no run in {run}"


def _unscored(run: Path) -> str | None:
    """What a run lacks to be compared. Scores that are damaged are for who reads them to tell."""
    if not (run / "scores.json").is_file():
        return _unbegun(run) or f"{run} has no scores.json"
    try:
        last = json.loads((run / "scores.json").read_text())["generators"][-1]["name"]
    except (ValueError, LookupError, TypeError):
        return None
    return None if last == "final" else f"{run} was scored before its end"


def read(folder: Path) -> dict:
    """The plan of a folder. Raises ValueError where it is damaged."""
    try:
        plan = json.loads((folder / FILE).read_text())
        return {name: plan[name] for name in ("method", "seeds", "argv", "cwd")}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{folder / FILE}: cannot be read ({e}); give the folders of its seeds one by one") from e


def carry_out(folder: Path, limit: int) -> None:
    """Train, or go on with, every seed; what has ended is passed over. Raises ValueError naming the seeds that failed,
    after the others have ended.
    """
    folder = folder.resolve()
    plan, running, failed = read(folder), {}, []
    waiting = [(seed, run) for seed, run in zip(plan["seeds"], runs_of(folder), strict=True)]
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                seed, run = waiting.pop(0)
                running[seed] = _start(plan, seed, run, limit)
                print(f"seed {seed}: {run} ({run.with_suffix('.log')})", file=sys.stderr)
            time.sleep(0.1)
            for seed, process in list(running.items()):
                if process.poll() is not None:
                    del running[seed]
                    print(f"seed {seed}: {'done' if not process.returncode else 'failed'}", file=sys.stderr)
                    failed += [seed] if process.returncode else []
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    if failed:
        log = folder / f"seed-{failed[0]}.log"
        last = log.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("seqforge: ")
        raise ValueError(f"seed {', '.join(map(str, failed))}: {last} ({log})")


def _start(plan: dict, seed: int, run: Path, limit: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "seqforge.cli"]
    if (run / "config.yaml").is_file():
        command += ["resume", str(run)]
    else:
        command += ["train", plan["method"], *plan["argv"], "--seed", str(seed), "--out", str(run)]
    alone = {} if limit == 1 else {"OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **alone}
    with run.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=plan["cwd"], env=environment)
