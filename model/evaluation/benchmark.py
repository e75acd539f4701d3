"""Speed of a checkpoint relative to a bare ResNet-50 in the same run, because ratios compare across machines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.inference import DTYPES, Predictor, choose_device
from model.network.avesformer import AVESFormer
from model.network.checkpoint import Checkpoint
from model.network.preprocess import WINDOW_SAMPLES
from model.network.resnet import ResNet
from model.network.variants import variant

MIN_ROUNDS = 5
# Flags of /proc/cpuinfo of CPUs that multiply in bfloat16: x86 with AVX-512 BF16 or AMX, Arm with BF16.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        variant: name of the model variant.
        dtype: dtype of weights and activations.
        batch: samples per call.
        frames_per_s: whole predictor, from uint8 frames and waveforms to logits in host memory.
        ratio_to_resnet50: its time over that of a bare ResNet-50 forward pass of as many frames of the same size.
    """

    variant: str
    dtype: str
    batch: int
    frames_per_s: float
    ratio_to_resnet50: float


def measure_speed(
    path: Path | None, *, device: str, batches: Sequence[int], threads: int | None, seconds: float
) -> Iterator[Speed]:
    """Measure the speed of a checkpoint, in calls that alternate with those of ResNet-50.

    Args:
        path: the checkpoint; None is the shipped one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batches: numbers of samples per call.
        threads: CPU threads of torch; None for torch's default.
        seconds: approximate time for each batch size and dtype.

    Yields:
        One Speed for each dtype (float32; also bfloat16 on CUDA and on CPUs that multiply in it) and batch size.
    """
    for dtype in _dtypes(choose_device(device)):
        predictor = Predictor.load(path, device=device, dtype=dtype, threads=threads)
        yield from _speeds(predictor, batches=batches, seconds=seconds)


def measure_variant_speed(
    name: str, *, device: str, batches: Sequence[int], threads: int | None, seconds: float
) -> Iterator[Speed]:
    """Measure the speed of a variant with random weights, on which the speed does not depend.

    Args:
        name: a variant, at its own frame size (`r50`: 224 px).
        device: as in `measure_speed`, like the other arguments and the yielded values.

    Raises:
        ValueError: no such variant.
    """
    place = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    config = variant(name)
    drawn = Checkpoint(config, AVESFormer(config).state_dict(), digest="", world_version=None, training={})
    for dtype in _dtypes(place):
        yield from _speeds(Predictor(drawn, device=place, dtype=DTYPES[dtype]), batches=batches, seconds=seconds)


def cpu_s_per_sample(
    path: Path | None, *, device: str, dtype: str, threads: int | None, batch: int, seconds: float
) -> float:
    """Return the least CPU time in seconds that a checkpoint needs for one sample of a full batch.

    Args:
        path: the checkpoint; None is the shipped one.
        device: as in `measure_speed`.
        dtype: as in `Predictor.load`.
        threads: as in `measure_speed`.
        batch: samples per call.
        seconds: approximate duration of the measurement.
    """
    call = _predict_call(Predictor.load(path, device=device, dtype=dtype, threads=threads), batch)
    call()
    spent_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while len(spent_s) < MIN_ROUNDS or time.perf_counter() < until_s:
        before_s = time.process_time()
        call()
        spent_s.append(time.process_time() - before_s)
    return min(spent_s) / batch


def _dtypes(place: torch.device) -> tuple[str, ...]:
    return ("float32", "bfloat16") if place.type == "cuda" or multiplies_in_bfloat16(_CPU_INFO) else ("float32",)


def multiplies_in_bfloat16(cpu_info: Path) -> bool:
    """Return whether this machine's CPU multiplies in bfloat16; False if the file does not exist."""
    try:
        return not _BFLOAT16_FLAGS.isdisjoint(cpu_info.read_text().split())
    except OSError:
        return False


def _speeds(predictor: Predictor, *, batches: Sequence[int], seconds: float) -> Iterator[Speed]:
    place, dtype = predictor.device, predictor.dtype
    height, width = predictor.info.input_height, predictor.info.input_width
    resnet = _resnet50().to(device=place, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in batches:
        pictures = torch.zeros(batch, 3, height, width, device=place, dtype=dtype)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        ours_s, resnet_s = _take_turns(
            _predict_call(predictor, batch), _forward_call(resnet, pictures), seconds=seconds
        )
        name = str(dtype).removeprefix("torch.")
        yield Speed(predictor.info.variant, name, batch, batch / ours_s, ours_s / resnet_s)


def _resnet50() -> torch.nn.Module:
    """Return a ResNet-50 with random weights and without its classifier."""
    return ResNet().eval()


def _predict_call(predictor: Predictor, batch: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    shape = (batch, predictor.info.input_height, predictor.info.input_width, 3)
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    windows = rng.normal(0, 0.1, (batch, WINDOW_SAMPLES)).astype(np.float32)
    return lambda: predictor.predict(frames, windows)


def _forward_call(network: torch.nn.Module, pictures: torch.Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        answer = network(pictures)
        if pictures.is_cuda:
            torch.cuda.synchronize(pictures.device)
        return answer

    return call


def _take_turns(first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> tuple[float, float]:
    """Return the median seconds of both calls, which alternate so that other load affects both."""
    first(), second()
    spent: tuple[list[float], list[float]] = ([], [])
    until_s = time.perf_counter() + seconds
    while len(spent[0]) < MIN_ROUNDS or time.perf_counter() < until_s:
        for call, times_s in ((first, spent[0]), (second, spent[1])):
            started_s = time.perf_counter()
            call()
            times_s.append(time.perf_counter() - started_s)
    return statistics.median(spent[0]), statistics.median(spent[1])
