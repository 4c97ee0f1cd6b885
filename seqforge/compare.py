"""Runs side by side: NLL_oracle at equal NLL_test, with intervals over seeds. Works on scores.json; no torch.

A temperature alone trades NLL_test for NLL_oracle, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml

# two-sided 95 % points of Student's t by degrees of freedom
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


class Curve(NamedTuple):
    """A generator over its temperatures, by rising NLL_test: NLL_test x, NLL_oracle y, their standard errors."""

    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray


def heat(temperature: float) -> str:
    """A temperature and its inverse, which some papers quote: "0.667 (1/T 1.5)"."""
    return f"{temperature:g}" + ("" if temperature == 1 else f" (1/T {1 / temperature:.3g})")


def points_of(scores: list[dict]) -> dict[float, tuple[float, float, float, float]]:
    """temperature -> NLL_test, NLL_oracle, their standard errors; only temperatures that have both."""
    by = {(s["name"], s["temperature"]): (s["value"], s["stderr"] or 0.0) for s in scores}
    temperatures = {t for name, t in by if name == "nll_oracle" and ("nll_test", t) in by}
    pairs = {t: (by["nll_test", t], by["nll_oracle", t]) for t in temperatures}
    return {t: (test[0], oracle[0], test[1], oracle[1]) for t, (test, oracle) in pairs.items()}


def best_points(scores: list[dict]) -> dict[float, tuple[float, float, float, float]]:
    """The temperatures that a user would choose from: those that another beats on both counts are left out."""
    points = points_of(scores)
    return {
        t: p for t, p in points.items() if not any(q[0] <= p[0] and q[1] < p[1] for q in points.values() if q is not p)
    }


def frontier(scores: list[dict], grid: int = 400) -> Curve:
    """The curve over all temperatures between the best ones.

    Each score is a smooth function of log temperature, and cubic between the points. Joining points in the plane of the
    two scores instead would err by a tenth of a nat where NLL_test is near its lowest: the curve is steepest there.
    """
    best = sorted(best_points(scores).items())
    if not best:
        return Curve(*(np.array([]) for _ in range(4)))
    knots, values = np.log([t for t, _ in best]), np.array([p for _, p in best])  # (K,), (K,4)
    at = np.union1d(knots, np.linspace(knots[0], knots[-1], grid))
    x, y = (_cubic(knots, values[:, k], at) for k in (0, 1))
    keep, lowest = [], math.inf
    for k in np.lexsort((y, x)):  # by rising NLL_test, only what lowers NLL_oracle
        if y[k] < lowest:
            keep.append(k)
            lowest = y[k]
    return Curve(x[keep], y[keep], *(np.interp(at[keep], knots, values[:, k]) for k in (2, 3)))


def _cubic(knots: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Lagrange interpolation through the (up to) four knots around each place."""
    width = min(4, len(knots))
    first = np.clip(np.searchsorted(knots, at) - width // 2, 0, len(knots) - width)
    out = np.zeros_like(at)
    for k in range(width):
        term = values[first + k].astype(float)
        for j in range(width):
            if j != k:
                term = term * (at - knots[first + j]) / (knots[first + k] - knots[first + j])
        out += term
    return out


@dataclass(frozen=True)
class Gap:
    """A difference of NLL_oracle in nats per token (below 0: lower, better), its sampling error, and what it is."""

    value: float
    error: float
    kind: Literal["equal NLL_test", "better on both", "worse on both"]


def gap_at_one(scores: list[dict], against: list[dict]) -> Gap | None:
    """NLL_oracle of a generator as it is (temperature 1) less what a temperature makes of the other at that NLL_test.

    The error counts both scores of both generators. Beyond the curve's ends: the difference to the end if one beats the
    other on both counts, else None.
    """
    curve, point = frontier(against), points_of(scores).get(1.0)
    if point is None or not len(curve.x):
        return None
    x, y, x_error, y_error = point
    if x < curve.x[0] or x > curve.x[-1]:
        end = 0 if x < curve.x[0] else -1
        gap, error = y - curve.y[end], math.hypot(y_error, curve.y_error[end])
        if (gap < 0) != (end == 0):
            return None
        return Gap(float(gap), error, "better on both" if end == 0 else "worse on both")
    there = np.interp(x, curve.x, curve.y)
    right = min(max(int(np.searchsorted(curve.x, x)), 1), len(curve.x) - 1)
    slope = np.diff(curve.y)[right - 1] / np.diff(curve.x)[right - 1] if len(curve.x) > 1 else 0.0
    sideways = slope * math.hypot(x_error, np.interp(x, curve.x, curve.x_error))
    error = math.hypot(y_error, np.interp(x, curve.x, curve.y_error), sideways)
    return Gap(float(y - there), float(error), "equal NLL_test")


def gap_over_range(scores: list[dict], against: list[dict], points: int = 101) -> float | None:
    """Mean of NLL_oracle(scores) - NLL_oracle(against) over the NLL_test that both reach by a temperature; None where
    they share none.
    """
    mine, theirs = frontier(scores), frontier(against)
    if not len(mine.x) or not len(theirs.x):
        return None
    low, high = max(mine.x[0], theirs.x[0]), min(mine.x[-1], theirs.x[-1])
    if low > high:
        return None
    grid = np.linspace(low, high, points)
    return float((np.interp(grid, mine.x, mine.y) - np.interp(grid, theirs.x, theirs.y)).mean())


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
        config, scores = (
            yaml.safe_load((run / "config.yaml").read_text()),
            json.loads((run / "scores.json").read_text()),
        )
        if not scores["generators"]:
            raise ValueError("it has no generator")
        return config, scores
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as e:
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
    """Per group of runs: each score at temperature 1, and the gaps to the group's own pre-trained generators; and the
    gaps between the first group and the others, paired by seed. All as mean and 95 % interval over seeds.

    Raises ValueError where two runs' signatures differ: other data, other sample counts, other temperatures.
    """
    groups: dict[str, dict[int, dict]] = {}
    reference: tuple[Path, set[str]] | None = None
    first: dict[str, dict] = {}
    for run in runs:
        config, scores = read_run(run)
        last = scores["generators"][-1]
        if last["name"] != "final":
            raise ValueError(
                f"{run} cannot be compared: it stopped at step {last['step']}; go on by: seqforge resume {run}"
            )
        final = last["scores"]
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
    pairs = {}
    for seed, scores in by_seed.items():
        generators = scores["generators"]
        for s in generators[-1]["scores"]:
            if s["temperature"] == 1.0:
                plain.setdefault(s["name"], []).append(s["value"])
        if len(generators) > 1:
            pairs[seed] = (generators[-1]["scores"], generators[0]["scores"])
    return {
        "seeds": sorted(by_seed),
        "scores": {name: mean_interval(values) for name, values in plain.items()},
        "to_pretrained": _both_gaps(pairs),
    }


def _both_gaps(pairs: dict[int, tuple[list[dict], list[dict]]]) -> dict:
    """Both gaps of each pair of scores, as mean and interval over the seeds that have one; those seeds are named."""
    ones = {seed: gap_at_one(*pair) for seed, pair in pairs.items()}
    ranges = {seed: gap_over_range(*pair) for seed, pair in pairs.items()}
    found = {
        "at_one": {seed: gap.value for seed, gap in ones.items() if gap is not None},
        "over_range": {seed: value for seed, value in ranges.items() if value is not None},
    }
    return {
        name: {"seeds": sorted(values), "gap": mean_interval(list(values.values())) if values else None}
        for name, values in found.items()
    }


def _gaps(groups: dict[str, dict[int, list[dict]]]) -> list[dict]:
    """The first group's generators less every other's, paired by seed."""
    names, out = list(groups), []
    for other in names[1:]:
        shared = sorted(groups[names[0]].keys() & groups[other].keys())
        pairs = {s: (groups[names[0]][s], groups[other][s]) for s in shared}
        out.append({"of": names[0], "against": other, **_both_gaps(pairs)})
    return out
