"""The page itself: which sections in which order, and what is missing."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seqforge.report import (
    discriminator,
    distributions,
    frontier,
    hierarchy,
    learning,
    music,
    neighbours,
    ran,
    scores,
    turing,
)
from seqforge.report.figures import write_whole
from seqforge.report.folder import Folder, read_folder
from seqforge.report.section import Section

MOST_WARNINGS = 100

# In reading order. One more: a module with `section(folder)` and a template section_NAME.html.j2, and a place here.
SECTIONS = (
    frontier.section,
    scores.section,
    learning.section,
    discriminator.section,
    distributions.section,
    hierarchy.section,
    music.section,
    neighbours.section,
    turing.section,
    ran.section,
)


def build(run: Path, out: Path | None = None) -> Path:
    """Writes one HTML page about a run folder (default RUN/report.html) and returns its path."""
    run = Path(run)
    out = Path(out) if out is not None else run / "report.html"
    html = environment().get_template("page.html.j2").render(page_view(read_folder(run)))
    whole = html.encode("utf-8", errors="replace")  # a log may hold half a surrogate pair
    return write_whole(out, lambda path: path.write_bytes(whole))


def pictures_png(run: Path, into: Path) -> list[Path]:
    """Writes every picture of the page as a PNG into a folder, and returns their paths."""
    sections, _ = sections_of(read_folder(Path(run)))
    pictures = [picture for section in sections for picture in section.pictures]
    if not pictures:
        raise ValueError(f"{run}: there is nothing to draw yet; train first, or wait for the first record")
    if into.exists() and not into.is_dir():
        raise ValueError(f"{into}: is a file; give a folder for the pictures")
    return [write_whole(into / f"{picture.name}.png", picture.png) for picture in pictures]


def environment() -> Environment:
    """Where the templates are, and how they are filled in."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # samples, names and warnings are user data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def sections_of(folder: Folder) -> tuple[list[Section], list[str]]:
    """Those that the run has something for; and in sentences what is missing, that of the files first."""
    sections, told = [], list(folder.missing)
    for make in SECTIONS:
        section, missing = make(folder)
        sections += [section] if section else []
        told += missing
    return sections, told


def page_view(folder: Folder) -> dict[str, Any]:
    """Everything the template shows."""
    sections, told = sections_of(folder)
    warnings = folder.of_kind("warning")
    return {
        "title": f"{folder.config.get('method', 'unknown method')} · {folder.name}",
        "verdict": scores.verdict(folder),
        "sections": sections,
        "warnings": warnings[:MOST_WARNINGS],
        "more_warnings": len(warnings[MOST_WARNINGS:]),
        "missing": told,
    }
