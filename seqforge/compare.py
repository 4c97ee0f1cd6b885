"""Runs side by side: NLL_oracle at equal NLL_test, with intervals over seeds. Works on scores.json; no torch.

A temperature alone trades NLL_test for NLL_oracle, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

# two-sided 95 % points of Student's t by degrees of freedom
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


def frontier(scores: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NLL_test, NLL_oracle and the latter's standard error over the temperatures, by rising NLL_test."""
    by = {(s["name"], s["temperature"]): s for s in scores}
    temperatures = sorted({t for name, t in by if name == "nll_oracle" and ("nll_test", t) in by})
    rows = [
        (by["nll_test", t]["value"], by["nll_oracle", t]["value"], by["nll_oracle", t]["stderr"] or 0.0)
        for t in temperatures
    ]
    rows.sort()
    x, y, e = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.array([]),) * 3
    return _falling(x, y, e)


def _falling(x: np.ndarray, y: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a curve that a user would choose from: points that another beats on both counts are left out."""
    keep = [i for i in range(len(x)) if not any(x[j] <= x[i] and y[j] < y[i] for j in range(len(x)) if j != i)]
    return x[keep], y[keep], e[keep]


def at_equal_diversity(scores: list[dict], against: list[dict], points: int = 101) -> tuple[float, float] | None:
    """Mean of NLL_oracle(scores) - NLL_oracle(against) over the NLL_test that both reach, and its sampling error.

    Both curves are linear between their temperatures. Where they share no range: the difference at the ends that face
    each other if the curve of higher NLL_test has the higher NLL_oracle too, else None: neither beats the other.
    """
    (x1, y1, e1), (x0, y0, e0) = frontier(scores), frontier(against)
    if not len(x1) or not len(x0):
        return None
    low, high = max(x1[0], x0[0]), min(x1[-1], x0[-1])
    if low > high:
        i, j = (0, -1) if x1[0] > x0[-1] else (-1, 0)
        gap, right_is_ours = y1[i] - y0[j], i == 0
        dominated = gap > 0 if right_is_ours else gap < 0
        return (float(gap), float(np.hypot(e1[i], e0[j]))) if dominated else None
    grid = np.linspace(low, high, points)
    gap = np.interp(grid, x1, y1) - np.interp(grid, x0, y0)
    error = np.hypot(np.interp(grid, x1, e1), np.interp(grid, x0, e0))
    return float(gap.mean()), float(error.mean())


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % interval over seeds (Student's t); None for one value."""
    if len(values) < 2:
        return values[0], None
    t = _T95.get(len(values) - 1) or _t95(len(values) - 1)
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))


def _t95(df: int) -> float:
    """The same point by its expansion in 1/df (Abramowitz and Stegun 26.7.5), for more than ten degrees of freedom."""
    z = 1.959964
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / df**k for k, term in enumerate(terms, 1))


def read_run(run: Path) -> tuple[dict, dict]:
    """config and scores of a finished run. Raises ValueError naming what is missing and how to make it."""
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: not a run folder (no config.yaml in it)")
    if not (run / "scores.json").is_file():
        raise ValueError(f"{run}: no scores.json yet; make it by: seqforge evaluate {run}")
    try:
        return yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "scores.json").read_text())
    except (ValueError, yaml.YAMLError) as e:
        raise ValueError(f"{run / 'scores.json'} or config.yaml: {e}; make it anew by: seqforge evaluate {run}") from e


# what may differ between the seeds of one experiment
_OWN = {"seed", "from", "recipe", "seqforge", "threads", "device", "tensorboard", "checkpoint", "evaluate"}


def settings_of(config: dict, prefix: str = "") -> dict[str, object]:
    """The options of a run that make it another experiment, as flat keys."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if prefix or key not in _OWN:
            flat |= settings_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def group_of(config: dict, first: dict[str, dict]) -> str:
    """What a run is called in a table: its method and reward, and what else sets it apart from the first so called."""
    reward = config.get("reward")
    name = f"{config['method']}, {reward} reward" if reward else str(config["method"])
    mine, theirs = settings_of(config), first.setdefault(name, settings_of(config))
    apart = [f"{k} {mine.get(k)}" for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    return f"{name} ({', '.join(apart)})" if apart else name


def facts_of(scores: list[dict]) -> set[str]:
    """The signatures of a generator's scores."""
    return {s["signature"] for s in scores}


def compare(runs: Sequence[Path]) -> dict:
    """Per group of runs: each score at temperature 1, and the gap to the group's own pre-trained generators at equal
    NLL_test, as mean and 95 % interval over seeds; and the gaps between the groups, paired by seed.

    Raises ValueError where two runs' signatures differ: other data, other sample counts, other temperatures.
    """
    groups: dict[str, dict[int, dict]] = {}
    reference: tuple[Path, set[str]] | None = None
    first: dict[str, dict] = {}
    for run in runs:
        config, scores = read_run(run)
        final = scores["generators"][-1]["scores"]
        if reference is None:
            reference = (run, facts_of(final))
        elif facts_of(final) != reference[1]:
            a, b = min(reference[1] - facts_of(final), default="-"), min(facts_of(final) - reference[1], default="-")
            raise ValueError(f"{reference[0]} and {run} cannot be compared: {a} against {b}")
        name = group_of(config, first)
        group = groups.setdefault(name, {})
        if config["seed"] in group:
            raise ValueError(f"{run}: a second run of {name} with seed {config['seed']}")
        group[config["seed"]] = scores
    return {
        "groups": {name: _summary(by_seed) for name, by_seed in groups.items()},
        "gaps": _gaps({name: {k: v["generators"][-1]["scores"] for k, v in g.items()} for name, g in groups.items()}),
    }


def _summary(by_seed: dict[int, dict]) -> dict:
    plain: dict[str, list[float]] = {}
    gaps = []
    for scores in by_seed.values():
        generators = scores["generators"]
        for s in generators[-1]["scores"]:
            if s["temperature"] == 1.0:
                plain.setdefault(s["name"], []).append(s["value"])
        gap = at_equal_diversity(generators[-1]["scores"], generators[0]["scores"]) if len(generators) > 1 else None
        if gap is not None:
            gaps.append(gap[0])
    return {
        "seeds": sorted(by_seed),
        "scores": {name: mean_interval(values) for name, values in plain.items()},
        "gap_to_pretrained": mean_interval(gaps) if gaps else None,
    }


def _gaps(groups: dict[str, dict[int, list[dict]]]) -> list[dict]:
    """NLL_oracle of the first group less every other's at equal NLL_test, paired by seed."""
    names, out = list(groups), []
    for other in names[1:]:
        shared = sorted(groups[names[0]].keys() & groups[other].keys())
        found = [at_equal_diversity(groups[names[0]][s], groups[other][s]) for s in shared]
        values = [f[0] for f in found if f is not None]
        out.append(
            {"of": names[0], "against": other, "seeds": shared, "gap": mean_interval(values) if values else None}
        )
    return out
