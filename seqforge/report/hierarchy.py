"""What a LeakGAN learnt, from RUN/hierarchy.json: how alike the goals are, where the feature goes, whether it follows.

The method writes, of a few samples of L tokens: "similarity" (L,L) cosines between the goals g_0 .. g_{L-1},
"trajectory" (L+1,2) the leaked feature of each prefix on its two principal axes, "explained" the share of variance on
those, and "alignment" (L,) the cosine of each goal with the change of the feature over the next "step_size" tokens.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from seqforge.report.figures import Palette, Picture, dress
from seqforge.report.folder import Folder
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table, show

WIDEST = 12  # letters of a token on an axis
MOST_LABELS = 12  # along a path; more would cover each other


@dataclass(frozen=True)
class Sample:
    """One sample: its tokens, and what the modules made of it."""

    tokens: list[str]
    similarity: list[list[float]]
    trajectory: list[list[float]]
    explained: list[float]
    alignment: list[float]


@dataclass(frozen=True)
class Hierarchy:
    step: int
    step_size: int
    samples: list[Sample]


def read_hierarchy(run: Path) -> tuple[Hierarchy | None, list[str]]:
    """The file's content, or None and a sentence on what is wrong with it; none at all is nothing wrong."""
    path = run / "hierarchy.json"
    if not path.is_file():
        return None, []
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Hierarchy(int(raw["step"]), int(raw["step_size"]), [checked(s) for s in raw["samples"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [f"What the hierarchy learnt: hierarchy.json cannot be read ({error!r})."]
    return found, []


def checked(raw: dict[str, Any]) -> Sample:
    """Raises ValueError where the sizes do not fit each other or a number is not finite."""
    one = Sample(**{k: raw[k] for k in ("tokens", "similarity", "trajectory", "explained", "alignment")})
    n = len(one.tokens)
    sizes = (len(one.similarity), len(one.trajectory), len(one.explained), len(one.alignment))
    pairs = {len(row) for row in one.trajectory}
    if n < 1 or sizes != (n, n + 1, 2, n) or {len(row) for row in one.similarity} != {n} or pairs != {2}:
        raise ValueError(f"{n} tokens, but sizes {sizes}")
    numbers = [*one.explained, *one.alignment, *(v for row in one.similarity + one.trajectory for v in row)]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
        raise ValueError("it holds what is not a finite number")
    return one


def section(folder: Folder) -> Found:
    found, told = read_hierarchy(folder.path)
    if found is None:
        return None, told
    samples = [(" ".join(one.tokens), pictures_of(one, at, found.step_size)) for at, one in enumerate(found.samples)]
    pictures = [picture for _, each in samples for picture in each]
    view = {"step_size": found.step_size, "samples": samples}
    return Section("hierarchy", "What the hierarchy learnt", "section_hierarchy.html.j2", view, pictures), told


def pictures_of(one: Sample, at: int, step_size: int) -> list[Picture]:
    """Of a sample: how alike its goals are, the path of its feature, how far the feature follows."""
    text, low, high = " ".join(one.tokens), min(one.alignment), max(one.alignment)
    named = f"goals-{at + 1}", f"path-{at + 1}", f"follow-{at + 1}"
    return [
        Picture(
            named[0],
            "Goals",
            f"cosine between the goals at each pair of steps of: {text}",
            partial(_draw_similarity, one),
            similarity_table(one),
            "cosine between steps",
            size=(4.4, 4.0),
        ),
        Picture(
            named[1],
            "Feature",
            f"path of the leaked feature, token by token, of: {text}",
            partial(_draw_trajectory, one),
            trajectory_table(one),
            "of each prefix, two principal axes",
            size=(4.4, 4.0),
        ),
        Picture(
            named[2],
            "Alignment",
            f"alignment by step, between {low:.2f} and {high:.2f}",
            partial(_draw_alignment, one),
            alignment_table(one, step_size),
            "goal and change",
            size=(4.4, 2.3),
        ),
    ]


def short(token: str) -> str:
    return token if len(token) <= WIDEST else token[: WIDEST - 1] + "…"


def ticks(tokens: list[str], room: int = 26) -> tuple[list[int], list[str]]:
    """Every k-th token, so that at most `room` stand on an axis."""
    every = math.ceil(len(tokens) / room)
    at = list(range(0, len(tokens), every))
    return at, [short(tokens[i]) for i in at]


def _draw_similarity(one: Sample, figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.2, 0.2, 0.62, 0.76))
    dress(axes, palette)
    axes.grid(visible=False)
    image = axes.imshow(one.similarity, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest", aspect="auto")
    at, names = ticks(one.tokens)
    axes.set_xticks(at, names, rotation=90, fontsize=7)
    axes.set_yticks(at, names, fontsize=7)
    bar = figure.colorbar(image, cax=figure.add_axes((0.85, 0.2, 0.03, 0.76)))
    bar.ax.tick_params(colors=palette.muted, labelcolor=palette.ink, length=3)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _draw_trajectory(one: Sample, figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.15, 0.13, 0.8, 0.83))
    dress(axes, palette)
    x, y = ([p[k] for p in one.trajectory] for k in (0, 1))
    axes.plot(x, y, color=palette.series[0], marker="o", markersize=3.5, linewidth=1.2)
    axes.plot(x[:1], y[:1], color=palette.series[1], marker="s", markersize=6)
    names = ["start", *(short(t) for t in one.tokens)]
    every = math.ceil(len(names) / MOST_LABELS)
    for i in range(0, len(names), every):
        place = {"textcoords": "offset points", "fontsize": 8, "color": palette.ink}
        axes.annotate(names[i], (x[i], y[i]), (5, 4 if i // every % 2 else -10), **place)
    axes.margins(0.15)
    axes.set_xlabel(f"first axis ({one.explained[0]:.0%} of the variance)", color=palette.ink)
    axes.set_ylabel(f"second axis ({one.explained[1]:.0%})", color=palette.ink)


def _draw_alignment(one: Sample, figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.12, 0.32, 0.84, 0.62))
    dress(axes, palette)
    axes.bar(range(len(one.alignment)), one.alignment, color=palette.series[2], width=0.7)
    axes.axhline(0, color=palette.muted, linewidth=0.8)
    axes.set_ylim(-1.03, 1.03)
    at, names = ticks(one.tokens)
    axes.set_xticks(at, names, rotation=90, fontsize=7)


def similarity_table(one: Sample) -> Table:
    rows = [(f"{t}", *(f"{c:.2f}" for c in row)) for t, row in enumerate(one.similarity)]
    return Table("Cosine between the goals of two steps", ("step", *map(str, range(len(rows)))), rows)


def trajectory_table(one: Sample) -> Table:
    names = ["start", *one.tokens]
    rows = [(f"{t}", names[t], show(x), show(y)) for t, (x, y) in enumerate(one.trajectory)]
    return Table("The feature on its two principal axes", ("tokens read", "last token", "first", "second"), rows)


def alignment_table(one: Sample, step_size: int) -> Table:
    rows = [(f"{t}", token, show(a)) for t, (token, a) in enumerate(zip(one.tokens, one.alignment, strict=True))]
    return Table(f"Goal and the next {step_size} tokens", ("step", "next token", "alignment"), rows)
