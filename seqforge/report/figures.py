"""Curves and points -> matplotlib figures, and those -> inline SVG that follows the page's colours.

Only the object API is used, not pyplot: no figure lives on in global state, and no display is looked for.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from seqforge.report.curves import Curve, Phase, drawn_points
from seqforge.report.frontier import Line

PANEL = (4.2, 2.3)  # inches; a page column is about as wide, so that 9 pt in here reads as 9 pt there


@dataclass(frozen=True)
class Palette:
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


# For a picture on white paper. The page's own copy of these, and their dark twins, stand in page.html.j2.
PAPER = Palette("#1c2024", "#5c646c", "#d5d9dd", ("#1f66c1", "#b8500f", "#14795a", "#8140b5", "#a8295f"))
# Placeholders that nothing else draws with; inline_svg exchanges them for the page's colours.
CSS = Palette("#010101", "#010102", "#010103", ("#010111", "#010112", "#010113", "#010114", "#010115"))
CSS_NAMES = {CSS.ink: "currentColor", CSS.muted: "var(--muted)", CSS.grid: "var(--grid)"}
CSS_NAMES |= {color: f"var(--series-{at})" for at, color in enumerate(CSS.series, start=1)}
MARKERS = "osD^v"  # with the colours, so that neither a colour-blind reader nor a grey print loses the lines

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "svg.hashsalt": "seqforge",  # the same run gives the same bytes
    "text.parse_math": False,  # a score may be called what it likes, dollar signs included
    "font.size": 9,
    "lines.linewidth": 1.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Drawn and saved in here, a picture is the same whatever matplotlibrc the machine has."""
    with matplotlib.style.context("default"), matplotlib.rc_context(STYLE):
        yield


def color_of(source: str, palette: Palette) -> str:
    return palette.series[0] if source == "evaluation" else palette.series[2]


def dress(axes: Axes, palette: Palette) -> None:
    axes.patch.set_visible(False)
    axes.tick_params(colors=palette.muted, labelcolor=palette.ink, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.muted)
    axes.grid(axis="y", color=palette.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", "−")))


def draw_curve(axes: Axes, curve: Curve, phases: list[Phase], palette: Palette) -> None:
    dress(axes, palette)
    color, points = color_of(curve.source, palette), drawn_points(curve.points)
    steps = [point.step for point in points]
    few = len(points) <= 40
    axes.fill_between(steps, [p.low for p in points], [p.high for p in points], color=color, alpha=0.25, linewidth=0)
    axes.plot(steps, [p.value for p in points], color=color, marker="o" if few else "", markersize=3.5)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if "accuracy" in curve.name and all(0 <= point.value <= 1 for point in points):
        axes.set_ylim(-0.03, 1.03)
    draw_phases(axes, phases, palette)


def draw_phases(axes: Axes, phases: list[Phase], palette: Palette) -> None:
    """Every second phase is shaded and each is named above; all panels share their steps, so they compare by eye."""
    if not phases:
        return
    first, last = phases[0].first, phases[-1].last
    margin = 0.02 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    for at, phase in enumerate(phases):
        if at % 2:
            axes.axvspan(phase.first, phase.last, color=palette.muted, alpha=0.12, linewidth=0)
        if at:
            axes.axvline(phase.first, color=palette.muted, linewidth=0.8, linestyle=(0, (2, 2)))
        label_phase(axes, phase, palette)


def label_phase(axes: Axes, phase: Phase, palette: Palette) -> None:
    """The name, shortened to what its band has room for; the page lists the names in full."""
    low, high = axes.get_xlim()
    width = axes.get_window_extent().width / axes.figure.dpi * 72  # points
    room = (phase.last - phase.first) / (high - low) * width
    letters = int(room / 4.8)  # points a letter takes at size 8
    text = phase.name if len(phase.name) <= letters else phase.name[: max(letters - 1, 0)] + "."
    if letters >= 2:
        middle = (phase.first + phase.last) / 2
        across = axes.get_xaxis_transform()
        axes.text(middle, 1.03, text, transform=across, ha="center", va="bottom", fontsize=8, color=palette.muted)


def curve_svg(curve: Curve, phases: list[Phase], prefix: str) -> Markup:
    figure = Figure(figsize=PANEL)
    axes = figure.add_axes((0.14, 0.13, 0.83, 0.76))  # the same box in each, so that panels below each other line up
    draw_curve(axes, curve, phases, CSS)
    return inline_svg(figure, prefix, describe(curve))


def describe(curve: Curve) -> str:
    """What a reader who cannot see the picture should hear."""
    first, last = curve.points[0], curve.points[-1]
    values = [point.value for point in curve.points]
    text = f"{curve.name}: {first.value:.5g} at step {first.step}, {last.value:.5g} at step {last.step}"
    return f"{text}; lowest {min(values):.5g}, highest {max(values):.5g}"


def curves_figure(curves: list[Curve], phases: list[Phase]) -> Figure:
    across = min(3, len(curves))
    down = math.ceil(len(curves) / across)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(PANEL[0] * across, (PANEL[1] + 0.5) * down), facecolor="white", layout=layout)
    for at, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(down, across, at)
        draw_curve(axes, curve, phases, PAPER)
        detail = ", ".join(text for text in (curve.source, curve.unit) if text)
        axes.set_title(f"{curve.name} ({detail})", loc="left", fontsize=9, color=PAPER.ink, pad=19)
        if at > len(curves) - across:
            axes.set_xlabel("step", color=PAPER.ink)
    return figure


def frontier_svg(lines: list[Line], prefix: str = "frontier") -> Markup:
    """Quality (the oracle's judgement of the samples) over diversity (how the model takes to unseen text)."""
    figure = Figure(figsize=(5.2, 4.0))
    axes = figure.add_axes((0.14, 0.13, 0.82, 0.75))
    dress(axes, CSS)
    axes.grid(axis="x", color=CSS.grid, linewidth=0.7)
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    for at, line in enumerate(lines):
        draw_line(axes, line, CSS.series[at % len(CSS.series)], MARKERS[at % len(MARKERS)])
    axes.margins(0.1)
    axes.locator_params(nbins=8)
    for at, line in enumerate(lines):
        label_temperatures(axes, line, CSS.series[at % len(CSS.series)])
    axes.set_xlabel(f"nll_test ({lines[0].unit}): lower covers more of the data", color=CSS.ink)
    axes.set_ylabel(f"nll_oracle ({lines[0].unit}): lower is better quality", color=CSS.ink)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, labelcolor=CSS.ink)
    names = ", ".join(line.name for line in lines)
    return inline_svg(figure, prefix, f"nll_oracle over nll_test, one curve over temperatures for each of: {names}")


def draw_line(axes: Axes, line: Line, color: str, marker: str) -> None:
    x, y = [point.test for point in line.points], [point.oracle for point in line.points]
    xerr, yerr = [p.test_stderr or 0 for p in line.points], [p.oracle_stderr or 0 for p in line.points]
    axes.errorbar(x, y, yerr, xerr, color=color, marker=marker, markersize=5, elinewidth=0.9, label=line.name)


def label_temperatures(axes: Axes, line: Line, color: str) -> None:
    """Each label stands on the side that the curve leaves free; this needs the final limits of the axes."""
    corners = axes.transData.transform([(point.test, point.oracle) for point in line.points])
    for at, point in enumerate(line.points):
        neighbours = [corners[near] for near in (at - 1, at + 1) if 0 <= near < len(corners)]
        x, y = free_side(corners[at], neighbours)
        place = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8, "color": color}
        axes.annotate(f"{point.temperature:g}", (point.test, point.oracle), (12 * x, 9 * y), **place)


def free_side(here: Sequence[float], neighbours: list[Sequence[float]]) -> tuple[float, float]:
    """The direction away from the neighbours, or across the line where they lie on opposite sides."""
    away = [(here[0] - x, here[1] - y) for x, y in neighbours]
    units = [(x / math.hypot(x, y), y / math.hypot(x, y)) for x, y in away if math.hypot(x, y)]
    x, y = sum(x for x, _ in units), sum(y for _, y in units)
    if math.hypot(x, y) < 0.2:
        x, y = (-units[0][1], units[0][0]) if units else (1.0, 1.0)
    return x / math.hypot(x, y), y / math.hypot(x, y)


def inline_svg(figure: Figure, prefix: str, label: str) -> Markup:
    """SVG that may stand many times in one page: ids of its own, the page's colours, no outside address."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for color, name in CSS_NAMES.items():
        svg = svg.replace(color, name)
    return Markup(svg)


def write_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
