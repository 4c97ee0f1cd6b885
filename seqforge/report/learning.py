"""The learning curves: what is drawn, in groups that are read together, and how to read each."""

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from seqforge.report.curves import Curve, Phase, drawn_points, listed_points, read_curves, read_phases
from seqforge.report.figures import PANEL, PAPER, Palette, Picture, dress, styled, write_png, write_whole
from seqforge.report.folder import Folder, number, read_folder
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table, show


@dataclass(frozen=True)
class Group:
    """Curves that are read together; of those of the training the names, in order."""

    title: str
    hint: str
    source: str = "train"
    names: tuple[str, ...] = ()


GROUPS = (
    Group("Scores", "On fresh samples and the test set, at temperature 1.", "evaluation"),
    Group("Checkpoints", "Each held to the validation set, at temperature 1.", "beside"),
    Group(
        "Likelihood",
        "Where the validation curve turns up while the training curve falls, the generator learns by heart.",
        names=("nll_train", "nll_valid", "nll_read", "true_share", "divergence", "mediator_nll", "mediator_nll_valid"),
    ),
    Group(
        "The discriminator in training",
        "At an accuracy of one half it tells nothing, and its rewards are noise; near 1 it is so sure that all "
        "generated sequences get the same. Useful rewards come from between.",
        names=("d_accuracy_valid", "d_accuracy", "d_loss", "d_gap", "p_real", "p_fake"),
    ),
    Group(
        "Reward and entropy",
        "A reward that rises while NLL_test does too is earned on fewer and fewer sequences. An entropy that falls "
        "towards 0 is collapse.",
        names=("reward_mean", "reward", "baseline", "intrinsic_reward", "bleu", "entropy"),
    ),
    Group("Health", "What its warnings are read from: held-out likelihood, repeated samples, their length.", "health"),
    Group(
        "Gradients",
        "Of the generator, before they are clipped. Norms that grow, or jump by orders of magnitude, call for a lower "
        "learning rate.",
        names=("gradient_norm", "g_norm", "worker_norm", "manager_norm", "manager_cosine"),
    ),
    Group("Other figures of the training", ""),
)
NAMED = {name for group in GROUPS for name in group.names}


def section(folder: Folder) -> Found:
    curves, left_out = read_curves(folder.records, folder.evaluations)
    told = [f"Curves of {', '.join(left_out)}."] if left_out else []
    if not curves:
        return None, told
    phases = read_phases(folder.records)
    groups = grouped(curves, phases, folder.config)
    pictures = [picture for _, members in groups for picture in members]
    view = {"phases": phases, "groups": groups}
    return Section("curves", "Learning curves", "section_curves.html.j2", view, pictures), told


def grouped(
    curves: list[Curve], phases: list[Phase], config: dict[str, Any], prefix: str = "curve"
) -> list[tuple[Group, list[Picture]]]:
    """The groups that have a curve, each with its pictures in order."""
    found = []
    for group in GROUPS:
        mine = [c for c in curves if c.source == group.source and belongs(c, group)]
        mine.sort(key=lambda c, names=group.names: names.index(c.name) if c.name in names else len(names))
        found.append((group, [picture(c, phases, levels(c, curves, config), prefix) for c in mine]))
    return [(group, pictures) for group, pictures in found if pictures]


def belongs(curve: Curve, group: Group) -> bool:
    if group.source != "train":
        return True
    return curve.name in group.names or (not group.names and curve.name not in NAMED)


def levels(curve: Curve, curves: list[Curve], config: dict[str, Any]) -> dict[str, float]:
    """Values that a curve is held to: what a coin would reach, and where gradients are clipped."""
    names = {c.name for c in curves}
    if curve.name in ("d_accuracy", "d_accuracy_valid"):
        return {"a coin": 0.5}
    if curve.name == "d_loss" and "d_accuracy" in names:  # of other discriminators it is another sum
        return {"a coin": math.log(2)}
    clip = number(config.get("clip"))
    return {"clipped to": clip} if curve.name.endswith("_norm") and clip else {}


def picture(curve: Curve, phases: list[Phase], held_to: dict[str, float], prefix: str) -> Picture:
    return Picture(
        name=re.sub(r"[^\w-]", "_", f"{prefix}-{curve.source}-{curve.name}"),  # of a file, and of ids
        caption=curve.name,
        label=describe(curve),
        draw=partial(_draw, curve, phases, held_to),
        table=curve_table(curve),
        detail=curve.unit,
        notes=(*curve.notes(), *clipped(curve, held_to)),
        signatures=curve.signatures,
    )


def clipped(curve: Curve, held_to: dict[str, float]) -> list[str]:
    clip = held_to.get("clipped to")
    if clip is None:
        return []
    share = sum(p.value > clip for p in curve.points) / len(curve.points)
    return [f"Clipped to {clip:g} in {share:.0%} of the steps."]


def _draw(curve: Curve, phases: list[Phase], held_to: dict[str, float], figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.14, 0.13, 0.83, 0.76))  # the same box in each, so that panels below each other line up
    draw_curve(axes, curve, phases, palette)
    for name, level in held_to.items():
        low, high = axes.get_ylim()
        if low <= level <= high:
            axes.axhline(level, color=palette.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            place = {
                "textcoords": "offset points",
                "ha": "left",
                "va": "bottom",
                "fontsize": 8,
                "color": palette.muted,
            }
            axes.annotate(name, (0, level), (3, 1), xycoords=axes.get_yaxis_transform(), **place)


def curves_png(run: Path, out: Path) -> Path:
    """Writes the learning curves of a run folder as one PNG on white and returns its path."""
    folder = read_folder(Path(run))
    curves, _ = read_curves(folder.records, folder.evaluations)
    if not curves:
        raise ValueError(f"{run}/log.jsonl: no train or evaluation record to draw; train first, or wait for the first")
    with styled():
        figure = curves_figure(curves, read_phases(folder.records))
        return write_whole(Path(out), lambda path: write_png(figure, path))


def color_of(source: str, palette: Palette) -> str:
    return palette.series[0] if source == "evaluation" else palette.series[2]


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


def describe(curve: Curve) -> str:
    first, last = curve.points[0], curve.points[-1]
    values = [point.value for point in curve.points]
    text = f"{curve.name}: {first.value:.5g} at step {first.step}, {last.value:.5g} at step {last.step}"
    return f"{text}; lowest {min(values):.5g}, highest {max(values):.5g}"


def curve_table(curve: Curve) -> Table:
    shown = listed_points(curve.points)
    caption = f"{curve.name} by step" + (f", {curve.unit}" if curve.unit else "")
    if len(shown) < len(curve.points):
        caption += f" ({len(shown)} of {len(curve.points)} records; all are in log.jsonl)"
    return Table(caption, ("step", "value"), [(f"{p.step}", show(p.value, p.stderr)) for p in shown])


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
