"""Scores and comparisons as tables on the terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqforge.frontier import heat

NATS = "nats per token"
COMPARED = ["nll_oracle", "nll_test", "entropy", "grammatical", "bleu3", "bleu4", "self_bleu3", "self_bleu4", "fed"]
LEFT_OUT = {f"{n}{k}" for n in ("unique", "ms_jaccard", "bleu_f1_", "distinct") for k in range(1, 6)} - {
    *("ms_jaccard4", "bleu_f1_4", "distinct2", "distinct3")
}  # of the table on the terminal

out = Console(highlight=False)


def print_scores(result: dict) -> None:
    """The likelihoods over temperatures, then what was measured of the text, then the verdict."""
    columns = result["generators"] + result["references"]
    likelihoods = [s["name"] for c in columns for s in c["scores"] if s["unit"] == NATS and s["interval"] is None]
    _print_table(columns, sorted(set(likelihoods)), _with_stderr)
    out.print("all in nats per token, ± one standard error")
    others = [s["name"] for c in columns for s in c["scores"] if s["name"] not in (*likelihoods, *LEFT_OUT)]
    if others:
        out.print()
        _print_table(columns, list(dict.fromkeys(others)), with_half)
        out.print(
            "± half the 95 % interval (bootstrap over sequences); more, and signatures, in scores.json and report"
        )
    if result["verdict"]:
        out.print(result["verdict"], markup=False)


def _print_table(columns: list[dict], names: list[str], show: Callable[[dict], str]) -> None:
    table = Table("score", "temperature", *[c["name"] for c in columns], box=None, pad_edge=False)
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for c in columns:
        for s in c["scores"]:
            if s["name"] in names:
                rows.setdefault((s["name"], s["temperature"]), {})[c["name"]] = show(s)
    order = sorted(rows, key=lambda k: (names.index(k[0]), -k[1]))
    for name, temperature in order:
        cells = rows[name, temperature]
        table.add_row(name, heat(temperature), *[cells.get(c["name"], "") for c in columns])
    out.print(table)


def _with_stderr(s: dict) -> str:
    return f"{s['value']:.3f}" + ("" if s["stderr"] is None else f" ± {s['stderr']:.3f}")


def with_half(s: dict) -> str:
    """A score and half its interval, as in 0.512 ± 0.004."""
    if s["interval"] is None:
        return f"{s['value']:.4g}"
    low, high = s["interval"]
    return f"{s['value']:.3f} ± {(high - low) / 2:.3f}"


def print_metrics(scores: list[dict]) -> None:
    """What `seqforge score` found, and how each figure was taken."""
    table = Table("score", "value", "95 % interval", "unit", box=None, pad_edge=False)
    for s in scores:
        bounds = "" if s["interval"] is None else f"{s['interval'][0]:.4f} to {s['interval'][1]:.4f}"
        table.add_row(s["name"], f"{s['value']:.4f}", bounds, s["unit"])
    out.print(table)
    out.print("\nsignatures")
    for s in scores:
        out.print(f"  {s['signature']}", markup=False, soft_wrap=True)


def print_facts(title: str, facts: dict[str, object]) -> None:
    """Names and values, a line each."""
    table = Table(title, "", box=None, pad_edge=False, show_header=bool(title))
    for name, value in facts.items():
        table.add_row(escape(name), escape(str(value)))
    out.print(table)


def print_comparison(found: dict) -> None:
    """A row a group of runs; then, where there is an oracle, the gaps at equal NLL_test."""
    groups = found["groups"]
    names = [n for n in COMPARED if any(n in g["scores"] for g in groups.values())]
    table = Table("runs", "seeds", *names, box=None)
    for name, g in groups.items():
        table.add_row(name, str(len(g["seeds"])), *[_with_interval(g["scores"].get(k)) for k in names])
    out.print(table)
    out.print("temperature 1, likelihoods in nats per token, mean ± 95 % interval over seeds; all scores by --json\n")
    for name, g in groups.items():
        for v in g["verdicts"][:1]:
            out.print(f"{name}: {v['word']} MLE: {v['reason']}\n", markup=False)
    if "nll_oracle" not in names:
        return
    out.print("NLL_oracle at equal NLL_test, less that of:")
    table = Table("runs", "against", "as it is", "over temperatures", "seeds", box=None)
    for name, g in groups.items():
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
