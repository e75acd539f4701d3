"""Resumable state in pieces under 15 MB: many stores and links refuse larger files, and a broken copy costs one piece.

A folder per save holds `piece_00000.safetensors`, ... and `index.json`, which is written last and names every piece
with its hash. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_PIECE_BYTES = 14_000_000
INDEX_NAME = "index.json"
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64,
                                          torch.int32, torch.uint8, torch.bool)}  # fmt: skip


class PiecesError(ValueError):
    """A saved state is incomplete, damaged or of another program."""


def save_pieces(folder: Path, *, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a state. The folder appears whole or not at all, in place of one of the same name.

    Args:
        folder: to write.
        tensors: by name; of the dtypes above.
        values: JSON-ready.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    index: dict[str, Any] = {"values": dict(values), "tensors": {}, "pieces": {}}
    for name, tensor in tensors.items():
        index["tensors"][name] = {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "parts": []}
    for number, piece in enumerate(_packed(tensors)):
        path = partial / f"piece_{number:05d}.safetensors"
        save_file({str(place): part for place, (_, part) in enumerate(piece)}, path)
        index["pieces"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for place, (name, _) in enumerate(piece):
            index["tensors"][name]["parts"].append([path.name, str(place)])
    (partial / INDEX_NAME).write_text(json.dumps(index))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load_pieces(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state: tensors (on the CPU) and values.

    Raises:
        PiecesError: a piece is missing or not the one that was written.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        pieces = {name: _piece(folder / name, digest) for name, digest in index["pieces"].items()}
        tensors = {}
        for name, entry in index["tensors"].items():
            parts = [pieces[file][place] for file, place in entry["parts"]]
            raw = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)
            tensors[name] = raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return tensors, dict(index["values"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PiecesError(f"cannot read the saved state {folder}: {error}") from error


def _piece(path: Path, digest: str) -> dict[str, Tensor]:
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise PiecesError(f"{path.name} is not the piece that was written")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PiecesError(f"{path.name}: {error}") from error


def _packed(tensors: Mapping[str, Tensor]) -> Iterator[list[tuple[str, Tensor]]]:
    """Groups of (name, bytes) of at most MAX_PIECE_BYTES; larger tensors are cut."""
    group: list[tuple[str, Tensor]] = []
    free = MAX_PIECE_BYTES
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for part in torch.split(raw, MAX_PIECE_BYTES) if math.prod(tensor.shape) else ():
            if len(part) > free:
                yield group
                group, free = [], MAX_PIECE_BYTES
            group.append((name, part.clone()))
            free -= len(part)
    if group:
        yield group
