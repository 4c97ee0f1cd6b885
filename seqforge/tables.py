"""Scores and comparisons as tables on the terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from seqforge.frontier import AXES, DIVERSITY, heat

NATS = "nats per token"
COMPARED = [
    "nll_oracle",
    "nll_test",
    "entropy",
    "grammatical",
    "right",
    "perplexity",
    "fresh_judge",
    "d_accuracy",
    "copied",
    "generic",
    "reply_bleu2",
    "reply_bleu4",
    "bleu3",
    "bleu4",
    "self_bleu3",
    "self_bleu4",
    "fed",
]
LEFT_OUT = {f"{n}{k}" for n in ("unique", "ms_jaccard", "bleu_f1_", "distinct") for k in range(1, 6)} - {
    *("ms_jaccard4", "bleu_f1_4", "distinct1", "distinct2", "distinct3")
}  # of the table on the terminal

out = Console(highlight=False)


def print_scores(result: dict) -> None:
    """The likelihoods over temperatures, then what was measured of the text, then the verdict."""
    columns = result["generators"] + result["references"]
    likelihoods = [s["name"] for c in columns for s in c["scores"] if s["unit"] == NATS and s["interval"] is None]
    narrow = (
        sum(any(s["name"] in likelihoods for s in c["scores"]) for c in columns) <= 3
    )  # else the errors would break the lines of a terminal
    _print_table(columns, sorted(set(likelihoods)), _with_stderr if narrow else _alone)
    out.print(f"all in nats per token, {'± one standard error' if narrow else 'standard errors in scores.json'}")
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
    columns = [c for c in columns if any(s["name"] in names for s in c["scores"])]
    first = [Column(name, no_wrap=True) for name in ("score", "temperature")]
    table = Table(*first, *[c["name"] for c in columns], box=None, pad_edge=False)
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


def _alone(s: dict) -> str:
    return f"{s['value']:.3f}"


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


def comparison_tables(found: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows: a row a group of runs; then, where there is a frontier, the gaps at equal diversity, and
    which have no interval; then the verdicts of the groups that have one.
    """
    groups = found["groups"]
    names = [n for n in COMPARED if any(n in g["scores"] for g in groups.values())]
    rows = [
        [name, ", ".join(map(str, g["seeds"])), "-" if g["rank"] is None else f"{g['rank']:.3g}"]
        + [_with_interval(g["scores"].get(k)) for k in names]
        for name, g in groups.items()
    ]
    alone = any(len(g["seeds"]) == 1 for g in groups.values())
    title = "At temperature 1, likelihoods in nats per token, mean ± 95 % interval over seeds"
    tables = [(f"{title}{ALONE if alone else ''}", ["runs", "seeds", "rank", *names], rows)]
    axes = AXES[found["frontier"]]
    told = gaps_of(found)
    gaps = [[of, against, *_gap_cells(gap, axes.sign)] for of, against, gap in told]
    if any(cells[2] != "-" or cells[3] != "-" for cells in gaps):
        alone = any(gap[k]["by"] not in ("seeds", None) for *_, gap in told for k in KINDS)
        title = f"{axes.label} at equal {DIVERSITY[axes.diversity]}, less that of the other"
        title += f" (paired by seed{ALONE if alone else ''}; p of the paired t-test)"
        tables.append((title, ["runs", "against", "as it is", "over temperatures", "p", "seeds"], gaps))
    if untold := untold_of(found):
        tables.append((UNTOLD, ["runs", "against", "why"], [list(cells) for cells in untold]))
    if verdicts := verdicts_of(found):
        tables.append((VERDICTS, ["runs", "verdict", "why"], [list(cells) for cells in verdicts]))
    return tables


KINDS = ("at_one", "over_range")
ALONE = "; of one seed ± its sampling error"


def gaps_of(found: dict) -> list[tuple[str, str, dict]]:
    """What is held to what, and both gaps: each group to its own MLE, the first to every other."""
    rivals = {name: g["to_pretrained"] for name, g in found["groups"].items() if g["verdict"]}  # likelihood has none
    held = [(name, "its MLE", gaps) for name, gaps in rivals.items()]
    return held + [(gap["of"], gap["against"], gap) for gap in found["gaps"]]


UNTOLD = "Gaps that are left out"


def untold_of(found: dict) -> list[tuple[str, str, str]]:
    """Names and reason of every gap that has a value but no interval."""
    every = [(of, against, gap[kind]["reason"]) for of, against, gap in gaps_of(found) for kind in KINDS]
    return list(dict.fromkeys(row for row in every if row[2]))


VERDICTS = "Each held to its MLE"


def verdicts_of(found: dict) -> list[tuple[str, str, str]]:
    """Name, word and reason of every group that is held to an MLE, on the frontier that all are compared on."""
    return [(name, g["verdict"]["word"], g["verdict"]["reason"]) for name, g in found["groups"].items() if g["verdict"]]


def print_comparison(found: dict) -> None:
    """The tables of a comparison on the terminal."""
    for title, head, rows in comparison_tables(found):
        if title in (UNTOLD, VERDICTS):  # in sentences, below
            continue
        if head[1] == "seeds" and len(head) > max(8, len(rows) + 1):  # wider than a terminal: a score a line
            head, rows = (
                [head[0], *(row[0] for row in rows)],
                [list(line) for line in zip(head, *rows, strict=True)][1:],
            )
        table = Table(*head, box=None)
        for row in rows:
            table.add_row(*map(escape, row))
        out.print(f"{title}:", markup=False)
        out.print(table)
    better = "above" if AXES[found["frontier"]].sign < 0 else "below"
    out.print(
        f"{better} 0 is better; the other side takes the temperature that gives it the same diversity; seeds without a "
        "shared range not counted; rank 1 is the best frontier; all scores by --format json"
    )
    for name, g in found["groups"].items():
        if g["left_out"]:
            out.print(f"{name}: left out, as not every run has them: {', '.join(g['left_out'])}", markup=False)
    for of, against, why in untold_of(found):
        out.print(f"{of} against {against}: left out: {why}", markup=False)
    for name, word, why in verdicts_of(found):
        out.print(f"{name}: {word}: {why}", markup=False)


def controls_tables(found: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """The gain of a run, or of several seeds, and of its controls over its pre-trained generator, and what of it is the
    discriminator's: title, head and rows.
    """
    axes, several = AXES[found["frontier"]], isinstance(found["run"], list)

    def shown(j: dict | None) -> str:
        if j is None:
            return "no range shared in two seeds" if several else "no shared range"
        low, high = sorted((axes.sign * j["low"], axes.sign * j["high"]))
        few = f", {j['units']} seeds" if several and j["units"] < len(found["run"]) else ""
        return f"{axes.sign * j['gap']:+.3f} ({low:+.3f} to {high:+.3f}{few})"

    rows = [["discriminator", shown(found["gain"]), "", ""]]
    for name, c in found["controls"].items():
        part = c["share_of_d"]
        told = "no gain to share" if part is None else "{:.0%} ({:.0%} to {:.0%})".format(*part)
        rows.append([name, shown(c["gain"]), shown(c["run_against_it"]), told])
    error = f"over {len(found['run'])} seeds" if several else "sampling error, one seed"
    title = (
        f"{axes.label} at equal {DIVERSITY[axes.diversity]}, mean between the frontiers, 95 % interval in brackets: "
        f"{error}"
    )
    return [(title, ["reward", "less its pre-trained", "the run less it", "share of the gain that D explains"], rows)]


def print_controls(found: dict) -> None:
    """The same on the terminal."""
    for title, head, rows in controls_tables(found):
        table = Table(*head, box=None)
        for row in rows:
            table.add_row(*map(escape, row))
        out.print(table)
        out.print(title, markup=False)


def as_markdown(tables: list[tuple[str, list[str], list[list[str]]]]) -> str:
    """Tables (title, head, rows) as Markdown."""
    lines = []
    for title, head, rows in tables:
        lines += [f"{title}:", "", *(_piped(r) for r in (head, ["---"] * len(head), *rows)), ""]
    return "\n".join(lines)


def _piped(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: f"\\{c}" for c in "&%$#_{}"}


def as_latex(tables: list[tuple[str, list[str], list[list[str]]]]) -> str:
    """The same as LaTeX tabulars, for booktabs."""
    lines = []
    for title, head, rows in tables:
        body = [" & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in r) + r" \\" for r in (head, *rows)]
        long = [max(len(cell) for cell in column) > 60 for column in zip(head, *rows, strict=True)]
        columns = "".join(r"p{.6\linewidth}" if wide else "l" for wide in long)
        lines += [f"% {title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
        lines += [*body[1:], r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _gap_cells(gaps: dict, sign: int) -> list[str]:
    """As it is, over temperatures, p of the latter, seeds of both."""
    one, over = (gaps[kind] for kind in KINDS)
    p = "-" if over["p"] is None else f"{over['p']:.2g}"
    return [_gap_cell(one, sign), _gap_cell(over, sign), p, f"{len(one['seeds'])} and {len(over['seeds'])}"]


def _gap_cell(gap: dict, sign: int) -> str:
    if gap["gap"] is None:
        return "-"
    mean, half = gap["gap"]
    return _with_interval((sign * mean, half)) + ("" if gap["by"] == "seeds" else " (one seed)")


def _with_interval(pair: tuple[float, float | None] | None) -> str:
    if pair is None:
        return "-"
    mean, half = pair
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"
