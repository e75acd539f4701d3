"""The first look at an upload: its MP4 structure is walked in Python before FFmpeg sees a byte of it.

Refuses with the right code what is no MP4, cut off, too large or contradictory, and estimates the cost of decoding.
`clip_index` finds the tracks to decode. Works on a growing upload: an index that comes first is checked as soon as
it is complete, and each later part of the file is released to FFmpeg (`vet`) once it has been walked.
"""

from __future__ import annotations

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy
from service.media.sandbox.container.boxes import BoxBudget, box_header, broken, reject
from service.media.sandbox.container.clip_index import ClipIndex, read_index
from service.media.sandbox.container.fragments import FragmentCounter
from service.media.sandbox.container.parameter_sets import read_format
from service.media.sandbox.container.tracks import chunk_ends
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
            self._index = read_index(body, self._policy, self._budget, audio_track=self._audio_track)
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


def _cut_off() -> ServiceError:
    return reject("truncated", "The file ends before its media do: it was cut off on its way. Send it again, whole.")


def _not_mp4() -> ServiceError:
    return reject("not_mp4", "The upload is not an MP4 or MOV file.")
