"""A picture: what is drawn, what is said of it, the numbers behind it. As inline SVG it follows the page's colours.

Only the object API is used, not pyplot: no figure lives on in global state, and no display is looked for.
"""

import io
import itertools
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from seqforge.report.tables import Table

PANEL = (4.2, 2.3)  # inches; a page column is about as wide, so that 9 pt in here reads as 9 pt there


@dataclass(frozen=True)
class Palette:
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


# For a picture on white paper. The page's own copy of these, and their dark twins, stand in style.css.j2.
PAPER = Palette("#1c2024", "#5c646c", "#d5d9dd", ("#1f66c1", "#b8500f", "#14795a", "#8140b5", "#a8295f"))
# Placeholders that nothing else draws with; inline_svg exchanges them for the page's colours.
CSS = Palette("#010101", "#010102", "#010103", ("#010111", "#010112", "#010113", "#010114", "#010115"))
CSS_NAMES = {CSS.ink: "currentColor", CSS.muted: "var(--muted)", CSS.grid: "var(--grid)"}
CSS_NAMES |= {color: f"var(--series-{at})" for at, color in enumerate(CSS.series, start=1)}
PLACES = {
    "pre-trained": 0,
    "MLE counterpart": 0,
    "final": 1,
    "newest": 1,
    "MLE stopped early": 3,
}  # one colour each in all pictures; data: the third
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
    with matplotlib.style.context("default"), matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's own fonts show what matplotlib's cannot
        yield


@dataclass(frozen=True)
class Picture:
    """name: of its file, and before the ids within it; label: what a reader who cannot see it should hear; draw: into a
    figure of `size` inches, in the colours of a palette; table: the numbers.
    """

    name: str
    caption: str
    label: str
    draw: Callable[[Figure, Palette], None]
    table: Table
    detail: str = ""
    notes: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    size: tuple[float, float] = PANEL

    def svg(self) -> Markup:
        with styled():
            figure = Figure(figsize=self.size)
            self.draw(figure, CSS)
            return inline_svg(figure, self.name, self.label)

    def png(self, path: Path) -> None:
        """On white, with its caption."""
        with styled():
            figure = Figure(figsize=self.size, facecolor="white")
            self.draw(figure, PAPER)
            title = " ".join(filter(None, (self.caption, f"({self.detail})" if self.detail else "")))
            figure.suptitle(textwrap.fill(title, 64), x=0.02, y=1.03, ha="left", va="bottom", fontsize=9)
            figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})


def dress(axes: Axes, palette: Palette) -> None:
    axes.patch.set_visible(False)
    axes.tick_params(colors=palette.muted, labelcolor=palette.ink, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.muted)
    axes.grid(axis="y", color=palette.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", "−")))


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


def place_of(name: str) -> int:
    """Of a generator, or of what it is held to, the number of its colour and marker."""
    return PLACES.get(name, 2)


def places_of(names: Iterable[str]) -> dict[str, int]:
    """Of each of several series: those that have a place keep it, the others take what is left, in order."""
    found: dict[str, int] = {}
    for name in sorted(names, key=lambda name: name not in PLACES):
        own = PLACES.get(name)
        taken = found.values()
        found[name] = (
            own if own is not None and own not in taken else next(n for n in itertools.count() if n not in taken)
        )
    return found


def name_series(axes: Axes, palette: Palette, ncols: int = 3) -> None:
    """The legend, above the picture."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, frameon=False, labelcolor=palette.ink)


def write_png(figure: Figure, path: Path) -> None:
    """One that is no Picture."""
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def write_whole(out: Path, write: Callable[[Path], Any]) -> Path:
    """The file appears complete or not at all, so that a browser never loads half a page."""
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; give the path of the file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out
