"""Conversion of wide-gamut and high-dynamic-range pictures (BT.2020, HLG, PQ) to the BT.709 that the model expects.

swscale converts matrices only, not transfer functions or primaries, and the FFmpeg build of PyAV has no zscale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

# Code points of ITU-T H.273: primaries of BT.2020; transfer of PQ (SMPTE ST 2084) and HLG (ARIB STD-B67).
_BT2020, _PQ, _HLG = 9, 16, 18
# Reference white of HDR in nits (ITU-R BT.2408, table 1): it becomes the white of BT.709.
_WHITE_NITS = 203.0
# HLG is shown on its reference display: 1000 nits and system gamma 1.2 (ITU-R BT.2100, table 5).
_HLG_PEAK_NITS, _HLG_GAMMA = 1000.0, 1.2
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
# PQ (ITU-R BT.2100, table 4).
_PQ_M1, _PQ_M2, _PQ_C1, _PQ_C2, _PQ_C3, _PQ_PEAK_NITS = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875, 1e4
# Gamma of the display of BT.709 and of BT.2020 pictures (ITU-R BT.1886).
_DISPLAY_GAMMA = 2.4
# Light up to this share of white is kept; brighter light is compressed towards white. White itself becomes 0.9.
_KNEE = 0.8
# Luminance of BT.2020 (ITU-R BT.2020, table 4), and its primaries in those of BT.709 (ITU-R BT.2407, 2.2).
_LUMINANCE = (0.2627, 0.6780, 0.0593)
_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
_NUM_CODES = 1 << 16


@dataclass(frozen=True, slots=True)
class Colours:
    """Primaries and transfer of a picture, as in ITU-T H.273."""

    is_bt2020: bool
    transfer: int

    @classmethod
    def of(cls, frame: VideoFrame) -> Colours | None:
        """Return the colours of a frame that needs `to_bt709`; None if it is shown unchanged."""
        colours = cls(int(frame.color_primaries) == _BT2020, int(frame.color_trc))
        return colours if colours.is_bt2020 or colours.is_hdr else None

    @property
    def is_hdr(self) -> bool:
        """Return whether light brighter than reference white is coded."""
        return self.transfer in (_PQ, _HLG)

    def to_bt709(self, picture: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Convert full-range RGB of 16 bits, (H, W, 3), to BT.709, uint8 of the same shape."""
        light = _light_of_codes(self.transfer)[picture]
        red, green, blue = (light[..., channel] for channel in range(3))
        if self.transfer == _HLG:
            gain = _weighted(_LUMINANCE, red, green, blue) ** np.float32(_HLG_GAMMA - 1)
            red, green, blue = red * gain, green * gain, blue * gain
        if self.is_bt2020:  # without a matrix product: BLAS would start threads in a decoder
            red, green, blue = (_weighted(row, red, green, blue) for row in _TO_BT709)
        light = np.maximum(np.stack([red, green, blue], axis=-1), np.float32(0))
        if self.is_hdr:
            light *= _compression(light.max(axis=-1, keepdims=True))
        return _codes_of_light()[(np.minimum(light, np.float32(1)) * np.float32(_NUM_CODES - 1)).astype(np.uint16)]


def _weighted(weights: tuple[float, ...], *channels: Any) -> NDArray[np.float32]:
    parts = [np.float32(weight) * channel for weight, channel in zip(weights, channels, strict=True)]
    total: NDArray[np.float32] = parts[0] + parts[1] + parts[2]
    return total


def _compression(brightest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factor for pixels of this brightest channel: 1 below the knee, smooth, and never above white."""
    over = np.maximum(brightest - np.float32(_KNEE), np.float32(0))
    room = np.float32(1 - _KNEE)
    compressed = np.minimum(brightest, np.float32(_KNEE)) + room * over / (over + room)
    factor: NDArray[np.float32] = compressed / np.maximum(brightest, np.float32(1e-6))
    return factor


@lru_cache(maxsize=3)
def _light_of_codes(transfer: int) -> NDArray[np.float32]:
    """Return the light of every code relative to reference white, float32 (65536,); for HLG before the system gamma."""
    code = np.linspace(0.0, 1.0, _NUM_CODES)
    if transfer == _PQ:
        root = code ** (1 / _PQ_M2)
        light = (np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1) * _PQ_PEAK_NITS / _WHITE_NITS
    elif transfer == _HLG:
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - _HLG_C) / _HLG_A) + _HLG_B) / 12)
        light = scene * (_HLG_PEAK_NITS / _WHITE_NITS) ** (1 / _HLG_GAMMA)  # the gamma is a power of the scene's light
    else:
        light = code**_DISPLAY_GAMMA
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _codes_of_light() -> NDArray[np.uint8]:
    """Return the BT.709 code for light in 65536 steps from black to white, uint8."""
    return np.round(255 * np.linspace(0.0, 1.0, _NUM_CODES) ** (1 / _DISPLAY_GAMMA)).astype(np.uint8)
