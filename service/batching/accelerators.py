"""NVIDIA devices and their driver as the operating system reports them, independent of how torch was built."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path("/")
# Device nodes of single GPUs: `nvidia0`, not `nvidiactl` or `nvidia-uvm`.
_DEVICE_NODE = re.compile(r"nvidia[0-9]+")
# `... NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu ...`, or `... Open Kernel Module for x86_64  570.86.15  ...`.
_VERSION = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def nvidia_devices(root: Path = _ROOT) -> list[str]:
    """Return the device nodes of the GPUs that this process could open, such as `nvidia0`."""
    folder = root / "dev"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _DEVICE_NODE.fullmatch(path.name))


def driver_version(root: Path = _ROOT) -> str | None:
    """Return the version of the loaded NVIDIA kernel driver; None if there is none."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = _VERSION.search(text)
    return None if found is None else found[1]
