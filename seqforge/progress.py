"""Progress on the terminal: a bar with rate and time left, or a line now and then where there is no terminal."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

console = Console(stderr=True, highlight=False)


def track(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    """Yield `items`, showing `phase`, done/total, rate, time left and `note["text"]` (set by the caller as it goes)."""
    if console.is_terminal:
        yield from _bar(items, done, total, phase, note)
    else:
        yield from _lines(items, done, total, phase, note)


def warn(text: str) -> None:
    """A line that stays, above the bar where there is one."""
    console.print(f"warning: {text}", markup=False, soft_wrap=True)


def _bar(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # the note gives way first on a narrow terminal
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=13)),
        BarColumn(16, table_column=Column(min_width=16)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True, min_width=6)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[note]}", table_column=rest),
    )
    begun = time.monotonic()
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task(phase, total=total, completed=done, rate="", note="")
        for n, item in enumerate(items, 1):
            yield item
            rate = (time.monotonic() - begun) / n
            bar.update(task, advance=1, rate=f"{rate:.1f} s", note=note.get("text", ""))


def _lines(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    begun = said = time.monotonic()
    n = 0
    try:
        for n, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - said > 10:
                said = now
                left = (now - begun) / n * (total - done - n)
                print(f"{phase} {done + n}/{total}, {_clock(left)} left  {note.get('text', '')}", file=sys.stderr)
    finally:  # the end, early or not
        if n:
            took = _clock(time.monotonic() - begun)
            print(f"{phase} {done + n}/{total} in {took}  {note.get('text', '')}", file=sys.stderr)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
