"""Augmentation of frames and audio windows, drawn from a generator so that a run is reproducible."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network.preprocess import SAMPLE_RATE_HZ, WINDOW_SAMPLES

# Each *_SHARE is the share of samples that the change is applied to.
# A little beyond the +-12 dB that the service is measured at.
GAIN_RANGE_DB = 14.0
LOW_PASS_SHARE = 0.3
# An 8 kHz recording keeps 3.4 to 4 kHz.
LOW_PASS_RANGE_HZ = (3_400.0, 7_500.0)
NOISE_SHARE = 0.35
# Decibels below the window's own level.
NOISE_RANGE_DB = (15.0, 45.0)
# The first windows of a clip begin with silence.
TRUNCATED_SHARE = 0.08
TRUNCATED_MAX_S = 0.6
# The delay of a source 7 m away, or the padding of a codec.
SHIFT_MAX_S = 0.02

BLUR_SHARE = 0.25
# 4:2:0 video stores colour at half resolution.
CHROMA_SHARE = 0.5
# Imitates upscaled small videos.
COARSE_SHARE = 0.2
GRAIN_SHARE = 0.25
ZOOM_SHARE = 0.5
# Smallest side of the enlarged part, as a share of the frame's: less would often cut the sounding object away.
LEAST_ZOOM = 0.6
# Weights of red, green and blue in luma, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


def augment_windows(windows: Tensor, generator: torch.Generator) -> Tensor:
    """Apply gain, low-pass, white noise, a small time shift and a silent beginning to random windows.

    Args:
        windows: (B, S) float32 in [-1, 1].
        generator: on the CPU.

    Returns:
        (B, S) float32 in [-1, 1].
    """
    windows = _shift(windows, generator)
    windows = _truncate(windows, generator)
    windows = _low_pass(windows, generator)
    windows = _add_noise(windows, generator)
    gain_db = _uniform(len(windows), -GAIN_RANGE_DB, GAIN_RANGE_DB, generator).to(windows.device)
    gain: Tensor = 10 ** (gain_db / 20)  # (B,)
    return (windows * gain[:, None]).clamp(-1, 1)


def quiet_windows(count: int, generator: torch.Generator) -> Tensor:
    """Return windows without a source: digital silence, or noise of random level and spectral slope.

    Returns:
        (count, 15600) float32.
    """
    noise = torch.randn(count, WINDOW_SAMPLES, generator=generator)
    spectrum = torch.fft.rfft(noise)
    slope = _uniform(count, 0.0, 1.2, generator)[:, None]  # 0 white, 0.5 pink, 1 brown
    shaped = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[1] + 1) ** slope, n=WINDOW_SAMPLES)
    shaped = shaped / shaped.std(dim=1, keepdim=True)
    level = 10 ** (_uniform(count, -70.0, -24.0, generator) / 20)
    level = level * (_uniform(count, 0.0, 1.0, generator) > 0.4)
    quiet: Tensor = (shaped * level[:, None]).clamp(-1, 1)
    return quiet


def augment_frames(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and colour; blur, coarsen, subsample chroma and add grain to random frames.

    Args:
        frames: (B, H, W, 3) uint8, H and W even.
        generator: on the CPU.

    Returns:
        (B, H, W, 3) uint8.
    """
    count, device = len(frames), frames.device
    values = frames.float().permute(0, 3, 1, 2)  # (B, 3, H, W), channels-last in memory
    colour = 1 + 0.5 * (_uniform(count * 3, -0.3, 0.3, generator).view(count, 3, 1, 1)).to(device)
    contrast = _uniform(count, 0.7, 1.25, generator).view(-1, 1, 1, 1).to(device)
    offset = _uniform(count, -28.0, 28.0, generator).view(-1, 1, 1, 1).to(device)
    values = values * (colour * contrast) + (offset + 128 * (1 - contrast))
    _on_share(values, COARSE_SHARE, generator, _coarsen)
    _on_share(values, BLUR_SHARE, generator, _blur)
    _on_share(values, CHROMA_SHARE, generator, _subsample_chroma)
    chosen = _choose(count, GRAIN_SHARE, generator)
    grain = torch.randn(len(chosen), *values.shape[1:], generator=generator).to(device)
    values[chosen.to(device)] += grain * _uniform(len(chosen), 1.0, 9.0, generator).view(-1, 1, 1, 1).to(device)
    return values.clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def flip(frames: Tensor, kind_map: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror the whole batch horizontally and vertically, each with probability 1/2.

    Args:
        frames: (B, H, W, 3).
        kind_map: (B, H, W).
        generator: on the CPU.

    Returns:
        Both, mirrored alike.
    """
    draws = torch.rand(2, generator=generator)
    axes = [axis for axis, draw in zip((2, 1), draws.tolist(), strict=True) if draw < 0.5]
    return (frames.flip(axes), kind_map.flip(axes)) if axes else (frames, kind_map)


def flip_each(frames: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each frame (B, H, W, 3) with its truth (B, H, W) horizontally with probability 1/2."""
    chosen = (torch.rand(len(frames), generator=generator) < 0.5).to(frames.device)
    return (
        torch.where(chosen[:, None, None, None], frames.flip(2), frames),
        torch.where(chosen[:, None, None], truth.flip(2), truth),
    )


def zoom_each(frames: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Enlarge a random part of each frame, with its truth, to the whole frame with probability 1/2.

    Args:
        frames: (B, H, W, 3) uint8, bilinear.
        truth: (B, H, W) int64, nearest.
        generator: on the CPU.

    Returns:
        Both, of the same shapes and dtypes.
    """
    frames, truth = frames.clone(), truth.clone()
    height, width = truth.shape[1:]
    for row in _choose(len(frames), ZOOM_SHARE, generator).tolist():
        side, top, left = torch.rand(3, generator=generator).tolist()
        side = LEAST_ZOOM + (1 - LEAST_ZOOM) * side
        tall, wide = round(side * height), round(side * width)
        y, x = round(top * (height - tall)), round(left * (width - wide))
        part = frames[row, y : y + tall, x : x + wide].permute(2, 0, 1)[None].float()  # (1, 3, tall, wide)
        larger = F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        frames[row] = larger[0].permute(1, 2, 0).round().to(torch.uint8)
        labels = truth[None, None, row, y : y + tall, x : x + wide].float()
        truth[row] = F.interpolate(labels, size=(height, width), mode="nearest")[0, 0].long()
    return frames, truth


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _choose(count: int, share: float, generator: torch.Generator) -> Tensor:
    return torch.nonzero(torch.rand(count, generator=generator) < share)[:, 0]


def _on_share(values: Tensor, share: float, generator: torch.Generator, change: Callable[[Tensor], Tensor]) -> None:
    chosen = _choose(len(values), share, generator).to(values.device)
    if len(chosen):
        values[chosen] = change(values[chosen])


def _blur(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)


def _coarsen(values: Tensor) -> Tensor:
    small = F.avg_pool2d(values, 2)
    return F.interpolate(small, size=values.shape[-2:], mode="bilinear", align_corners=False)


def _subsample_chroma(values: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=values.device).view(1, 3, 1, 1)
    luma = (values * weights).sum(dim=1, keepdim=True)
    return luma + _coarsen(values - luma)


def _shift(windows: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each window by up to 20 ms in either direction and fill the gap with silence."""
    most = int(SHIFT_MAX_S * SAMPLE_RATE_HZ)
    shifts = torch.randint(-most, most + 1, (len(windows), 1), generator=generator).to(windows.device)
    places = torch.arange(windows.shape[1], device=windows.device) - shifts  # (B, S)
    is_known = (places >= 0) & (places < windows.shape[1])
    return windows.gather(1, places.clamp(0, windows.shape[1] - 1)) * is_known


def _truncate(windows: Tensor, generator: torch.Generator) -> Tensor:
    chosen = _choose(len(windows), TRUNCATED_SHARE, generator)
    lengths = (_uniform(len(chosen), 0.05, TRUNCATED_MAX_S, generator) * SAMPLE_RATE_HZ).long()
    windows = windows.clone()
    for row, length in zip(chosen.tolist(), lengths.tolist(), strict=True):
        windows[row, :length] = 0
    return windows


def _low_pass(windows: Tensor, generator: torch.Generator) -> Tensor:
    chosen = _choose(len(windows), LOW_PASS_SHARE, generator)
    if not len(chosen):
        return windows
    cutoff = _uniform(len(chosen), *LOW_PASS_RANGE_HZ, generator).to(windows.device)
    spectrum = torch.fft.rfft(windows[chosen.to(windows.device)])
    hertz = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=windows.device)
    # A transition band of 400 Hz, as wide as those of codecs and resamplers, avoids ringing.
    kept = ((cutoff[:, None] + 200 - hertz) / 400).clamp(0, 1)
    windows[chosen.to(windows.device)] = torch.fft.irfft(spectrum * kept, n=windows.shape[1])
    return windows


def _add_noise(windows: Tensor, generator: torch.Generator) -> Tensor:
    chosen = _choose(len(windows), NOISE_SHARE, generator)
    below_db = _uniform(len(chosen), *NOISE_RANGE_DB, generator).to(windows.device)
    noise = torch.randn(len(chosen), windows.shape[1], generator=generator).to(windows.device)
    level = windows[chosen.to(windows.device)].square().mean(dim=1).sqrt() * 10 ** (-below_db / 20)
    windows[chosen.to(windows.device)] += noise * level[:, None]
    return windows
