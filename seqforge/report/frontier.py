"""scores.json -> quality over diversity: a picture for each frontier that the scores have, a curve a generator."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure

from seqforge.frontier import AXES, Axes, heat
from seqforge.report.figures import MARKERS, Palette, Picture, dress, name_series, places_of
from seqforge.report.folder import Folder, number, subject_scores, subjects
from seqforge.report.scores import LIKELIHOOD
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table, show
from seqforge.verdict import Judgement, opponent, reason, rival

X_LABELS = {
    "nll_test": "NLL_test (nats per token): lower covers more of the data",
    "reverse_lm3": "reverse LM score (nats per token): lower covers more",
    "self_bleu4": "Self-BLEU-4: lower is more diverse",
}
Y_LABELS = {
    "nll_oracle": "NLL_oracle (nats per token): lower is better",
    "grammatical": "share of grammatical samples: higher is better",
    "right": "share of right replies: higher is better",
    "lm3": "LM score (nats per token): lower is better",
    "bleu4": "BLEU-4: higher is better",
    "fed": "FED (squared distance): lower is better",
}
PICTURED = AXES | {
    "fed": Axes("reverse_lm3", "fed", 1, "", "FED")
}  # drawn, not judged: FED is quality and diversity in one
LEGEND_ROW = 0.2  # inches
MOST_NAMED = 3  # curves whose temperatures are written beside their points; of more they would cover each other
FRONTIERS = (
    "NLL_oracle, grammatical or right over NLL_test, LM over reverse LM score, "
    "BLEU over Self-BLEU, FED over reverse LM score"
)


class Point(NamedTuple):
    temperature: float
    x: float
    x_error: float | None
    y: float
    y_error: float | None


@dataclass(frozen=True)
class Line:
    name: str
    points: list[Point]  # by temperature
    signatures: tuple[str, ...] = ()  # at temperature 1
    series: str = ""  # lines of one look alike, such as the seeds of one method; by default each is its own

    @property
    def kind(self) -> str:
        return self.series or self.name


def section(folder: Folder) -> Found:
    if not folder.scores:
        return None, []
    pictures = frontier_pictures({name: frontier_lines(folder.scores, axes) for name, axes in PICTURED.items()})
    if not pictures:
        return None, [
            f"The quality-diversity pictures: scores.json has no two scores of one at one temperature ({FRONTIERS})."
        ]
    view = {"judged": judged(folder.scores)}
    return Section("frontier", "Quality and diversity", "section_frontier.html.j2", view, pictures), alone(folder)


def alone(folder: Folder) -> list[str]:
    """Named where the curve of MLE, which the verdict needs, is not there."""
    generators = subjects({"generators": folder.scores.get("generators")})
    if len(generators) != 1 or folder.config.get("method") in LIKELIHOOD:
        return []
    return [
        "The curve of its MLE counterpart: this run has one generator only. Train one by likelihood and put both side "
        "by side: seqforge train mle ..., seqforge compare MLE_RUN THIS_RUN."
    ]


def judged(scores: dict[str, Any]) -> dict[str, str]:
    """The verdict on each frontier, by the name of its picture."""
    found = {}
    names = [{"name": str(g.get("name"))} for g in subjects({"generators": scores.get("generators")})]
    for raw in scores.get("judgements") or []:
        try:
            j = Judgement(**raw)
            found[f"frontier-{j.frontier}"] = f"Here it {j.word} MLE: {reason(j, opponent(rival(names)['name']))}"
        except (TypeError, KeyError, ValueError, IndexError):  # of another version
            continue
    return found


def frontier_lines(scores: dict[str, Any], axes: Axes) -> list[Line]:
    """Generators and references that have both scores at one temperature at least."""
    return [line for subject in subjects(scores) if (line := frontier_line(subject, axes)).points]


def frontier_line(subject: dict[str, Any], axes: Axes) -> Line:
    xs, ys = by_temperature(subject, axes.diversity), by_temperature(subject, axes.quality)
    shared = sorted(xs.keys() & ys.keys())
    points = [
        Point(t, xs[t]["value"], number(xs[t].get("stderr")), ys[t]["value"], number(ys[t].get("stderr")))
        for t in shared
    ]
    signed = [str(s[t]["signature"]) for s in (xs, ys) for t in shared if t == 1.0 and s[t].get("signature")]
    return Line(str(subject.get("name", "unnamed")), points, tuple(signed))


def by_temperature(subject: dict[str, Any], name: str) -> dict[float, dict[str, Any]]:
    scores = [score for score in subject_scores(subject) if score["name"] == name]
    return {
        temperature: score
        for score in scores
        if (temperature := number(score.get("temperature"))) is not None and number(score.get("value")) is not None
    }


def frontier_pictures(by_name: dict[str, list[Line]], prefix: str = "frontier") -> list[Picture]:
    return [frontier_picture(PICTURED[name], lines, f"{prefix}-{name}") for name, lines in by_name.items() if lines]


def frontier_picture(axes: Axes, lines: list[Line], name: str) -> Picture:
    corner = "lower" if axes.sign > 0 else "upper"
    names = ", ".join(line.name for line in lines)
    return Picture(
        name=name,
        caption=f"{axes.quality} over {axes.diversity}",
        detail=f"each point a temperature; a curve nearer the {corner} left is better at both",
        label=f"{axes.quality} over {axes.diversity}, one curve over temperatures for each of: {names}. "
        + " ".join(described(line) for line in lines),
        draw=partial(draw_frontier, axes, lines),
        table=frontier_table(axes, lines),
        notes=("Bars are ± one standard error. Signatures are those at temperature 1.",),
        signatures=tuple(dict.fromkeys(s for line in lines for s in line.signatures)),
        size=(4.7, 3.7 + LEGEND_ROW * legend_rows(legend(lines))),
    )


def legend(lines: list[Line]) -> dict[str, str]:
    """Series -> what the legend calls it."""
    many = Counter(line.kind for line in lines)
    return {kind: kind if n == 1 else f"{kind} ({n} runs)" for kind, n in many.items()}


def legend_rows(names: dict[str, str]) -> int:
    """A row where they are short, else a row each."""
    return 1 if sum(map(len, names.values())) < 45 and len(names) < 4 else len(names)


def described(line: Line) -> str:
    first, last = line.points[0], line.points[-1]
    if len(line.points) == 1:
        return f"{line.name}: {first.x:.4g}, {first.y:.4g}."
    return (
        f"{line.name}: from {first.x:.4g}, {first.y:.4g} at temperature {first.temperature:g} to {last.x:.4g}, "
        f"{last.y:.4g} at {last.temperature:g}."
    )


def frontier_table(axes: Axes, lines: list[Line]) -> Table:
    rows = [
        (line.name, heat(p.temperature), show(p.x, p.x_error), show(p.y, p.y_error))
        for line in lines
        for p in line.points
    ]
    head = ("generator", "temperature", axes.diversity, axes.quality)
    return Table(f"{axes.quality} over {axes.diversity} by temperature", head, rows, 2)


def draw_frontier(kind: Axes, lines: list[Line], figure: Figure, palette: Palette) -> None:
    height = figure.get_figheight()
    axes = figure.add_axes((0.14, 0.51 / height, 0.82, 2.93 / height))
    dress(axes, palette)
    axes.grid(axis="x", color=palette.grid, linewidth=0.7)
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    names = legend(lines)
    places = places_of(names)
    for at, line in enumerate(lines):
        first = line.kind not in {before.kind for before in lines[:at]}
        draw_line(axes, line, places[line.kind], names[line.kind] if first else None, palette)
    axes.margins(0.1)
    axes.locator_params(nbins=7)
    if len(lines) <= MOST_NAMED:
        label_temperatures(axes, lines, [palette.series[places[x.kind] % len(palette.series)] for x in lines])
    axes.set_xlabel(X_LABELS[kind.diversity], color=palette.ink)
    axes.set_ylabel(Y_LABELS[kind.quality], color=palette.ink)
    name_series(axes, palette, 3 if legend_rows(names) == 1 else 1)


def draw_line(axes: Plot, line: Line, at: int, label: str | None, palette: Palette) -> None:
    """In the colour and with the marker of series `at`; a sixth series has the first's colour and another marker."""
    color = palette.series[at % len(palette.series)]
    marker = MARKERS[(at + at // len(palette.series)) % len(MARKERS)]
    x, y = [p.x for p in line.points], [p.y for p in line.points]
    xerr, yerr = [p.x_error or 0 for p in line.points], [p.y_error or 0 for p in line.points]
    axes.errorbar(x, y, yerr, xerr, color=color, marker=marker, markersize=5, elinewidth=0.9, label=label)


def label_temperatures(axes: Plot, lines: list[Line], colors: list[str]) -> None:
    """Each label stands on the side that its curve leaves free, or across where something stands there already; it is
    left out where both are taken. The ends of the curves come first, then temperature 1.
    """
    axes.autoscale_view()  # else the limits are set when the picture is drawn
    to_points = 72 / axes.figure.dpi
    corners = [axes.transData.transform([(p.x, p.y) for p in line.points]) * to_points for line in lines]
    points, labels = [tuple(xy) for line in corners for xy in line], []
    every = [(i, k, p.temperature) for i, line in enumerate(lines) for k, p in enumerate(line.points)]
    every.sort(key=lambda e: (0 < e[1] < len(corners[e[0]]) - 1, e[2] != 1.0))
    for i, k, temperature in every:
        here = corners[i][k]
        neighbours = [corners[i][near] for near in (k - 1, k + 1) if 0 <= near < len(corners[i])]
        x, y = free_side(here, neighbours)
        for side in (1, -1):
            at = (here[0] + 12 * side * x, here[1] + 9 * side * y)
            others = [xy for xy in points if xy != tuple(here)]
            if _clear(at, others, 9.0, 7.0) and _clear(at, labels, 15.0, 8.5):
                place = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
                point, offset = lines[i].points[k], (12 * side * x, 9 * side * y)
                axes.annotate(f"{temperature:g}", (point.x, point.y), offset, color=colors[i], **place)
                labels.append(at)
                break


def _clear(at: tuple[float, float], others: Sequence[tuple[float, ...]], width: float, height: float) -> bool:
    """Whether none of the others lies in the box of that half-width and half-height."""
    return all(abs(at[0] - x) > width or abs(at[1] - y) > height for x, y in others)


def free_side(here: Sequence[float], neighbours: list[Sequence[float]]) -> tuple[float, float]:
    """The direction away from the neighbours, or across the line where they lie on opposite sides."""
    away = [(here[0] - x, here[1] - y) for x, y in neighbours]
    units = [(x / math.hypot(x, y), y / math.hypot(x, y)) for x, y in away if math.hypot(x, y)]
    x, y = sum(x for x, _ in units), sum(y for _, y in units)
    if math.hypot(x, y) < 0.2:
        x, y = (-units[0][1], units[0][0]) if units else (1.0, 1.0)
    return x / math.hypot(x, y), y / math.hypot(x, y)
