"""Lengths and n-grams of the samples against the held-out data, from RUN/distributions.json."""

from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from seqforge.report.figures import MARKERS, Palette, Picture, dress, name_series, place_of
from seqforge.report.folder import Folder, number, read_json
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table

FILE = "distributions.json"
LINES = ((0, (1, 1.2)), (0, (4, 2)), (0, ()))
KINDS = {
    "known": (
        "Known n-grams",
        "share that the training text has; more than the held-out data: copying, less: what nobody writes",
    ),
    "covered": ("Covered n-grams", "share of the held-out data's that the samples have; less: something is never said"),
}


def section(folder: Folder) -> Found:
    raw, told = read_json(folder.path / FILE, "Lengths and n-grams against the data", checked)
    if raw is None:
        return None, told
    pictures = [*length_pictures(raw["lengths"]), *share_pictures(raw["ngrams"])]
    ranks = [rank_picture(found["order"], found["of"]) for found in raw["ngrams"]]
    view = {
        "sequences": raw["sequences"],
        "training": raw["training"],
        "shares": pictures,
        "ranks": ranks,
        "same_length": same_length(raw["lengths"]),
    }
    return Section(
        "distributions", "Lengths and n-grams", "section_distributions.html.j2", view, pictures + ranks
    ), told


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError where it is not what `seqforge evaluate` writes."""
    edges, counts = raw["lengths"]["edges"], raw["lengths"]["counts"]
    if not counts or {len(c) for c in counts.values()} != {len(edges) - 1}:
        raise ValueError(f"{len(edges)} edges for counts of {[len(c) for c in counts.values()]}")
    numbers = [*edges, *(x for c in counts.values() for x in c), *raw["training"], raw["sequences"]]
    for found in raw["ngrams"]:
        for one in found["of"].values():
            numbers += [x for pair in one["ranks"] for x in pair] + [one["types"], one["occurrences"]]
            numbers += [x for k in KINDS if k in one for x in (one[k]["value"], *one[k]["interval"])]
    if any(number(x) is None for x in numbers):
        raise ValueError("it holds what is not a finite number")
    return raw


def same_length(raw: dict[str, Any]) -> int | None:
    """The length of all sequences, where they have but one."""
    return raw["edges"][0] if len(raw["edges"]) == 2 and raw["edges"][1] - raw["edges"][0] == 1 else None


def length_pictures(raw: dict[str, Any]) -> list[Picture]:
    if same_length(raw) is not None:
        return []
    edges, counts = raw["edges"], raw["counts"]
    shares = {name: [c / max(sum(found), 1) for c in found] for name, found in counts.items()}
    bars = [f"{a}" if b - a == 1 else f"{a} to {b - 1}" for a, b in pairwise(edges)]
    rows = [(bar, *(f"{shares[name][k]:.1%}" for name in shares)) for k, bar in enumerate(bars)]
    scores = {name: {s["name"]: s for s in found} for name, found in raw.get("scores", {}).items()}
    apart = [f"{name}: {_interval(s['length_distance'])} tokens from the held-out data (1-Wasserstein)."
             for name, s in scores.items()]  # fmt: skip
    return [
        Picture(
            name="lengths",
            caption="Lengths",
            detail="share of the sequences by their tokens",
            label=f"Lengths of {', '.join(shares)}. {' '.join(apart)}",
            draw=partial(_draw_lengths, edges, shares),
            table=Table("Share of the sequences by length in tokens", ("tokens", *shares), rows),
            notes=tuple(apart),
            signatures=tuple(str(s["length_distance"].get("signature")) for s in scores.values()),
            size=(4.2, 2.8),
        )
    ]


def _interval(score: dict[str, Any], form: str = ".3f") -> str:
    low, high = score["interval"]
    return f"{score['value']:{form}} ({low:{form}} to {high:{form}})"


def _axes(figure: Figure, palette: Palette) -> Axes:
    axes = figure.add_axes((0.15, 0.17, 0.81, 0.7))
    dress(axes, palette)
    return axes


def _draw_lengths(edges: list[int], shares: dict[str, list[float]], figure: Figure, palette: Palette) -> None:
    axes = _axes(figure, palette)
    for name, share in shares.items():
        style = {"color": palette.series[place_of(name)], "linestyle": LINES[place_of(name)], "linewidth": 1.6}
        axes.stairs(share, [e - 0.5 for e in edges], label=name, **style)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("tokens", color=palette.ink)
    name_series(axes, palette)


def share_pictures(ngrams: list[dict[str, Any]]) -> list[Picture]:
    """By order, the share of n-grams that are known and covered."""
    found = []
    for kind, (caption, detail) in KINDS.items():
        names = [name for name in (ngrams[0]["of"] if ngrams else {}) if kind in ngrams[0]["of"][name]]
        if names:
            found.append(_share_picture(kind, caption, detail, names, ngrams))
    return found


def _share_picture(kind: str, caption: str, detail: str, names: list[str], ngrams: list[dict[str, Any]]) -> Picture:
    scores = {name: [found["of"][name][kind] for found in ngrams] for name in names}
    orders = [found["order"] for found in ngrams]
    rows = [(f"{n}", *(_interval(scores[name][k]) for name in names)) for k, n in enumerate(orders)]
    spoken = "; ".join(f"{name} {', '.join(format(s['value'], '.2f') for s in scores[name])}" for name in names)
    return Picture(
        name=f"ngrams-{kind}",
        caption=caption,
        detail=detail,
        label=f"{caption} of orders {orders[0]} to {orders[-1]}: {spoken}",
        draw=partial(_draw_shares, orders, scores),
        table=Table(f"{caption} by order (95 % interval)", ("order", *names), rows),
        notes=("Bars are 95 % intervals.",),
        signatures=tuple(str(s[-1].get("signature")) for s in scores.values()),
        size=(4.2, 2.8),
    )


def _draw_shares(orders: list[int], scores: dict[str, list[dict]], figure: Figure, palette: Palette) -> None:
    axes = _axes(figure, palette)
    for at, (name, found) in enumerate(scores.items()):
        values = [s["value"] for s in found]
        spread = [[max(0.0, v - s["interval"][0]) for v, s in zip(values, found, strict=True)],
                  [max(0.0, s["interval"][1] - v) for v, s in zip(values, found, strict=True)]]  # fmt: skip
        x = [n + 0.06 * (at - (len(scores) - 1) / 2) for n in orders]
        color, marker = palette.series[place_of(name)], MARKERS[place_of(name)]
        axes.errorbar(x, values, spread, color=color, marker=marker, markersize=4.5, elinewidth=1, label=name)
    axes.set_xticks(orders)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("n", color=palette.ink)
    name_series(axes, palette)


def rank_picture(order: int, of: dict[str, dict[str, Any]]) -> Picture:
    """Frequency over rank, both in logarithms: a straight line is Zipf's law."""
    ranks = sorted({r for one in of.values() for r, _ in one["ranks"]})
    at = {name: dict(map(tuple, one["ranks"])) for name, one in of.items()}
    rows = [(f"{r}", *(f"{at[name][r]:.3g}" if r in at[name] else "–" for name in of)) for r in ranks]
    types = "; ".join(f"{name} {one['types']:,} types in {one['occurrences']:,}" for name, one in of.items())
    return Picture(
        name=f"ranks-{order}",
        caption=f"{order}-grams",
        detail="share of the text by rank",
        label=f"Share of the text by rank of its {order}-grams. {types}.",
        draw=partial(_draw_ranks, {name: one["ranks"] for name, one in of.items()}),
        table=Table(f"Share of the text by rank of its {order}-grams", ("rank", *of), rows),
        notes=(f"{types}.",),
        signatures=tuple(str(one["known"].get("signature")) for one in of.values() if "known" in one),
        size=(4.2, 2.8),
    )


def _draw_ranks(lines: dict[str, list[list[float]]], figure: Figure, palette: Palette) -> None:
    axes = _axes(figure, palette)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, points in lines.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=palette.series[place_of(name)], linestyle=LINES[place_of(name)], label=name)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=2, color=palette.muted)
    axes.set_xlabel("rank", color=palette.ink)
    name_series(axes, palette)
