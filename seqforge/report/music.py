"""Held-out tunes and generated ones, side by side: piano rolls, and a player each. RUN/music.json has the notes."""

import json
import math
from itertools import zip_longest
from pathlib import Path
from typing import Any

from seqforge.report.figures import Picture
from seqforge.report.folder import Folder
from seqforge.report.rolls import Note, limits_of, roll_picture
from seqforge.report.section import Found, Section
from seqforge.report.sound import data_uri

Shown = tuple[list[Note], float]  # notes and length, in quarters


def section(folder: Folder) -> Found:
    found, told = read_music(folder.path)
    if found is None:
        return None, told
    pairs = rows(found)
    pictures = [one["picture"] for pair in pairs for one in pair.values()]
    return Section("music", "Tunes", "section_music.html.j2", {"rows": pairs}, pictures), told


def read_music(run: Path) -> tuple[dict[str, list[Shown]] | None, list[str]]:
    """real and generated -> tunes; or None and a sentence on what is wrong with the file. No file is nothing wrong."""
    path = run / "music.json"
    if not path.is_file():
        return None, []
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {side: [checked(t) for t in raw[side]] for side in ("real", "generated")}, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [f"Piano rolls: music.json cannot be read ({error!r})."]


def checked(raw: dict[str, Any]) -> Shown:
    """Raises ValueError where a number is not finite or no pitch."""
    notes = [(float(on), float(length), int(pitch)) for on, length, pitch in raw["notes"]]
    quarters = float(raw["quarters"])
    times = [quarters, *(x for n in notes for x in n[:2])]
    if not all(math.isfinite(x) and 0 <= x < 1e5 for x in times) or not all(0 <= n[2] < 128 for n in notes):
        raise ValueError("it holds a time or a pitch that no tune has")
    return notes, quarters


def rows(found: dict[str, list[Shown]]) -> list[dict[str, dict[str, Any]]]:
    """One row a pair of tunes, all over the same range of pitches."""
    limits = limits_of([notes for side in found.values() for notes, _ in side])
    return [
        {side: _panel(one, limits, side, at) for side, one in (("real", a), ("generated", b)) if one}
        for at, (a, b) in enumerate(zip_longest(found["real"], found["generated"]), 1)
    ]


def _panel(one: Shown, limits: tuple[int, int], side: str, at: int) -> dict[str, Picture | str | None]:
    notes, quarters = one
    caption = {"real": "Held out", "generated": "Generated"}[side]
    picture = roll_picture(notes, quarters, limits, f"roll-{side}-{at}", caption, f"tune {at}")
    return {"picture": picture, "sound": data_uri(notes) if notes else None}
