"""The audio front end against VGGish's golden values, and the frame normalisation."""

import math

import pytest
import torch

from model.network.preprocess import log_mel, normalise_frames, window_log_mel


def sine(hertz: float, *, amplitude: float = 1.0, seconds: float = 5.0) -> torch.Tensor:
    time_s = torch.arange(int(16_000 * seconds), dtype=torch.float64) / 16_000
    return (amplitude * torch.sin(2 * math.pi * hertz * time_s))[None]


def test_log_mel_of_a_1_khz_sine_has_the_golden_values() -> None:
    spectrogram = log_mel(sine(1000))[0]
    assert spectrogram.shape == (498, 64)
    assert spectrogram.mean(dim=0).argmax() == 19
    assert float(spectrogram.max()) == pytest.approx(4.81112, abs=5e-6)
    assert float(spectrogram[:96].mean()) == pytest.approx(-3.429619, abs=3e-6)
    assert float(spectrogram[0, 0]) == pytest.approx(-4.483133, abs=3e-6)
    assert float(spectrogram[0, 63]) == pytest.approx(-4.601163, abs=3e-6)


def test_log_mel_of_a_440_hz_sine_has_the_golden_values() -> None:
    spectrogram = log_mel(sine(440, amplitude=0.5))[0]
    assert spectrogram.mean(dim=0).argmax() == 8
    assert float(spectrogram.max()) == pytest.approx(4.08916, abs=2e-5)
    assert float(spectrogram[:96].mean()) == pytest.approx(-3.501857, abs=3e-6)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    spectrogram = log_mel(torch.zeros(2, 16_000))
    assert torch.allclose(spectrogram, torch.full_like(spectrogram, -4.605170), atol=1e-6)


def test_a_window_gives_exactly_one_example() -> None:
    assert window_log_mel(torch.zeros(3, 15_600)).shape == (3, 1, 96, 64)


@pytest.mark.parametrize("shape", [(15_600,), (2, 15_599), (2, 15_601), (2, 1, 15_600)])
def test_a_window_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        window_log_mel(torch.zeros(shape))


def test_log_mel_needs_one_whole_stft_frame() -> None:
    with pytest.raises(ValueError, match="S >= 400"):
        log_mel(torch.zeros(1, 399))


def test_frames_are_normalised_by_the_imagenet_statistics() -> None:
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    frames[..., 0] = 255
    values = normalise_frames(frames)
    assert values.shape == (1, 3, 32, 32)
    assert values.is_contiguous(memory_format=torch.channels_last)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert torch.allclose(values[0, :, 5, 7], expected, atol=1e-5)


@pytest.mark.parametrize("frames", [torch.zeros(1, 32, 32, 3), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
def test_frames_of_another_dtype_or_order_are_refused(frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        normalise_frames(frames)
