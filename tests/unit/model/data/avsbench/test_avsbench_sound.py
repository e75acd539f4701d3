"""AVSBench's sound: wav files, the field's examples and their padding, the service's windows."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.avsbench_tree import tone, write_wav

from model.data.avsbench.sound import field_examples, read_wav, service_windows
from model.network.preprocess import log_mel, window_log_mel

SILENCE = math.log(0.01)


def test_wav_is_scaled_and_averaged_over_channels(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([0.0, 0.5, -1.0]), num_channels=2)
    assert read_wav(tmp_path / "a.wav").tolist() == pytest.approx([0.0, 0.5, -1.0], abs=1e-4)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_other_rates_become_16_khz(tmp_path: Path, rate_hz: int) -> None:
    times = np.arange(2 * rate_hz) / rate_hz
    write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * times), rate_hz=rate_hz)
    waveform = read_wav(tmp_path / "a.wav")
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(32_000) / 16_000)
    assert len(waveform) == 32_000
    assert torch.allclose(waveform, expected, atol=1e-3)


def test_what_is_no_wav_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF....WAVEjunk")
    for name in ("a.wav", "absent.wav"):
        with pytest.raises(ValueError, match=name):
            read_wav(tmp_path / name)


def test_five_seconds_are_five_examples_at_a_hop_of_096_s() -> None:
    waveform = torch.from_numpy(tone("bell", 5.0)).float()
    examples = field_examples(waveform, num_frames=5, is_zero_padded=False)
    assert examples.shape == (5, 1, 96, 64)
    spectrogram = log_mel(waveform[None])[0]
    for number in range(5):
        assert torch.equal(examples[number, 0], spectrogram[96 * number : 96 * number + 96])
        start = round(0.96 * 16_000) * number
        assert torch.allclose(examples[number], window_log_mel(waveform[None, start : start + 15_600])[0], atol=1e-5)


def test_short_sound_is_padded_by_the_fields_two_rules() -> None:
    waveform = torch.from_numpy(tone("hum", 2.0)).float()
    repeated = field_examples(waveform, num_frames=5, is_zero_padded=False)
    assert torch.equal(repeated[1], repeated[4])
    zeros = field_examples(waveform, num_frames=10, is_zero_padded=True)
    assert torch.equal(zeros[:2], repeated[:2])
    assert not zeros[2:].any()  # zero, which no silence gives


def test_long_sound_is_cut_and_none_at_all_cannot_be_repeated() -> None:
    assert len(field_examples(torch.zeros(160_000), num_frames=5, is_zero_padded=False)) == 5
    nothing = torch.zeros(15_599)
    assert not field_examples(nothing, num_frames=10, is_zero_padded=True).any()
    with pytest.raises(ValueError, match="shorter than one example"):
        field_examples(nothing, num_frames=5, is_zero_padded=False)


def test_service_windows_end_at_their_frames_and_fall_silent_after_the_sound() -> None:
    waveform = torch.arange(1.0, 80_001.0)  # five seconds; a sample's value is its number
    windows = service_windows(waveform, num_frames=6)
    assert windows.shape == (6, 15_600)
    assert windows[:5, -1].tolist() == [15_000 + 16_000 * i for i in range(5)]
    assert windows[0, :600].tolist() == [0.0] * 600  # before the clip's start
    assert windows[0, 600] == 1
    last = windows[5]  # 79 400 .. 95 000, of which 600 samples exist
    assert last[:600].tolist() == list(range(79_401, 80_001))
    assert not last[600:].any()


def test_by_the_tenth_frame_the_fields_sound_lags_a_third_of_a_second() -> None:
    waveform = torch.zeros(160_000)
    waveform[148_800:] = torch.from_numpy(tone("bell", 0.7)).float()  # begins 9.3 s in; the tenth frame is at 9.9375 s
    field = field_examples(waveform, num_frames=10, is_zero_padded=True)[9, 0]
    served = window_log_mel(service_windows(waveform, num_frames=10))[9, 0]
    heard = [int((example.max(dim=1).values > SILENCE + 1).sum()) for example in (field, served)]
    assert heard[1] - heard[0] in range(30, 38)  # log-mel frames of 10 ms
