"""The index of a file (moov): its tracks, the two that are decoded, and why one cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy
from service.media.sandbox.container.boxes import Box, BoxBudget, broken, integer, reject, walk
from service.media.sandbox.container.dolby_vision import closed_profile
from service.media.sandbox.container.parameter_sets import entry_boxes
from service.media.sandbox.container.tracks import Track, TrackReader, too_long


@dataclass(slots=True)
class ClipIndex:
    """The tracks to decode and the layout of the file.

    `sound_index` is the place of the chosen sound track among all sound tracks.
    """

    picture: Track
    sound: Track
    sound_index: int
    is_fragmented: bool
    timescale: int  # ticks per second of the movie header
    tracks: list[Track] = field(default_factory=list)


def read_index(body: memoryview, policy: MediaPolicy, budget: BoxBudget, *, audio_track: int | None) -> ClipIndex:
    readers: list[TrackReader] = []
    is_fragmented, timescale = False, 0
    for box in walk(body, ("moov",), budget):
        if box.kind in ("cmov", "moov"):
            raise broken("compressed or nested indexes are not read")
        if box.kind == "trak" and box.path == ("moov",):
            readers.append(TrackReader(policy))
            if len(readers) > policy.max_tracks:
                raise reject("too_many_streams", f"The file has more than {policy.max_tracks} tracks.")
        elif box.kind == "mvex":
            is_fragmented = True
        elif box.kind == "mvhd":
            timescale = _check_header(box, policy)
        elif readers and box.path[:2] == ("moov", "trak"):
            readers[-1].take(box)
    tracks = [reader.finish(is_fragmented=is_fragmented) for reader in readers]
    picture = _choose([track for track in tracks if track.is_picture], "no_video", "picture")
    sounds = [track for track in tracks if track.is_sound]
    sound = _choose(sounds, "no_audio", "sound") if audio_track is None else _numbered(sounds, audio_track)
    _check_usable(picture, "picture", policy)
    _check_usable(sound, "sound", policy)
    index = next(number for number, track in enumerate(sounds) if track is sound)
    return ClipIndex(
        picture=picture,
        sound=sound,
        sound_index=index,
        is_fragmented=is_fragmented,
        timescale=timescale,
        tracks=tracks,
    )


def _check_header(box: Box, policy: MediaPolicy) -> int:
    """Check the movie header and return its timescale."""
    is_long = integer(box.body, 0, 1) == 1
    timescale = integer(box.body, 20 if is_long else 12)
    duration = integer(box.body, 24, 8) if is_long else integer(box.body, 16)
    if timescale == 0:
        raise broken("its timescale is 0")
    if duration not in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) and duration / timescale > policy.longest_s:
        raise too_long(duration / timescale, policy)
    return timescale


def _choose(tracks: list[Track], code: str, kind: str) -> Track:
    """Return the enabled default track: the first enabled one with a supported codec, else the first supported one.

    Without a supported track it is the first track, so that the caller learns what is wrong with that one.
    """
    if not tracks:
        raise reject(code, f"The clip has no {kind} track; send a video with pictures and sound.")
    usable = [track for track in tracks if track.is_supported and not track.is_external and not track.is_encrypted]
    enabled = [track for track in usable if track.is_enabled]
    return (enabled or usable or tracks)[0]


def _numbered(sounds: list[Track], audio_track: int) -> Track:
    if not sounds:
        return _choose(sounds, "no_audio", "sound")
    if audio_track >= len(sounds):
        have = f"{len(sounds)} sound tracks" if len(sounds) > 1 else "one sound track"
        raise reject("bad_option", f"audio_track: the clip has {have}; give 0 to {len(sounds) - 1}.")
    return sounds[audio_track]


def _check_usable(track: Track, kind: str, policy: MediaPolicy) -> None:
    if track.is_encrypted:
        raise reject("encrypted", f"The {kind} track is encrypted; send a clip without copy protection.")
    if track.is_external:
        raise reject("external_data", f"The {kind} track's media lie in another file; export it as one file.")
    if not track.is_supported:
        raise _unsupported(track, kind)
    for entry in track.entries if track.is_picture else ():
        profile = closed_profile(entry_boxes(entry))
        if profile is not None:
            raise reject(
                "unsupported_codec",
                f"The picture is Dolby Vision profile {profile}, whose colours only a Dolby Vision decoder can show; "
                "export it as HDR10, HLG or SDR (profile 8).",
            )
    if track.is_picture and track.width * track.height > policy.max_pixels:
        raise reject(
            "picture_too_large",
            f"The picture has {track.width}x{track.height} pixels, over the limit of {policy.max_pixels}; "
            "scale the clip down.",
        )


def _unsupported(track: Track, kind: str) -> ServiceError:
    tag = (track.tags or ["none"])[0]
    tag = "".join(char if char.isascii() and (char.isalnum() or char in "-._ ") else "?" for char in tag)
    known = "H.264, HEVC, AV1, VP8, VP9, MPEG-4 and H.263"
    if track.is_sound:
        known = "AAC, MP3, Opus, FLAC, ALAC, AC-3, E-AC-3, AMR and PCM"
    return reject("unsupported_codec", f"The {kind} track's codec '{tag}' is not supported; {known} are.")
