"""Where clips begin and end: fragments of longer streams, untold presentation times, slides and still pictures."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from support.components.decoding import Decoded, decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.fragments import later, without_offsets
from support.inputs.hostile import find, fragmented_clip, patch, put32, rename, replace_box
from support.inputs.odd_clips import edited

from service.domain.errors import ServiceError
from service.media.sandbox.decoding.timeline import EndClaims, end_of_picture, origin_of

NO_CLAIMS = EndClaims()
WAYS = pytest.mark.parametrize("piece_bytes", [None, 1000], ids=["complete", "growing"])


def assert_same(one: Decoded, other: Decoded) -> None:
    for name in ("sample_times_s", "timestamps_s", "indexes", "frames", "windows"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.clip == other.clip


@WAYS
@pytest.mark.parametrize("start_s", [300.0, 10_800.0, 1.7e9], ids=["5 min", "3 h", "unix time"])
@pytest.mark.parametrize("fps", [1.0, None])
def test_a_fragment_of_a_longer_stream_begins_at_zero(start_s: float, fps: float | None, piece_bytes: int) -> None:
    plain = decode_here(fragmented_clip(), make_job(fps=fps))
    cut = later(fragmented_clip(), {1: start_s, 2: start_s})
    assert_same(decode_here(cut, make_job(fps=fps), piece_bytes=piece_bytes), plain)
    assert plain.clip.num_samples == (2 if fps else 50)


@WAYS
def test_tracks_keep_their_distance_in_a_fragment(piece_bytes: int) -> None:
    """The sound begins 0.5 s after the picture's first fragment, at 300 s."""
    cut = later(fragmented_clip(), {1: 300.0, 2: 300.5})
    decoded = decode_here(cut, make_job(fps=None), piece_bytes=piece_bytes)
    assert decoded.timestamps_s[0] == pytest.approx(0.0, abs=1e-6)
    heard = np.abs(decoded.windows[-1]) > 0.05
    first_s = decoded.sample_times_s[-1] - 0.975 + np.flatnonzero(heard)[0] / 16_000
    assert decoded.sample_times_s[-1] == pytest.approx(1.96, abs=1e-6)
    assert first_s == pytest.approx(max(0.985, 0.42), abs=0.01), "the window begins after the sound has begun"
    early = decoded.windows[10]  # 0.4 s: 0.08 s of B-frame delay are gone, the sound begins at 0.42 s
    assert np.abs(early).max() < 0.01


def test_a_late_start_of_one_track_is_kept() -> None:
    cut = later(fragmented_clip(), {1: 3.0, 2: 0.0})
    decoded = decode_here(cut, make_job())
    assert decoded.sample_times_s.tolist() == [0.9375, 1.9375, 2.9375, 3.9375, 4.9375]
    assert decoded.indexes[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("start_s", [1e11, 2**40])
def test_a_time_that_no_stream_reaches_is_refused(start_s: float) -> None:
    with pytest.raises(ServiceError) as caught:
        decode_here(later(fragmented_clip(), {1: start_s, 2: start_s}), make_job())
    assert caught.value.code == "too_long"


def test_a_jump_within_a_stream_is_refused() -> None:
    data = fragmented_clip()
    at = data.rfind(b"tfdt") + 8
    data = patch(data, at, struct.pack(">Q", struct.unpack_from(">Q", data, at)[0] + 10**10))
    with pytest.raises(ServiceError) as caught:
        decode_here(data, make_job())
    assert caught.value.code == "too_long"


def test_the_origin_is_on_the_pictures_ticks_and_only_for_late_starts() -> None:
    tick = Fraction(1, 25)
    assert origin_of(Fraction(300), Fraction(3001, 10), tick=tick) == 300
    assert origin_of(Fraction(301), Fraction(30005, 100), tick=tick) == Fraction(7501, 25)
    for starts in ((Fraction(1), Fraction(5)), (Fraction(300), Fraction(0)), (None, Fraction(9)), (Fraction(-3),) * 2):
        assert origin_of(*starts, tick=tick) == 0


@WAYS
@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(movflags="faststart"),
        ClipSpec(
            movflags="faststart", b_frames=5, codec_options={"b-pyramid": "normal", "preset": "veryfast"}, num_frames=60
        ),
        ClipSpec(
            movflags="faststart",
            codec="libx265",
            codec_options={"preset": "ultrafast", "x265-params": "log-level=none:pools=1:bframes=3"},
        ),
        ClipSpec(movflags="faststart", codec="mpeg4", codec_options={"bf": "2"}),
    ],
    ids=["h264", "pyramid", "hevc", "mpeg4"],
)
@pytest.mark.parametrize("fps", [None, 2.5])
def test_reordered_frames_without_offsets_come_in_order(spec: ClipSpec, fps: float | None, piece_bytes: int) -> None:
    """Every frame once, at even times: the frames of the clip that tells its offsets (`ctts`)."""
    data = make_clip(spec)
    assert b"ctts" in data
    told = decode_here(data, make_job(fps=fps))
    data = rename(rename(data, "ctts", "free"), "edts", "free")
    untold = decode_here(data, make_job(fps=fps), piece_bytes=piece_bytes)
    np.testing.assert_allclose(untold.timestamps_s, told.timestamps_s, atol=1e-6)
    np.testing.assert_array_equal(untold.indexes, told.indexes)
    np.testing.assert_array_equal(untold.frames, told.frames)
    if fps is None:
        assert untold.timestamps_s.tolist() == [round(n / 25, 6) for n in range(spec.num_frames)]


@WAYS
@pytest.mark.parametrize("fps", [None, 2.5])
def test_reordered_frames_of_fragments_without_offsets_come_in_order(fps: float | None, piece_bytes: int) -> None:
    """The frames of the clip that tells its offsets, at even times from 0, as the delay is untold too."""
    data = fragmented_clip()
    untold_data = without_offsets(data)
    assert len(untold_data) == len(data)
    assert untold_data.count(b"free") == data.count(b"free") + 5
    told = decode_here(data, make_job(fps=None))
    untold = decode_here(untold_data, make_job(fps=fps), piece_bytes=piece_bytes)
    if fps is None:
        assert untold.timestamps_s.tolist() == [round(n / 25, 6) for n in range(50)]
        np.testing.assert_array_equal(untold.frames, told.frames)
        return
    assert len(untold.indexes) == 5
    np.testing.assert_allclose(untold.timestamps_s, untold.indexes / 25, atol=1e-6)
    np.testing.assert_array_equal(untold.frames, told.frames[untold.indexes])


def slides(starts_s: list[int], *, end_s: float, sound_end_s: float, media_s: float | None = None) -> bytes:
    """Pictures at these seconds; the last one lasts until `end_s` by `stts`, the media header says `media_s`."""
    spec = ClipSpec(
        num_frames=len(starts_s),
        frame_ticks=[12_800 * start for start in starts_s],
        sound_end_s=sound_end_s,
        sound_rate_hz=8000,
        b_frames=0,
        movflags="faststart",
    )
    data = rename(make_clip(spec), "edts", "free")
    rows = [(1, 12_800 * (after - start)) for start, after in zip(starts_s, [*starts_s[1:], end_s], strict=True)]
    at = find(data, "stts")
    count = struct.unpack_from(">I", data, at + 4)[0]
    packed: list[tuple[int, float]] = []
    for num, delta in rows:  # the table keeps its size: equal steps share a row
        if packed and packed[-1][1] == delta and len(packed) >= count:
            packed[-1] = (packed[-1][0] + num, delta)
        else:
            packed.append((num, delta))
    assert len(packed) == count
    body = b"".join(struct.pack(">II", num, round(delta)) for num, delta in packed)
    data = patch(data, at + 8, body)
    return put32(data, "mdhd", 16, round(12_800 * (end_s if media_s is None else media_s)))


@WAYS
@pytest.mark.parametrize(
    ("starts_s", "end_s", "sound_end_s", "media_s", "num"),
    [
        ([0], 60, 60.0, 60, 60),  # a still picture with sound
        ([0], 60, 60.0, 0, 60),  # the sound alone confirms it
        ([0], 60, 2.0, 60, 60),  # the media header alone confirms it
        ([0], 60, 2.0, 30, 10),  # nothing does: 10 s at most
        ([0], 60, 2.0, 2, 2),  # the other two agree with each other
        ([0, 15], 35, 35.0, 35, 35),  # slides
        ([0, 15], 35, 60.0, 35, 35),  # longer sound does not change the length
        ([0, 15], 400, 20.0, 20, 20),  # a last frame that contradicts the rest
        ([0], 8, 60.0, 60, 8),  # a short claim stands
        ([0], 0, 30.0, 30, 30),  # no claim, and the rest agrees
        ([0], 0.04, 60.0, 0.04, 60),  # a lone frame that claims its frame rate is shown to the end of the sound
        ([0], 1, 30.0, 1, 30),  # the same at one frame a second
        ([0], 0, 30.0, 0, 30),  # the same without any claim
        ([0], 2, 30.0, 2, 2),  # a lone frame that says how long it lasts
        ([0, 1], 2, 30.0, 2, 2),  # two frames are no still picture
    ],
)
def test_the_length_follows_what_agrees(
    starts_s: list[int], end_s: float, sound_end_s: float, media_s: float, num: int, piece_bytes: int
) -> None:
    data = slides(starts_s, end_s=end_s, sound_end_s=sound_end_s, media_s=media_s)
    decoded = decode_here(data, make_job(), piece_bytes=piece_bytes)
    assert decoded.sample_times_s.tolist() == [n + 0.9375 for n in range(num)]
    assert decoded.clip.duration_s == pytest.approx(num, abs=0.01)
    assert decoded.indexes.tolist() == [sum(start <= n + 0.9375 for start in starts_s) - 1 for n in range(num)]


@cache
def still(sound_end_s: float) -> bytes:
    """A single frame of 0.04 s and sound, as FFmpeg writes them: both with edit lists, in milliseconds."""
    return make_clip(ClipSpec(num_frames=1, sound_end_s=sound_end_s, sound_rate_hz=8000, b_frames=0))


@pytest.mark.parametrize(
    ("picture", "sound", "num"),
    [
        (None, None, 12),  # the picture's edit list repeats its 0.04 s
        ([(5000, -1), (40, 0)], [(5000, -1), (12_000, 0)], 12),  # both begin after 5 s, which becomes time 0
        ([(500, -1), (40, 0)], [(500, -1), (12_000, 0)], 12),  # both begin after 0.5 s, which does not
        ([(3000, 0)], None, 3),  # the picture's edit list says how long it is shown
        ([(5000, -1), (3000, 0)], [(5000, -1), (12_000, 0)], 3),  # after the empty edit
        (None, [(4000, 0)], 4),  # the sound's edit list ends it early
    ],
)
def test_a_lone_frame_is_shown_as_long_as_edit_lists_and_sound_say(
    picture: list[tuple[int, int]] | None, sound: list[tuple[int, int]] | None, num: int
) -> None:
    data = still(12.0)
    for number, edits in ((1, sound), (0, picture)):
        data = data if edits is None else edited(data, edits, number=number)
    decoded = decode_here(data, make_job())
    assert decoded.sample_times_s.tolist() == [n + 0.9375 for n in range(num)]
    assert set(decoded.indexes.tolist()) == {0}


def with_a_long_packet(data: bytes, hours: float) -> bytes:
    """The last packet of the sound claims hours, in its table and in the media header."""
    at = data.find(b"stts", find(data, "stts") + 4)
    num, delta = struct.unpack_from(">II", data, at + 12)
    long = round(hours * 3600 * 8000)
    body = struct.pack(">IIIIII", 0, 2, num - 1, delta, 1, long)
    data = replace_box(data, "stts", body, 1)
    return put32(data, "mdhd", 16, min(long, 2**31), 1)


@pytest.mark.parametrize(("num_frames", "hours"), [(1, 0.1), (1, 50.0), (50, 3.0)])
def test_sound_that_claims_hours_changes_nothing(num_frames: int, hours: float) -> None:
    spec = ClipSpec(num_frames=num_frames, sound_end_s=2.0, sound_rate_hz=8000, b_frames=0)
    decoded = decode_here(with_a_long_packet(make_clip(spec), hours), make_job())
    assert decoded.sample_times_s.tolist() == [0.9375, 1.9375]


def test_real_sound_over_the_limit_is_refused() -> None:
    policy = replace(make_job().policy, max_clip_s=5.0)
    assert len(decode_here(still(5.0), replace(make_job(), policy=policy)).indexes) == 5
    with pytest.raises(ServiceError) as caught:
        decode_here(still(12.0), replace(make_job(), policy=policy))
    assert caught.value.code == "too_long"


def test_the_edit_list_has_the_last_word_on_a_long_frame() -> None:
    claims = EndClaims(media_s=60.0, sound_s=60.0, edit_s=12.0)
    assert end_of_picture(0.0, 60.0, spacing_s=0.0, claims=claims) == 12.0
    assert end_of_picture(1.0, 0.04, spacing_s=0.04, claims=EndClaims(60.0, 60.0, 60.0)) == pytest.approx(1.04)


@pytest.mark.parametrize("last_s", [float("nan"), float("inf"), -1.0, 1e9])
def test_absurd_claims_never_become_durations(last_s: float) -> None:
    for claims in (NO_CLAIMS, EndClaims(media_s=2.0, sound_s=2.0), EndClaims(media_s=1e8, sound_s=3.0)):
        assert 1.0 < end_of_picture(1.0, last_s, spacing_s=0.5, claims=claims) <= 11.0
