"""Piano rolls: time to the right in quarters, pitch upwards."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqforge.report.figures import PAPER, Palette, Picture, dress, styled, write_png
from seqforge.report.tables import Table

Note = tuple[float, float, int]  # onset and length in quarters, MIDI pitch
LEAST_RANGE = 12  # semitones shown, so that a single note is not as high as the picture


def draw_roll(axes: Axes, notes: Sequence[Note], quarters: float, palette: Palette, limits: tuple[int, int]) -> None:
    dress(axes, palette)
    for onset, length, pitch in notes:
        axes.broken_barh([(onset, length * 0.94)], (pitch - 0.42, 0.84), facecolors=palette.series[0], linewidth=0)
    axes.set_xlim(0, max(quarters, 1))
    axes.set_ylim(limits[0] - 1, limits[1] + 1)
    octaves = [p for p in range(0, 128, 12) if limits[0] - 1 <= p <= limits[1] + 1]
    axes.set_yticks(octaves, [f"C{p // 12 - 1}" for p in octaves])
    axes.set_xlabel("quarters", color=palette.ink)


def limits_of(tunes: Sequence[Sequence[Note]]) -> tuple[int, int]:
    """Lowest and highest pitch of these tunes, an octave apart at least."""
    pitches = [p for notes in tunes for _, _, p in notes] or [60]
    room = max(0, LEAST_RANGE - (max(pitches) - min(pitches)))
    return min(pitches) - (room + 1) // 2, max(pitches) + room // 2


def roll_png(notes: Sequence[Note], quarters: float, out: Path) -> None:
    with styled():
        figure = Figure(figsize=(8.0, 3.0), layout="constrained")
        draw_roll(figure.add_subplot(), notes, quarters, PAPER, limits_of([notes]))
        write_png(figure, out)


def roll_picture(
    notes: Sequence[Note], quarters: float, limits: tuple[int, int], name: str, caption: str, detail: str
) -> Picture:
    rows = [(f"{on:g}", f"{length:g}", f"{pitch}") for on, length, pitch in notes]
    return Picture(
        name=name,
        caption=caption,
        label=f"piano roll of {len(notes)} notes over {quarters:g} quarters",
        draw=partial(_draw, notes, quarters, limits),
        table=Table("The notes", ("onset (quarters)", "length (quarters)", "MIDI pitch"), rows),
        detail=detail,
        size=(4.4, 2.3),
    )


def _draw(notes: Sequence[Note], quarters: float, limits: tuple[int, int], figure: Figure, palette: Palette) -> None:
    draw_roll(figure.add_axes((0.1, 0.22, 0.87, 0.74)), notes, quarters, palette, limits)
