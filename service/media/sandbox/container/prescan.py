"""The first look at an upload: its MP4 structure is walked in Python before FFmpeg sees a byte of it.

Refuses with the right code what is no MP4, cut off, encrypted, too long, too large or contradictory. Finds the tracks
to decode and estimates the cost of decoding. Works on a growing upload: an index that comes first is checked as soon as
it is complete, and each later part of the file is released to FFmpeg (`vet`) once it has been walked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy
from service.media.sandbox.container.boxes import Box, BoxBudget, box_header, broken, integer, reject, walk
from service.media.sandbox.container.dolby_vision import closed_profile
from service.media.sandbox.container.fragments import FragmentCounter
from service.media.sandbox.container.parameter_sets import entry_boxes, read_format
from service.media.sandbox.container.tracks import Track, TrackReader, chunk_ends, too_long
from service.media.sandbox.source import UploadSource

_FIRST_KINDS = frozenset(
    {"ftyp", "moov", "mdat", "free", "skip", "wide", "pnot", "styp", "moof", "sidx", "uuid", "junk"}
)
_TOP_KINDS = _FIRST_KINDS | {"mfra", "meta", "udta", "emsg", "prft", "pdin", "ssix", "mdta", "bloc", "PICT", "uuid"}
_STILL_BRANDS = frozenset({"avif", "avis", "heic", "heix", "hevc", "mif1", "msf1", "jp2 ", "jpx ", "jxl ", "crx "})
_MEDIA_KINDS = frozenset({"mdat", "free", "skip", "wide"})
_FRAGMENT_KINDS = frozenset({"moof", "mdat", "styp", "sidx", "emsg", "prft"})
_BASE_CPU_S = 10.0
# CPU seconds per pixel: ten times what FFmpeg takes for 1080p H.264 in one thread (2.1 ns), for slower codecs and
# machines.
_CPU_S_PER_PIXEL = 2.5e-8

# Measured with FFmpeg 8.1 on 4096x2304: 16 references of 4:2:0 take 346 MB (pictures of 14 MB), of 4:4:4 in 10 bits
# 1078 MB (57 MB); 6 references of HEVC in 10 bits 312 MB (28 MB). A clip of 64x48 takes 14 MB beside the zygote's 30.
_BASE_MEMORY_BYTES = 32 * 1024**2
_PICTURES_BESIDE, _MEMORY_FACTOR = 4, 1.2


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


class Scanner:
    """Walks an upload's top-level boxes from the front, as far as needed."""

    def __init__(self, source: UploadSource, policy: MediaPolicy, *, audio_track: int | None = None) -> None:
        self._source = source
        self._policy = policy
        self._audio_track = audio_track
        self._budget = BoxBudget(policy)
        self._at = 0
        self._end = 0  # of the last walked box
        self._is_done = False
        self._has_media = False
        self._media_came_first = False
        self._index: ClipIndex | None = None
        self._fragments = FragmentCounter(policy)

    def head(self) -> ClipIndex:
        """Walk until the index has been checked. Waits for the upload as far as needed.

        Raises:
            ServiceError: the file is refused.
        """
        while self._index is None:
            if not self._step():
                raise self._no_index()
        return self._index

    @property
    def is_streamable(self) -> bool:
        """Return whether the index came before the media, so that decoding can start before the end."""
        return not self._media_came_first

    def rest(self) -> None:
        """Walk to the end of the (complete) upload and check that all media are present.

        Raises:
            ServiceError: the file is refused.
        """
        while self._step():
            pass

    def vet(self, position: int) -> int:
        """Return how far the upload may be read now: past `position`, or to its end. Waits for growth.

        Raises:
            ServiceError: a part that arrived since is refused.
        """
        while position >= self._end and self._step():
            pass
        if position >= self._end:
            return self._source.size_bytes
        if not self._source.require(position + 1):
            raise _cut_off()
        return min(self._end, self._source.size_bytes)

    def sound_s(self) -> float:
        """Return the seconds of sound as far as walked, by the sample tables."""
        return 0.0 if self._index is None else self._fragments.length_s(self._index.sound.track_id)

    def cpu_budget_s(self) -> float:
        """Return the CPU seconds that decoding may take, from the picture's size and the number of frames."""
        if self._index is None or not self._source.is_complete:
            return self._policy.max_cpu_s
        picture = self._index.picture
        num_frames = picture.num_samples + self._fragments.num_frames(picture.track_id)
        pixels = max(picture.width * picture.height, 320 * 240) * num_frames
        return min(self._policy.max_cpu_s, _BASE_CPU_S + _CPU_S_PER_PIXEL * pixels)

    def picture_pixels(self) -> tuple[int, int]:
        """Return the pixels of a coded picture and the number of pictures, from the index."""
        assert self._index is not None
        picture = self._index.picture
        return picture.width * picture.height, picture.num_samples + self._fragments.num_frames(picture.track_id)

    def decoder_memory_bytes(self) -> int:
        """Return the memory that decoding may take, from the pictures' size and format and the number of references."""
        assert self._index is not None
        formats = [read_format(entry) for entry in self._index.picture.entries]
        pictures = [each.picture_bytes * (each.num_references + _PICTURES_BESIDE) for each in formats]
        return _BASE_MEMORY_BYTES + int(_MEMORY_FACTOR * max(pictures, default=0.0))

    def _step(self) -> bool:
        """Walk one more box. Return False at the end of the upload."""
        if self._is_done:
            return False
        if not self._source.require(self._at + 8):
            self._finish(has_leftover=self._source.size_bytes > self._at)
            return False
        self._source.require(self._at + 16)
        size, kind, header = box_header(self._source.pread(16, self._at))
        if self._at == 0 and kind not in _FIRST_KINDS:
            raise _not_mp4()
        if kind not in _TOP_KINDS and self._index is not None and self._has_media:
            self._finish(has_leftover=False)  # other data was appended; FFmpeg stops there too
            return False
        if not (self._index is not None and kind in _FRAGMENT_KINDS):
            self._budget.spend()
        self._enter(kind, size=size, header=header)
        return True

    def _enter(self, kind: str, *, size: int, header: int) -> None:
        if size == 0 and kind in _TOP_KINDS:  # to the end of the file
            self._source.complete()
            size = self._source.size_bytes - self._at
        if size < header:
            raise self._damaged_box(kind)
        end = self._at + size
        is_long_media = kind in _MEDIA_KINDS
        if self._source.is_complete or not is_long_media:
            self._require_whole(kind, end)
        if kind == "mdat":
            self._has_media = True
            self._media_came_first |= self._index is None
        elif kind in ("ftyp", "moov", "moof"):
            self._read(kind, self._at + header, end)
        self._at = self._end = end

    def _require_whole(self, kind: str, end: int) -> None:
        if kind == "moov" and end - self._at > self._policy.max_index_bytes:
            raise broken(f"it takes {end - self._at} bytes, over the limit of {self._policy.max_index_bytes}")
        if kind not in _TOP_KINDS and not self._source.is_complete and end - self._at > self._policy.max_index_bytes:
            self._source.complete()
        if not self._source.require(end):
            raise _cut_off() if kind in _TOP_KINDS else self._damaged_box(kind)

    def _read(self, kind: str, begin: int, end: int) -> None:
        body = memoryview(self._source.pread(end - begin, begin))
        if kind == "ftyp":
            if bytes(body[:4]).decode("latin-1") in _STILL_BRANDS:
                raise reject("not_mp4", "The upload is a still picture, not a video; send an MP4 or MOV file.")
        elif kind == "moov":
            if self._index is not None:
                raise broken("it has two")
            self._index = _read_index(body, self._policy, self._budget, audio_track=self._audio_track)
            for track in self._index.tracks:
                self._fragments.add_track(track)
        elif self._index is None:
            raise self._no_index()
        else:
            self._fragments.take(body)

    def _finish(self, *, has_leftover: bool) -> None:
        self._is_done = True
        if self._at > self._source.size_bytes:  # media that were skipped while the upload grew
            raise _cut_off()
        self._end = max(self._end, self._source.size_bytes)
        if self._index is None:
            return
        if has_leftover and self._index.is_fragmented:
            raise _cut_off()
        self._check_media(self._index)

    def _check_media(self, index: ClipIndex) -> None:
        """Check that the samples of the index lie in the file, one after another."""
        picture = index.picture
        if picture.num_samples + self._fragments.num_frames(picture.track_id) == 0 or not self._has_media:
            raise reject("no_frames", "The picture track holds no frame; the file is an empty shell.")
        num_bytes = 0
        for track in (index.picture, index.sound):
            ends = chunk_ends(track)
            num_bytes += track.num_bytes
            if ends is not None and len(ends) and int(ends.max()) > self._source.size_bytes:
                raise _cut_off()
            if track.chunks is not None and len(track.chunks) and int(track.chunks.max()) > self._source.size_bytes:
                raise _cut_off()
        if num_bytes + self._fragments.num_bytes > self._source.size_bytes:
            raise broken("its frames share the same bytes")

    def _no_index(self) -> ServiceError:
        if self._source.size_bytes == 0:
            return ServiceError("empty_file", "The upload is empty; send an MP4 or MOV file.")
        if self._source.size_bytes < 8:
            return _not_mp4()
        if self._at > self._source.size_bytes:  # a growing upload ended within the last box
            return _cut_off()
        return reject("no_moov", "The file has no index (moov): it is not finished or only a part. Export it again.")

    def _damaged_box(self, kind: str) -> ServiceError:
        if kind not in _TOP_KINDS and self._index is None:
            return self._no_index()
        return broken("a box at the top level has an impossible size")


def _read_index(body: memoryview, policy: MediaPolicy, budget: BoxBudget, *, audio_track: int | None) -> ClipIndex:
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


def _cut_off() -> ServiceError:
    return reject("truncated", "The file ends before its media do: it was cut off on its way. Send it again, whole.")


def _not_mp4() -> ServiceError:
    return reject("not_mp4", "The upload is not an MP4 or MOV file.")
