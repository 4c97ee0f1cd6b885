"""Variants of a recipe, each with several seeds, and the table of what they came to: seqforge sweep NAME.

A sweep is a YAML file: `purpose`, `time`, `recipe` (what all share), `seeds`, `options` (over the recipe's) and
`variants`: a name for each and what it changes, on top; `recipe` and `from` (another variant, whose pre-training it
takes over) among it. `grid` makes a cell of every combination of its axes, each a name and options for every value;
all variants are run in every cell. `versus` names the variant that the others are held to, at equal diversity, there.
Every run is an ordinary run folder, OUT/VARIANT-SEED or OUT/CELL/VARIANT-SEED.
"""

import csv
import difflib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqforge import recipes, verdict
from seqforge.compare import check_alike, mean_interval, read_run
from seqforge.frontier import AXES, heat, points_of
from seqforge.report.folder import read_scores

_HERE = Path(recipes.__file__).parent / "sweeps"
KEYS = ("purpose", "time", "recipe", "seeds", "options", "variants", "grid", "versus")
NO_WORD = "no verdict"
Cell = tuple[str, ...]  # a value's name for each axis of the grid


class Trial(NamedTuple):
    """One run of a sweep: what `seqforge train` is to do."""

    variant: str
    seed: int
    folder: Path
    argv: list[str]
    cell: Cell = ()


def names() -> list[str]:
    """The shipped sweeps."""
    return sorted(p.stem for p in _HERE.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """A shipped sweep, or a file of the user's own. Raises ValueError naming what is wrong with it."""
    path = _HERE / f"{name}.yaml"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else f" (shipped: {', '.join(names())})"
        raise ValueError(f"no sweep {name!r}, shipped or file{hint}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"sweep {path}: not readable as YAML ({e})") from e
    if not isinstance(found, dict) or not isinstance(found.get("variants"), dict):
        raise ValueError(f"sweep {path}: needs `recipe: NAME` and `variants:` with a name and options each")
    _check(found, path)
    return {"seeds": [1, 2, 3], "grid": {}, "versus": None, **found}


def _check(found: dict[str, Any], path: Path) -> None:
    """Raises ValueError for what makes no sense in a sweep."""
    for key in found.keys() - set(KEYS):
        raise ValueError(f"sweep {path}: unknown key {key}; there are {', '.join(KEYS)}")
    for variant, options in found["variants"].items():
        _check_word("variant", variant, options, path)
        if "recipe" not in found and "recipe" not in (options or {}):
            raise ValueError(f"sweep {path}: variant {variant} has no recipe; give `recipe: NAME` there or for all")
        if (options or {}).get("from", variant) not in found["variants"]:
            raise ValueError(f"sweep {path}: variant {variant} is from {options['from']!r}, which is no variant")
    for axis, values in (found.get("grid") or {}).items():
        if not isinstance(values, dict) or not values:
            raise ValueError(f"sweep {path}: grid axis {axis!r} must hold a name and options for every value")
        for name, options in values.items():
            _check_word(f"{axis} value", name, options, path)
    if found.get("versus") is not None and found["versus"] not in found["variants"]:
        raise ValueError(f"sweep {path}: versus is {found['versus']!r}, which is no variant")


def _check_word(what: str, name: Any, options: Any, path: Path) -> None:
    if not isinstance(options or {}, dict) or not all(c.isalnum() or c in "-_." for c in str(name)):
        raise ValueError(f"sweep {path}: {what} {name!r} must be a plain word with a mapping of options")


def cells_of(sweep: dict[str, Any]) -> list[tuple[Cell, dict[str, Any]]]:
    """Every combination of the grid's values with their options; one without a name where there is no grid."""
    axes = [[(str(name), options or {}) for name, options in values.items()] for values in sweep["grid"].values()]
    found = []
    for chosen in itertools.product(*axes):
        options: dict[str, Any] = {}
        for _, more in chosen:
            options |= flat(more)
        found.append((tuple(name for name, _ in chosen), options))
    return found


def trials(
    sweep: dict[str, Any], out: Path, seeds: Sequence[int], variants: Sequence[str], more: list[str]
) -> list[Trial]:
    """All runs, seed by seed and cell by cell, so that a sweep that is cut short has every cell and variant. What a
    variant starts from comes before it. more: options for each of them, but for what a variant itself is about.
    """
    unknown = set(variants) - sweep["variants"].keys()
    if unknown:
        raise ValueError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(sweep['variants'])}")
    chosen = needed(sweep, variants)
    found = []
    for seed, (cell, options), variant in itertools.product(seeds, cells_of(sweep), chosen):
        own = dict(sweep["variants"][variant] or {})
        recipe, start = own.pop("recipe", sweep.get("recipe")), own.pop("from", None)
        folder = out / "_".join(cell)
        argv = [recipes.read(recipe)["method"], "--recipe", recipe]
        common = {**flat(sweep.get("options") or {}), **options}
        argv += [*_given(common), *more, *_given(flat(own)), "--seed", str(seed)]
        argv += [f"--from={folder / f'{start}-{seed}'}"] if start else []
        found.append(Trial(str(variant), seed, folder / f"{variant}-{seed}", argv, cell))
    return found


def needed(sweep: dict[str, Any], variants: Sequence[str]) -> list[str]:
    """The variants chosen (none: all), with what they are held to and what they start from, in the sweep's order."""
    wanted = set(variants or sweep["variants"]) | ({sweep["versus"]} if sweep["versus"] else set())
    while more := {(sweep["variants"][v] or {}).get("from", v) for v in wanted} - wanted:
        wanted |= more
    return [v for v in sweep["variants"] if v in wanted]


def _given(values: dict[str, Any]) -> list[str]:
    """Options as on a command line."""
    return [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {"a.b": 1}."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def finished(trial: Trial) -> bool:
    """Trained to its end and scored there; a run that was scored on the way is not."""
    return bool(final_scores(trial))


def remember(planned: Sequence[Trial], out: Path) -> None:
    """Write to OUT/sweep.json what each run is told to do. Raises ValueError where a run that has begun was told
    something else: its figures are not those of this sweep.
    """
    path = out / "sweep.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for trial in planned:
        name = trial.folder.relative_to(out).as_posix()
        start = "--from="  # the run's name is enough: where it lies is where this sweep does
        argv = [start + Path(a.removeprefix(start)).name if a.startswith(start) else a for a in trial.argv]
        before = told.setdefault(name, argv)
        if before != argv and (trial.folder / "config.yaml").is_file():
            odd = " ".join(a for a in [*before, *argv] if (a in before) != (a in argv)) or "their order"
            raise ValueError(
                f"{trial.folder}: was begun with other options ({odd}); choose another --out, or remove it"
            )
        told[name] = argv
    part = out / ".sweep.json.part"
    part.write_text(json.dumps(told, indent=0), encoding="utf-8")
    part.replace(path)


def carry_out(planned: Sequence[Trial], threads: int, at_once: int = 1) -> Iterator[Trial]:
    """Train what has not finished, or go on with it; yields each as it ends. `at_once` processes side by side; one of
    them makes all runs of a cell and seed in turn where some start from others. Raises ValueError where one fails.
    """
    linked = any(a.startswith("--from=") for trial in planned for a in trial.argv)
    jobs: dict[Any, list[Trial]] = {}
    for trial in planned:
        jobs.setdefault((trial.cell, trial.seed) if linked else trial.folder, []).append(trial)
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(_make, job, threads if at_once == 1 else 1) for job in jobs.values()]
        try:
            for one in as_completed(running):
                yield from one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make(job: list[Trial], threads: int) -> list[Trial]:
    """One process for all its runs, since to load torch takes longer than a small one."""
    commands = [_command(trial, threads) for trial in job if not finished(trial)]
    if not commands:
        return job
    quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"} if threads else None
    process = [sys.executable, "-m", "seqforge.cli_sweep"]
    code = subprocess.run(process, input=json.dumps(commands), text=True, env=quiet, stdout=subprocess.DEVNULL)
    if code.returncode in (130, -2):
        raise KeyboardInterrupt
    if code.returncode:
        failed = next(trial for trial in job if not finished(trial))
        raise ValueError(f"{failed.folder}: ended with {code.returncode}; the same sweep again goes on there")
    return job


def _command(trial: Trial, threads: int) -> list[str]:
    if (trial.folder / "config.yaml").is_file():
        return ["resume", str(trial.folder)]
    return ["train", *trial.argv, *(["--threads", str(threads)] if threads else []), "--out", str(trial.folder)]


def table(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row a cell, variant, temperature and score of the final generators: mean, half its 95 % interval over seeds,
    runs.
    """
    values: dict[tuple[Cell, str, float, str], list[float]] = {}
    for trial in done:
        for s in final_scores(trial):
            values.setdefault((trial.cell, trial.variant, s["temperature"], s["name"]), []).append(s["value"])
    rows = []
    for (cell, variant, temperature, name), found in values.items():
        mean, half = mean_interval(found)
        facts = {"cell": "_".join(cell), "variant": variant, "temperature": temperature, "score": name}
        rows.append({**facts, "mean": mean, "half_interval": half, "runs": len(found)})
    return rows


def final_scores(trial: Trial) -> list[dict]:
    """Those of the run's last generator; none where it has not ended."""
    scores, _ = read_scores(trial.folder / "scores.json")
    return next((g["scores"] for g in scores.get("generators", []) if g["name"] == "final"), [])


class Held(NamedTuple):
    """A variant held to `versus` in one cell: judged over the seeds of which each pair shares a range of diversity;
    judgement None where none does; shared of `seeds` pairs.
    """

    cell: Cell
    variant: str
    judgement: verdict.Judgement | None
    shared: int
    seeds: int

    @property
    def word(self) -> str:
        """Of one seed of several there is none: the others may say otherwise."""
        return NO_WORD if self.judgement is None or self.shared == 1 < self.seeds else self.judgement.word


def verdicts(done: Sequence[Trial], versus: str) -> list[Held]:
    """Every cell's and variant's verdict against `versus`, on the most telling frontier, paired by seed."""
    by = {(t.cell, t.variant, t.seed): t for t in done}
    found = []
    for cell, variant in dict.fromkeys((t.cell, t.variant) for t in done if t.variant != versus):
        pairs = [(t, by.get((cell, versus, t.seed))) for t in done if (t.cell, t.variant) == (cell, variant)]
        each = [_judged(mine, theirs) for mine, theirs in pairs if theirs is not None]
        told = [j for j in each if j is not None]
        whole = verdict.over_seeds(told) if len(told) > 1 else next(iter(told), None)
        found.append(Held(cell, variant, whole, len(told), len(each)))
    return found


def _judged(mine: Trial, theirs: Trial) -> verdict.Judgement | None:
    scores = [final_scores(t) for t in (mine, theirs)]
    for trial in (mine, theirs):
        read_run(trial.folder)  # says what is missing
    name = next((n for n, axes in AXES.items() if all(points_of(s, axes) for s in scores)), None)
    if name is None:
        return None
    check_alike(theirs.folder, scores[1], mine.folder, scores[0], (AXES[name].diversity, AXES[name].quality))
    draws = [verdict.load_draws(t.folder / verdict.FILE, "final") for t in (mine, theirs)]
    return verdict.judge(name, scores[0], scores[1], *draws)


def markdown(rows: Sequence[dict[str, Any]], shown: Sequence[str], temperature: float = 1.0) -> str:
    """The scores `shown`, a column each, at one temperature; the mean and half its interval."""
    cells: dict[str, dict[str, str]] = {}
    for r in rows:
        if r["temperature"] == temperature:
            spread = "" if r["half_interval"] is None else f" ± {r['half_interval']:.3f}"
            name = f"{r['cell']} {r['variant']}".strip()
            cells.setdefault(name, {})[r["score"]] = f"{r['mean']:.3f}{spread}"
    columns = [name for name in shown if any(name in c for c in cells.values())]
    lines = [f"| temperature {heat(temperature)} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {v} | {' | '.join(c.get(name, '') for name in columns)} |" for v, c in cells.items()]
    return "\n".join(lines) + "\n"


def verdict_table(held: Sequence[Held], versus: str) -> str:
    """A row a cell, a column a variant, or without a grid a row a variant: the word, and the gap with half its
    interval; below 0 is better.
    """
    if all(h.cell == () for h in held):
        lines = [f"| held to {versus} | verdict |", "|---|---|", *(f"| {h.variant} | {told(h)} |" for h in held)]
        return "\n".join(lines) + "\n"
    variants = list(dict.fromkeys(h.variant for h in held))
    cells: dict[Cell, dict[str, str]] = {}
    for h in held:
        cells.setdefault(h.cell, {})[h.variant] = told(h)
    lines = [f"| held to {versus} | {' | '.join(variants)} |", "|---" * (len(variants) + 1) + "|"]
    lines += [f"| {' '.join(c)} | {' | '.join(row.get(v, '') for v in variants)} |" for c, row in cells.items()]
    return "\n".join(lines) + "\n"


def told(h: Held) -> str:
    """Such as "beats: -0.120 ± 0.030"; of one seed the error is that of its samples, and said to be."""
    if h.judgement is None:
        return "no range shared"
    few = [] if h.shared == h.seeds else [f"{h.shared} of {h.seeds} seeds"]
    few += ["sampling error of one seed"] if h.judgement.by != "seeds" else []
    half = (h.judgement.high - h.judgement.low) / 2
    note = f" ({', '.join(few)})" if few else ""
    return f"{h.word.removesuffix(' with').removesuffix(' to')}: {h.judgement.gap:+.3f} ± {half:.3f}{note}"


def write(out: Path, rows: Sequence[dict[str, Any]], text: str, held: Sequence[Held] = ()) -> None:
    """OUT/sweep.csv with all scores, OUT/verdicts.csv where something was judged, OUT/sweep.md with the tables."""
    scores = ["cell", "variant", "temperature", "score", "mean", "half_interval", "runs"]
    _write_csv(out / "sweep.csv", scores, rows)
    if held:
        judged = [
            {"cell": "_".join(h.cell), "variant": h.variant, "seeds": h.seeds, "shared": h.shared}
            | (h.judgement.as_dict() | {"word": h.word} if h.judgement else {})
            for h in held
        ]
        columns = ["cell", "variant", "seeds", "shared", *verdict.Judgement.__dataclass_fields__]
        _write_csv(out / "verdicts.csv", columns, judged)
    (out / "sweep.md").write_text(text, encoding="utf-8")


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
