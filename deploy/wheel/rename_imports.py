"""Rename the imports of a module so that `service` and `model` become sub-packages of `avesformer`.

Edits are insertions at the positions of tokens, so formatting, comments and line numbers stay as they are.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Set
from itertools import accumulate, pairwise

NAMESPACE = "avesformer"
ROOTS = ("service", "model")
# In a string: a dotted path below a root that no other word, dot or brace of an f-string precedes, or `-m model`.
_DOTTED = re.compile(r"(?<![\w.{])(?:service|model)(?:\.\w+)+|(?<=-m )(?:service|model)\b")
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # f-strings are split from 3.12 on


class RenameError(Exception):
    """A module refers to our packages in a way that cannot be renamed; the message says where."""


def rename_imports(source: str, modules: Set[str], *, name: str) -> str:
    """Return the source with every reference to our modules renamed.

    Import statements are renamed always. In strings a dotted path is renamed if it names a module of ours, so
    `python -m`, entry points and docstrings are, and metric names such as `model.lite.b1` are not.

    Args:
        source: text of a `.py` or `.pyi` file.
        modules: dotted names of all modules and packages that are renamed, such as `service.core.pipeline`.
        name: of the file, for errors.

    Raises:
        RenameError: `import service.x` binds the name `service`, which later lines may use.
    """
    lines = io.StringIO(source).readlines()
    starts = [0, *accumulate(map(len, lines))]
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    following = {_offset(starts, *before.start): _offset(starts, *after.start) for before, after in pairwise(tokens)}
    found = [*_imports(source, name, lines, starts, following), *_strings(source, tokens, starts, modules)]
    renamed = source
    for place in sorted(found, reverse=True):
        renamed = f"{renamed[:place]}{NAMESPACE}.{renamed[place:]}"
    return renamed


def _imports(source: str, name: str, lines: list[str], starts: list[int], following: dict[int, int]) -> Iterator[int]:
    """Yield the offset of each module name in an absolute import of our packages.

    `following` has the offset of the token after each token: the module's name comes after the word `from`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module or ""):
            yield following[_node_offset(lines, starts, node.lineno, node.col_offset)]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if not _is_ours(alias.name):
                    continue
                if alias.asname is None:
                    raise RenameError(f"{name}:{node.lineno}: write `from … import`, not `import {alias.name}`")
                yield _node_offset(lines, starts, alias.lineno, alias.col_offset)


def _strings(source: str, tokens: list[tokenize.TokenInfo], starts: list[int], modules: Set[str]) -> Iterator[int]:
    """Yield the offset of each of our modules' names inside a string."""
    for token in tokens:
        if token.type in _STRINGS:
            first, last = _offset(starts, *token.start), _offset(starts, *token.end)
            for match in _DOTTED.finditer(source, first, last):
                if ".".join(match[0].split(".")[:2]) in modules:
                    yield match.start()


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ROOTS


def _offset(starts: list[int], row: int, column: int) -> int:
    """Return the place of a token; rows count from 1, columns are characters."""
    return starts[row - 1] + column


def _node_offset(lines: list[str], starts: list[int], row: int, column_bytes: int) -> int:
    """Return the place of a node of the syntax tree, whose columns are bytes in UTF-8."""
    return starts[row - 1] + len(lines[row - 1].encode("utf-8")[:column_bytes].decode("utf-8"))
