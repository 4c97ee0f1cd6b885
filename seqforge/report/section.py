"""A part of the page: a heading, a template of its own, the pictures in it."""

from dataclasses import dataclass, field
from typing import Any

from seqforge.report.figures import Picture


@dataclass(frozen=True)
class Section:
    """view: what the template shows, as `view`; pictures: all of them, for `--png`."""

    id: str
    title: str
    template: str
    view: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)


Found = tuple[Section | None, list[str]]  # and in sentences what a reader might look for here in vain
