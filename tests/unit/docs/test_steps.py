"""ARCHITECTURE.md, "One request, step by step": the functions exist where it says, and they are few."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAX_FUNCTIONS, MAX_FILES = 16, 8
_STEP = re.compile(r"^\d+\. \[`([\w.]+)`\]\(([\w/.]+)\)", re.MULTILINE)


def listed_steps() -> list[tuple[str, str]]:
    """Return the qualified name and the file of each step, in order."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    section = text.partition("<!-- steps:begin -->")[2].partition("<!-- steps:end -->")[0]
    return _STEP.findall(section)


STEPS = listed_steps()


def test_the_path_is_short_and_goes_from_the_handler_to_the_network() -> None:
    assert 10 <= len(STEPS) <= MAX_FUNCTIONS
    assert len({file for _, file in STEPS}) <= MAX_FILES
    assert STEPS[0] == ("segment", "service/rest/segment.py")
    assert STEPS[-1] == ("AVESFormer.forward", "model/network/avesformer.py")


@pytest.mark.parametrize(("name", "file"), STEPS)
def test_each_step_is_a_function_of_its_file(name: str, file: str) -> None:
    assert name in set(_functions(ast.parse((ROOT / file).read_text("utf-8"))))


def _functions(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Yield the names of all functions, methods with their class; a function inside a function has its bare name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name
            yield from _functions(child)
