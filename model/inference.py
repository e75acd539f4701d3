"""The stateless predictor: a checkpoint as a function from frames and audio windows to mask logits."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.network.avesformer import AVESFormer
from model.network.checkpoint import SHIPPED_CHECKPOINT, Checkpoint, load_checkpoint
from model.network.preprocess import WINDOW_SAMPLES
from model.network.sample_function import SampleFunction, sample_graph

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Frames are cut into places of this size at the coarsest fused stride.
SIZE_STEP_PX = 16
# Attribute names under which a module keeps a convolution and the batch norm after it: our layers', the ResNet's.
CONV_NORM_NAMES = (("conv", "norm"), ("convolution", "normalization"))


# How PyTorch's CPU allocator words it, in a plain RuntimeError (c10/core/impl/alloc_cpu.cpp).
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class PredictorInfo:
    """Description of a checkpoint and its input.

    Attributes:
        variant: name of the model variant.
        checkpoint: `sha256:` and the hash of the file; with another frame size than the file's, `@` and that size.
        labels: labels of the masks, in order; without the background of semantic models.
        world_version: version of the synthetic world it was trained on, or None.
        input_height: frame height in pixels.
        input_width: frame width in pixels.
        is_semantic: softmax over background and labels rather than a sigmoid.
        offset_lag_s: seconds that masks go on after their sound.
    """

    variant: str
    checkpoint: str
    labels: tuple[str, ...]
    world_version: int | None
    input_height: int
    input_width: int
    is_semantic: bool
    offset_lag_s: float = 0.0


class Predictor:
    """Runs a checkpoint on one device. On a CPU several threads may call `predict` at the same time.

    Args:
        checkpoint: the weights and their configuration.
        device: the device.
        dtype: type of weights and activations; the log-mel is always float32.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        config = checkpoint.config
        self.info = PredictorInfo(
            variant=config.variant,
            checkpoint=checkpoint.digest,
            labels=config.labels[1:] if config.is_semantic else config.labels,
            world_version=checkpoint.world_version,
            input_height=config.input_height,
            input_width=config.input_width,
            is_semantic=config.is_semantic,
            offset_lag_s=config.offset_lag_s,
        )
        self.device = device
        self.dtype = dtype
        self._model = fold_norms(checkpoint.build()).to(device=device, dtype=dtype)
        self._function = SampleFunction(self._model, dtype=dtype).eval()
        self._graph: Callable[[Tensor, Tensor], Tensor] | None = None

    @staticmethod
    def load(
        path: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        input_px: int | None = None,
    ) -> Predictor:
        """Read a checkpoint and put it on a device.

        Args:
            path: the file, or None for the shipped one.
            device: `auto` (CUDA where present), `cpu`, `cuda` or `cuda:N`.
            dtype: `auto` (bfloat16 on CUDA, float32 on CPU), `float32`, `bfloat16` or `float16`. On a CPU with matrix
                units bfloat16 is faster, but single masks differ by more than the tolerance of equal answers.
            threads: CPU threads of torch in this process; None leaves torch's choice.
            input_px: frame height and width; None takes the checkpoint's.

        Raises:
            CheckpointError: the file is missing, damaged or too new.
            ValueError: an unknown device or dtype, CUDA where there is none, or a size that is no multiple of 16.
        """
        place = choose_device(device)
        chosen = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
        if chosen not in DTYPES:
            raise ValueError(f"dtype: got {dtype!r}, expected auto, {', '.join(DTYPES)}")
        if input_px is not None and (input_px < SIZE_STEP_PX or input_px % SIZE_STEP_PX):
            raise ValueError(f"input_px: got {input_px}, expected a multiple of {SIZE_STEP_PX}")
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = load_checkpoint(SHIPPED_CHECKPOINT if path is None else Path(path))
        if input_px is not None:
            checkpoint = checkpoint.resized(input_px)
        return Predictor(checkpoint, device=place, dtype=DTYPES[chosen])

    @property
    def compute_type(self) -> str:
        """Name of the dtype of weights and activations, such as `float32`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_facts(self) -> dict[str, str]:
        """Device, its name, dtype, and the versions of torch and of the CUDA libraries that torch was built with."""
        is_cuda = self.device.type == "cuda"
        index = self.device.index if self.device.index is not None else torch.cuda.current_device() if is_cuda else 0
        return {
            "device": f"cuda:{index}" if is_cuda else "cpu",
            "device_name": torch.cuda.get_device_name(index) if is_cuda else platform.machine(),
            "dtype": self.compute_type,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "none",
        }

    @torch.inference_mode()
    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return mask logits of B samples. Equal batch shapes give equal bytes on one device.

        Args:
            frames: (B, H, W, 3) uint8 RGB, B >= 1, H and W multiples of 16 (best: the info's size).
            windows: (B, 15600) float32 in [-1, 1] at 16 kHz, ending at each frame's time.

        Returns:
            (B, K, h, w) float32 at the head's resolution; K is 1, or 1 + labels with the background first.

        Raises:
            ValueError: other shapes or dtypes.
            MemoryError: the batch does not fit the device.
            RuntimeError: the device failed.
        """
        _check(frames, windows)
        # Gives a new thread its number of OpenMP threads: a convolution that came before would take all cores.
        torch.get_num_threads()
        try:
            on_device = _tensor(frames).to(self.device), _tensor(windows).to(self.device)
            if self._graph is not None and frames.shape[1:3] == (self.info.input_height, self.info.input_width):
                logits = self._graph(*on_device)
            else:
                pictures, examples = self._function.inputs(*on_device)
                logits = self._model(pictures, examples).float()
            answer: NDArray[np.float32] = logits.cpu().numpy()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            raise MemoryError(f"a batch of {len(frames)} samples does not fit {self.device}") from error
        return answer

    def compile(self) -> bool:
        """Make later calls faster; their bytes stay the same. Return whether they will be.

        On a CPU the network becomes a graph that runs without Python; that takes as long as about ten calls. On other
        devices nothing happens.
        """
        if self.device.type == "cpu" and self._graph is None:
            self._graph = sample_graph(self._function, height=self.info.input_height, width=self.info.input_width)
        return self._graph is not None

    def is_healthy(self) -> bool:
        """Return whether the device still computes; a CUDA context can fail permanently."""
        try:
            return bool((torch.ones(1, device=self.device) + 1).item() == 2)
        except RuntimeError:
            return False

    def memory_bytes(self) -> int:
        """Return the device memory that PyTorch holds, in bytes; 0 on the CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0


def choose_device(name: str) -> torch.device:
    """Return a device by name; `auto` is CUDA if present.

    Raises:
        ValueError: an unknown name, or CUDA where there is none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not has_cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device: got {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def fold_norms(model: AVESFormer) -> AVESFormer:
    """Fold each batch norm of a model in eval mode into the convolution before it. The function stays the same."""
    for module in list(model.modules()):
        for conv_name, norm_name in CONV_NORM_NAMES:
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in CPU_OUT_OF_MEMORY)


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    """Return a tensor that shares memory if torch allows it. Read-only arrays (over received bytes) are copied."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _check(frames: NDArray[Any], windows: NDArray[Any]) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames: got {frames.shape} {frames.dtype}, expected (B, H, W, 3) uint8 with B >= 1")
    expected = (len(frames), WINDOW_SAMPLES)
    if windows.shape != expected or windows.dtype != np.float32:
        raise ValueError(f"windows: got {windows.shape} {windows.dtype}, expected {expected} float32")
