"""Progress of long commands: a bar for people, lines for logs."""

import io

import pytest
from rich.console import Console

from model.cli import parts


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stderr that is a file."""
    text = io.StringIO()
    monkeypatch.setattr(parts, "console", Console(file=text, soft_wrap=True, highlight=False))
    return text


def run(num_steps: int, *, is_shown: bool = True) -> None:
    with parts.progress_bar("ablation", unit="steps", is_shown=is_shown) as show_progress:
        for done in range(1, num_steps + 1):
            show_progress(done, num_steps, note="seed 0")


def test_a_log_gets_lines(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LINE_S", 0.0)
    run(3)
    lines = log.getvalue().splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == [f"ablation: {done}/3 steps seed 0" for done in (1, 2, 3)]
    assert lines[0].endswith(", 0 s")


def test_a_short_command_prints_none(log: io.StringIO) -> None:
    run(100)
    assert log.getvalue() == ""


def test_only_the_first_process_tells(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LINE_S", 0.0)
    run(3, is_shown=False)
    assert log.getvalue() == ""
