"""Several runs on one page: the verdict over their seeds, their frontiers together, the curves of each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqforge.compare import compare
from seqforge.report.curves import Curve, Phase, read_curves, read_phases
from seqforge.report.figures import curve_svg, frontier_svg, styled
from seqforge.report.folder import Folder, read_folder
from seqforge.report.frontier import frontier_lines
from seqforge.report.page import environment, missing, write_whole
from seqforge.report.tables import Table, frontier_table, minus

SHOWN = ("nll_oracle", "nll_test", "nll_valid", "reward_mean", "d_accuracy_valid", "entropy")  # of each run


def build_many(runs: Sequence[Path], out: Path) -> Path:
    """Writes one HTML page about several run folders and returns its path; what they lack is named on it."""
    folders = [read_folder(Path(run)) for run in runs]
    with styled():
        html = environment().get_template("many.html.j2").render(many_view(folders))
    return write_whole(out, lambda path: path.write_bytes(html.encode("utf-8", errors="replace")))


def many_view(folders: list[Folder]) -> dict[str, Any]:
    """Everything the template shows."""
    found, refused = {"groups": {}}, ""
    try:
        found = compare([f.path for f in folders])
    except ValueError as e:  # one has no scores yet, or they were measured otherwise: the rest stands
        refused = str(e)
    lines = [
        replace(line, name=f"{f.name}, {line.name}")
        for f in folders
        for line in frontier_lines({"generators": f.scores.get("generators")})
    ]
    judged = {name: g["verdicts"][0] for name, g in found["groups"].items() if g["verdicts"]}
    return {
        "title": f"{len(folders)} runs: {', '.join(f.name for f in folders)}",
        "verdicts": [f"{name}: {v['word']} MLE: {v['reason']}" for name, v in judged.items()],
        "refused": refused,
        "frontier": frontier_svg(lines) if lines else None,
        "frontier_table": frontier_table(lines),
        "scores": score_table(found["groups"]) if found["groups"] else None,
        "runs": [run_view(f, at) for at, f in enumerate(folders)],
    }


def run_view(folder: Folder, at: int) -> dict[str, Any]:
    curves, left_out = read_curves(folder.records, folder.evaluations)
    phases, has_frontier = read_phases(folder.records), bool(frontier_lines(folder.scores))
    shown = [c for c in curves if c.name in SHOWN]
    return {
        "name": folder.name,
        "verdict": folder.scores.get("verdict") or "No verdict.",
        "groups": [("Curves", [panel(c, phases, f"run{at}-{k}") for k, c in enumerate(shown)])] if shown else [],
        "missing": folder.missing + missing(folder, curves, left_out, has_frontier),
    }


def panel(curve: Curve, phases: list[Phase], prefix: str) -> dict[str, Any]:
    return {"curve": curve, "svg": curve_svg(curve, phases, prefix)}


def score_table(groups: dict[str, dict]) -> Table:
    """A row a score, a column a group: mean and half the 95 % interval over seeds."""
    names = list(dict.fromkeys(name for g in groups.values() for name in g["scores"]))
    rows = [(name, *(shown(g["scores"].get(name)) for g in groups.values())) for name in names]
    head = ("score", *(f"{name}, seeds {', '.join(map(str, g['seeds']))}" for name, g in groups.items()))
    return Table("Mean ± half the 95 % interval over seeds (none with one seed)", head, rows)


def shown(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "–"
    mean, half = pair
    return minus(f"{mean:.3f}") + ("" if half is None else f" ± {half:.3f}")
