"""Saving and loading of resumable state as files under 15 MB, because many stores and links refuse larger ones.

Each save is a folder with `piece_00000.safetensors`, ... and `index.json`, which is written last and lists every file
with its hash. Nothing in it can execute code.
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

MAX_FILE_BYTES = 14_000_000
INDEX_NAME = "index.json"
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64,
                                          torch.int32, torch.uint8, torch.bool)}  # fmt: skip


class StateFilesError(ValueError):
    """A saved state is incomplete, damaged or written by another program."""


def save_state(folder: Path, *, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a state atomically, replacing a folder of the same name.

    Args:
        folder: folder to write.
        tensors: tensors by name, of the dtypes in `DTYPES`.
        values: JSON-serialisable values.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    index: dict[str, Any] = {"values": dict(values), "tensors": {}, "pieces": {}}
    for name, tensor in tensors.items():
        index["tensors"][name] = {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "parts": []}
    for number, parts in enumerate(_grouped(tensors)):
        path = partial / f"piece_{number:05d}.safetensors"
        save_file({str(place): part for place, (_, part) in enumerate(parts)}, path)
        index["pieces"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for place, (name, _) in enumerate(parts):
            index["tensors"][name]["parts"].append([path.name, str(place)])
    (partial / INDEX_NAME).write_text(json.dumps(index))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state.

    Returns:
        The tensors (on the CPU) and the values.

    Raises:
        StateFilesError: a file is missing or differs from what was written.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        files = {name: _load_file(folder / name, digest) for name, digest in index["pieces"].items()}
        tensors = {}
        for name, entry in index["tensors"].items():
            parts = [files[file][place] for file, place in entry["parts"]]
            raw = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)
            tensors[name] = raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return tensors, dict(index["values"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StateFilesError(f"cannot read the saved state {folder}: {error}") from error


def _load_file(path: Path, digest: str) -> dict[str, Tensor]:
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise StateFilesError(f"{path.name} differs from the file that was written")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise StateFilesError(f"{path.name}: {error}") from error


def _grouped(tensors: Mapping[str, Tensor]) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield groups of (name, bytes) of at most MAX_FILE_BYTES; larger tensors are split."""
    group: list[tuple[str, Tensor]] = []
    free = MAX_FILE_BYTES
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for part in torch.split(raw, MAX_FILE_BYTES) if math.prod(tensor.shape) else ():
            if len(part) > free:
                yield group
                group, free = [], MAX_FILE_BYTES
            group.append((name, part.clone()))
            free -= len(part)
    if group:
        yield group
