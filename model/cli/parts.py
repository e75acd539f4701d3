"""What the model's commands share: one line for a failure, a progress bar, a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


@contextmanager
def progress_bar(title: str, *, unit: str, is_shown: bool = True) -> Iterator[tuple[Progress, Any]]:
    """A progress bar on stderr, silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as bar:
        yield bar, bar.add_task(title, total=None, note="")


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    """Figures as aligned lines on stderr; what a program reads goes to stdout."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        console.print(f"{name:<{width}}  {text}", markup=False)
