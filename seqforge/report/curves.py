"""Log records -> the curves and phases that the pictures draw and the tables list."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from seqforge.report.folder import number

# The order a reader looks in: quality first, then the fight with the discriminator, then the health of the training.
ORDER = ["nll_oracle", "nll_test", "nll_valid", "nll_train", "reward_mean", "d_accuracy", "d_loss"]
ORDER += ["entropy", "gradient_norm"]
BOOKKEEPING = {
    "step",
    "seconds",
    "epoch",
    "round",
    "tokens",
    "tokens_per_second",
    "d_unseen",
}  # tell of the clock, not of learning
# Of what an evaluator beside the training measures; the rest is in evaluations.csv.
BESIDE = ["nll_valid", "nll_oracle", "grammatical", "fed", "bleu4", "self_bleu4", "reverse_bleu4"]
BESIDE += ["lm3", "reverse_lm3", "lm_score", "reverse_lm", "p_train", "p_valid", "p_generated"]
HEALTH = ("nll_valid", "repeated", "length")  # at the looks of the health watch; its entropy is an evaluation score
MOST_CURVES = 24  # a page of more is not read, and would outgrow its size
MOST_DRAWN = 400  # points; more cannot be told apart in a panel
MOST_LISTED = 200  # rows of a curve's table


class Point(NamedTuple):
    step: int
    value: float
    stderr: float | None = None


class Drawn(NamedTuple):
    step: float
    value: float
    low: float
    high: float


class Phase(NamedTuple):
    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Curve:
    name: str
    source: str  # "evaluation", "beside" (a checkpoint scored against the validation set), "health" or "train"
    unit: str
    points: list[Point]  # by step, one a step
    signatures: tuple[str, ...] = ()
    not_finite: int = 0

    def notes(self) -> list[str]:
        """What a reader must know before believing the picture."""
        told = []
        if len(self.points) > MOST_DRAWN:
            size = math.ceil(len(self.points) / MOST_DRAWN)
            told.append(f"Each drawn point is the mean of {size} records; the band is their range.")
        elif any(point.stderr for point in self.points):
            told.append("The band is ± one standard error.")
        if len(self.signatures) > 1:
            told.append("The signature changes along the curve, so its points do not all compare.")
        if self.not_finite:
            told.append(f"{self.not_finite} value(s) are not finite numbers and are left out.")
        return told


def read_curves(
    records: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None
) -> tuple[list[Curve], list[str]]:
    """All curves in reading order, and the names of those that found no place."""
    logged = [*train_curves(records, "health", HEALTH), *train_curves(records)]
    curves = [*evaluation_curves(records), *beside_curves(evaluations or []), *logged]
    sources = ["evaluation", "beside", "train", "health"]
    drawn = sorted((c for c in curves if c.points), key=lambda c: (sources.index(c.source), rank(c)))
    left_out = [f"{c.name} ({c.source})" for c in drawn[MOST_CURVES:]]
    left_out += [f"{c.name} ({c.source}, no finite value)" for c in curves if not c.points]
    return drawn[:MOST_CURVES], left_out


def rank(curve: Curve) -> int:
    order = BESIDE if curve.source == "beside" else ORDER
    return order.index(curve.name) if curve.name in order else len(order)


def evaluation_curves(records: list[dict[str, Any]]) -> list[Curve]:
    series: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for record in records:
        scores = record.get("scores")
        if record["kind"] == "evaluation" and isinstance(scores, dict):
            for name, score in scores.items():
                series.setdefault(name, []).append((record["step"], score if isinstance(score, dict) else {}))
    return [evaluation_curve(name, scores) for name, scores in series.items()]


def beside_curves(evaluations: list[dict[str, Any]]) -> list[Curve]:
    """Of the results that `seqforge evaluate RUN --watch` wrote."""
    series: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for result in evaluations:
        scores = {s["name"]: s for s in result.get("scores", [])}
        scores |= {name: {"value": p} for name, p in result.get("discriminator", {}).items()}
        for name in BESIDE:
            if name in scores:
                series.setdefault(name, []).append((result["step"], scores[name]))
    return [dataclasses.replace(evaluation_curve(name, found), source="beside") for name, found in series.items()]


def evaluation_curve(name: str, scores: list[tuple[int, dict[str, Any]]]) -> Curve:
    values = [(step, score.get("value"), score.get("stderr")) for step, score in scores]
    points, not_finite = to_points(values)
    unit = next((str(score["unit"]) for _, score in scores if score.get("unit")), "")
    signatures = dict.fromkeys(str(score["signature"]) for _, score in scores if score.get("signature"))
    return Curve(name, "evaluation", unit, points, tuple(signatures), not_finite)


def train_curves(
    records: list[dict[str, Any]], kind: str = "train", only: tuple[str, ...] | None = None
) -> list[Curve]:
    """A curve for each figure of the records of a kind, or for those of its figures alone."""
    series: dict[str, list[tuple[int, Any, None]]] = {}
    for record in records:
        for name, value in record.items() if record["kind"] == kind else ():
            # true and false are flags, not measurements; null is a measurement that failed
            if (
                name not in BOOKKEEPING
                and (only is None or name in only)
                and not isinstance(value, bool | str | list | dict)
            ):
                series.setdefault(name, []).append((record["step"], value, None))
    return [train_curve(name, values, kind) for name, values in series.items()]


def train_curve(name: str, values: list[tuple[int, Any, None]], source: str = "train") -> Curve:
    points, not_finite = to_points(values)
    return Curve(name, source, "", points, not_finite=not_finite)


def to_points(values: list[tuple[int, Any, Any]]) -> tuple[list[Point], int]:
    """Of two records at one step the later counts: a resumed run repeats what the crash had already logged."""
    latest = {step: (value, stderr) for step, value, stderr in values}
    points = [Point(s, v, number(e)) for s, (v, e) in sorted(latest.items()) if number(v) is not None]
    return points, len(latest) - len(points)


def read_phases(records: list[dict[str, Any]]) -> list[Phase]:
    """A phase lasts from its first record to the first of the next; the turns within one are not told apart."""
    steps = [(r["step"], r["phase"]) for r in records if r["kind"] in ("train", "evaluation")]
    first: dict[str, int] = {}
    for step, name in sorted(steps, key=lambda pair: pair[0]):
        first.setdefault(name, step)
    ends = [*list(first.values())[1:], max((step for step, _ in steps), default=0)]
    return [Phase(name, start, end) for (name, start), end in zip(first.items(), ends, strict=False)]


def drawn_points(points: list[Point]) -> list[Drawn]:
    """At most MOST_DRAWN points: a long curve is drawn as means of neighbours, with their range for a band."""
    if len(points) <= MOST_DRAWN:
        return [Drawn(p.step, p.value, p.value - (p.stderr or 0), p.value + (p.stderr or 0)) for p in points]
    size = math.ceil(len(points) / MOST_DRAWN)
    return [mean_point(points[at : at + size]) for at in range(0, len(points), size)]


def mean_point(points: list[Point]) -> Drawn:
    values = [point.value for point in points]
    step = sum(point.step for point in points) / len(points)
    return Drawn(step, sum(values) / len(values), min(values), max(values))


def listed_points(points: list[Point]) -> list[Point]:
    """At most MOST_LISTED points, evenly spaced, the first and the last among them."""
    if len(points) <= MOST_LISTED:
        return points
    stride = (len(points) - 1) / (MOST_LISTED - 1)
    return [points[round(at * stride)] for at in range(MOST_LISTED)]
