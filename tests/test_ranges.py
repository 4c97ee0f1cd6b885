"""Ranges of options: what lies in them, and what a refusal says."""

import re
from types import SimpleNamespace

import pytest

from seqforge import ranges


@pytest.mark.parametrize(
    ("told", "within", "without"),
    [
        ("at least 1", [1, 2], [0, -1]),
        ("above 0", [1e-9, 3], [0, -1.0]),
        ("0 or more", [0, 0.5], [-1e-9]),
        ("(0, 1]", [1e-9, 1], [0, 1.1]),
        ("[0, 1)", [0, 0.5], [1, -0.1]),
        ("[0.5, 1]", [0.5, 1.0], [0.4, 1.1]),
        ("(-2, 1e3)", [-1, 999.0], [-2, 1000]),
    ],
)
def test_ends_belong_to_it_or_not(told, within, without):
    for value in [*within, None]:
        ranges.check(SimpleNamespace(x=value), x=told)
    for value in without:
        must = "lie in" if "," in told else "be"
        with pytest.raises(ValueError, match=re.escape(f"mle.x is {value}, but must {must} {told}") + "$"):
            ranges.check(SimpleNamespace(x=value), "mle.", x=told)
    with pytest.raises(ValueError, match=r"mle\.x is nan, but must be a finite number"):
        ranges.check(SimpleNamespace(x=float("nan")), "mle.", x=told)


def test_words_that_name_no_range_are_an_error():
    with pytest.raises(ValueError, match="'below 3' names no range"):
        ranges.check(SimpleNamespace(x=1), x="below 3")


def test_counts_by_their_lowest():
    assert ranges.at_least({"a": 0, "b": 2}) == {"a": "at least 0", "b": "at least 2"}
