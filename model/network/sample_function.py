"""The whole function of a checkpoint, from frames and audio windows to mask logits, as a module and as a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from model.network.preprocess import WINDOW_SAMPLES, normalise_frames, window_log_mel

# Batch size of the traced call. With 1, dimensions of a batch could be taken for fixed ones.
_TRACED_SAMPLES = 2
# Batch size of the comparison. It differs from the traced one, to detect a batch size fixed in the graph.
_CHECKED_SAMPLES = 1


class SampleFunction(nn.Module):
    """(B, H, W, 3) uint8 and (B, 15600) float32 to (B, K, h, w) float32 mask logits.

    Args:
        model: the network.
        dtype: type of its weights; the log-mel is always computed as `preprocess` does.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, frames: Tensor, windows: Tensor) -> Tensor:
        """Return the mask logits."""
        pictures, examples = self.inputs(frames, windows)
        return cast(Tensor, self.model(pictures, examples)).float()

    def inputs(self, frames: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network receives: (B, 3, H, W) normalised frames and (B, 1, 96, 64) log-mels."""
        return normalise_frames(frames).to(self.dtype), window_log_mel(windows).to(self.dtype)


@torch.inference_mode()
def sample_graph(function: SampleFunction, *, height: int, width: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return a function as a TorchScript graph for one frame size, or None if its bytes differ from the function's.

    The graph runs the same kernels without Python between them. A call then takes the interpreter lock once instead of
    several hundred times, and frees each intermediate tensor after its last use.

    Args:
        function: in eval mode, on the CPU; called once before, so that its constants exist.
        height: frame height in pixels.
        width: frame width in pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shape checks are not traced; TorchScript is no longer developed
        example = _noise(_TRACED_SAMPLES, height=height, width=width)
        traced = torch.jit.trace(function, example, check_trace=False)  # type: ignore[no-untyped-call]
    graph = cast("Callable[[Tensor, Tensor], Tensor]", traced)
    frames, windows = _noise(_CHECKED_SAMPLES, height=height, width=width)
    try:
        answer = graph(frames, windows)
    except RuntimeError:  # a network whose traced operations hold the batch size
        return None
    return graph if torch.equal(answer, function(frames, windows)) else None


def _noise(count: int, *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return `count` frames and windows of noise, seeded by `count`."""
    rng = np.random.default_rng(count)
    frames = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    windows = rng.normal(0.0, 0.1, (count, WINDOW_SAMPLES)).astype(np.float32)
    return torch.from_numpy(frames), torch.from_numpy(windows)
