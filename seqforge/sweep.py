"""Variants of a recipe, each with several seeds, and the table of what they came to: seqforge sweep NAME.

A sweep is a YAML file: `purpose`, `time`, `recipe` (what all share), `seeds`, `options` (over the recipe's) and
`variants`: a name for each and what it changes, on top. Every run is an ordinary run folder, OUT/VARIANT-SEED.
"""

import csv
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqforge import recipes
from seqforge.compare import mean_interval
from seqforge.frontier import heat
from seqforge.report.folder import read_scores

_HERE = Path(recipes.__file__).parent / "sweeps"
KEYS = ("purpose", "time", "recipe", "seeds", "options", "variants")


class Trial(NamedTuple):
    """One run of a sweep: what `seqforge train` is to do."""

    variant: str
    seed: int
    folder: Path
    argv: list[str]


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
    if not isinstance(found, dict) or not isinstance(found.get("variants"), dict) or "recipe" not in found:
        raise ValueError(f"sweep {path}: needs `recipe: NAME` and `variants:` with a name and options each")
    for key in found.keys() - set(KEYS):
        raise ValueError(f"sweep {path}: unknown key {key}; there are {', '.join(KEYS)}")
    for variant, options in found["variants"].items():
        if not isinstance(options or {}, dict) or not all(c.isalnum() or c in "-_." for c in str(variant)):
            raise ValueError(f"sweep {path}: variant {variant!r} must be a plain word with a mapping of options")
    return {"seeds": [1, 2, 3], **found}


def trials(sweep: dict[str, Any], out: Path, seeds: Sequence[int], variants: Sequence[str], more: list[str]):
    """All runs, seed by seed, so that a sweep that is cut short has every variant; `more`: options for each of them."""
    unknown = set(variants) - sweep["variants"].keys()
    if unknown:
        raise ValueError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(sweep['variants'])}")
    method = recipes.read(sweep["recipe"])["method"]
    found = []
    for seed in seeds:
        for variant in variants or sweep["variants"]:
            values = {**flat(sweep.get("options") or {}), **flat(sweep["variants"][variant] or {})}
            chosen = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
            argv = [method, "--recipe", sweep["recipe"], *chosen, *more, "--seed", str(seed)]
            found.append(Trial(str(variant), seed, out / f"{variant}-{seed}", argv))
    return found


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {"a.b": 1}."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def carry_out(trial: Trial, threads: int) -> None:
    """Train it, or go on with it, or nothing where it has finished. Raises ValueError where its process fails."""
    if (trial.folder / "scores.json").is_file():
        return
    begun = (trial.folder / "config.yaml").is_file()
    options = [*trial.argv, *(["--threads", str(threads)] if threads else []), "--out", str(trial.folder)]
    command = ["resume", str(trial.folder)] if begun else ["train", *options]
    quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"} if threads else None
    code = subprocess.run([sys.executable, "-m", "seqforge.cli", *command], env=quiet, stdout=subprocess.DEVNULL)
    if code.returncode == 130:
        raise KeyboardInterrupt
    if code.returncode:
        raise ValueError(
            f"{trial.folder}: {command[0]} ended with {code.returncode}; the same sweep again goes on there"
        )


def table(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row a variant, temperature and score of the final generators: mean, half its 95 % interval over seeds, runs."""
    values: dict[tuple[str, float, str], list[float]] = {}
    for trial in done:
        scores, _ = read_scores(trial.folder / "scores.json")
        final = next((g for g in scores.get("generators", []) if g["name"] == "final"), {"scores": []})
        for s in final["scores"]:
            values.setdefault((trial.variant, s["temperature"], s["name"]), []).append(s["value"])
    rows = []
    for (variant, temperature, name), found in values.items():
        mean, half = mean_interval(found)
        facts = {"variant": variant, "temperature": temperature, "score": name}
        rows.append({**facts, "mean": mean, "half_interval": half, "runs": len(found)})
    return rows


def markdown(rows: Sequence[dict[str, Any]], shown: Sequence[str], temperature: float = 1.0) -> str:
    """The scores `shown`, a column each, at one temperature; the mean and half its interval."""
    cells: dict[str, dict[str, str]] = {}
    for r in rows:
        if r["temperature"] == temperature:
            spread = "" if r["half_interval"] is None else f" ± {r['half_interval']:.3f}"
            cells.setdefault(r["variant"], {})[r["score"]] = f"{r['mean']:.3f}{spread}"
    columns = [name for name in shown if any(name in c for c in cells.values())]
    lines = [f"| temperature {heat(temperature)} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {v} | {' | '.join(c.get(name, '') for name in columns)} |" for v, c in cells.items()]
    return "\n".join(lines) + "\n"


def write(out: Path, rows: Sequence[dict[str, Any]], text: str) -> None:
    """OUT/sweep.csv with all rows, OUT/sweep.md with the table."""
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, ["variant", "temperature", "score", "mean", "half_interval", "runs"])
        writer.writeheader()
        writer.writerows(rows)
    (out / "sweep.md").write_text(text, encoding="utf-8")
