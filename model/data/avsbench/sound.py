"""AVSBench's sound: wav files, AVSBench's log-mel examples (one per 0.96 s) and the service's windows.

The two differ: AVSBench's example i starts at 0.96 i seconds, so in the tenth frame it lags by 0.36 s, while the
service's window ends at its frame.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.data.sample_times import FIRST_SAMPLE_S
from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS, SAMPLE_RATE_HZ, WINDOW_SAMPLES, log_mel

FULL_SCALE = 32_768.0  # int16, as torchvggish divides
MAX_WAV_S = 600.0


def read_wav(path: Path) -> Tensor:
    """Read a 16-bit PCM file as a mono waveform.

    Files at other rates than 16 kHz are resampled by cutting or padding the spectrum of the whole file. AVSBench's own
    files have 16 kHz; torchvggish would use resampy.

    Returns:
        (S,) float32 in [-1, 1] at 16 kHz.

    Raises:
        ValueError: no such file, no wav, not 16 bits, or over ten minutes.
    """
    try:
        with wave.open(str(path), "rb") as file:
            num_channels, width, rate_hz = file.getnchannels(), file.getsampwidth(), file.getframerate()
            num_samples = file.getnframes()
            if width != 2 or rate_hz <= 0:
                raise ValueError(f"{path}: got {8 * width} bits at {rate_hz} Hz, expected 16-bit PCM")
            if num_samples > MAX_WAV_S * rate_hz:
                raise ValueError(f"{path}: longer than {MAX_WAV_S:.0f} s")
            raw = file.readframes(num_samples)
    except (OSError, EOFError, wave.Error) as error:
        raise ValueError(f"cannot read the sound {path}: {error}") from error
    usable = len(raw) - len(raw) % (2 * num_channels)
    values = np.frombuffer(raw[:usable], dtype="<i2").reshape(-1, num_channels)  # (S, channels)
    return _resample(torch.from_numpy((values / FULL_SCALE).mean(axis=1)), rate_hz=rate_hz).float()


def field_examples(waveform: Tensor, *, num_frames: int, is_zero_padded: bool) -> Tensor:
    """Compute AVSBench's log-mel examples, one per video frame.

    Args:
        waveform: (S,) at 16 kHz.
        num_frames: T.
        is_zero_padded: what stands in for missing examples: zeros (AVSS; zero is not silence, which is -4.6), or the
            last example again (S4 and MS3).

    Returns:
        (T, 1, 96, 64) float32.

    Raises:
        ValueError: there is nothing to repeat.
    """
    enough = len(waveform) >= WINDOW_SAMPLES
    spectrogram = log_mel(waveform[None])[0] if enough else torch.zeros(0, NUM_MEL_BINS)  # (F, 64)
    count = min(len(spectrogram) // NUM_LOG_MEL_FRAMES, num_frames)
    examples = spectrogram[: count * NUM_LOG_MEL_FRAMES].view(count, 1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS)
    return pad_examples(examples, num_frames=num_frames, is_zero_padded=is_zero_padded)


def pad_examples(examples: Tensor, *, num_frames: int, is_zero_padded: bool) -> Tensor:
    """Cut or pad examples (N, 1, 96, 64) to (T, 1, 96, 64); see `field_examples`."""
    missing = num_frames - len(examples)
    if missing <= 0:
        return examples[:num_frames]
    if is_zero_padded:
        return torch.cat((examples, examples.new_zeros(missing, *examples.shape[1:])))
    if not len(examples):
        raise ValueError(f"the sound is shorter than one example ({WINDOW_SAMPLES} samples at 16 kHz)")
    return torch.cat((examples, examples[-1:].expand(missing, -1, -1, -1)))


def service_windows(waveform: Tensor, *, num_frames: int) -> Tensor:
    """Cut the service's windows: the 0.975 s that end at each frame's time, silent after the end of the sound.

    Args:
        waveform: (S,) at 16 kHz.
        num_frames: T; frame i was taken at i + 15/16 seconds.

    Returns:
        (T, 15600) float32.
    """
    ends = [round((i + FIRST_SAMPLE_S) * SAMPLE_RATE_HZ) for i in range(num_frames)]
    padded = torch.nn.functional.pad(waveform, (WINDOW_SAMPLES, max(0, ends[-1] - len(waveform))))
    return torch.stack([padded[end : end + WINDOW_SAMPLES] for end in ends])


def _resample(waveform: Tensor, *, rate_hz: int) -> Tensor:
    """(S,) at any rate to (S',) at 16 kHz: the spectrum cut or filled with zeros."""
    if rate_hz == SAMPLE_RATE_HZ or not len(waveform):
        return waveform
    length = max(1, round(len(waveform) * SAMPLE_RATE_HZ / rate_hz))
    spectrum = torch.fft.rfft(waveform)
    kept = min(len(spectrum), length // 2 + 1)
    target = spectrum.new_zeros(length // 2 + 1)
    target[:kept] = spectrum[:kept]
    resampled: Tensor = torch.fft.irfft(target, n=length) * (length / len(waveform))
    return resampled
