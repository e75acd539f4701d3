"""Walk over MP4 boxes in Python: bounded in number and depth; every table is checked against the bytes of its box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy

CONTAINERS = frozenset({"moov", "trak", "mdia", "minf", "stbl", "dinf", "edts", "mvex", "udta", "moof", "traf"})
_HEADER_BYTES = 8
_LONG_HEADER_BYTES = 16


def reject(code: str, detail: str) -> ServiceError:
    """Return the error for a file that is refused."""
    return ServiceError(code, detail)


def broken(what: str) -> ServiceError:
    """Return a `broken` error: the structure contradicts itself."""
    return ServiceError("broken", f"The file's index is damaged: {what}. Export the clip again.")


@dataclass(frozen=True, slots=True)
class Box:
    """One box inside an index: kind (fourcc), the kinds of the boxes around it, and its body."""

    kind: str
    path: tuple[str, ...]
    body: memoryview

    @property
    def parent(self) -> str:
        """Return the kind of the box around it."""
        return self.path[-1] if self.path else ""


class BoxBudget:
    """Counts the boxes of a whole file against the limit."""

    def __init__(self, policy: MediaPolicy) -> None:
        self._left = policy.max_boxes
        self._policy = policy

    def spend(self, depth: int = 0) -> None:
        """Count one more box; raises `broken` over the limits of number or depth."""
        self._left -= 1
        if self._left < 0:
            raise broken(f"it has more than {self._policy.max_boxes} boxes")
        if depth > self._policy.max_depth:
            raise broken(f"its boxes are nested more than {self._policy.max_depth} deep")


def walk(body: memoryview, path: tuple[str, ...], budget: BoxBudget) -> Iterator[Box]:
    """Yield every box below `path`, parents before children.

    Raises:
        ServiceError: `broken`.
    """
    at = 0
    while at + _HEADER_BYTES <= len(body):
        size, kind, header = box_header(body[at : at + _LONG_HEADER_BYTES])
        if size == 0 and kind == "\0\0\0\0":
            return  # QuickTime ends some lists with zeros
        if size < header or at + size > len(body):
            raise broken(f"a box inside {path[-1]} does not fit its place")
        budget.spend(len(path) + 1)
        box = Box(kind, path, body[at + header : at + size])
        yield box
        if kind in CONTAINERS:
            yield from walk(box.body, (*path, kind), budget)
        at += size


def box_header(data: memoryview | bytes) -> tuple[int, str, int]:
    """Return size, kind and header length from the first bytes of a box (16, or 8 if the size is short)."""
    size = int.from_bytes(data[:4], "big")
    kind = bytes(data[4:8]).decode("latin-1")
    if size == 1 and len(data) >= _LONG_HEADER_BYTES:
        return int.from_bytes(data[8:16], "big"), kind, _LONG_HEADER_BYTES
    return size, kind, _HEADER_BYTES


def integer(body: memoryview, at: int, num_bytes: int = 4) -> int:
    """Return a big-endian unsigned integer; raises `broken` past the end."""
    if at + num_bytes > len(body):
        raise broken("a field lies outside its box")
    return int.from_bytes(body[at : at + num_bytes], "big")


def table(box: Box, *, width: int, max_rows: int, at: int = 8) -> NDArray[np.int64]:
    """Return a counted table of unsigned 32-bit fields, int64 (rows, width); the count precedes the first row.

    Raises:
        ServiceError: `broken` if the rows do not fit the box; `too_many_frames` if there are too many.
    """
    rows = integer(box.body, at - 4)
    if rows * width * 4 > len(box.body) - at:
        raise broken(f"table {box.kind} claims more rows than it holds")
    if rows > max_rows:
        raise reject("too_many_frames", f"Table {box.kind} has {rows} rows, over the limit of {max_rows}.")
    return np.frombuffer(box.body, ">u4", rows * width, at).astype(np.int64).reshape(rows, width)
