"""The map of a sweep: for each variant a field of cells, coloured by its gap, marked by its verdict."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ONE_SEED = "one seed"  # in place of a verdict: its interval is the sampling error alone
MARKS = {"beats": "✓", "ties with": "=", "loses to": "✗", ONE_SEED: "one seed\n"}


class Field(NamedTuple):
    """One variant: gap and half its interval (R,C), nan where there is none; words (R,C): the verdicts, "" where there
    is none.
    """

    variant: str
    gap: np.ndarray
    half: np.ndarray
    words: list[list[str]]


def map_figure(fields: Sequence[Field], rows: Sequence[str], columns: Sequence[str], versus: str, unit: str) -> Figure:
    """Fields side by side; blue is better than `versus`, red worse, all on one scale that leaves out the outermost
    tenth of the gaps.
    """
    size = (2.2 + max(1.0 * len(columns), 1.3) * len(fields), 1.6 + 0.5 * len(rows))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine())
    gaps = np.abs(np.concatenate([f.gap.ravel() for f in fields]))
    known = gaps[np.isfinite(gaps)]
    most = max(float(np.quantile(known, 0.9)), 1e-3) if len(known) else 1.0
    axes = np.atleast_1d(figure.subplots(1, len(fields), sharey=True))
    image = None
    for ax, field in zip(axes, fields, strict=True):
        image = ax.imshow(field.gap, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.set_facecolor("#dddddd")
        ax.set_title(field.variant, fontsize=9)
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
        ax.set_yticks(range(len(rows)), rows, fontsize=8)
        for (r, c), gap in np.ndenumerate(field.gap):
            mark, half = MARKS.get(field.words[r][c], ""), field.half[r, c]
            text = "no range" if np.isnan(gap) else f"{mark} {gap:+.2f}\n±{half:.2f}"
            dark = np.isfinite(gap) and abs(gap) > 0.6 * most
            ax.text(c, r, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label=unit, shrink=0.9)
    told = f"gap to {versus} at equal diversity, ± half its 95 % interval; below 0 is better"
    figure.suptitle(f"{told} (of one seed: sampling error)\n✓ beats, = ties with, ✗ loses to {versus}", fontsize=8)
    return figure
