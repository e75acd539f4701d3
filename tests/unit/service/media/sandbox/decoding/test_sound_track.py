"""Sound: placed by its timestamps, silent where there is none, never from the future, as loud as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.components.decoding import Decoded, ListOutbox, decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import find, patch
from support.inputs.odd_clips import ODD_SPECS

from service.domain.errors import ServiceError
from service.media.sandbox.decoding import sample_writer, sound_frames
from service.media.sandbox.decoding.sample_writer import SampleWriter
from service.media.sandbox.decoding.sound import window_end

RATE_HZ = 16_000
# From the end of a sound sample entry's fourcc to its channel count (ISO/IEC 14496-12, 12.2.3).
_CHANNEL_COUNT_OFFSET = 16
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


def test_progress_is_reported_while_the_sound_before_a_late_part_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of sound can lie before the first window; a decoder without progress for 30 s is ended."""
    reports: list[None] = []
    monkeypatch.setattr(ListOutbox, "progress", lambda self: reports.append(None))
    monkeypatch.setattr(sample_writer, "_PROGRESS_S", 0.0)
    monkeypatch.setattr(SampleWriter, "tick", lambda self: None)  # reports of the picture's packets
    decoded = decode_here(make_clip(ClipSpec(num_frames=750)), make_job(start_s=29.0))
    assert len(decoded.frames) == 1
    assert len(reports) > 20  # about one a second of sound


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


@pytest.mark.parametrize(
    ("codec", "layout", "options"),
    [
        ("aac", "7.1", {}),
        ("aac", "octagonal", {}),
        ("aac", "6.1(back)", {}),
        ("aac", "hexadecagonal", {}),
        ("alac", "7.1(wide)", {}),
        ("flac", "7.1", {}),
        ("libopus", "7.1", {}),
        ("libopus", "9.1.4", {"mapping_family": "255"}),
        ("libopus", "22.2", {"mapping_family": "255"}),
        ("pcm_s16le", "22.2", {}),
    ],
)
def test_any_number_of_channels_is_mixed_down(codec: str, layout: str, options: dict[str, str]) -> None:
    container = "mov" if codec.startswith("pcm") else "mp4"
    spec = ClipSpec(sound=codec, sound_layout=layout, sound_options=options, container=container)
    window = decode_here(make_clip(spec), make_job()).windows[-1]
    num_silent = 1 if layout in ("7.1", "22.2") and codec == "aac" else 0  # AAC keeps only the bass of the LFE channel
    share = 1 - num_silent / 8
    assert np.sqrt((window**2).mean()) == pytest.approx(share * 0.3 / np.sqrt(2), rel=0.05)


def test_more_channels_than_any_layout_has_are_refused() -> None:
    data = make_clip(sound="pcm_s16le", container="mov")
    data = patch(data, find(data, "sowt") + _CHANNEL_COUNT_OFFSET, (66).to_bytes(2, "big"))
    with pytest.raises(ServiceError, match="64 channels") as caught:
        decode_here(data, make_job())
    assert caught.value.code == "unsupported_codec"


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


def jittered(spread: int) -> Callable[[int, int], int]:
    """Timestamps of sound packets that are off by up to `spread` ticks, the same ones every time."""
    offsets = np.random.default_rng(7).integers(-spread, spread + 1, 1000)
    return lambda number, tick: tick + int(offsets[number])


@pytest.mark.parametrize("ticks", [jittered(480), jittered(48), lambda number, tick: tick + 20 * (number % 2)])
def test_timestamps_that_jitter_leave_no_seam(ticks: Callable[[int, int], int]) -> None:
    decoded = decode_here(make_clip(num_frames=100, sound_ticks=ticks), make_job())
    for window in decoded.windows[1:]:
        spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window)))) ** 2
        near = np.abs(np.fft.rfftfreq(len(window), 1 / RATE_HZ) - 440) < 6
        assert spectrum[near].sum() > 0.999 * spectrum.sum()
        assert np.sqrt((window**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


def test_a_real_gap_stays_silent_and_what_follows_is_in_its_place() -> None:
    spec = ClipSpec(
        num_frames=100, flash_frames=frozenset({75}), sound_ticks=lambda number, tick: tick + 9600 * (number >= 60)
    )
    line = np.abs(heard(decode_here(make_clip(spec), make_job(fps=None))))
    loud = np.flatnonzero(line > 0.3)
    assert loud[0] / RATE_HZ == pytest.approx(3.0 + 0.2, abs=0.02)
    tone = heard(decode_here(make_clip(num_frames=100, sound_ticks=spec.sound_ticks), make_job(fps=None)))
    gap = tone[round(1.27 * RATE_HZ) : round(1.45 * RATE_HZ)]  # between the packets 59 and 60
    assert np.abs(gap).max() == 0


@pytest.mark.parametrize("gains", [(1, -1), (1, -0.8), (-0.9, 1)])
@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_channels_that_cancel_out_are_heard_by_one_of_them(gains: tuple[float, ...], sound: str) -> None:
    decoded = decode_here(make_clip(sound=sound, sound_gains=gains, container="mov"), make_job())
    level = 0.3 * abs(gains[0]) / np.sqrt(2)
    assert np.sqrt((decoded.windows[-1] ** 2).mean()) == pytest.approx(level, rel=0.02)
    assert decoded.clip.audio is not None
    assert decoded.clip.audio.notes == ("antiphase",)


def test_only_the_windows_that_cancel_out_are_heard_by_one_channel() -> None:
    """One recording whose second channel turns around half-way: both clips have the same bytes but for that channel."""
    spec = ClipSpec(num_frames=100, sound="pcm_s16le", container="mov")
    clips = [make_clip(ClipSpec(**{**vars(spec), "sound_gains": (1, gain)})) for gain in (0.5, -1)]
    assert len(clips[0]) == len(clips[1])
    data = clips[0][: len(clips[0]) // 2] + clips[1][len(clips[0]) // 2 :]
    decoded = decode_here(data, make_job())
    levels = np.sqrt((decoded.windows[[0, -1]] ** 2).mean(axis=1))
    assert levels == pytest.approx([0.75 * 0.3 / np.sqrt(2), 0.3 / np.sqrt(2)], rel=0.02)
    for job, notes in ((make_job(), ("antiphase",)), (make_job(end_s=1.0), ())):
        audio = decode_here(data, job).clip.audio
        assert audio is not None
        assert audio.notes == notes


def test_surround_front_channels_that_cancel_out_are_heard() -> None:
    spec = ClipSpec(sound="pcm_s16le", container="mov", sound_layout="5.1", sound_gains=(1, -1, 0, 0, 0, 0))
    decoded = decode_here(make_clip(spec), make_job())
    assert np.sqrt((decoded.windows[-1] ** 2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)
    assert decoded.clip.audio is not None
    assert decoded.clip.audio.notes == ("antiphase",)


@pytest.mark.parametrize("gains", [(1, 1), (1, 0), (0.3, 1), (1, -0.3)])
def test_channels_that_do_not_cancel_out_are_averaged(gains: tuple[float, ...]) -> None:
    decoded = decode_here(make_clip(sound="pcm_s16le", sound_gains=gains, container="mov"), make_job())
    assert np.sqrt((decoded.windows[-1] ** 2).mean()) == pytest.approx(0.3 * abs(sum(gains)) / 2 / np.sqrt(2), rel=0.02)
    assert decoded.clip.audio is not None
    assert decoded.clip.audio.notes == ()


@pytest.mark.parametrize(
    ("gains", "notes"),
    [
        ((0, 0), ("silent",)),
        ((0.002, 0.002), ("silent",)),  # -64 dBFS
        ((0.01, 0.01), ()),
        ((3.3, 3.3), ()),  # a tone of full scale is not clipped
        ((4, 4), ("clipped",)),
        ((0, 4), ("clipped",)),
        ((4, -4), ("antiphase", "clipped")),
    ],
)
def test_clipping_and_silence_are_noted(gains: tuple[float, ...], notes: tuple[str, ...]) -> None:
    decoded = decode_here(make_clip(sound="pcm_s16le", sound_gains=gains, container="mov"), make_job())
    assert decoded.clip.audio is not None
    assert decoded.clip.audio.notes == notes


def test_notes_are_about_what_the_samples_hear() -> None:
    data = make_clip(num_frames=100, sound_end_s=1.5, sound="pcm_s16le", container="mov", sound_gains=(4, -4))
    late = decode_here(data, make_job(start_s=3.0)).clip.audio
    assert late is not None
    assert late.notes == ("silent",)


@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(num_frames=60, sound_ticks=lambda number, tick: tick + 9600 * (number >= 30) + 3 * (number % 2)),
        ClipSpec(num_frames=60, sound="pcm_s16le", container="mov", sound_gains=(4, 1), sound_end_s=1.7),
        ClipSpec(num_frames=60, sound_gains=(0.2, 1)),
    ],
    ids=["gap", "clipped", "unequal channels"],
)
def test_frames_worked_on_together_sound_as_each_alone(monkeypatch: pytest.MonkeyPatch, spec: ClipSpec) -> None:
    data = make_clip(spec)
    together = decode_here(data, make_job())
    monkeypatch.setattr(sound_frames, "_GROUP_S", 0.0)
    alone = decode_here(data, make_job())
    assert np.abs(together.windows).max() > 0.1
    assert np.array_equal(together.windows, alone.windows)
    assert together.clip == alone.clip
