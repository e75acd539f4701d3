"""The tracks of an MP4 index, with each table checked. A refused track never reaches FFmpeg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media.policy import PICTURE_TAGS, SOUND_TAGS, MediaPolicy
from service.media.sandbox.container.aperture import Aperture, read_aperture
from service.media.sandbox.container.boxes import Box, broken, integer, reject, table
from service.media.sandbox.container.parameter_sets import MAX_ENTRY_BYTES

# Flag of tkhd (ISO/IEC 14496-12, 8.3.2).
_TRACK_ENABLED = 1
_ENCRYPTED_TAGS = frozenset({"encv", "enca", "enct", "encs", "drmi", "drms", "drmt"})
_MAX_ENTRIES = 16
_MAX_TIMESCALE = 2**31 - 1
_MAX_SOUND_SAMPLES = 1_000_000
# A packet of sound lasts 0.02 to 0.6 s. One that claims more than this, seconds, counts as the shortest of its track.
_MAX_SOUND_PACKET_S = 1
_UNTOLD_DURATIONS = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_MAX_FPS = 1000.0
_FEW_FRAMES = 60
_LEAST_CHUNK = 65_536


@dataclass(slots=True)
class Track:
    """Facts from the boxes of one track; seconds where named so."""

    track_id: int = 0
    is_enabled: bool = True
    language: str | None = None
    handler: str = ""
    timescale: int = 0
    duration_s: float = 0.0
    tags: list[str] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    width: int = 0
    height: int = 0
    is_encrypted: bool = False
    is_external: bool = False
    seen: set[str] = field(default_factory=set)
    num_samples: int = 0
    sizes: NDArray[np.int64] | None = None
    chunks: NDArray[np.int64] | None = None
    num_chunk_rows: NDArray[np.int64] | None = None
    total_ticks: int = 0
    max_offset_ticks: int = 0
    aperture: Aperture | None = None
    edit_ticks: int = 0  # presentation by the edit list, in ticks of the movie header

    @property
    def is_picture(self) -> bool:
        """Return whether its handler is a picture's."""
        return self.handler == "vide"

    @property
    def is_sound(self) -> bool:
        """Return whether its handler is a sound's."""
        return self.handler == "soun"

    @property
    def is_supported(self) -> bool:
        """Return whether every sample entry's codec is accepted."""
        known = PICTURE_TAGS if self.is_picture else SOUND_TAGS
        return bool(self.tags) and all(tag in known for tag in self.tags)

    @property
    def media_s(self) -> float:
        """Return the seconds of its media by the sample table."""
        return self.total_ticks / self.timescale if self.timescale else 0.0

    @property
    def num_bytes(self) -> int:
        """Return the bytes of its samples."""
        return int(self.sizes.sum()) if self.sizes is not None else 0


class TrackReader:
    """Receives the boxes of one track in any order, then checks them against each other."""

    def __init__(self, policy: MediaPolicy) -> None:
        self._policy = policy
        self.track = Track()
        self._readers: dict[tuple[str, str], Callable[[Box], None]] = {
            ("trak", "tkhd"): self._read_tkhd,
            ("mdia", "mdhd"): self._read_mdhd,
            ("mdia", "hdlr"): self._read_hdlr,
            ("dinf", "dref"): self._read_dref,
            ("stbl", "stsd"): self._read_stsd,
            ("stbl", "stts"): self._read_stts,
            ("stbl", "ctts"): self._read_ctts,
            ("stbl", "stsc"): self._read_stsc,
            ("stbl", "stsz"): self._read_stsz,
            ("stbl", "stz2"): self._read_stz2,
            ("stbl", "stco"): self._read_stco,
            ("stbl", "co64"): self._read_co64,
            ("edts", "elst"): self._read_elst,
        }

    def take(self, box: Box) -> None:
        """Take one box below `trak`. Irrelevant kinds are skipped."""
        reader = self._readers.get((box.parent, box.kind))
        if reader is not None:
            self.track.seen.add(box.kind)
            reader(box)

    def finish(self, *, is_fragmented: bool) -> Track:
        """Return the track, with its parts checked against each other.

        Raises:
            ServiceError: the track is faulty.
        """
        track = self.track
        if not (track.is_picture or track.is_sound):
            return track
        needed = {"stsd", "stts", "stsc"}
        missing = sorted(needed - track.seen)
        if not track.seen & {"stsz", "stz2"}:
            missing.append("stsz")
        if not track.seen & {"stco", "co64"}:
            missing.append("stco")
        if missing and not is_fragmented:
            raise broken(f"table {missing[0]} is missing")
        if not 0 < track.timescale <= _MAX_TIMESCALE:
            raise broken("a track's timescale is out of range")
        self._check_times()
        self._check_chunk_rows()
        return track

    def _check_times(self) -> None:
        track, policy = self.track, self._policy
        claimed_s = track.media_s if track.is_sound else max(track.duration_s, track.media_s)
        if claimed_s > policy.longest_s:
            raise too_long(claimed_s, policy)
        if track.max_offset_ticks > policy.longest_s * track.timescale:
            raise broken("a frame is shown long before or after its place")
        if track.num_samples > 1 and "stts" in track.seen and track.total_ticks == 0:
            raise broken("its frames have no duration")
        if track.is_picture and track.num_samples > _FEW_FRAMES and track.media_s * _MAX_FPS < track.num_samples:
            raise reject(
                "too_many_frames",
                f"The clip shows {track.num_samples} frames in {track.media_s:.3g} s; "
                f"the limit is {_MAX_FPS:g} per second.",
            )

    def _check_chunk_rows(self) -> None:
        rows = self.track.num_chunk_rows
        if rows is None or not len(rows):
            return
        most = max(self.track.num_samples, _LEAST_CHUNK)
        if rows[0, 0] != 1 or (np.diff(rows[:, 0]) <= 0).any() or (rows[:, 1] > most).any() or (rows[:, 1] == 0).any():
            raise broken("table stsc contradicts itself")

    def _read_tkhd(self, box: Box) -> None:
        self.track.is_enabled = bool(integer(box.body, 3, 1) & _TRACK_ENABLED)
        self.track.track_id = integer(box.body, 20 if integer(box.body, 0, 1) else 12)

    def _read_mdhd(self, box: Box) -> None:
        is_long = integer(box.body, 0, 1) == 1
        self.track.timescale = integer(box.body, 20 if is_long else 12)
        duration = integer(box.body, 24, 8) if is_long else integer(box.body, 16)
        if duration not in _UNTOLD_DURATIONS and self.track.timescale:
            self.track.duration_s = duration / self.track.timescale
        self.track.language = _language(integer(box.body, 32 if is_long else 20, 2))

    def _read_hdlr(self, box: Box) -> None:
        self.track.handler = bytes(box.body[8:12]).decode("latin-1")

    def _read_dref(self, box: Box) -> None:
        at = 8
        for _ in range(min(integer(box.body, 4), _MAX_ENTRIES)):
            size = integer(box.body, at)
            if size < 12 or at + size > len(box.body):
                raise broken("table dref does not fit its place")
            if not integer(box.body, at + 8) & 1:  # flag 1: the media are in this file
                self.track.is_external = True
            at += size

    def _read_stsd(self, box: Box) -> None:
        count = integer(box.body, 4)
        if not 1 <= count <= _MAX_ENTRIES:
            raise broken(f"table stsd has {count} entries")
        at = 8
        for _ in range(count):
            size = integer(box.body, at)
            if size < 16 or at + size > len(box.body):
                raise broken("table stsd does not fit its place")
            self._read_entry(box.body[at : at + size])
            at += size

    def _read_entry(self, entry: memoryview) -> None:
        tag = bytes(entry[4:8]).decode("latin-1")
        self.track.tags.append(tag)
        self.track.entries.append(bytes(entry[:MAX_ENTRY_BYTES]))
        if tag in _ENCRYPTED_TAGS:
            self.track.is_encrypted = True
        if len(entry) >= 36:
            self.track.width = max(self.track.width, integer(entry, 32, 2))
            self.track.height = max(self.track.height, integer(entry, 34, 2))
        if tag in PICTURE_TAGS:  # of the first of several entries
            self.track.aperture = self.track.aperture or read_aperture(entry)

    def _read_stts(self, box: Box) -> None:
        rows = table(box, width=2, max_rows=self._max_samples)
        if (rows[:, 1] >= 2**31).any():
            raise broken("a frame lasts a negative time")
        if self.track.is_picture:
            self._check_count(int(rows[:, 0].sum()))
        ticks = rows[:, 1].astype(np.float64)  # floats do not overflow
        if self.track.is_sound and self.track.timescale:
            is_long = ticks > _MAX_SOUND_PACKET_S * self.track.timescale
            if not is_long.all():
                ticks[is_long] = ticks[~is_long].min()
        self.track.total_ticks = int((rows[:, 0] * ticks).sum())

    def _read_ctts(self, box: Box) -> None:
        offsets = table(box, width=2, max_rows=self._max_samples)[:, 1]
        signed = np.where(offsets >= 2**31, offsets - 2**32, offsets)
        self.track.max_offset_ticks = int(np.abs(signed).max(initial=0))

    def _read_stsc(self, box: Box) -> None:
        self.track.num_chunk_rows = table(box, width=3, max_rows=self._max_samples)

    def _read_stsz(self, box: Box) -> None:
        size, count = integer(box.body, 4), integer(box.body, 8)
        if size == 0:
            self.track.sizes = table(box, width=1, max_rows=self._max_samples, at=12)[:, 0]
            self._check_count(count)
        elif not self.track.is_sound or size * count > 2**40:
            self._check_count(count)  # plain sound has one size for all; its length is bounded by its times
        self.track.num_samples = count

    def _read_stz2(self, box: Box) -> None:
        bits, count = integer(box.body, 7, 1), integer(box.body, 8)
        if bits not in (4, 8, 16) or count * bits > 8 * (len(box.body) - 12):
            raise broken("table stz2 claims more rows than it holds")
        self._check_count(count)
        self.track.num_samples = count

    def _read_stco(self, box: Box) -> None:
        self.track.chunks = table(box, width=1, max_rows=self._max_samples)[:, 0]

    def _read_co64(self, box: Box) -> None:
        halves = table(box, width=2, max_rows=self._max_samples)
        if (halves[:, 0] >= 2**31).any():
            raise broken("a chunk lies outside of any file")
        self.track.chunks = halves[:, 0] * 2**32 + halves[:, 1]

    def _read_elst(self, box: Box) -> None:
        count = integer(box.body, 4)
        is_long = integer(box.body, 0, 1) == 1
        if count > self._policy.max_edits:
            raise broken(f"its edit list has {count} entries, over the limit of {self._policy.max_edits}")
        if count * (20 if is_long else 12) > len(box.body) - 8:
            raise broken("table elst claims more rows than it holds")
        width, size = (20, 8) if is_long else (12, 4)
        self.track.edit_ticks = sum(integer(box.body, 8 + row * width, size) for row in range(count))

    @property
    def _max_samples(self) -> int:
        return _MAX_SOUND_SAMPLES if not self.track.is_picture else max(self._policy.max_frames, 1)

    def _check_count(self, count: int) -> None:
        if count > self._max_samples:
            raise reject("too_many_frames", f"A track has {count} coded frames, over the limit of {self._max_samples}.")


def _language(packed: int) -> str | None:
    """Return an ISO 639-2 code from three packed letters of 5 bits; None for `und` and QuickTime's own codes."""
    letters = "".join(chr(0x60 + (packed >> shift & 31)) for shift in (10, 5, 0))
    return letters if letters.isalpha() and letters.isascii() and letters != "und" else None


def too_long(seconds: float, policy: MediaPolicy) -> ServiceError:
    """Return the error for a clip of this many seconds."""
    return reject(
        "too_long", f"The clip lasts {seconds:.6g} s, over the limit of {policy.max_clip_s:g} s; send a shorter one."
    )


def chunk_ends(track: Track) -> NDArray[np.int64] | None:
    """Return where each chunk of the track ends in the file, bytes, int64 (chunks,); None if unknown."""
    if track.chunks is None or track.sizes is None or track.num_chunk_rows is None or not len(track.chunks):
        return None
    rows = track.num_chunk_rows[track.num_chunk_rows[:, 0] <= len(track.chunks)]
    if not len(rows):
        return None
    repeats = np.diff(np.append(rows[:, 0], len(track.chunks) + 1))
    per_chunk = np.repeat(rows[:, 1], repeats)
    last = np.minimum(np.cumsum(per_chunk), len(track.sizes))
    reached = np.concatenate([[0], np.cumsum(track.sizes)])
    first = np.concatenate([[0], last[:-1]])
    ends: NDArray[np.int64] = track.chunks + reached[last] - reached[first]
    return ends[last > first]
