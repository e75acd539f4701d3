"""Sound: placed by its timestamps, silent where there is none, never from the future, as loud as it was."""

from __future__ import annotations

import numpy as np
import pytest
from support.clips import ClipSpec, make_clip
from support.decoding import Decoded, decode_here, make_job
from support.odd_clips import ODD_SPECS

from service.media.sandbox.sound import window_end

RATE_HZ = 16_000
SOUNDS = ["plain", "mov", "mov_pcm", "mov_pcm_24", "mp3", "opus", "flac", "alac", "ac3", "mono_8k", "mono_16k"]


def heard(decoded: Decoded) -> np.ndarray:
    """The last window's sound on the clip's time line, float32 from time 0."""
    end = window_end(float(decoded.sample_times_s[-1]))
    line = np.zeros(end + 1, np.float32)
    for time_s, window in zip(decoded.sample_times_s, decoded.windows, strict=True):
        stop = window_end(float(time_s))
        start = max(0, stop - len(window))
        line[start:stop] = window[len(window) - (stop - start) :]
    return line


@pytest.mark.parametrize("name", [*SOUNDS, "sound_96k", "surround", "fragmented", "hevc", "vp9", "mpeg4"])
def test_a_click_is_heard_when_the_flash_is_seen(name: str) -> None:
    spec = ODD_SPECS[name]
    changed = ClipSpec(**{**vars(spec), "flash_frames": frozenset({13, 24})})
    decoded = decode_here(make_clip(changed), make_job(fps=None))
    bright = [at for at, frame in enumerate(decoded.frames) if frame.mean() > 230]
    assert [decoded.indexes[at] for at in bright] == [13, 24]
    line = np.abs(heard(decoded))
    for at in bright:
        near = line[: round((decoded.timestamps_s[at] + 0.2) * RATE_HZ)]
        loud = np.flatnonzero(near > 0.3)
        first = loud[loud > (decoded.timestamps_s[at] - 0.2) * RATE_HZ][0] / RATE_HZ
        assert abs(first - decoded.timestamps_s[at]) < 0.02  # half a frame at 25 per second


def test_nothing_of_the_future_is_heard() -> None:
    spec = ClipSpec(
        sound="pcm_s16le", container="mov", flash_frames=frozenset({25}), num_frames=50, sound_rate_hz=16_000
    )
    decoded = decode_here(make_clip(spec), make_job(fps=None))
    for time_s, window in zip(decoded.sample_times_s, decoded.windows, strict=True):
        assert (np.abs(window).max() > 0) == (1.0 < time_s < 1.0 + 0.985)
    at = int(np.flatnonzero(decoded.sample_times_s == 1.04)[0])
    assert np.flatnonzero(decoded.windows[at])[0] == 15_600 - 640


def test_channels_are_averaged_without_gain() -> None:
    for layout in ("mono", "stereo", "5.1"):
        spec = ClipSpec(sound="pcm_s16le", container="mov", sound_layout=layout, sound_rate_hz=16_000)
        window = decode_here(make_clip(spec), make_job()).windows[-1]
        assert np.abs(window).max() == pytest.approx(0.3, abs=0.002)


def test_resampling_keeps_level_and_pitch() -> None:
    for rate_hz in (8000, 44_100, 96_000):
        spec = ClipSpec(sound="pcm_s16le", container="mov", sound_rate_hz=rate_hz)
        window = decode_here(make_clip(spec), make_job()).windows[-1]
        spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window))))
        assert np.argmax(spectrum) * RATE_HZ / len(window) == pytest.approx(440, abs=1)
        assert np.sqrt((window**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


def test_sound_that_starts_late_or_ends_early_is_silence_elsewhere() -> None:
    late = heard(decode_here(make_clip(ODD_SPECS["sound_late"]), make_job(fps=None)))
    assert np.abs(late[: int(0.68 * RATE_HZ)]).max() < 0.01
    assert np.abs(late[int(0.8 * RATE_HZ) :]).max() > 0.2
    early = decode_here(make_clip(ODD_SPECS["sound_ends_early"]), make_job(fps=None))
    assert np.abs(early.windows[-1]).max() == 0
    assert early.clip.duration_s == 2.0


def test_longer_sound_does_not_make_the_clip_longer() -> None:
    decoded = decode_here(make_clip(ODD_SPECS["sound_longer"]), make_job())
    assert decoded.clip.duration_s == 2.0
    assert decoded.sample_times_s.tolist() == [0.9375, 1.9375]


def test_windows_far_apart_do_not_carry_the_sound_between() -> None:
    near = decode_here(make_clip(num_frames=250, gop=25), make_job(fps=None, start_s=8.9, end_s=9.0))
    far = decode_here(make_clip(num_frames=250, gop=25), make_job(fps=0.25))
    assert len(far.sample_times_s) == 2
    assert near.windows.shape[1] == far.windows.shape[1] == 15_600
    assert np.abs(far.windows).max() > 0.2
