"""The sound of a live stream: any rate, any piece size, any order of arrival, never later sound."""

import numpy as np
import pytest

from service.domain.chunk import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from service.domain.errors import ServiceError
from service.domain.live import SoundPiece
from service.media.live_sound import KEPT_SAMPLES, LiveSound, SoundTimeline, sample_index


def tone(start_s: float, end_s: float, rate_hz: int, frequency_hz: float = 440.0) -> np.ndarray:
    """A sine of absolute phase, so that any part of it can be compared with any other rate."""
    times = np.arange(round(start_s * rate_hz), round(end_s * rate_hz)) / rate_hz
    return np.round(12_000 * np.sin(2 * np.pi * frequency_hz * times)).astype(np.int16)


def piece(at_s: float, sound: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ) -> SoundPiece:
    return SoundPiece(at_s, sound.astype("<i2").tobytes(), rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_in_pieces_of_any_size_is_the_same_sound(rate_hz: int) -> None:
    rng = np.random.default_rng(rate_hz)
    sound = LiveSound()
    recorded = tone(0, 2.0, rate_hz)
    at = 0
    while at < len(recorded):
        num = int(rng.integers(1, rate_hz // 10))
        sound.add(piece(at / rate_hz, recorded[at : at + num], rate_hz))
        at += num
    window = sound.window(1.9)
    expected = tone(1.9 - 0.975, 1.9, SAMPLE_RATE_HZ)
    assert window.shape == (WINDOW_SAMPLES,)
    assert np.abs(window.astype(int) - expected).max() <= 8  # of 12 000: rounding and filter ripple


def test_later_sound_is_not_in_a_window() -> None:
    sound = LiveSound()
    sound.add(piece(0.0, np.zeros(SAMPLE_RATE_HZ, np.int16)))
    sound.add(piece(1.0, np.full(SAMPLE_RATE_HZ, 9000, np.int16)))
    assert not sound.window(1.0).any()
    assert np.count_nonzero(sound.window(1.1)) == 1600


def test_missing_sound_is_silence() -> None:
    sound = LiveSound()
    assert not sound.window(3.0).any()
    sound.add(piece(0.0, np.full(1600, 5, np.int16)))
    sound.add(piece(0.5, np.full(1600, 7, np.int16)))
    window = sound.window(0.6)
    assert window[-9600:-8000].tolist() == [5] * 1600
    assert not window[-8000:-1600].any()
    assert window[-1600:].tolist() == [7] * 1600


def test_sound_that_comes_late_is_heard_by_later_windows() -> None:
    sound = LiveSound()
    sound.add(piece(0.0, np.full(1600, 5, np.int16)))
    assert np.count_nonzero(sound.window(0.2)) == 1600
    sound.add(piece(0.1, np.full(1600, 6, np.int16)))
    assert np.count_nonzero(sound.window(0.2)) == 3200


def test_jitter_leaves_no_seam_and_overlap_keeps_what_was_heard_first() -> None:
    sound = LiveSound()
    sound.add(piece(0.0, np.full(1600, 5, np.int16)))
    sound.add(piece(0.112, np.full(1600, 6, np.int16)))  # 12 ms late: joined
    assert np.count_nonzero(sound.window(0.2)) == 3200
    sound.add(piece(0.1, np.full(3200, 9, np.int16)))  # sent again and longer: only the new part counts
    assert sound.window(0.3)[-4800:].tolist() == [5] * 1600 + [6] * 1600 + [9] * 1600


def test_has_heard_follows_the_end_of_the_sound() -> None:
    sound = LiveSound()
    assert not sound.has_heard(0.0)
    sound.add(piece(10.0, tone(0, 0.5, 44_100), 44_100))
    assert sound.has_heard(10.5)
    assert not sound.has_heard(10.502)


def test_a_clock_that_jumps_starts_anew() -> None:
    sound = LiveSound()
    sound.add(piece(1.7e9, np.full(1600, 5, np.int16)))
    assert np.count_nonzero(sound.window(1.7e9 + 0.1)) == 1600
    sound.add(piece(0.0, np.full(1600, 6, np.int16)))
    assert np.count_nonzero(sound.window(0.1)) == 1600
    assert not sound.window(1.7e9 + 0.1).any()


def test_the_timeline_keeps_the_last_30_seconds() -> None:
    timeline = SoundTimeline()
    rng = np.random.default_rng(0)
    written = rng.integers(-9, 9, 3 * KEPT_SAMPLES).astype(np.int16)
    at = 0
    while at < len(written):
        num = int(rng.integers(1, KEPT_SAMPLES // 3))
        timeline.write(at, written[at : at + num])
        at += num
    assert np.array_equal(timeline.read(2 * KEPT_SAMPLES, 3 * KEPT_SAMPLES), written[-KEPT_SAMPLES:])
    assert not timeline.read(0, 100).any()
    timeline.write(3 * KEPT_SAMPLES, rng.integers(1, 9, 2 * KEPT_SAMPLES).astype(np.int16))
    assert timeline.read(4 * KEPT_SAMPLES, 5 * KEPT_SAMPLES).all()


@pytest.mark.parametrize(
    "bad",
    [
        SoundPiece(float("nan"), b"\0\0", 16_000),
        SoundPiece(float("inf"), b"\0\0", 16_000),
        SoundPiece(1e300, b"\0\0", 16_000),
        SoundPiece(0.0, b"\0\0\0", 16_000),
        SoundPiece(0.0, b"\0\0", 0),
        SoundPiece(0.0, b"\0\0", 2**31),
        SoundPiece(0.0, bytes(2 * 4_000 * 10 + 2), 4_000),
    ],
)
def test_malformed_pieces_are_refused_and_change_nothing(bad: SoundPiece) -> None:
    sound = LiveSound()
    sound.add(piece(0.0, np.full(1600, 5, np.int16)))
    with pytest.raises(ServiceError) as refused:
        sound.add(bad)
    assert refused.value.code == "malformed_body"
    assert np.count_nonzero(sound.window(0.1)) == 1600


def test_an_empty_piece_is_nothing() -> None:
    sound = LiveSound()
    sound.add(SoundPiece(0.0, b"", 16_000))
    assert not sound.has_heard(0.0)


def test_sample_index_rounds_to_the_nearest() -> None:
    assert sample_index(0.9375) == 15_000
    assert sample_index(1 / 3) == 5333
    assert sample_index(-0.975) == -15_600
