"""Several runs on one page: the verdict over their seeds, their frontiers together, and of each the curves, the
discriminator and what ran. Runs that cannot be held against each other are shown one by one, and the reason is told.
"""

import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seqforge.compare import Defaults, compare, group_of
from seqforge.frontier import AXES, DIVERSITY
from seqforge.report import discriminator, learning, ran, scores
from seqforge.report.curves import Curve, read_curves, read_phases
from seqforge.report.figures import Picture, write_whole
from seqforge.report.folder import Folder, read_folder
from seqforge.report.frontier import PICTURED, Line, frontier_lines, frontier_pictures
from seqforge.report.page import MOST_WARNINGS, environment, sections_of
from seqforge.report.section import Section
from seqforge.report.tables import Table, config_table, minus

SHOWN = {"nll_oracle", "nll_test", "nll_valid", "divergence", "mediator_nll_valid", "entropy"}
SHOWN |= {"reward_mean", "reward", "bleu", "d_accuracy_valid", "d_accuracy"}
SHOWN |= {"gradient_norm", "g_norm", "worker_norm", "manager_norm"}
HERE = ("frontier", "curves", "ran")  # sections of a run's own page that need no word here


def build_many(runs: Sequence[Path], out: Path, defaults: Defaults = lambda _: {}, missing: Sequence[str] = ()) -> Path:
    """Writes one HTML page about several run folders and returns its path; what they lack is named on it. `defaults`
    as `compare` takes them; missing: a sentence for each run that there should be and is not.
    """
    view = many_view([read_folder(Path(run)) for run in runs], defaults, Path(out)) | {"missing": list(missing)}
    html = environment().get_template("many.html.j2").render(view)
    return write_whole(Path(out), lambda path: path.write_bytes(html.encode("utf-8", errors="replace")))


def many_png(runs: Sequence[Path], into: Path, defaults: Defaults = lambda _: {}) -> list[Path]:
    """Writes the frontiers of all runs together, and every picture of each run's own page under its name, as PNGs into
    a folder; returns their paths. What cannot be drawn is a warning. Raises ValueError where nothing can.
    """
    folders = [read_folder(Path(run)) for run in runs]
    found, refused = compared(folders, defaults)
    pictures = together(folders, defaults) if found["groups"] else []
    for sentence in refused:
        warnings.warn(sentence, stacklevel=2)
    for folder, name in zip(folders, file_names(folders), strict=True):
        own = [p for section in sections_of(folder)[0] for p in section.pictures]
        pictures += [named(picture, name) for picture in own]
        if not own:
            warnings.warn(f"{folder.path}: there is nothing to draw yet", stacklevel=2)
    if not pictures:
        raise ValueError(f"{runs[0]}: there is nothing to draw yet; train first, or wait for the first record")
    if into.exists() and not into.is_dir():
        raise ValueError(f"{into}: is a file; give a folder for the pictures")
    return [write_whole(into / f"{picture.name}.png", picture.png) for picture in pictures]


def file_names(folders: list[Folder]) -> list[str]:
    """Of each run its name, and its place where two are called the same, as a part of a file's name."""
    count = Counter(f.name for f in folders)
    names = [f.name if count[f.name] == 1 else f"{f.name}-{at}" for at, f in enumerate(folders, 1)]
    return [re.sub(r"[^\w.-]", "_", name) for name in names]


def many_view(folders: list[Folder], defaults: Defaults, out: Path) -> dict[str, Any]:
    """Everything the template shows, on a page at `out`."""
    found, refused = compared(folders, defaults)
    groups = found["groups"]
    frontiers = together(folders, defaults) if groups else []
    return {
        "title": f"{len(folders)} runs: {', '.join(f.name for f in folders)}",
        "verdicts": [f"{name}: {v['word']}: {v['reason']}" for name, g in groups.items() if (v := g["verdict"])],
        "refused": refused,
        "frontiers": frontiers,
        "scores": score_table(groups) if groups else None,
        "gaps": gap_table(found) if groups else None,
        "untold": [f"{of} against {to}: left out: {gap['reason']}." for of, to, gap in gaps_of(found) if gap["reason"]],
        "runs": [run_view(f, at, out, alone=not frontiers) for at, f in enumerate(folders, 1)],
    }


def compared(folders: list[Folder], defaults: Defaults) -> tuple[dict[str, Any], list[str]]:
    """What `compare` finds of the runs that have been scored, and in sentences why others, or all, are left out."""
    whole = [f for f in folders if f.scores]
    told = [f"{f.name} is not among those compared: it has no scores yet." for f in folders if not f.scores]
    if len(whole) < 2:
        return NOTHING, [*told, "Nothing is compared: that takes two runs that have been scored."]
    try:
        return compare([f.path for f in whole], defaults), told
    except (ValueError, LookupError, TypeError) as e:  # measured otherwise, or by another version: the rest stands
        return NOTHING, [*told, f"Nothing is compared: {e}"]


NOTHING: dict[str, Any] = {"groups": {}, "gaps": []}


def together(folders: list[Folder], defaults: Defaults) -> list[Picture]:
    """The frontiers of all that have been scored."""
    return frontier_pictures(lines_of([f for f in folders if f.scores], defaults))


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


def run_view(folder: Folder, at: int, out: Path, alone: bool) -> dict[str, Any]:
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
    sections, missing = sections_of(folder)
    told = folder.of_kind("warning")
    return {
        "name": folder.name,
        "verdict": scores.verdict(folder),
        "stopped": next(iter(folder.of_kind("end")), {}).get("stopped"),
        "warnings": told[:MOST_WARNINGS],
        "more_warnings": len(told[MOST_WARNINGS:]),
        "pictures": [named(p, f"run{at}") for p in pictures],
        "facts": ran.facts_table(folder),
        "config": config_table(folder.config),
        "own": own_page(folder, sections, curves, out),
        "missing": missing,
    }


def own_page(folder: Folder, sections: list[Section], curves: list[Curve], out: Path) -> dict[str, Any]:
    """What more stands on the run's own page, and the way there from a page at `out`; none where it is not made yet."""
    page = folder.path / "report.html"
    there = page.is_file() and page.resolve() != out.resolve()
    rest = dict.fromkeys(c.name for c in curves if c.name not in SHOWN)
    parts = [s.title for s in sections if s.id not in HERE]
    return {
        "run": str(folder.path),
        "href": quote(Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix()) if there else None,
        "parts": [*parts, *([f"the curves of {', '.join(rest)}"] if rest else [])],
    }


def named(picture: Picture, run: str) -> Picture:
    """Under a name that is the only one on the page."""
    return dataclasses.replace(picture, name=f"{run}-{picture.name}")


def score_table(groups: dict[str, dict]) -> Table:
    """A row a score, a column a group: mean and half the 95 % interval over seeds."""
    names = list(dict.fromkeys(name for g in groups.values() for name in g["scores"]))
    rows = [(name, *(shown(g["scores"].get(name)) for g in groups.values())) for name in names]
    head = ("score", *(f"{name}, seeds {', '.join(map(str, g['seeds']))}" for name, g in groups.items()))
    return Table("Mean ± half the 95 % interval over seeds; of one seed, of its sampling error", head, rows)


def gaps_of(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """What is held to what, and by how much, over their temperatures."""
    held = [(name, "its MLE", g["to_pretrained"]) for name, g in found["groups"].items() if g["verdict"]]
    held += [(gap["of"], gap["against"], gap) for gap in found["gaps"]]
    return [(of, against, gaps["over_range"]) for of, against, gaps in held]


def gap_table(found: dict[str, Any]) -> Table:
    """A row a pair of groups: quality at equal diversity of the one less that of the other, paired by seed."""
    axes = AXES[found["frontier"]]
    rows = []
    for of, against, gap in gaps_of(found):
        mean = gap["gap"] and (axes.sign * gap["gap"][0], gap["gap"][1])
        p = "–" if gap["p"] is None else f"{gap['p']:.2g}"
        alone = " (sampling error of one seed)" if gap["by"] not in ("seeds", None) else ""
        rows.append((of, against, shown(mean), p, (", ".join(map(str, gap["seeds"])) or "–") + alone))
    better = "below" if axes.sign > 0 else "above"
    caption = f"{axes.label} at equal {DIVERSITY[axes.diversity]}, the one less the other; {better} 0 the one is better"
    return Table(caption, ("runs", "against", "gap ± half the 95 % interval", "p (paired t)", "seeds"), rows, headers=2)


def shown(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "–"
    mean, half = pair
    return minus(f"{mean:.3f}") + ("" if half is None else f" ± {half:.3f}")
