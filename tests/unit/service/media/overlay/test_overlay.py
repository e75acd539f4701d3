"""Overlay videos: same frames and times, sound kept, masks of the right sample in the right place."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pycocotools import mask as coco
from support.inputs.clips import make_clip
from support.inputs.fragments import later
from support.inputs.hostile import fragmented_clip, rename
from support.inputs.sound_tracks import SoundSpec, clip_with_sounds, tone_hz

from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, Mask, Rle
from service.media.overlay.draw import OverlayPolicy, write_overlay
from service.media.overlay.paint import OverlayPainter, PaintPolicy

PLAIN = OverlayPolicy(crf=8, x264="threads=1", paint=PaintPolicy(strip_height=0.0))


def box_mask(height: int, width: int, box: tuple[int, int, int, int], *, label: str = "sounding") -> Mask:
    x, y, box_width, box_height = box
    inside = np.zeros((height, width), np.uint8, order="F")
    inside[y : y + box_height, x : x + box_width] = 1
    counts = coco.encode(inside)["counts"].decode()
    return Mask(label, 0.9, int(inside.sum()), box, Rle((height, width), counts))


def frame_masks(time_s: float, *masks: Mask) -> FrameMasks:
    return FrameMasks(time_s, time_s, 0, masks)


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(clip: bytes, frames, **more) -> Path:
        source, target = tmp_path / "clip.mp4", tmp_path / "overlay.mp4"
        source.write_bytes(clip)
        write_overlay(source, target, frames=frames, **more)
        assert not list(tmp_path.glob("*.part")), "a half-written file was left"
        return target

    return write


def read(path: Path) -> tuple[list[np.ndarray], list[float], list[bytes]]:
    """Frames, their times, and the sound's packets."""
    with av.open(str(path)) as clip:
        frames = list(clip.decode(video=0))
    with av.open(str(path)) as clip:
        packets = [bytes(packet) for packet in clip.demux(audio=0) if packet.size] if clip.streams.audio else []
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames], packets


def read_bytes(clip: bytes, tmp_path: Path):
    path = tmp_path / "source.mp4"
    path.write_bytes(clip)
    return read(path)


def test_frames_times_and_sound_are_the_clips(write, tmp_path):
    clip = make_clip(width=64, height=48, num_frames=30, fps=25, frame_ticks=[n * 512 + n % 3 * 100 for n in range(30)])
    shares: list[float] = []
    found = read(write(clip, [], policy=PLAIN, on_progress=shares.append))
    wanted = read_bytes(clip, tmp_path)
    assert [picture.shape for picture in found[0]] == [(48, 64, 3)] * 30
    assert found[1] == pytest.approx(wanted[1], abs=1e-4)
    assert found[2] == wanted[2]
    assert len(found[2]) > 10
    assert np.abs(np.stack(found[0]).astype(int) - np.stack(wanted[0])).mean() < 3
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_sound_that_mp4_does_not_take_is_encoded_anew(write, tmp_path):
    clip = make_clip(num_frames=50, sound="pcm_s16le", container="mov")
    path = write(clip, [], policy=PLAIN)
    with av.open(str(path)) as overlay:
        sound = overlay.streams.audio[0]
        assert sound.codec_context.name == "aac"
        num = sum(frame.samples for frame in overlay.decode(sound))
    assert num / 48_000 == pytest.approx(2.0, abs=0.1)


def test_a_clip_without_sound_gives_an_overlay_without_sound(write):
    frames, _, packets = read(write(make_clip(num_frames=10, sound=None), []))
    assert (len(frames), packets) == (10, [])


def test_odd_sides_are_made_even(write):
    clip = make_clip(width=63, height=47, num_frames=5, pixel_format="yuv444p")
    frames, _, _ = read(write(clip, []))
    assert frames[0].shape == (48, 64, 3)


def test_a_frame_shows_the_last_sample_that_is_not_later(write, tmp_path):
    left, right = box_mask(48, 64, (4, 8, 20, 24)), box_mask(48, 64, (40, 8, 20, 24))
    clip = make_clip(width=64, height=48, num_frames=50, fps=25)
    answer = [frame_masks(0.4, left), frame_masks(1.2, right), frame_masks(1.6)]
    painted = read(write(clip, answer, policy=PLAIN))[0]
    plain = read_bytes(clip, tmp_path)[0]
    changed = [np.abs(a.astype(int) - b).mean(axis=2) for a, b in zip(painted, plain, strict=True)]

    def strength(number: int, x: int) -> float:
        return float(changed[number][14:28, x : x + 12].mean())

    assert strength(9, 8) < 6
    for number in (10, 29):
        assert strength(number, 8) > 20, "the first sample is at 0.4 s, frame 10, and holds until 1.2 s"
    assert strength(30, 8) < strength(29, 8)
    assert strength(30, 44) > 20
    assert changed[45].mean() < 6


def test_masks_of_another_size_are_scaled_to_the_frame():
    painter = OverlayPainter(60, 90, labels=["sounding"], envelope=np.zeros(0, np.float32), duration_s=1.0)
    grey = np.full((60, 90, 3), 100, np.uint8)
    painted = painter.paint(grey, [box_mask(20, 30, (10, 5, 10, 10))], time_s=0.0)
    assert painted[30, 45, 0] > 130
    assert painted[55, 5].max() < 100
    np.testing.assert_array_equal(grey, 100)


def test_labels_have_colours_of_their_own_and_the_strip_follows_time():
    envelope = np.linspace(0, 1, 500, dtype=np.float32)
    painter = OverlayPainter(360, 640, labels=["bell", "dog"], envelope=envelope, duration_s=10.0)
    grey = np.full((360, 640, 3), 90, np.uint8)
    masks = [
        box_mask(360, 640, (50, 100, 100, 100), label="bell"),
        box_mask(360, 640, (300, 100, 100, 100), label="dog"),
    ]
    painted = painter.paint(grey, masks, time_s=5.0)
    assert np.abs(painted[150, 100].astype(int) - painted[150, 350]).max() > 50
    early, late = painter.paint(grey, [], time_s=0.0), painter.paint(grey, [], time_s=10.0)
    np.testing.assert_array_equal(early[:330], late[:330])
    assert (early[340:] != late[340:]).any()


def test_what_is_no_clip_is_an_error_and_leaves_the_target_alone(write, tmp_path):
    (tmp_path / "overlay.mp4").write_bytes(b"precious")
    with pytest.raises(ServiceError, match="broken"):
        write(b"no clip at all", [])
    assert (tmp_path / "overlay.mp4").read_bytes() == b"precious"


def test_rotated_clips_come_out_upright(write):
    clip = make_clip(width=64, height=48, num_frames=5, sound=None)
    turned = rotate(clip)
    painted, _, _ = read(write(turned, [frame_masks(0.0, box_mask(64, 48, (8, 8, 20, 20)))], policy=PLAIN))
    assert painted[0].shape == (64, 48, 3)


def rotate(clip: bytes) -> bytes:
    """The clip with a quarter turn in its track header's matrix (ISO 14496-12, 8.3.2)."""
    at = clip.index(b"tkhd") + 4 + 40
    unit = 1 << 16
    matrix = [0, unit, 0, unit * -1, 0, 0, 48 * unit, 0, 1 << 30]
    packed = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    return clip[:at] + packed + clip[at + 36 :]


@pytest.mark.parametrize(("height", "tags"), [(48, {}), (48, {"colorspace": "bt709"}), (720, {})])
def test_colours_are_those_that_a_player_shows(write, tmp_path, height, tags):
    """A strongly coloured clip, tagged or not; the overlay says what it is and decodes to the same colours."""
    path = tmp_path / "colours.mp4"
    write_coloured(path, height=height, options=tags)
    overlay = write(path.read_bytes(), [], policy=PLAIN)
    assert_same_colours(overlay, path, is_bt709=bool(tags) or height >= 720)


def assert_same_colours(overlay: Path, source: Path, *, is_bt709: bool) -> None:
    with av.open(str(source)) as clip:
        frame = next(clip.decode(video=0))
        wanted = frame.reformat(format="rgb24", src_colorspace="ITU709" if is_bt709 else "ITU601").to_ndarray()
    with av.open(str(overlay)) as clip:
        frame = next(clip.decode(video=0))
        assert int(frame.colorspace) == 1
        found = frame.to_ndarray(format="rgb24")
    assert np.abs(found.astype(int) - wanted).max() <= 6


def write_coloured(
    path: Path, *, height: int, options: dict[str, str] | None = None, aspect: Fraction | None = None
) -> None:
    """Three frames of one strong colour, 64 pixels wide, without sound."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"crf": "5"} | (options or {}))
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        planes = np.full((height * 3 // 2, 64), 90, np.uint8)
        planes[height : height + height // 4], planes[height + height // 4 :] = 60, 210
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


@pytest.mark.parametrize("is_turned", [False, True])
def test_sample_aspect_ratio_is_kept(write, tmp_path, is_turned):
    path = tmp_path / "wide.mp4"
    write_coloured(path, height=48, aspect=Fraction(4, 3))
    clip = path.read_bytes()
    with av.open(str(write(rotate(clip) if is_turned else clip, []))) as overlay:
        assert overlay.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if is_turned else Fraction(4, 3))


@pytest.mark.parametrize("start_s", [300.0, 1.7e9])
def test_an_overlay_of_a_fragment_begins_at_the_answers_zero(write, start_s):
    """Frames, sound and masks lie where those of the same clip without the offset lie."""
    mask = frame_masks(0.4, box_mask(48, 64, (4, 8, 20, 24)))
    frames, times_s, sound = read(write(fragmented_clip(), [mask], policy=PLAIN))
    cut = write(later(fragmented_clip(), {1: start_s, 2: start_s}), [mask], policy=PLAIN)
    found = read(cut)
    assert found[1] == pytest.approx(times_s, abs=1e-4)
    assert found[1][-1] < 2.1
    assert found[2] == sound
    assert np.abs(np.stack(found[0]).astype(int) - np.stack(frames)).max() <= 8  # x264 spends its bits by the rate
    with av.open(str(cut)) as overlay:
        assert overlay.duration / av.time_base == pytest.approx(2.1, abs=0.1)


@pytest.mark.parametrize(("audio_track", "frequency_hz"), [(None, 880), (0, 440), (1, 880)])
def test_an_overlay_has_the_sound_that_was_heard(write, audio_track, frequency_hz):
    """The first sound track is disabled: the answer is about the second unless the caller chose."""
    clip = clip_with_sounds(SoundSpec(440, is_enabled=False), SoundSpec(880))
    with av.open(str(write(clip, [], policy=PLAIN, audio_track=audio_track))) as overlay:
        assert len(overlay.streams.audio) == 1
        frames = [frame.to_ndarray() for frame in overlay.decode(audio=0)]
    resampled = np.concatenate(frames, axis=1).mean(axis=0)[::3]  # 48 kHz to 16 kHz
    assert tone_hz(resampled[8000:24000]) == frequency_hz


def test_frames_without_told_offsets_are_all_in_the_overlay(write):
    told = read(write(make_clip(), [], policy=PLAIN))
    untold = read(write(rename(rename(make_clip(), "ctts", "free"), "edts", "free"), [], policy=PLAIN))
    assert len(untold[0]) == len(told[0]) == 50
    assert untold[1] == pytest.approx(told[1], abs=1e-4)
