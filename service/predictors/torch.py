"""Loader of `model.inference.Predictor`, a `ports.Predictor`. The model is imported when a checkpoint is loaded."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from service.ports import Predictor

_META_KERNELS = "torch._meta_registrations"
# Each call keeps its own activations in memory.
_MAX_PARALLEL_CALLS = 4
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def import_model(*, is_cpu: bool) -> None:
    """Import the model and torch, which takes most of the time of `load_predictor`; that raises what fails here.

    Args:
        is_cpu: leave out what inference on a CPU does not use.
    """
    with contextlib.suppress(Exception), _without_meta_kernels() if is_cpu else contextlib.nullcontext():
        import_module("model.inference")


def load_predictor(
    checkpoint: Path | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    input_px: int | None = None,
) -> Predictor:
    """Load a checkpoint on the calling thread, which then owns the predictor.

    Args:
        checkpoint: the file; None loads the shipped one.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32, bfloat16 or float16.
        threads: torch threads on the CPU; None takes `default_threads`.
        input_px: frame height and width; None takes the checkpoint's.

    Raises:
        ValueError: the checkpoint, device or dtype cannot be used; the message says why.
    """
    from model.inference import Predictor as TorchPredictor

    chosen = default_threads() if threads is None else threads
    return TorchPredictor.load(checkpoint, device=device, dtype=dtype, threads=chosen, input_px=input_px)


@contextlib.contextmanager
def _without_meta_kernels() -> Iterator[None]:
    """Import torch in this context without its kernels for tensors without data, a fifth of the import's time.

    `torch.compile` and `torch.export` need them; importing `torch._meta_registrations` later adds them.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules[_META_KERNELS] = absent = ModuleType(_META_KERNELS)
    try:
        yield
    finally:
        sys.modules.pop(_META_KERNELS, None)
        torch, _, name = _META_KERNELS.partition(".")
        if getattr(sys.modules.get(torch), name, None) is absent:
            delattr(sys.modules[torch], name)


def default_parallel_calls(threads: int | None = None) -> int:
    """Return the calls of a model that may run on this process's cores at the same time.

    One thread for each of several calls does more than several threads for one call: on two cores 1.7 to 2 times as
    much as one thread (measured with `lite` and `tiny`). Threads of one call wait for each other after each layer.

    Args:
        threads: torch threads of a call, where they are set.
    """
    return max(1, min(_MAX_PARALLEL_CALLS, usable_cores() // (threads or 1)))


def default_threads(parallel_calls: int | None = None) -> int:
    """Return the torch threads of one call: together, those of all calls use half of the cores, but at least one each.

    OpenMP threads spin while they wait for each other, so one thread too many slows both sides: on two busy cores, two
    threads took five times as long as one.

    Args:
        parallel_calls: calls at the same time; None takes `default_parallel_calls`.
    """
    return max(1, usable_cores() // 2 // (parallel_calls or default_parallel_calls()))


def usable_cores() -> int:
    """Return the cores that this process may use. A container's CPU quota counts as its number of cores."""
    return min(len(os.sched_getaffinity(0)), _quota_cores(_CPU_QUOTA))


def _quota_cores(path: Path) -> int:
    """Return the whole cores of a cgroup v2 CPU quota (file `cpu.max`); `sys.maxsize` without a quota."""
    try:
        quota, period = path.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return sys.maxsize
