"""The one rule for placing sound: joined over jitter, placed anew after gaps, in step over long drifts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from service.domain.chunk import SAMPLE_RATE_HZ
from service.domain.live import SoundPiece
from service.media.live_sound import LiveSound
from service.media.sound_run import MAX_JITTER_S, SoundRun

PIECE = 1024


def sine(start: int, num: int, rate_hz: int) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(start, start + num) / rate_hz).astype(np.float32)[None, :] * 0.3


def placed(times_s: list[float], rate_hz: int, *, batch_s: float = 0.1) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of one tone with these timestamps through one run."""
    run = SoundRun(times_s[0], rate_hz, num_rows=1, batch_s=batch_s)
    for number, time_s in enumerate(times_s):
        assert run.continues(time_s, rate_hz, num_rows=1)
        yield from run.push(sine(number * PIECE, PIECE, rate_hz), time_s=time_s)
    yield from run.flush()


def joined(pieces: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """One signal; the pieces must lie side by side."""
    for (start, samples), (following, _) in itertools.pairwise(pieces):
        assert start + samples.shape[1] == following
    return np.concatenate([samples[0] for _, samples in pieces]) / 32768


@pytest.mark.parametrize("jitter_s", [0.0005, 0.01, 0.02])
def test_jitter_changes_nothing(jitter_s: float) -> None:
    rng = np.random.default_rng(0)
    even = [number * PIECE / 48_000 for number in range(200)]
    uneven = [even[0], *(time_s + rng.uniform(-jitter_s, jitter_s) for time_s in even[1:])]
    plain, jittered = joined(list(placed(even, 48_000))), joined(list(placed(uneven, 48_000)))
    np.testing.assert_array_equal(plain, jittered)


@pytest.mark.parametrize("off_s", [MAX_JITTER_S + 0.01, -MAX_JITTER_S - 0.01, 5.0])
def test_a_gap_or_an_overlap_is_placed_anew(off_s: float) -> None:
    run = SoundRun(0.0, 48_000, num_rows=1, batch_s=0.1)
    list(run.push(sine(0, 48_000, 48_000), time_s=0.0))
    assert run.continues(1.0, 48_000, num_rows=1)
    assert run.continues(None, 48_000, num_rows=1)
    assert not run.continues(1.0 + off_s, 48_000, num_rows=1)
    assert not run.continues(1.0, 44_100, num_rows=1)


@pytest.mark.parametrize("drift", [0.01, -0.01, 0.002])
def test_a_drift_over_ten_minutes_stays_in_step(drift: float) -> None:
    """Where each piece lands against its timestamp; a viewer notices 45 ms."""
    rate_hz = 8000
    times_s = [number * PIECE / rate_hz * (1 + drift) for number in range(round(600 * rate_hz / PIECE))]
    run = SoundRun(0.0, rate_hz, num_rows=1, batch_s=0.1)
    worst_s, end, tone = 0.0, 0, []
    for number, time_s in enumerate(times_s):
        worst_s = max(worst_s, abs(run.end_s - time_s))
        for start, samples in run.push(sine(number * PIECE, PIECE, rate_hz), time_s=time_s):
            assert start == end
            end += samples.shape[1]
            tone.append(samples[0])
    assert worst_s < 0.045
    assert end / SAMPLE_RATE_HZ == pytest.approx(times_s[-1] + PIECE / rate_hz, abs=0.045)
    last = np.concatenate(tone)[-SAMPLE_RATE_HZ:] / 32768
    spectrum = np.abs(np.fft.rfft(last * np.hanning(len(last))))
    assert np.argmax(spectrum) == pytest.approx(440 / (1 + drift), abs=1)
    assert np.sqrt((last**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


def test_two_signals_are_resampled_like_one_each() -> None:
    one, two = sine(0, 48_000, 48_000), sine(700, 48_000, 48_000)
    run = SoundRun(0.0, 48_000, num_rows=2, batch_s=0.1)
    both = [*run.push(np.concatenate([one, two]), time_s=0.0), *run.flush()]
    for row, signal in enumerate((one, two)):
        alone = SoundRun(0.0, 48_000, num_rows=1, batch_s=0.1)
        single = [*alone.push(signal, time_s=0.0), *alone.flush()]
        np.testing.assert_array_equal(
            np.concatenate([samples[row] for _, samples in both]), np.concatenate([out[0] for _, out in single])
        )


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_a_live_stream_is_placed_like_an_upload(rate_hz: int) -> None:
    rng = np.random.default_rng(1)
    times_s = [number * PIECE / rate_hz * 1.01 + rng.uniform(-0.01, 0.01) for number in range(120)]
    live = LiveSound()
    for number, time_s in enumerate(times_s):
        pcm = np.rint(sine(number * PIECE, PIECE, rate_hz)[0] * 32768).astype("<i2")
        live.add(SoundPiece(time_s, pcm.tobytes(), rate_hz))
    end = round((times_s[-1] - 0.2) * SAMPLE_RATE_HZ)
    line = np.zeros(end + 2 * SAMPLE_RATE_HZ, np.int16)
    for start, samples in placed(times_s, rate_hz, batch_s=0.0):
        skip = max(0, -start)
        line[start + skip : start + samples.shape[1]] = samples[0, skip:]
    window = live.window(end / SAMPLE_RATE_HZ)
    assert np.abs(window).max() > 5000
    assert np.abs(window.astype(int) - line[end - len(window) : end]).max() <= 1
