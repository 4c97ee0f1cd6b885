"""Samples at several temperatures beside the training sequences most like them, from RUN/nearest.json."""

from typing import Any

from seqforge.frontier import heat
from seqforge.report.folder import Folder, number, read_json
from seqforge.report.section import Found, Section

FILE = "nearest.json"
WIDEST = 2000  # letters of a text that are shown

Piece = tuple[str, bool]  # text, and whether it is marked as copied


def section(folder: Folder) -> Found:
    raw, told = read_json(folder.path / FILE, "Samples beside their nearest training lines", checked)
    if raw is None and not folder.samples:
        return None, told
    view = {"files": folder.samples, "near": None}
    if raw is not None:
        generators = [generator_view(g) for g in reversed(raw["generators"])]  # the last trained first
        view["near"] = {**{k: raw[k] for k in ("training", "least", "asked")}, "generators": generators}
    return Section("samples", "Samples", "section_samples.html.j2", view), told


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError where it is not what `seqforge evaluate` writes."""
    looked, all_ = raw["training"]
    numbers = [looked, all_, raw["least"]]
    for generator in raw["generators"]:
        for column in generator["temperatures"]:
            numbers.append(column["temperature"])
            for one in column["samples"]:
                numbers += [one["near"]["like"], *(x for t in (one, one["near"]) for span in t["spans"] for x in span)]
                pieces(one)
                pieces(one["near"])
    if any(number(x) is None for x in numbers):
        raise ValueError("it holds what is not a finite number")
    return raw


def generator_view(raw: dict[str, Any]) -> dict[str, Any]:
    columns = [
        {
            "heat": heat(column["temperature"]),
            "samples": [
                {"pieces": pieces(one), "near": pieces(one["near"]), "like": f"{one['near']['like']:.2f}"}
                for one in column["samples"]
            ],
        }
        for column in raw["temperatures"]
    ]
    return {"name": str(raw["name"]), "columns": columns}


def pieces(one: dict[str, Any]) -> list[Piece]:
    """The text cut at the ends of its spans. Raises ValueError where these are not within it, or out of order."""
    text, at, found = str(one["text"]), 0, []
    for start, end in one["spans"]:
        if not at <= start <= end <= len(text):
            raise ValueError(f"span {start} to {end} in a text of {len(text)} letters")
        found += [(text[at:start], False), (text[start:end], True)]
        at = end
    found.append((text[at:], False))
    return shortened([(words, on) for words, on in found if words])


def shortened(found: list[Piece]) -> list[Piece]:
    left, kept = WIDEST, []
    for words, on in found:
        if left <= 0:
            kept.append((" …", False))
            break
        kept.append((words if len(words) <= left else words[:left] + " …", on))
        left -= len(words)
    return kept
