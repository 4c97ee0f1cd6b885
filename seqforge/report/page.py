"""The page itself: what to show, in which order, and what to say about the rest."""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seqforge.report.curves import Curve, Phase, read_curves, read_phases
from seqforge.report.figures import curve_svg, curves_figure, frontier_svg, styled, write_png
from seqforge.report.folder import Folder, number, read_folder
from seqforge.report.frontier import frontier_lines, subjects
from seqforge.report.hierarchy import panels, read_hierarchy
from seqforge.report.music import read_music, rows
from seqforge.report.tables import (
    DIFFERS,
    Table,
    config_table,
    curve_table,
    frontier_table,
    side_by_side,
    signature_table,
)

MOST_WARNINGS = 100
GROUPS = {
    "evaluation": "Evaluation scores (temperature 1)",
    "beside": "Checkpoints, held to the validation set (temperature 1)",
    "train": "Training",
}


def build(run: Path, out: Path | None = None) -> Path:
    """Writes one HTML page about a run folder (default RUN/report.html) and returns its path."""
    run = Path(run)
    out = Path(out) if out is not None else run / "report.html"
    folder = read_folder(run)
    with styled():
        view = page_view(folder)
    template = environment().get_template("page.html.j2")
    html = template.render(view).encode("utf-8", errors="replace")  # a log may hold half a surrogate pair
    return write_whole(out, lambda path: path.write_bytes(html))


def environment() -> Environment:
    """Where the templates are, and how they are filled in."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # samples, names and warnings are user data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def curves_png(run: Path, out: Path) -> Path:
    """Writes the learning curves of a run folder as one PNG on white and returns its path."""
    folder = read_folder(Path(run))
    curves, _ = read_curves(folder.records, folder.evaluations)
    if not curves:
        raise ValueError(f"{run}/log.jsonl: no train or evaluation record to draw; train first, or wait for the first")
    with styled():
        figure = curves_figure(curves, read_phases(folder.records))
        return write_whole(Path(out), lambda path: write_png(figure, path))


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


def page_view(folder: Folder) -> dict[str, Any]:
    """Everything the template shows."""
    curves, left_out = read_curves(folder.records, folder.evaluations)
    phases, lines = read_phases(folder.records), frontier_lines(folder.scores)
    comparison = side_by_side(folder.scores) if subjects(folder.scores) else None
    warnings = folder.of_kind("warning")
    hierarchy, unread = read_hierarchy(folder.path)
    music, unheard = read_music(folder.path)
    return {
        "name": folder.name,
        "method": str(folder.config.get("method", "unknown method")),
        "verdict": folder.scores.get("verdict"),
        "side_by_side": comparison,
        "incomparable": comparison is not None and any(row[1].endswith(DIFFERS) for row in comparison.rows),
        "signatures": signature_table(folder.scores),
        "phases": phases,
        "groups": curve_groups(curves, phases),
        "frontier": frontier_svg(lines) if lines else None,
        "frontier_table": frontier_table(lines),
        "hierarchy": panels(hierarchy) if hierarchy else [],
        "step_size": hierarchy.step_size if hierarchy else None,
        "music": rows(music) if music else [],
        "samples": folder.samples,
        "facts": Table("The run", ("what", "value"), facts(folder)),
        "config": config_table(folder.config),
        "warnings": warnings[:MOST_WARNINGS],
        "more_warnings": len(warnings[MOST_WARNINGS:]),
        "missing": folder.missing + unread + unheard + missing(folder, curves, left_out, bool(lines)),
    }


def curve_groups(curves: list[Curve], phases: list[Phase]) -> list[tuple[str, list[dict[str, Any]]]]:
    panels = [
        {"curve": curve, "svg": curve_svg(curve, phases, f"curve-{at}"), "table": curve_table(curve)}
        for at, curve in enumerate(curves)
    ]
    groups = [(title, [p for p in panels if p["curve"].source == source]) for source, title in GROUPS.items()]
    return [(title, members) for title, members in groups if members]


def facts(folder: Folder) -> list[tuple[str, str]]:
    """Versions and device as the run itself wrote them, then how far it came."""
    start = next(iter(folder.of_kind("start")), {})
    known = {name: value for name, value in start.items() if name not in ("step", "phase", "kind", "seconds")}
    known.setdefault("seed", folder.config.get("seed", "not recorded"))
    steps = [record["step"] for record in folder.records]
    seconds = [s for r in folder.records if (s := number(r.get("seconds"))) is not None]
    resumes = [str(record["step"]) for record in folder.of_kind("resume")]
    known["steps"] = max(steps) if steps else "not recorded"
    known["wall time"] = duration(max(seconds)) if seconds else "not recorded"
    known["resumed at step"] = ", ".join(resumes) or "never"
    return [(name, str(value)) for name, value in (known | tokens(folder)).items()]


def tokens(folder: Folder) -> dict[str, str]:
    counts = [t for r in folder.records if (t := number(r.get("tokens"))) is not None]
    speeds = [s for r in folder.records if (s := number(r.get("tokens_per_second"))) is not None]
    found = {"tokens": f"{max(counts):,.0f}"} if counts else {}
    return found | ({"tokens per second (median)": f"{median(speeds):,.0f}"} if speeds else {})


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def missing(folder: Folder, curves: list[Curve], left_out: list[str], frontier: bool) -> list[str]:
    """What a reader might look for in vain, each with its reason; the file readers have told theirs already."""
    told = []
    if folder.records:
        told += missing_from_log(folder, curves)
    if left_out:
        told.append(f"Curves of {', '.join(left_out)}.")
    if folder.scores:
        told += missing_from_scores(folder.scores, frontier)
    return told


def missing_from_log(folder: Folder, curves: list[Curve]) -> list[str]:
    told = []
    if not any(curve.source == "evaluation" for curve in curves):
        told.append("Curves of evaluation scores: log.jsonl has no evaluation record with a finite score.")
    if not any(curve.source == "train" for curve in curves):
        told.append("Training curves: log.jsonl has no train record with a finite number.")
    if not folder.of_kind("start"):
        told.append("Versions, device and commit: log.jsonl has no start record.")
    if not folder.of_kind("end"):
        told.append("The end of the run: log.jsonl has no end record, so it is still running or was stopped.")
    if not any(number(record.get("tokens")) is not None for record in folder.records):
        told.append("The number of tokens: no record of log.jsonl counts them.")
    return told


def missing_from_scores(scores: dict[str, Any], frontier: bool) -> list[str]:
    told = []
    if not subjects(scores):
        told.append("The side-by-side table: scores.json lists no generator and no reference.")
    if not frontier:
        told.append("The quality-diversity picture: scores.json has no nll_oracle and nll_test at one temperature.")
    if not scores.get("verdict"):
        told.append("The verdict: scores.json has none.")
    return told
