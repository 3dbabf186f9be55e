"""What a person sees on a terminal, and what a log collector reads from a pod.

On a terminal: short lines and progress bars. Elsewhere: JSON lines. Both on stderr, so that
stdout carries results only.
"""

import logging
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Protocol

import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

console = Console(stderr=True, highlight=False)
_LINE_EVERY_SECONDS = 10.0


class Progress(Protocol):
    def advance(self, count: int = 1, **shown: float | str) -> None: ...

    def skip(self, count: int) -> None:
        """Count what an earlier start has done; it tells nothing of this one's speed."""


def configure(*, debug: bool = False, quiet: bool = False) -> None:
    """Set logging up at the start of a command; `quiet` leaves warnings."""
    chain: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    if console.is_terminal:
        chain.append(_to_terminal)
    else:
        chain += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    # It advises to fetch kernels from the hub, as soon as it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
        ),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),  # as it is at that moment
        cache_logger_on_first_use=False,
    )


def get() -> Any:
    """Return the logger: `log.get().info("rows kept", rows=974)`."""
    return structlog.get_logger()


def _to_terminal(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    level = event.pop("level")
    stage = event.pop("stage", "")
    text = escape(str(event.pop("event")))
    rest = escape("  ".join(f"{name}={_plain(value)}" for name, value in event.items()))
    colour = {"warning": "yellow", "error": "red", "critical": "red"}.get(level, "default")
    console.print(f"[cyan]{stage:<10}[/] [{colour}]{text}[/]  [dim]{rest}[/]", soft_wrap=True)
    raise structlog.DropEvent


def printable(text: str) -> str:
    """Drop what could steer a terminal: models and files may hold anything."""
    return "".join(sign for sign in text if sign.isprintable() or sign == "\n")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(label: str, total: int | None, unit: str) -> Iterator[Progress]:
    """Show how far a loop is: a bar on a terminal, a line every ten seconds elsewhere."""
    if not console.is_terminal:
        lines = _Lines(label, total, unit)
        yield lines
        lines.close()
        return
    columns = (
        TextColumn("[cyan]{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[shown]}"),
    )
    with Bars(*columns, console=console) as bars:
        yield _Bar(bars, bars.add_task(label, total=total, unit=unit, shown=""))


class _Bar:
    def __init__(self, bars: Bars, task: Any) -> None:
        self._bars = bars
        self._task = task

    def skip(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def advance(self, count: int = 1, **shown: float | str) -> None:
        self._bars.advance(self._task, count)
        if shown:
            text = "  ".join(f"{name} {_plain(value)}" for name, value in shown.items())
            self._bars.update(self._task, shown=text)


class _Lines:
    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._shown: dict[str, float | str] = {}
        self._next = time.monotonic() + _LINE_EVERY_SECONDS

    def skip(self, count: int) -> None:
        self._done += count

    def advance(self, count: int = 1, **shown: float | str) -> None:
        self._done += count
        self._shown.update(shown)
        if time.monotonic() >= self._next:
            self._say()

    def close(self) -> None:
        self._say()

    def _say(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY_SECONDS
        get().info(self._label, done=self._done, total=self._total, unit=self._unit, **self._shown)
