"""The device of a run and the precision of its arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from model.training.distributed import ProcessGroup


def choose_device(name: str, group: ProcessGroup) -> torch.device:
    """Return the named device. `auto` is CUDA where there is one; each process of a group takes a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(f"cuda:{group.local_rank}" if name == "cuda" and group.size > 1 else name)


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, None for full precision. `auto` is bfloat16 on CUDA."""
    if choice == "auto":
        choice = "bf16" if device.type == "cuda" else "off"
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a step computes its losses; it does nothing in full precision."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
