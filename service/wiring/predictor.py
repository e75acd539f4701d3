"""The predictor of a front or a worker, and the policy of its batches. Imports nothing of the transports."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from service.batching.policy import BatchPolicy
from service.ports import Predictor
from service.predictors.torch import default_parallel_calls, default_threads, import_model, load_predictor
from service.settings import Settings

# Most encoder threads. Encoding a sample's masks takes about a tenth of its prediction time; more threads would only
# compete with the decoders.
_MAX_ENCODERS = 4
MakePredictor = Callable[[], Predictor]


def predictor_maker(settings: Settings) -> MakePredictor:
    """Return the function that loads the checkpoint. Torch is imported when the function is called."""

    def make() -> Predictor:
        import_model(is_cpu=not has_gpu(settings.device))
        return load_predictor(
            settings.checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.torch_threads or default_threads(settings.parallel_calls),
            input_px=settings.input_px,
        )

    return make


def has_gpu(device: str) -> bool:
    """Return whether the device is a GPU. Looks for the driver's device file, so torch is not imported."""
    return device.startswith("cuda") or (device == "auto" and Path("/proc/driver/nvidia/version").exists())


def batch_policy(settings: Settings) -> BatchPolicy:
    """Return the policy of the micro-batcher."""
    return BatchPolicy(
        max_batch=settings.max_batch or (64 if has_gpu(settings.device) else 16),
        window_s=settings.batch_window_s,
        device_timeout_s=settings.device_timeout_s,
        max_queued_bytes=settings.max_queued_bytes,
        parallel_calls=settings.parallel_calls or default_parallel_calls(settings.torch_threads),
        encode_threads=max(1, min(_MAX_ENCODERS, os.cpu_count() or 1)),
    )
