"""Progress on the terminal: a bar with rate and time left, or a line now and then where there is no terminal."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


def track(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    """Yield `items`, showing `phase`, done/total, rate, time left and `note["text"]` (set by the caller as it goes)."""
    if console.is_terminal:
        yield from _bar(items, done, total, phase, note)
    else:
        yield from _lines(items, done, total, phase, note)


def _bar(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    begun = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(phase, total=total, completed=done, rate="", note="")
        for n, item in enumerate(items, 1):
            yield item
            rate = (time.monotonic() - begun) / n
            bar.update(task, advance=1, rate=f"{rate:.2f} s each", note=note.get("text", ""))


def _lines(items: Iterable[int], done: int, total: int, phase: str, note: dict[str, str]) -> Iterator[int]:
    begun = said = time.monotonic()
    for n, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said > 10 or done + n == total:
            said = now
            left = (now - begun) / n * (total - done - n)
            print(f"{phase} {done + n}/{total}, {_clock(left)} left  {note.get('text', '')}", file=sys.stderr)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
