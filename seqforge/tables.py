"""Scores and comparisons as tables on the terminal."""

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)


def print_scores(result: dict) -> None:
    columns = result["generators"] + result["references"]
    table = Table("score", "temperature", *[c["name"] for c in columns], box=None, pad_edge=False)
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for c in columns:
        for s in c["scores"]:
            error = "" if s["stderr"] is None else f" ± {s['stderr']:.3f}"
            rows.setdefault((s["name"], s["temperature"]), {})[c["name"]] = f"{s['value']:.3f}{error}"
    for (name, temperature), cells in sorted(rows.items(), key=lambda r: (r[0][0], -r[0][1])):
        table.add_row(name, f"{temperature:g}", *[cells.get(c["name"], "") for c in columns])
    out.print(table)
    out.print("all in nats per token, ± one standard error")
    if result["verdict"]:
        out.print(result["verdict"], markup=False)


def print_comparison(found: dict) -> None:
    table = Table("runs", "seeds", "NLL_oracle", "NLL_test", "entropy", box=None)
    for name, g in found["groups"].items():
        cells = [_with_interval(g["scores"].get(k)) for k in ("nll_oracle", "nll_test", "entropy")]
        table.add_row(name, str(len(g["seeds"])), *cells)
    out.print(table)
    out.print("temperature 1, nats per token, mean ± 95 % interval over seeds\n")
    out.print("NLL_oracle at equal NLL_test, less that of:")
    table = Table("runs", "against", "as it is", "over temperatures", "seeds", box=None)
    for name, g in found["groups"].items():
        table.add_row(name, "its pre-trained", *_gap_cells(g["to_pretrained"]))
    for gap in found["gaps"]:
        table.add_row(gap["of"], gap["against"], *_gap_cells(gap))
    out.print(table)
    out.print(
        "below 0 is better; the other side takes the temperature that gives it the same NLL_test; paired by seed, "
        "seeds without a shared range not counted"
    )


def _gap_cells(gaps: dict) -> list[str]:
    counted = [str(len(gaps[k]["seeds"])) for k in ("at_one", "over_range")]
    return [_with_interval(gaps[k]["gap"]) for k in ("at_one", "over_range")] + [" and ".join(counted)]


def _with_interval(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "-"
    mean, half = pair
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"
