"""Parts that the model's commands share: one line for a failure, a progress bar, a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# A log gets a line of progress this often.
LINE_S = 60.0

console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn a failure that a user can cause into one line on stderr and exit code 1."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        console.print(f"error: {str(error).splitlines()[0] if str(error) else type(error).__name__}", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(1) from None


class ShowProgress(Protocol):
    """Shows how much is done."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total` units."""


@contextmanager
def progress_bar(title: str, *, unit: str, is_shown: bool = True) -> Iterator[ShowProgress]:
    """Show progress on stderr: a bar, or a line a minute where stderr is no terminal. Yields what shows new numbers."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    if not is_shown or console.is_terminal:
        made = Progress(*columns, console=console, disable=not is_shown)
    else:
        made = LineProgress(console=console, disable=True)
    with made as bar:
        task = bar.add_task(title, total=None, note="", unit=unit)

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield show


class LineProgress(Progress):
    """Progress for a log: at most a line every `LINE_S` seconds."""

    _printed_s: float | None = None

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Take new numbers, and print them if a line is due."""
        super().update(task_id, **fields)
        now_s = self.get_time()
        self._printed_s = now_s if self._printed_s is None else self._printed_s
        if now_s - self._printed_s >= LINE_S:
            self._printed_s = now_s
            task = self.tasks[self.task_ids.index(task_id)]
            total = "?" if task.total is None else f"{task.total:.0f}"
            fields_shown = f"{task.fields['unit']} {task.fields['note']}".rstrip()
            elapsed_s = round(task.elapsed or 0)
            self.console.print(f"{task.description}: {task.completed:.0f}/{total} {fields_shown}, {elapsed_s} s")


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    """Figures as aligned lines on stderr; what a program reads goes to stdout."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        console.print(f"{name:<{width}}  {text}", markup=False)
