"""Quality over diversity: a generator's curve over its temperatures, and the area between two of them. No torch.

A temperature alone trades diversity for quality, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

# two-sided 95 % points of Student's t by degrees of freedom
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


class Axes(NamedTuple):
    """What a frontier is drawn over: names of scores; lower is more diverse; `sign` makes lower quality better."""

    diversity: str
    quality: str
    sign: int
    unit: str
    label: str


# by how much each tells: the true distribution, a judge that knows the grammar or which answers are right, a model of
# the text, n-grams
AXES = {
    "oracle": Axes("nll_test", "nll_oracle", 1, "nats per token", "NLL_oracle"),
    "grammar": Axes("nll_test", "grammatical", -1, "", "share of grammatical samples"),
    "replies": Axes("nll_test", "right", -1, "", "share of right replies"),
    "lm": Axes("reverse_lm3", "lm3", 1, "nats per token", "LM score (trigrams)"),
    "bleu": Axes("self_bleu4", "bleu4", -1, "", "BLEU-4"),
}
ORACLE = AXES["oracle"]
DIVERSITY = {"nll_test": "NLL_test", "reverse_lm3": "reverse LM score", "self_bleu4": "Self-BLEU-4"}


class Curve(NamedTuple):
    """A generator over its temperatures, by rising x: diversity x, quality y (lower is better), standard errors."""

    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray


def heat(temperature: float) -> str:
    """A temperature and its inverse, which some papers quote: "0.667 (1/T 1.5)"."""
    return f"{temperature:g}" + ("" if temperature == 1 else f" (1/T {1 / temperature:.3g})")


Points = dict[float, tuple[float, float, float, float]]  # temperature -> x, y, their standard errors


def points_of(scores: list[dict], axes: Axes = ORACLE) -> Points:
    """temperature -> diversity, quality (times the sign), their standard errors; only temperatures that have both."""
    by = {(s["name"], s["temperature"]): (s["value"], s["stderr"] or 0.0) for s in scores}
    temperatures = {t for name, t in by if name == axes.quality and (axes.diversity, t) in by}
    pairs = {t: (by[axes.diversity, t], by[axes.quality, t]) for t in temperatures}
    return {t: (test[0], axes.sign * oracle[0], test[1], oracle[1]) for t, (test, oracle) in pairs.items()}


def best_points(points: Points) -> Points:
    """The temperatures that a user would choose from: those that another beats on both counts are left out."""
    return {
        t: p for t, p in points.items() if not any(q[0] <= p[0] and q[1] < p[1] for q in points.values() if q is not p)
    }


def frontier(points: Points, grid: int = 400) -> Curve:
    """The curve over all temperatures between the best ones.

    Each score is a smooth function of log temperature, and cubic between the points. Joining points in the plane of the
    two scores instead would err by a tenth of a nat where NLL_test is near its lowest: the curve is steepest there.
    """
    best = sorted(best_points(points).items())
    if not best:
        return Curve(*(np.array([]) for _ in range(4)))
    values = np.array([p for _, p in best])  # (K,4)
    knots, at, weights = _cubic(tuple(t for t, _ in best), grid)
    x, y = (weights @ values[:, :2]).T
    order = np.lexsort((y, x))  # by rising x, only what lowers y
    lowest = np.minimum.accumulate(y[order])
    keep = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
    return Curve(x[keep], y[keep], *(np.interp(at[keep], knots, values[:, k]) for k in (2, 3)))


@lru_cache(256)
def _cubic(temperatures: tuple[float, ...], grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log temperatures (K,), places between them (G,), and the weights (G,K) that K values have at each place: Lagrange
    interpolation through the (up to) four around it.
    """
    knots = np.log(temperatures)
    at = np.union1d(knots, np.linspace(knots[0], knots[-1], grid))
    width = min(4, len(knots))
    first = np.clip(np.searchsorted(knots, at) - width // 2, 0, len(knots) - width)
    weights = np.zeros((len(at), len(knots)))
    for k in range(width):
        others = [first + j for j in range(width) if j != k]
        terms = [(at - knots[j]) / (knots[first + k] - knots[j]) for j in others]
        weights[np.arange(len(at)), first + k] = np.prod(terms, axis=0) if terms else 1.0
    return knots, at, weights


@dataclass(frozen=True)
class Gap:
    """A difference of NLL_oracle in nats per token (below 0: lower, better), its sampling error, and what it is."""

    value: float
    error: float
    kind: Literal["equal diversity", "better on both", "worse on both"]


def gap_at_one(scores: list[dict], against: list[dict], axes: Axes = ORACLE) -> Gap | None:
    """Quality of a generator as it is (temperature 1) less what a temperature makes of the other at that diversity.

    The error counts both scores of both generators. Beyond the curve's ends: the difference to the end if one beats the
    other on both counts, else None.
    """
    curve, point = frontier(points_of(against, axes)), points_of(scores, axes).get(1.0)
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
    return Gap(float(y - there), float(error), "equal diversity")


def gap_over_range(scores: list[dict], against: list[dict], axes: Axes = ORACLE) -> float | None:
    """`between` the curves of two lists of scores."""
    found = between(frontier(points_of(scores, axes)), frontier(points_of(against, axes)))
    return None if found is None else found.gap


class Between(NamedTuple):
    """The area between two curves over the diversity `low` to `high` that both reach, divided by that range."""

    gap: float
    low: float
    high: float


def between(mine: Curve, theirs: Curve, points: int = 101) -> Between | None:
    """Mean of quality(mine) - quality(theirs) over the diversity that both reach by a temperature (below 0: mine is
    better); None where they share none.
    """
    if not len(mine.x) or not len(theirs.x):
        return None
    low, high = max(mine.x[0], theirs.x[0]), min(mine.x[-1], theirs.x[-1])
    if low > high:
        return None
    grid = np.linspace(low, high, points)
    gap = float((np.interp(grid, mine.x, mine.y) - np.interp(grid, theirs.x, theirs.y)).mean())
    return Between(gap, float(low), float(high))


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
