"""Which of several sound tracks is heard, and what the answer tells about it."""

from __future__ import annotations

import pytest
from support.components.decoding import decode_here, make_job
from support.inputs.hostile import rename
from support.inputs.sound_tracks import SoundSpec, clip_with_sounds, tone_hz

from service.domain.clip import AudioInfo
from service.domain.errors import ServiceError

SILENT_OFF = SoundSpec(0, is_enabled=False)
ENGLISH = SoundSpec(440, language="eng", layout="mono", rate_hz=44_100)
GERMAN = SoundSpec(880, language="deu", codec="pcm_s16le")
OFF = SoundSpec(1200, is_enabled=False)


@pytest.mark.parametrize(
    ("sounds", "track", "frequency_hz"),
    [
        ([SILENT_OFF, ENGLISH], 1, 440),
        ([SILENT_OFF, OFF, GERMAN], 2, 880),
        ([ENGLISH, GERMAN], 0, 440),
        ([GERMAN, SILENT_OFF], 0, 880),
        ([OFF, SILENT_OFF], 0, 1200),  # none is enabled: the first
    ],
)
def test_the_enabled_default_track_is_heard(sounds: list[SoundSpec], track: int, frequency_hz: int) -> None:
    decoded = decode_here(clip_with_sounds(*sounds), make_job())
    assert tone_hz(decoded.windows[-1]) == frequency_hz
    assert decoded.clip.audio is not None
    assert decoded.clip.audio.track == track


def test_an_enabled_track_of_an_unsupported_codec_gives_way() -> None:
    data = rename(clip_with_sounds(ENGLISH, OFF), "mp4a", "dtsc")
    decoded = decode_here(data, make_job())
    assert tone_hz(decoded.windows[-1]) == 1200


@pytest.mark.parametrize(("track", "frequency_hz"), [(0, 1200), (1, 440), (2, 880)])
def test_the_caller_chooses_a_track(track: int, frequency_hz: int) -> None:
    decoded = decode_here(clip_with_sounds(OFF, ENGLISH, GERMAN), make_job(audio_track=track))
    assert tone_hz(decoded.windows[-1]) == frequency_hz


def test_the_answer_tells_what_was_heard() -> None:
    data = clip_with_sounds(SILENT_OFF, ENGLISH, GERMAN)
    assert decode_here(data, make_job()).clip.audio == AudioInfo(1, "aac", 1, 44_100, "eng", ())
    assert decode_here(data, make_job(audio_track=2)).clip.audio == AudioInfo(2, "pcm_s16le", 2, 48_000, "deu", ())
    assert decode_here(data, make_job(audio_track=0)).clip.audio == AudioInfo(0, "aac", 2, 48_000, None, ("silent",))


def test_a_chosen_track_that_is_not_there_or_not_supported_is_refused() -> None:
    for data, track, code, detail in (
        (clip_with_sounds(ENGLISH, GERMAN), 2, "bad_option", "audio_track: the clip has 2 sound tracks; give 0 to 1"),
        (clip_with_sounds(ENGLISH), 1, "bad_option", "audio_track: the clip has one sound track"),
        (rename(clip_with_sounds(ENGLISH, GERMAN), "mp4a", "dtsc"), 0, "unsupported_codec", "dtsc"),
    ):
        with pytest.raises(ServiceError, match=detail) as caught:
            decode_here(data, make_job(audio_track=track))
        assert caught.value.code == code
