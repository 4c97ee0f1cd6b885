"""Numbers -> tables of text, ready for the page: plain data, no HTML."""

import math
from dataclasses import dataclass
from typing import Any

from seqforge.frontier import heat
from seqforge.report.folder import number, subject_scores, subjects

DIFFERS = " †"  # marks a row whose columns were not measured in the same way


@dataclass(frozen=True)
class Table:
    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    headers: int = 1  # the leading cells of a row that name it


def show(value: Any, stderr: Any = None) -> str:
    """As many digits as the standard error supports (two of it); without one, four significant."""
    value, stderr = number(value), number(stderr)
    if value is None:
        return "not finite"
    if not stderr:
        return minus(f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}")
    places = min(max(1 - math.floor(math.log10(abs(stderr))), 0), 8)
    return minus(f"{value:.{places}f} ± {abs(stderr):.{places}f}")


def minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def side_by_side(scores: dict[str, Any]) -> Table:
    """One row a score and temperature, one column a generator or reference."""
    columns = [cells(subject) for subject in subjects(scores)]
    rows = []
    for key in row_keys(columns):
        found = [column.get(key, []) for column in columns]
        mark = DIFFERS if signatures_differ(found) else ""
        shown = key[1] if key[1] == "–" else heat(float(key[1]))
        rows.append((title(key[0], found), shown + mark, *map(cell, found)))
    return Table("Scores side by side, value ± standard error", heading(scores), rows, headers=2)


Key = tuple[str, str]  # score name, temperature as shown
Scores = list[dict[str, Any]]


def cells(subject: dict[str, Any]) -> dict[Key, Scores]:
    found: dict[Key, Scores] = {}
    for score in subject_scores(subject):
        found.setdefault((str(score["name"]), temperature(score)), []).append(score)
    return found


def temperature(score: dict[str, Any]) -> str:
    value = number(score.get("temperature"))
    return "–" if value is None else f"{value:g}"


def row_keys(columns: list[dict[Key, Scores]]) -> list[Key]:
    """Names in the order the evaluation wrote them, temperatures from cold to hot."""
    names = list(dict.fromkeys(name for column in columns for name, _ in column))
    keys = {key for column in columns for key in column}
    return sorted(keys, key=lambda key: (names.index(key[0]), -1.0 if key[1] == "–" else float(key[1])))


def title(name: str, found: list[Scores]) -> str:
    unit = next((str(score["unit"]) for scores in found for score in scores if score.get("unit")), "")
    return f"{name} ({unit})" if unit else name


def cell(scores: Scores) -> str:
    return " / ".join(show(score.get("value"), score.get("stderr")) for score in scores) or "–"


def signatures_differ(found: list[Scores]) -> bool:
    return len({str(score.get("signature")) for scores in found for score in scores}) > 1


def heading(scores: dict[str, Any]) -> tuple[str, ...]:
    names = []
    for subject in subjects(scores):
        step = f", step {subject['step']}" if "step" in subject else ""
        names.append(f"{subject.get('name', 'unnamed')}{step}")
    return ("score", "temperature", *names)


def signature_table(scores: dict[str, Any]) -> Table:
    """Equal signatures are told once, with the columns they hold for."""
    columns = [(str(subject.get("name", "unnamed")), cells(subject)) for subject in subjects(scores)]
    holders: dict[tuple[str, str, str], list[str]] = {}
    for key in row_keys([found for _, found in columns]):
        for column, found in columns:
            for score in found.get(key, []):
                holders.setdefault((*key, str(score.get("signature") or "none")), []).append(column)
    rows = [(name, heat, ", ".join(held), signature) for (name, heat, signature), held in holders.items()]
    return Table("How each score was measured", ("score", "temperature", "columns", "signature"), rows, headers=2)


def config_table(config: dict[str, Any]) -> Table:
    return Table("The effective configuration", ("setting", "value"), flat(config))


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings under the dotted names that the command line takes."""
    if not isinstance(value, dict) or not value:
        return [(name, "none" if value is None else str(value))]
    return [row for key, inner in value.items() for row in flat(inner, f"{name}.{key}" if name else str(key))]
