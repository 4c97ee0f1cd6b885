"""scores.json -> the quality-diversity curves: one a generator, a point a temperature."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from seqforge.report.folder import number

QUALITY, DIVERSITY = "nll_oracle", "nll_test"


class Pair(NamedTuple):
    temperature: float
    test: float
    test_stderr: float | None
    oracle: float
    oracle_stderr: float | None


@dataclass(frozen=True)
class Line:
    name: str
    unit: str
    points: list[Pair]  # by temperature


def frontier_lines(scores: dict[str, Any]) -> list[Line]:
    """Generators and references that have both scores at one temperature at least."""
    return [line for subject in subjects(scores) if (line := frontier_line(subject)).points]


def subjects(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns of the comparison: each generator, then each reference."""
    groups = [scores.get("generators"), scores.get("references")]
    found = [subject for group in groups if isinstance(group, list) for subject in group]
    return [subject for subject in found if isinstance(subject, dict)]


def subject_scores(subject: dict[str, Any]) -> list[dict[str, Any]]:
    return [score for score in subject.get("scores") or [] if isinstance(score, dict) and "name" in score]


def frontier_line(subject: dict[str, Any]) -> Line:
    tests, oracles = by_temperature(subject, DIVERSITY), by_temperature(subject, QUALITY)
    pairs = []
    for temperature in sorted(tests.keys() & oracles.keys()):
        test, oracle = tests[temperature], oracles[temperature]
        test_error, oracle_error = number(test.get("stderr")), number(oracle.get("stderr"))
        pairs.append(Pair(temperature, test["value"], test_error, oracle["value"], oracle_error))
    unit = next((str(score["unit"]) for score in oracles.values() if score.get("unit")), "nats")
    return Line(str(subject.get("name", "unnamed")), unit, pairs)


def by_temperature(subject: dict[str, Any], name: str) -> dict[float, dict[str, Any]]:
    scores = [score for score in subject_scores(subject) if score["name"] == name]
    return {
        temperature: score
        for score in scores
        if (temperature := number(score.get("temperature"))) is not None and number(score.get("value")) is not None
    }
