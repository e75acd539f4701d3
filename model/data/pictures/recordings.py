"""Recordings as 16 kHz waveforms, and the same ones after a lossy codec."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from model.data.pictures.index import PicturesError
from model.network.preprocess import SAMPLE_RATE_HZ

Waveform = NDArray[np.float32]


def read_recording(path: Path) -> Waveform:
    """(S,) float32 in [-1, 1] at 16 kHz, the mean of the channels.

    Raises:
        PicturesError: absent, damaged or without sound.
    """
    try:
        with av.open(str(path), "r") as container:
            return _decode(container)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise PicturesError(f"{path.name} is absent or no recording: {type(error).__name__}") from error


def through_aac(waveform: Waveform, *, bits_per_s: int) -> Waveform:
    """The waveform after AAC-LC at 16 kHz mono; as long as before, in step with it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=bits_per_s)
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        # With a time stamp the file says how much the encoder put before the sound, and the decoder leaves it out.
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    file.seek(0)
    with av.open(file, "r") as container:
        decoded = _decode(container)[: len(waveform)]
    return np.pad(decoded, (0, len(waveform) - len(decoded)))


def _decode(container: av.container.InputContainer) -> Waveform:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    pieces = []
    for frame in container.decode(audio=0):
        pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.float32) if pieces else np.zeros(0, np.float32)
