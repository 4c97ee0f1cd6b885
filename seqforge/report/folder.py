"""What a run left on disk, read with patience: a crash may have cut any file short, and the page must say so."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
SAMPLE_FILES, SAMPLE_LINES, SAMPLE_WIDTH = 2, 20, 2000


@dataclass(frozen=True)
class Samples:
    name: str  # samples/step-N.txt
    step: int
    lines: list[str]  # the first SAMPLE_LINES
    total: int  # lines in the file


@dataclass(frozen=True)
class Folder:
    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    scores: dict[str, Any]  # scores.json, or {}
    samples: list[Samples]
    missing: list[str] = field(default_factory=list)  # sentences for "Not in this report"
    path: Path = Path()
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # of checkpoints, by an evaluator beside
    checkpoints: list[str] = field(default_factory=list)  # their names

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]


def read_folder(run: Path) -> Folder:
    config = read_config(run)
    records, log_missing = read_log(run / "log.jsonl")
    scores, scores_missing = read_scores(run / "scores.json")
    samples, samples_missing = read_samples(run)
    evaluations, evaluations_missing = read_evaluations(run)
    missing = log_missing + scores_missing + samples_missing + evaluations_missing
    checkpoints = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return Folder(run.resolve().name, config, records, scores, samples, missing, run, evaluations, checkpoints)


def read_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run}: no config.yaml, so this is not a run folder; give the folder a training wrote")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({error}); restore the file the training wrote") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {config!r} is not a mapping of settings; restore the file the training wrote")
    return config


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    if not path.is_file():
        return [], ["Learning curves, versions, wall time and warnings: there is no log.jsonl."]
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records, unread = [], []
    for place, line in enumerate(lines, start=1):
        record = parse_record(line)
        if record is not None:
            records.append(record)
        elif line.strip():
            unread.append(place)
    empty = [] if records else ["Learning curves, versions, wall time and warnings: log.jsonl holds no record."]
    return records, empty + unread_lines(unread, last=len(lines))


def parse_record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(record, dict) or number(record.get("step")) is None:
        return None
    return record if isinstance(record.get("phase"), str) and isinstance(record.get("kind"), str) else None


def unread_lines(places: list[int], last: int) -> list[str]:
    """A cut last line is what a crash leaves; a broken line elsewhere is named by its number."""
    told = []
    if places and places[-1] == last:
        told.append(
            f"log.jsonl:{last}: the last line is cut off (the run crashed or is still writing) and is left out."
        )
        places = places[:-1]
    if places:
        shown = ", ".join(map(str, places[:10])) + (", …" if len(places) > 10 else "")
        told.append(f"log.jsonl: {len(places)} line(s) are not records and are left out: {shown}.")
    return told


def read_scores(path: Path) -> tuple[dict[str, Any], list[str]]:
    if not path.is_file():
        return {}, ["The side-by-side table, the quality-diversity picture and the verdict: there is no scores.json."]
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, [f"The side-by-side table, the picture and the verdict: scores.json is not valid JSON ({error})."]
    if not isinstance(scores, dict):
        return {}, ["The side-by-side table, the picture and the verdict: scores.json holds no JSON object."]
    return scores, []


def read_evaluations(run: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What `seqforge evaluate RUN --watch` found, by step."""
    found, told = [], []
    for path in (run / "evaluations").glob("step-*.json"):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            found.append({**result, "step": int(result["step"])})
            if "error" in result:
                told.append(f"Scores of {path.stem}: {result['error']}.")
        except (ValueError, TypeError, KeyError) as error:
            told.append(f"Scores of {path.stem}: evaluations/{path.name} cannot be read ({error}).")
    return sorted(found, key=lambda r: r["step"]), sorted(told)


def read_json(path: Path, what: str, checked: Callable[[Any], T]) -> tuple[T | None, list[str]]:
    """A file that `seqforge evaluate` writes, and a sentence where it is missing or not what it should be."""
    if not path.is_file():
        return None, [f"{what}: there is no {path.name}; make it by: seqforge evaluate {path.parent}"]
    try:
        return checked(json.loads(path.read_text(encoding="utf-8"))), []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return None, [
            f"{what}: {path.name} cannot be read ({error!r}); make it anew by: seqforge evaluate {path.parent}"
        ]


def read_samples(run: Path) -> tuple[list[Samples], list[str]]:
    """The last files in time; the file names' numbers count, not their spelling: step-1000 is after step-200."""
    steps = {}
    for path in (run / "samples").glob("step-*.txt"):
        if match := re.fullmatch(r"step-(\d+)\.txt", path.name):
            steps[int(match[1])] = path
    if not steps:
        return [], ["Samples: there is no samples/step-N.txt."]
    return [read_sample(steps[step], step) for step in sorted(steps)[-SAMPLE_FILES:]], []


def read_sample(path: Path, step: int) -> Samples:
    lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    shown = [line if len(line) <= SAMPLE_WIDTH else line[:SAMPLE_WIDTH] + " …" for line in lines[:SAMPLE_LINES]]
    return Samples(f"samples/{path.name}", step, shown, len(lines))


def number(value: Any) -> float | None:
    """A finite number, or None; JSON logs may hold NaN, null and true."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def subjects(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns of the comparison: each generator, then each reference."""
    groups = [scores.get("generators"), scores.get("references")]
    found = [subject for group in groups if isinstance(group, list) for subject in group]
    return [subject for subject in found if isinstance(subject, dict)]


def subject_scores(subject: dict[str, Any]) -> list[dict[str, Any]]:
    return [score for score in subject.get("scores") or [] if isinstance(score, dict) and "name" in score]
