"""Many runs in one picture: how quality and diversity moved while they trained, against what a temperature gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqforge.frontier import ORACLE
from seqforge.report.figures import MARKERS, PAPER, dress, styled, write_png
from seqforge.report.folder import Folder, read_folder, subjects
from seqforge.report.frontier import frontier_line
from seqforge.signs import STAGES
from seqforge.verdict import rival


def compare_png(runs: Sequence[Path], out: Path) -> Path:
    """NLL_oracle over NLL_test: a line a run through the rounds after its pre-training, one colour a method and reward;
    dashed, the pre-trained generator of the first run over its temperatures, and dotted MLE stopped early where the
    verdict is held to that. Of runs on a grammar, the share of grammatical samples by round, and dotted MLE's. Raises
    ValueError where no run has such a line.
    """
    folders = [read_folder(run) for run in runs]
    with styled():
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.add_subplot()
        dress(axes, PAPER)
        axes.grid(axis="x", color=PAPER.grid, linewidth=0.7)
        if any(_looks(folder, "nll_oracle", "nll_test") for folder in folders):
            _draw_frontier(axes, folders)
        elif any(_looks(folder, "grammatical") for folder in folders):
            _draw_grammatical(axes, folders)
        else:
            raise ValueError(
                f"{runs[0]}: no run measured NLL_oracle and NLL_test after its pre-training, as those on an oracle do "
                "(--monitor.every), or grammatical samples; of others seqforge report has the frontiers"
            )
        axes.legend(frameon=False, labelcolor=PAPER.ink)
        write_png(figure, out)
    return out


def _draw_frontier(axes: Axes, folders: Sequence[Folder]) -> None:
    names: list[str] = []
    for folder in folders:
        looks = _looks(folder, "nll_oracle", "nll_test")
        x, y = ([r["scores"][score]["value"] for r in looks] for score in ("nll_test", "nll_oracle"))
        _draw_path(axes, folder, x, y, names)
    axes.margins(0.3)
    axes.autoscale_view()
    left, right, low, high = axes.axis()  # the paths fill the picture, and what MLE gives at their NLL_test
    for x, y in _draw_temperatures(axes, folders[0]):
        if x[0] < right and x[-1] > left:
            at = np.linspace(max(left, x[0]), min(right, x[-1]), 50)
            low = min(low, float(np.interp(at, x, y).min()) - 0.05 * (high - low))
    axes.axis((left, right, low, high))
    axes.set_xlabel("NLL_test (nats per token): lower covers more of the data", color=PAPER.ink)
    axes.set_ylabel("NLL_oracle (nats per token): lower is better quality", color=PAPER.ink)


def _draw_grammatical(axes: Axes, folders: Sequence[Folder]) -> None:
    names: list[str] = []
    for folder in folders:
        looks = _looks(folder, "grammatical")
        x = [float(r["step"] - looks[0]["step"]) for r in looks]
        _draw_path(axes, folder, x, [r["scores"]["grammatical"]["value"] for r in looks], names)
    found = subjects(folders[0].scores)
    if len(found) > 1:
        one = rival(found)
        for score in one["scores"]:
            if (score["name"], score["temperature"]) == ("grammatical", 1.0):
                axes.axhline(score["value"], color=PAPER.muted, linestyle=":", label=one["name"])
    axes.set_ylim(0, 1)
    axes.set_xlabel("rounds", color=PAPER.ink)
    axes.set_ylabel("share of grammatical samples: higher is better", color=PAPER.ink)


def _looks(folder: Folder, *scores: str) -> list[dict]:
    """The evaluations of a stage after the pre-training that have these scores, and the one before it."""
    found = [r for r in folder.of_kind("evaluation") if set(scores) <= r["scores"].keys()]
    judged = [i for i, r in enumerate(found) if r["phase"] in STAGES]
    return found[max(0, judged[0] - 1) :] if judged else []


def _draw_path(axes: Axes, folder: Folder, x: list[float], y: list[float], names: list[str]) -> None:
    """The path of one run; `names` grows by that of its method and reward, if it is the first of them."""
    if not x:
        return
    reward = folder.config.get("reward")
    name = ", ".join([str(folder.config.get("method")), *([f"{reward} reward"] if reward else [])])
    label = None if name in names else f"{name}, training"
    if name not in names:
        names.append(name)
    at = names.index(name)
    color, marker = PAPER.series[at % len(PAPER.series)], MARKERS[at % len(MARKERS)]
    axes.plot(x, y, color=color, linewidth=0.9, alpha=0.8)
    axes.plot(x[-1:], y[-1:], color=color, marker=marker, linestyle="-", label=label)


def _draw_temperatures(axes: Axes, folder: Folder) -> list[tuple[list[float], list[float]]]:
    """x, in rising order, and y of each line that is drawn."""
    found, drawn = subjects(folder.scores), []
    lines = {one["name"]: one for one in (*found[:1], *([rival(found)] if found else []))}
    for (name, one), style in zip(lines.items(), ("--", ":"), strict=False):
        points = sorted(frontier_line(one, ORACLE).points, key=lambda p: p.x)
        if points:
            x, y = [p.x for p in points], [p.y for p in points]
            axes.plot(x, y, color=PAPER.muted, linestyle=style, marker=".", label=f"{name}, over temperatures")
            drawn.append((x, y))
    return drawn
