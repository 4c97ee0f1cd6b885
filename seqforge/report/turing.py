"""What people made of real and generated sequences: RUN/turing.jsonl, which `seqforge turing` collects."""

from typing import Any

from seqforge import turing
from seqforge.report.folder import Folder
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table

NAMES = {
    "real": "held-out sequences",
    "generated": "of the final generator",
    "pretrained": "of the pre-trained generator",
}


def section(folder: Folder) -> Found:
    path = folder.path / turing.FILE
    if not path.is_file():
        return None, []
    answers, broken = turing.read(path)
    told = broken_lines(broken)
    if not answers:
        return None, [*told, f"Judged by people: {turing.FILE} holds no answer."]
    found = turing.results(answers)
    view = {"sentence": sentence(found), "tables": tables(found)}
    return Section("judged", "Judged by people", "section_turing.html.j2", view), told


def sentence(found: dict[str, Any]) -> str:
    """The accuracy in words, and whether it is better than a coin's; where that pools several generators or
    temperatures, that of each.
    """
    accuracy, judges, each = found["accuracy"], len(found["judges"]), found["by_generator"]
    if accuracy["low"] > 0.5:
        word = "they tell generated from real sequences better than a coin"
    elif accuracy["high"] < 0.5:
        word = "they take generated for real sequences more often than a coin would"
    else:
        word = "no better, as far as these answers tell, than a coin"
    pooled = ""
    if len(each) > 1:
        told = "; ".join(f"{_name(kind)}: {_percent(kind)}" for kind in each)
        pooled = f" That pools {len(each)} kinds of generated sequences; of each, beside the real ones: {told}."
    who = "one judge" if judges == 1 else f"{judges} judges"
    answers = "1 answer" if found["answers"] == 1 else f"{found['answers']:,} answers"
    return f"Of {answers} by {who}, {_percent(accuracy)} are right: {word}.{pooled}"


def tables(found: dict[str, Any]) -> list[Table]:
    """Accuracy in all and by judge, where there are several by generator and temperature, and what was called human."""
    rows = [("all", *_cells(found["accuracy"]), "")] if len(found["judges"]) > 1 else []
    rows += [(j["judge"], *_cells(j), f"{j['seconds']:.1f} s") for j in found["judges"]]
    head = ("judge", "right", "share", "95 % interval", "median time")
    called = [(_name(kind), *_cells(kind)) for kind in found["called_human"]]
    return [
        Table("Answers that are right, by judge", head, rows),
        *([by_generator(found["by_generator"])] if len(found["by_generator"]) > 1 else []),
        Table("Called written by a person", ("sequences", "called so", "share", "95 % interval"), called),
    ]


def by_generator(each: list[dict[str, Any]]) -> Table:
    rows = []
    for kind in each:
        known = kind["share"] is not None
        bounds = (f"{kind['share']:.0%}", f"{kind['low']:.0%} to {kind['high']:.0%}") if known else ("–", "–")
        rows.append((_name(kind), f"{kind['real']} and {kind['generated']}", *bounds))
    head = ("sequences", "answers to real and to these", "right", "95 % interval")
    return Table("Right with real sequences asked beside, either side counted half", head, rows)


def broken_lines(numbers: list[int]) -> list[str]:
    if not numbers:
        return []
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return [f"{turing.FILE}: {len(numbers)} line(s) are no answers, or repeat one, and are left out: {shown}."]


def _name(kind: dict[str, Any]) -> str:
    heat = "" if kind["temperature"] is None else f", temperature {kind['temperature']:g}"
    return NAMES[kind["source"]] + heat


def _cells(share: dict[str, Any]) -> tuple[str, str, str]:
    return f"{share['count']} of {share['of']}", f"{share['share']:.0%}", f"{share['low']:.0%} to {share['high']:.0%}"


def _percent(share: dict[str, Any]) -> str:
    if share["share"] is None:
        return "too few answers"
    return f"{share['share']:.0%} (95 % interval {share['low']:.0%} to {share['high']:.0%})"
