"""Several runs on one page: the verdict over their seeds, their frontiers together, and of each the curves, the
discriminator and what ran. Runs that cannot be held against each other are shown one by one, and the reason is told.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqforge.compare import Defaults, compare, group_of
from seqforge.frontier import AXES, DIVERSITY
from seqforge.report import discriminator, learning, ran, scores
from seqforge.report.curves import read_curves, read_phases
from seqforge.report.figures import Picture, write_whole
from seqforge.report.folder import Folder, read_folder
from seqforge.report.frontier import PICTURED, Line, frontier_lines, frontier_pictures
from seqforge.report.page import environment, sections_of
from seqforge.report.tables import Table, config_table, minus

SHOWN = ("nll_oracle", "nll_test", "nll_valid", "reward_mean", "d_accuracy_valid", "entropy", "gradient_norm")


def build_many(runs: Sequence[Path], out: Path, defaults: Defaults = lambda _: {}) -> Path:
    """Writes one HTML page about several run folders and returns its path; what they lack is named on it. `defaults`
    as `compare` takes them.
    """
    view = many_view([read_folder(Path(run)) for run in runs], defaults)
    html = environment().get_template("many.html.j2").render(view)
    return write_whole(out, lambda path: path.write_bytes(html.encode("utf-8", errors="replace")))


def many_view(folders: list[Folder], defaults: Defaults) -> dict[str, Any]:
    """Everything the template shows."""
    found, refused = compared(folders, defaults)
    groups = found["groups"]
    together = frontier_pictures(lines_of([f for f in folders if f.scores], defaults)) if groups else []
    return {
        "title": f"{len(folders)} runs: {', '.join(f.name for f in folders)}",
        "verdicts": [f"{name}: {v['word']}: {v['reason']}" for name, g in groups.items() if (v := g["verdict"])],
        "refused": refused,
        "frontiers": together,
        "scores": score_table(groups) if groups else None,
        "gaps": gap_table(found) if groups else None,
        "runs": [run_view(f, at, alone=not together) for at, f in enumerate(folders, 1)],
        "missing": [],
    }


def compared(folders: list[Folder], defaults: Defaults) -> tuple[dict[str, Any], list[str]]:
    """What `compare` finds of the runs that have been scored, and in sentences why others, or all, are left out."""
    whole = [f for f in folders if f.scores]
    told = [f"{f.name} is not among those compared: it has no scores yet." for f in folders if not f.scores]
    if len(whole) < 2:
        return {"groups": {}}, [*told, "Nothing is compared: that takes two runs that have been scored."]
    try:
        return compare([f.path for f in whole], defaults), told
    except (ValueError, LookupError, TypeError) as e:  # measured otherwise, or by another version: the rest stands
        return {"groups": {}}, [*told, f"Nothing is compared: {e}"]


def lines_of(folders: list[Folder], defaults: Defaults) -> dict[str, list[Line]]:
    """By frontier, the curves of all generators of all runs; those of one group, which differ in the seed, alike."""
    first: dict[str, dict] = {}
    groups = [group_of(f.config, first, defaults) for f in folders]
    of = [f"{group}, " if len(set(groups)) > 1 else "" for group in groups]
    return {
        name: [
            dataclasses.replace(line, name=f"{f.name}, {line.name}", series=f"{group}{line.name}")
            for f, group in zip(folders, of, strict=True)
            for line in frontier_lines({"generators": f.scores.get("generators")}, axes)
        ]
        for name, axes in PICTURED.items()
    }


def run_view(folder: Folder, at: int, alone: bool) -> dict[str, Any]:
    """alone: with its own frontiers, as there are none of all runs together."""
    curves, _ = read_curves(folder.records, folder.evaluations)
    shown, phases = [c for c in curves if c.name in SHOWN], read_phases(folder.records)
    judge, _ = discriminator.section(folder)
    frontiers = (
        frontier_pictures({n: frontier_lines(folder.scores, axes) for n, axes in PICTURED.items()}) if alone else []
    )
    pictures = [
        *frontiers,
        *(p for _, members in learning.grouped(shown, phases, folder.config) for p in members),
        *(judge.pictures[:1] if judge else []),
    ]
    return {
        "name": folder.name,
        "verdict": scores.verdict(folder),
        "pictures": [named(p, f"run{at}") for p in pictures],
        "facts": ran.facts_table(folder),
        "config": config_table(folder.config),
        "missing": sections_of(folder)[1],
    }


def named(picture: Picture, run: str) -> Picture:
    """Under a name that is the only one on the page."""
    return dataclasses.replace(picture, name=f"{run}-{picture.name}")


def score_table(groups: dict[str, dict]) -> Table:
    """A row a score, a column a group: mean and half the 95 % interval over seeds."""
    names = list(dict.fromkeys(name for g in groups.values() for name in g["scores"]))
    rows = [(name, *(shown(g["scores"].get(name)) for g in groups.values())) for name in names]
    head = ("score", *(f"{name}, seeds {', '.join(map(str, g['seeds']))}" for name, g in groups.items()))
    return Table("Mean ± half the 95 % interval over seeds (none with one seed)", head, rows)


def gap_table(found: dict[str, Any]) -> Table:
    """A row a pair of groups: quality at equal diversity of the one less that of the other, paired by seed."""
    axes = AXES[found["frontier"]]
    held = {name: g["to_pretrained"] for name, g in found["groups"].items() if g["verdict"]}
    pairs = [(name, "its MLE", gaps["over_range"]) for name, gaps in held.items()]
    pairs += [(gap["of"], gap["against"], gap["over_range"]) for gap in found["gaps"]]
    rows = []
    for of, against, gap in pairs:
        mean = gap["gap"] and (axes.sign * gap["gap"][0], gap["gap"][1])
        p = "–" if gap["p"] is None else f"{gap['p']:.2g}"
        rows.append((of, against, shown(mean), p, ", ".join(map(str, gap["seeds"])) or "–"))
    better = "below" if axes.sign > 0 else "above"
    caption = f"{axes.label} at equal {DIVERSITY[axes.diversity]}, the one less the other; {better} 0 the one is better"
    return Table(caption, ("runs", "against", "gap ± half the 95 % interval", "p (paired t)", "seeds"), rows, headers=2)


def shown(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "–"
    mean, half = pair
    return minus(f"{mean:.3f}") + ("" if half is None else f" ± {half:.3f}")
