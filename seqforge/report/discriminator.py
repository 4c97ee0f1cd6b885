"""How well the final discriminator tells held-out from generated, and whether its p(real) means what it says."""

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from seqforge.report.figures import Palette, Picture, dress, name_series
from seqforge.report.folder import Folder, number, read_json
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table

FILE = "calibration.json"
WITHOUT = {
    "mle": "likelihood alone",
    "mle_search": "likelihood alone",
    "scheduled_sampling": "likelihood alone",
    "pg_bleu": "its reward is BLEU",
    "cot": "its mediator is a language model",
    "distillation": "likelihood alone",
}  # the methods that have no discriminator, and what they have
UNTRAINED = ("constant", "random")  # rewards that never ask it


def section(folder: Folder) -> Found:
    method = str(folder.config.get("method"))
    if method in WITHOUT:
        return None, [f"Accuracy and calibration of a discriminator: {method} has none ({WITHOUT[method]})."]
    raw, told = read_json(folder.path / FILE, "Accuracy and calibration of the discriminator", checked)
    if raw is None:
        return None, told
    view = {"sentences": sentences(raw, folder.config), "step": raw["step"]}
    pictures = [reliability_picture(raw), spread_picture(raw)]
    return Section("discriminator", "The discriminator", "section_discriminator.html.j2", view, pictures), told


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError where it is not what `seqforge evaluate` writes."""
    numbers = [b[k] for b in raw["bins"] for k in ("from", "to", "real", "generated", "p", "share", "low", "high")]
    scores = {s["name"]: s for s in raw["scores"]}
    numbers += [raw["by_chance"], *(scores[n]["value"] for n in ("d_accuracy", "d_ece"))]
    numbers += [end for n in ("d_accuracy", "d_ece") for end in scores[n]["interval"]]
    if not raw["bins"] or any(number(x) is None for x in numbers):
        raise ValueError("it holds what is not a finite number")
    return {**raw, "scores": scores}


def sentences(raw: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """What the pictures show, in words."""
    accuracy, ece = raw["scores"]["d_accuracy"], raw["scores"]["d_ece"]
    low, high = accuracy["interval"]
    of = (
        "the tokens of held-out and generated sequences"
        if raw["of"] == "tokens"
        else "held-out and generated sequences"
    )
    of = "real and generated replies to held-out turns" if raw.get("pairs") else of
    told = [f"At step {raw['step']} it gets {shown(accuracy)} of {of} right, each side counting half."]
    if low <= 0.5 <= high:
        told[0] += " That is no better than a coin: its rewards tell the generator nothing here."
    elif low > 0.95:
        told[0] += " It is nearly always right: what the generator writes is far from the data in its eyes."
    told.append(
        f"Its expected calibration error is {shown(ece)}: so far is p(real) from the share that is real, on average. A "
        f"calibrated one of the same p would show {raw['by_chance']:.3f} by chance."
    )
    if config.get("reward") in UNTRAINED:
        told.append(f"With --reward {config['reward']} nothing ever trained it: it is as it was drawn.")
    return told


def shown(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['value']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def reliability_picture(raw: dict[str, Any]) -> Picture:
    bins, scores = raw["bins"], raw["scores"]
    points = "; ".join(f"at {b['p']:.2f} {b['share']:.2f}" for b in bins)
    rows = [
        (
            f"{b['from']:.1f} to {b['to']:.1f}",
            f"{b['p']:.3f}",
            f"{b['share']:.3f} ({b['low']:.3f} to {b['high']:.3f})",
            f"{b['real']:,}",
            f"{b['generated']:,}",
        )
        for b in bins
    ]
    head = ("p(real)", "mean p", "share real (95 % interval)", "held-out", "generated")
    return Picture(
        name="discriminator-reliability",
        caption="Reliability",
        detail="share that is real, where it says p; on the diagonal it means what it says",
        label=f"Reliability diagram: share that is real by p(real). {points}.",
        draw=partial(_draw_reliability, bins),
        table=Table(f"Share real by what the discriminator says, counts of {raw['of']}", head, rows),
        notes=("Bars are 95 % intervals.",),
        signatures=tuple(str(s.get("signature")) for s in scores.values()),
        size=(4.2, 3.4),
    )


def _draw_reliability(bins: list[dict[str, Any]], figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.14, 0.14, 0.82, 0.76))
    dress(axes, palette)
    axes.plot((0, 1), (0, 1), color=palette.muted, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    x, y = [b["p"] for b in bins], [b["share"] for b in bins]
    below = [max(0.0, b["share"] - b["low"]) for b in bins]  # a share of 1 is above its bound by rounding
    above = [max(0.0, b["high"] - b["share"]) for b in bins]
    color = palette.series[0]
    axes.errorbar(x, y, (below, above), color=color, marker="o", markersize=5, elinewidth=1, label="this one")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("p(real), as the discriminator says", color=palette.ink)
    axes.set_ylabel("share that is real", color=palette.ink)
    name_series(axes, palette)


def spread_picture(raw: dict[str, Any]) -> Picture:
    bins, of = raw["bins"], raw["of"]
    totals = {side: sum(b[side] for b in bins) for side in ("real", "generated")}
    shares = {side: [b[side] / max(totals[side], 1) for b in bins] for side in totals}
    rows = [
        (f"{b['from']:.1f} to {b['to']:.1f}", f"{r:.1%}", f"{g:.1%}")
        for b, r, g in zip(bins, shares["real"], shares["generated"], strict=True)
    ]
    most = {side: bins[max(range(len(bins)), key=shares[side].__getitem__)] for side in shares}
    ends = ", ".join(f"most of the {side} between {most[side]['from']:.1f} and {most[side]['to']:.1f}" for side in most)
    return Picture(
        name="discriminator-spread",
        caption="What it says",
        detail=f"of {of}, by p(real); apart, it tells them apart; all at one end, it is sure of everything",
        label=f"Histogram of p(real): {ends}",
        draw=partial(_draw_spread, bins, shares),
        table=Table(f"Share of {of} by p(real)", ("p(real)", "held-out", "generated"), rows),
        signatures=(str(raw["scores"]["d_accuracy"].get("signature")),),
        size=(4.2, 3.4),
    )


def _draw_spread(bins: list[dict[str, Any]], shares: dict[str, list[float]], figure: Figure, palette: Palette) -> None:
    axes = figure.add_axes((0.14, 0.14, 0.82, 0.76))
    dress(axes, palette)
    width = 0.42 * (bins[0]["to"] - bins[0]["from"])
    for at, (side, name) in enumerate((("real", "held-out"), ("generated", "generated"))):
        x = [(b["from"] + b["to"]) / 2 + (at - 0.5) * width for b in bins]
        hatch = "" if at == 0 else "////"
        color = palette.series[at]
        face = color if at == 0 else "none"
        axes.bar(x, shares[side], width, color=face, edgecolor=color, linewidth=0.8, hatch=hatch, label=name)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("p(real), as the discriminator says", color=palette.ink)
    axes.set_ylabel("share of the side", color=palette.ink)
    name_series(axes, palette)
