"""Our own mp4 files: durations, time lines and that picture and sound stay together."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.data.mp4 import Mp4Policy, copy_with_sound, write_mp4

RATE_HZ = 16_000


def _write(path: Path, *, num_frames: int, frame_rate: Fraction, events_s: tuple[float, ...] = ()) -> None:
    """Black frames and silence, but for a white frame and a click from each event on, for 0.2 s."""
    waveform = np.zeros(round(float(num_frames / frame_rate) * RATE_HZ), np.float32)
    frames = np.zeros((num_frames, 48, 64, 3), np.uint8)
    for event_s in events_s:
        start, stop = round(event_s * RATE_HZ), round((event_s + 0.2) * RATE_HZ)
        waveform[start:stop] = 0.5 * np.sin(np.arange(stop - start) * 2 * np.pi * 1000 / RATE_HZ)
        frames[round(event_s * frame_rate) : round((event_s + 0.2) * frame_rate)] = 255
    write_mp4(path, frames=frames, frame_rate=frame_rate, waveform=waveform)


def _first_times(path: Path, **options: str) -> tuple[list[float], list[float]]:
    """Times at which the picture turns white and at which the sound starts; options are the demuxer's."""
    with av.open(str(path), options=options) as container:
        levels = [(float(f.pts * f.time_base), float(f.to_ndarray(format="gray").mean())) for f in
                  container.decode(video=0)]  # fmt: skip
    flashes = [t for (t, level), (_, before) in zip(levels[1:], levels, strict=False) if level > 128 > before]
    with av.open(str(path), options=options) as container:
        pieces = [(f.pts * f.time_base, f.to_ndarray()[0], f.sample_rate) for f in container.decode(audio=0)]
    rate = pieces[0][2]
    waveform = np.zeros(round(float(pieces[-1][0]) * rate) + 8192)
    for start, piece, _ in pieces:
        first = round(float(start) * rate)
        waveform[max(first, 0) : first + len(piece)] = piece[max(0, -first) :]
    loud = np.convolve(np.abs(waveform), np.ones(96) / 96, "same") > 0.05
    clicks = np.flatnonzero(loud[1:] & ~loud[:-1]) / rate
    return flashes, clicks.tolist()


@pytest.mark.parametrize("frame_rate", [Fraction(25), Fraction(30_000, 1001), Fraction(10)], ids=str)
def test_flash_and_click_coincide(tmp_path: Path, frame_rate: Fraction) -> None:
    num_frames = round(4 * frame_rate)
    events = tuple(float(round(t * frame_rate) / frame_rate) for t in (0.5, 1.6, 3.2))
    path = tmp_path / "flash.mp4"
    _write(path, num_frames=num_frames, frame_rate=frame_rate, events_s=events)
    flashes, clicks = _first_times(path)
    assert flashes == pytest.approx(events, abs=0.001)
    assert clicks == pytest.approx(events, abs=0.005)


def test_streams_durations_and_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    _write(path, num_frames=50, frame_rate=Fraction(25), events_s=(1.0,))
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert video.codec_context.pix_fmt == "yuv420p"
        assert (video.width, video.height) == (64, 48)
        assert float(video.duration * video.time_base) == pytest.approx(2.0, abs=0.001)
        assert float(sound.duration * sound.time_base) == pytest.approx(2.0, abs=0.05)
        times = [float(f.pts * f.time_base) for f in container.decode(video=0)]
    assert times == pytest.approx([i / 25 for i in range(50)])


def test_index_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    _write(path, num_frames=5, frame_rate=Fraction(25))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_without_waveform_there_is_no_sound_track(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    write_mp4(path, frames=np.zeros((3, 32, 32, 3), np.uint8), frame_rate=Fraction(5), waveform=None)
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 0
        assert len(list(container.decode(video=0))) == 3


def test_same_input_gives_the_same_bytes_whatever_the_memory_held(tmp_path: Path) -> None:
    written = set()
    for number in range(30):
        used = [bytearray(b"\xff" * (1000 * number + 3)) for _ in range(50)]
        del used  # freed memory that is not zero is what the encoder is given next
        _write(tmp_path / "clip.mp4", num_frames=20, frame_rate=Fraction(25), events_s=(0.2,))
        written.add((tmp_path / "clip.mp4").read_bytes())
    assert len(written) == 1


def _clicks(events_s: tuple[float, ...], *, start_s: float, end_s: float) -> np.ndarray:
    """A waveform from start_s to end_s of the time line with a click of 0.2 s at each event."""
    waveform = np.zeros(round((end_s - start_s) * RATE_HZ), np.float32)
    for event_s in events_s:
        first = round((event_s - start_s) * RATE_HZ)
        waveform[first : first + 3200] = 0.5 * np.sin(np.arange(3200) * 2 * np.pi * 1000 / RATE_HZ)
    return waveform


def _packets(path: Path) -> list[tuple[int | None, int | None, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, bytes(p)) for p in container.demux(video=0) if p.dts is not None]


EVENTS_S = (0.52, 1.6, 3.2)
SOUNDS = {
    "aac": Mp4Policy(),
    "mp3": Mp4Policy(audio_codec="libmp3lame", audio_rate_hz=44_100),
    "8khz": Mp4Policy(audio_rate_hz=8000, audio_bits_per_s=24_000),
    "cut": Mp4Policy(sound_start_s=-0.3),
    "late": Mp4Policy(sound_start_s=0.3),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "plain.mp4"
    _write(path, num_frames=100, frame_rate=Fraction(25), events_s=EVENTS_S)
    return path


@pytest.mark.parametrize("name", SOUNDS)
def test_other_sound_under_the_same_pictures(tmp_path: Path, pictures: Path, name: str) -> None:
    path, policy = tmp_path / "copy.mp4", SOUNDS[name]
    # What lies before 0 has a click of its own, which nobody may hear.
    events = (-0.25, *EVENTS_S) if policy.sound_start_s < 0 else EVENTS_S
    waveform = _clicks(events, start_s=policy.sound_start_s, end_s=4.0)
    copy_with_sound(path, pictures=pictures, waveform=waveform, policy=policy)
    flashes, clicks = _first_times(path)
    assert flashes == pytest.approx(EVENTS_S, abs=0.001)
    assert clicks == pytest.approx(EVENTS_S, abs=0.006)
    assert _packets(path) == _packets(pictures)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name.startswith("mp3" if name == "mp3" else "aac")
        assert container.streams.audio[0].codec_context.sample_rate == policy.audio_rate_hz


@pytest.mark.parametrize(("name", "shift_s"), [("cut", 0.3), ("late", -0.3)])
def test_a_reader_without_edit_lists_hears_the_shift(tmp_path: Path, pictures: Path, name: str, shift_s: float) -> None:
    path = tmp_path / "copy.mp4"
    waveform = _clicks(EVENTS_S, start_s=SOUNDS[name].sound_start_s, end_s=4.0)
    copy_with_sound(path, pictures=pictures, waveform=waveform, policy=SOUNDS[name])
    flashes, clicks = _first_times(path, ignore_editlist="1")
    offsets = np.array(clicks) - flashes
    # Both tracks also lose the edits that hide reordering and the encoder's start.
    assert offsets == pytest.approx([shift_s] * 3, abs=0.12)


def test_odd_sides_and_no_frames_are_refused(tmp_path: Path) -> None:
    odd = np.zeros((1, 33, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="must be even"):
        write_mp4(tmp_path / "x.mp4", frames=odd, frame_rate=Fraction(5), waveform=None)
    with pytest.raises(ValueError, match="frames is empty"):
        write_mp4(tmp_path / "x.mp4", frames=[], frame_rate=Fraction(5), waveform=None)
