"""Did the stage after pre-training help? `beats`, `ties with` or `loses to` MLE, by the area between two frontiers.

The quantity: quality of the one less quality of the other, averaged over the diversity that both reach by a temperature
(frontier.py). Its interval is that of the seeds where there are several; of one run that of its samples and test set
drawn again (metrics/draws.py), which says nothing of other seeds. No torch.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from seqforge.frontier import (
    AXES,
    DIVERSITY,
    Axes,
    between,
    frontier,
    gap_at_one,
    mean_interval,
    points_of,
)

WORDS = {-1: "beats", 0: "ties with", 1: "loses to"}
BY_PARTS = {"lm"}  # where each part of the samples has a model of its own; the others are bootstrapped
HALVED = 0.5  # of the counterpart's entropy at temperature 1, at no temperature exceeded: collapsed

Draws = dict[tuple[str, float], np.ndarray]  # (score, temperature) -> (R,)


@dataclass(frozen=True)
class Judgement:
    """On one frontier: the gap (below 0: better), its 95 % interval, and the diversity from `low_x` to `high_x` that it
    is averaged over. by: bootstrap, parts or seeds, `units` of them.
    """

    frontier: str
    word: str
    gap: float
    low: float
    high: float
    low_x: float
    high_x: float
    by: str
    units: int

    def as_dict(self) -> dict:
        return asdict(self)


def judge(name: str, mine: list[dict], theirs: list[dict], my_draws: Draws, their_draws: Draws) -> Judgement | None:
    """One run's verdict on one frontier; None where no diversity is shared, or too few draws to tell an interval."""
    axes = AXES[name]
    points = [points_of(s, axes) for s in (mine, theirs)]
    whole = between(frontier(points[0]), frontier(points[1]))
    if whole is None:
        return None
    each = gap_draws(name, mine, theirs, my_draws, their_draws)
    gaps = [gap for gap in each if gap is not None]
    if len(gaps) < max(2, len(each) / 2):
        return None
    if name in BY_PARTS:
        half, by = mean_interval(gaps)[1], "parts"
        assert half is not None  # of two and more
    else:
        half, by = 1.96 * float(np.std(gaps, ddof=1)), "bootstrap"
    return _judged(name, whole.gap, half, whole.low, whole.high, by, len(gaps))


def gap_draws(
    name: str, mine: list[dict], theirs: list[dict], my_draws: Draws, their_draws: Draws
) -> list[float | None]:
    """The gap in each draw; None where the curves drawn share no diversity."""
    axes = AXES[name]
    first, second = (_drawn(points_of(s, axes), d, axes) for s, d in ((mine, my_draws), (theirs, their_draws)))
    each = (between(frontier(a, 200), frontier(b, 200)) for a, b in zip(first, second, strict=False))
    return [None if found is None else found.gap for found in each]


def _judged(name: str, gap: float, half: float, low_x: float, high_x: float, by: str, units: int) -> Judgement:
    low, high = gap - half, gap + half
    return Judgement(name, WORDS[(low > 0) - (high < 0)], gap, low, high, low_x, high_x, by, units)


def over_seeds(found: list[Judgement]) -> Judgement:
    """The judgements of several seeds on one frontier as one: mean gap, Student's t over the seeds."""
    mean, half = mean_interval([j.gap for j in found])
    assert half is not None
    low_x, high_x = min(j.low_x for j in found), max(j.high_x for j in found)
    return _judged(found[0].frontier, mean, half, low_x, high_x, "seeds", len(found))


def _drawn(points: dict, draws: Draws, axes: Axes) -> list[dict]:
    """The points of each draw."""
    wanted = {t: [draws.get((n, t), np.empty(0)) for n in (axes.diversity, axes.quality)] for t in points}
    count = min((len(values) for pair in wanted.values() for values in pair), default=0)
    return [{t: (float(x[r]), axes.sign * float(y[r]), 0.0, 0.0) for t, (x, y) in wanted.items()} for r in range(count)]


def judgements(mine: list[dict], theirs: list[dict], my_draws: Draws, their_draws: Draws) -> list[Judgement]:
    """On every frontier that both have, the most telling first."""
    found = [judge(name, mine, theirs, my_draws, their_draws) for name in AXES]
    return [j for j in found if j is not None]


def collapsed(mine: list[dict], theirs: list[dict], of: str = "the pre-trained generator") -> str | None:
    """In a sentence: at no temperature evaluated has it half the entropy that the other has at 1; else None."""
    entropies = [{s["temperature"]: s["value"] for s in side if s["name"] == "entropy"} for side in (mine, theirs)]
    if not entropies[0] or 1.0 not in entropies[1]:
        return None
    most, normal = max(entropies[0].values()), entropies[1][1.0]
    if most >= HALVED * normal:
        return None
    before = of == opponent("pre-trained")
    whose = f"{normal:.3f} before" if before else f"{of}'s {normal:.3f}"
    return f"It has collapsed: at no temperature evaluated is its entropy above {most:.3f}, for {whose}."


COUNTERPART = "MLE counterpart"  # as a generator of a run is called
EARLY = "MLE stopped early"  # the best epoch by validation of a pre-training that went on past it


def rival(generators: list[dict]) -> dict:
    """The generator of a run that its last is held to: MLE as good as the run has it, else the first."""
    return next((g for g in generators if g["name"] in (EARLY, COUNTERPART)), generators[0])


def opponent(name: str) -> str:
    """The rival in words: that of the run's pre-training, or MLE's counterpart where it has none."""
    return f"its {name}" if name in (COUNTERPART, EARLY) else f"the {name} generator"


def reason(j: Judgement, of: str) -> str:
    """What the word rests on."""
    axes = AXES[j.frontier]
    unit = f" {axes.unit}" if axes.unit else ""
    low, high = sorted((axes.sign * j.low, axes.sign * j.high))
    how = {
        "bootstrap": "bootstrap over sequences, one seed",
        "parts": f"{j.units} parts of the samples, one seed",
        "seeds": f"{j.units} seeds",
    }[j.by]
    x = DIVERSITY[axes.diversity]
    span = f"{j.low_x:.3g} to {j.high_x:.3g}"
    over = f"what both reach in each seed, within {x} {span}" if j.by == "seeds" else f"{x} {span}, which both reach"
    return (
        f"at equal {x} its {axes.label} is {axes.sign * j.gap:+.3f}{unit} (95 % interval {low:+.3f} to {high:+.3f}, "
        f"{how}) against {of} with a temperature, averaged over {over}."
    )


def sentence(
    mine: list[dict],
    theirs: list[dict],
    found: list[Judgement],
    stage: str,
    of: str = "the pre-trained generator",
    controls: str | None = None,
) -> str | None:
    """The verdict on the most telling frontier of one run. None where there is no frontier to judge by. controls: what
    makes the run's null controls, where it has any.
    """
    names = [name for name in AXES if points_of(mine, AXES[name]) and points_of(theirs, AXES[name])]
    if not names:
        return None
    plain = _as_they_are(mine, theirs, AXES[names[0]], of)
    fallen = collapsed(mine, theirs, of)
    first = next((j for j in found if j.frontier == names[0]), None)
    if first is None:
        told = _beyond(mine, theirs, AXES[names[0]], stage, of)
    else:
        told = f"The {stage} stage {first.word} MLE: {reason(first, of)}"
        if first.word == "beats" and controls:
            told += f" Whether that is the reward's doing, the controls tell ({controls})."
    return f"{told}{f' {fallen}' if fallen else ''}{plain}"


def withheld(generators: list[dict], more: str) -> str:
    """In place of a verdict, of a run without a fair opponent. more: what would make one."""
    held = rival(generators)
    mine, theirs = generators[-1]["scores"], held["scores"]
    name = next((n for n, axes in AXES.items() if points_of(mine, axes) and points_of(theirs, axes)), None)
    plain = "" if name is None else _as_they_are(mine, theirs, AXES[name], opponent(held["name"]))
    return (
        "No verdict on MLE: the likelihood training that this is held to ended while its validation NLL was still "
        f"falling, or there was none, so that what it left is no fair opponent; {more}.{plain}"
    )


def _as_they_are(mine: list[dict], theirs: list[dict], axes: Axes, of: str) -> str:
    """Both scores at temperature 1, which say little alone."""
    ones = [points_of(s, axes).get(1.0) for s in (theirs, mine)]
    if ones[0] is None or ones[1] is None:
        return ""
    (x0, y0), (x1, y1) = ones[0][:2], ones[1][:2]
    sign, x = axes.sign, DIVERSITY[axes.diversity]
    if of != opponent("pre-trained"):  # not what it was before
        return f" As they are: {axes.label} {sign * y1:.3f} for {of}'s {sign * y0:.3f}, {x} {x1:.3f} for {x0:.3f}."
    return f" As they are: {axes.label} {sign * y0:.3f} -> {sign * y1:.3f}, {x} {x0:.3f} -> {x1:.3f}."


def _beyond(mine: list[dict], theirs: list[dict], axes: Axes, stage: str, of: str) -> str:
    """Where the curves share no diversity, or their draws are too few."""
    x = DIVERSITY[axes.diversity]
    gap = gap_at_one(mine, theirs, axes)
    lowest = [min(y for _, y, *_ in points_of(scores, axes).values()) for scores in (mine, theirs)]
    if gap is not None and gap.kind == "better on both" and lowest[0] >= lowest[1]:  # than their most diverse alone
        return (
            f"No verdict: it is more diverse than any temperature evaluated makes {of}, and better than that is there, "
            f"but there is no {x} that both reach; evaluate with more temperatures."
        )
    if gap is not None and gap.kind == "worse on both" and lowest[0] < lowest[1]:  # colder, though not as it is
        return (
            f"No verdict: it is less diverse than any temperature evaluated makes {of}; as it is it is worse than the "
            f"coldest of that, at colder temperatures better, but there is no {x} that both reach; evaluate with more "
            "temperatures."
        )
    if gap is not None and gap.kind != "equal diversity" and gap.error and abs(gap.value) > 1.96 * gap.error:
        low, high = sorted(axes.sign * (gap.value + side * 1.96 * gap.error) for side in (-1, 1))
        held = "at any temperature evaluated" if gap.kind == "better on both" else "at the coldest evaluated"
        return (
            f"The {stage} stage {WORDS[int(np.sign(gap.value))]} MLE: it is {gap.kind} counts than {of} {held}; beside "
            f"the nearest, its {axes.label} is {axes.sign * gap.value:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
            "one seed)."
        )
    return (
        f"No verdict: there is no {x} that both reach by the temperatures evaluated, or too few samples to tell an "
        "interval; evaluate with more of either."
    )


FILE = "draws.npz"  # in a run folder, beside scores.json


def save_draws(path: Path, by_generator: dict[str, Draws]) -> None:
    """Arrays named generator|score|temperature."""
    arrays = {f"{g}|{s}|{t!r}": v for g, draws in by_generator.items() for (s, t), v in draws.items()}
    with path.open("wb") as f:
        np.savez_compressed(f, allow_pickle=False, **{k: v.astype(np.float32) for k, v in arrays.items()})


def load_draws(path: Path, generator: str) -> Draws:
    """{} where the file is missing: a run of before there were any."""
    if not path.is_file():
        return {}
    with np.load(path) as held:
        keys = [k.split("|") for k in held.files]
        return {(s, float(t)): held[f"{g}|{s}|{t}"] for g, s, t in keys if g == generator}
