"""The one place where frames and sound become tensors, for training and serving alike.

The audio front end is VGGish's, bin for bin (torchvggish, Apache-2.0, read for its constants).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 15_600  # 0.975 s: the shortest waveform that holds one whole VGGish example
NUM_LOG_MEL_FRAMES = 96
NUM_MEL_BINS = 64

STFT_WINDOW_SAMPLES = 400  # 25 ms
STFT_HOP_SAMPLES = 160  # 10 ms
FFT_SIZE = 512
MEL_MIN_HZ = 125.0
MEL_MAX_HZ = 7_500.0
LOG_OFFSET = 0.01
MEL_BREAK_HZ = 700.0  # HTK mel scale: 1127 ln(1 + f / 700)
MEL_SCALE = 1127.0

# ImageNet statistics in RGB order, as every public backbone expects.
FRAME_MEAN = (0.485, 0.456, 0.406)
FRAME_STD = (0.229, 0.224, 0.225)


def normalise_frames(frames: Tensor) -> Tensor:
    """Frames as the backbone wants them.

    Args:
        frames: (B, H, W, 3) uint8 RGB.

    Returns:
        (B, 3, H, W) float32 in channels-last memory order, mean 0 and deviation 1 over ImageNet.

    Raises:
        ValueError: another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames: got {tuple(frames.shape)} {frames.dtype}, expected (B, H, W, 3) torch.uint8")
    mean = torch.tensor(FRAME_MEAN, device=frames.device) * 255
    std = torch.tensor(FRAME_STD, device=frames.device) * 255
    # A permuted (B, H, W, 3) tensor already lies in channels-last order: no copy.
    return frames.float().sub_(mean).div_(std).permute(0, 3, 1, 2)  # (B, 3, H, W)


def log_mel(waveform: Tensor) -> Tensor:
    """VGGish's log-mel spectrogram.

    Args:
        waveform: (B, S) float in [-1, 1] at 16 kHz.

    Returns:
        (B, F, 64) float32, natural logarithm of (magnitude mel + 0.01), F = (S - 400) // 160 + 1. Frames are not
        centred and incomplete ones are dropped. Silence is ln 0.01 = -4.605.

    Raises:
        ValueError: another rank, or fewer than 400 samples.
    """
    if waveform.ndim != 2 or waveform.shape[1] < STFT_WINDOW_SAMPLES:
        raise ValueError(f"waveform: got {tuple(waveform.shape)}, expected (B, S) with S >= {STFT_WINDOW_SAMPLES}")
    hann, mel = _constants(str(waveform.device))
    # In double precision, as VGGish does it: beside a loud tone float32 rounding would lift the silent bands.
    pieces = waveform.double().unfold(1, STFT_WINDOW_SAMPLES, STFT_HOP_SAMPLES)  # (B, F, 400)
    # The root of the squares takes half the time of `abs`, which guards against overflow.
    parts = torch.view_as_real(torch.fft.rfft(F.pad(pieces * hann, (0, FFT_SIZE - STFT_WINDOW_SAMPLES)))).square()
    magnitude = (parts[..., 0] + parts[..., 1]).sqrt()  # (B, F, 257)
    return torch.log(magnitude @ mel + LOG_OFFSET).float()  # (B, F, 64)


def window_log_mel(windows: Tensor) -> Tensor:
    """The log-mel example of each audio window.

    Args:
        windows: (B, 15600) float32 at 16 kHz, ending at the sample's time.

    Returns:
        (B, 1, 96, 64) float32.

    Raises:
        ValueError: another shape.
    """
    if windows.ndim != 2 or windows.shape[1] != WINDOW_SAMPLES:
        raise ValueError(f"windows: got {tuple(windows.shape)}, expected (B, {WINDOW_SAMPLES})")
    return log_mel(windows)[:, None]  # (B, 1, 96, 64)


def _hertz_to_mel(hertz: Tensor) -> Tensor:
    return MEL_SCALE * torch.log1p(hertz / MEL_BREAK_HZ)


@lru_cache(maxsize=8)
def _constants(device: str) -> tuple[Tensor, Tensor]:
    """The periodic Hann window (400,) and the mel matrix (257, 64), computed in float64."""
    index = torch.arange(STFT_WINDOW_SAMPLES, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * torch.pi * index / STFT_WINDOW_SAMPLES)
    num_bins = FFT_SIZE // 2 + 1
    bins = _hertz_to_mel(torch.linspace(0.0, SAMPLE_RATE_HZ / 2, num_bins, dtype=torch.float64))[:, None]
    low, high = _hertz_to_mel(torch.tensor([MEL_MIN_HZ, MEL_MAX_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, NUM_MEL_BINS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    mel = torch.minimum(rising, falling).clamp(min=0)  # (257, 64)
    mel[0] = 0  # VGGish leaves the DC bin out
    return hann.to(device), mel.to(device)
