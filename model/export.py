"""Export a checkpoint to one file for other programs: ONNX, or torch.export's archive.

The exported function has the predictor's interface: uint8 frames and audio waveforms in (it computes the log-mels
itself), float32 mask logits out, for any batch size. A file is moved to its final path only after its outputs have been
compared with the eager network's.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.inference import Predictor, fold_norms
from model.network.checkpoint import load_checkpoint
from model.network.preprocess import WINDOW_SAMPLES
from model.network.sample_function import SampleFunction

ExportFormat = Literal["onnx", "torch"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
INPUT_NAMES = ("frames", "windows")
OUTPUT_NAME = "logits"
METADATA_NAME = "avesformer.json"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

# Batch size of the traced call. With 1, torch would specialise the graph for a batch of one.
TRACED_SAMPLES = 2
MAX_BATCH = 1024
# Batch sizes of the comparison. They differ from the traced one, to detect a batch size fixed in the graph.
PARITY_BATCHES = (1, 3)
# Largest accepted difference as a share of the largest logit; float32 kernels differ by about 1e-6.
PARITY_SHARE = 1e-4
STEPS = 4

Progress = Callable[[int, int], None]
Runner = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]


class ExportError(RuntimeError):
    """Nothing was written; the message says why."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        path: the file.
        num_bytes: its size.
        max_difference: largest difference between its logits and the eager network's, over all checked batches.
        max_logit: largest absolute logit, for comparison with the difference.
    """

    path: Path
    num_bytes: int
    max_difference: float
    max_logit: float


def export_checkpoint(
    checkpoint: Path, out: Path, *, form: ExportFormat, progress: Progress | None = None
) -> ExportReport:
    """Export a checkpoint and compare the exported function with the eager network.

    Args:
        checkpoint: file to read.
        out: file to write, atomically.
        form: `onnx`, or `torch` for torch.export's archive (.pt2).
        progress: called with (steps done, steps in total).

    Returns:
        The file's size and measured difference.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ExportError: a package is missing, or the file's logits differ from the network's.
    """
    absent = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None] if form == "onnx" else []
    if absent:
        raise ExportError(f"ONNX needs {', '.join(absent)}: pip install '.[export]'")
    tell = progress or (lambda done, total: None)
    loaded = load_checkpoint(checkpoint)
    predictor = Predictor(loaded, device=torch.device("cpu"), dtype=torch.float32)
    # The predictor's weights are in channels-last order for speed; exported files need contiguous ones.
    model = fold_norms(loaded.build()).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # Run once before tracing, because constants that are computed on first use would otherwise be traced tensors.
    predictor.predict(*(tensor.numpy() for tensor in _samples(predictor, 1)))
    tell(1, STEPS)
    metadata = json.dumps(asdict(predictor.info))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    write = {"onnx": _write_onnx, "torch": _write_torch}[form]
    load = {"onnx": _onnx_runner, "torch": _torch_runner}[form]
    try:
        with _without_noise(), torch.no_grad():
            write(SampleFunction(model).eval(), _samples(predictor, TRACED_SAMPLES), partial, metadata)
            tell(2, STEPS)
            run = load(partial)
        tell(3, STEPS)
        difference, largest = measure_parity(run, predictor)
        if not difference <= PARITY_SHARE * largest:
            raise ExportError(f"the exported file differs from the network by {difference:.3g} of {largest:.3g}")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    tell(STEPS, STEPS)
    return ExportReport(out, out.stat().st_size, difference, largest)


def measure_parity(run: Runner, predictor: Predictor) -> tuple[float, float]:
    """Return the largest difference of an exported function's logits from the predictor's, and the largest logit."""
    difference = largest = 0.0
    for count in PARITY_BATCHES:
        frames, windows = (tensor.numpy() for tensor in _samples(predictor, count))
        expected, got = predictor.predict(frames, windows), run(frames, windows)
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise ExportError(f"the exported file gives {got.shape} for a batch of {count}, expected {expected.shape}")
        difference = max(difference, float(np.abs(got - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return difference, largest


def _samples(predictor: Predictor, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` frames and windows of noise, seeded by `count`; the last window is silent."""
    generator = torch.Generator().manual_seed(count)
    size = (count, predictor.info.input_height, predictor.info.input_width, 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    windows = 0.1 * torch.randn(count, WINDOW_SAMPLES, generator=generator)
    windows[-1] = 0
    return frames, windows


def _dynamic_batch() -> dict[str, dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return {name: {0: batch} for name in INPUT_NAMES}


def _write_onnx(function: nn.Module, inputs: tuple[Tensor, Tensor], path: Path, metadata: str) -> None:
    program = torch.onnx.export(
        function,
        inputs,
        input_names=INPUT_NAMES,
        output_names=[OUTPUT_NAME],
        dynamic_shapes=_dynamic_batch(),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch made no ONNX program of this network")
    program.model.metadata_props[METADATA_NAME] = metadata
    program.save(path, external_data=False)


def _write_torch(function: nn.Module, inputs: tuple[Tensor, Tensor], path: Path, metadata: str) -> None:
    program = torch.export.export(function, inputs, dynamic_shapes=_dynamic_batch())
    with path.open("wb") as file:  # given a path, torch would insist on the suffix .pt2
        torch.export.save(program, file, extra_files={METADATA_NAME: metadata})


def _onnx_runner(path: Path) -> Runner:
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        feed = dict(zip(INPUT_NAMES, (frames, windows), strict=True))
        return cast("NDArray[np.float32]", session.run([OUTPUT_NAME], feed)[0])

    return run


def _torch_runner(path: Path) -> Runner:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = module(torch.from_numpy(frames), torch.from_numpy(windows)).numpy()
        return answer

    return run


@contextmanager
def _without_noise() -> Iterator[None]:
    """Suppress the exporters' deprecation warnings and messages about packages that this network does not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
