"""Options that are numbers, and the range each must lie in: said once, in the words that a refusal then uses."""

import re
from typing import Any

_BOUND = re.compile(r"at least (?P<least>\S+)|above (?P<above>\S+)|(?P<from>\S+) or more")
_INTERVAL = re.compile(r"(?P<open>[\[(])(?P<low>\S+), (?P<high>\S+)(?P<close>[\])])")


def check(config: Any, group: str = "", /, **ranges: str) -> None:
    """Each named attribute of `config` lies in its range, or is None: "at least 1", "above 0", "0 or more", "(0, 1]".

    group: what the option's name begins with on the command line, such as "generator.". A number that is no number
    lies in no range. Raises ValueError with the option's name, its value and the range.
    """
    for name, told in ranges.items():
        value = getattr(config, name)
        if value is not None and not _holds(told, value):
            words = f"lie in {told}" if _INTERVAL.fullmatch(told) else f"be {told}"
            raise ValueError(f"{group}{name} is {value}, but must {words if value == value else 'be a finite number'}")


def at_least(lowest: dict[str, int]) -> dict[str, str]:
    """The ranges of counts by their lowest values."""
    return {name: f"at least {low}" for name, low in lowest.items()}


def _holds(told: str, value: float) -> bool:
    if bound := _BOUND.fullmatch(told):
        least = bound["least"] or bound["from"]
        return value > float(bound["above"]) if least is None else value >= float(least)
    interval = _INTERVAL.fullmatch(told)
    if interval is None:
        raise ValueError(f"{told!r} names no range")
    low, high = float(interval["low"]), float(interval["high"])
    above = value > low if interval["open"] == "(" else value >= low
    below = value < high if interval["close"] == ")" else value <= high
    return above and below
