"""The state of an instance tracker as bytes: JSON with arrays as text. Never pickled, since it comes from a store."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from service.postprocess.appearance import NUM_BINS, Histogram
from service.postprocess.silhouettes import Bools
from service.postprocess.tracks import Track, Vector

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _StoredTrack:
    """A track; `silhouette` (bits, row-major) and `colours` (float32) are compressed with zlib and in base64."""

    track_id: int
    silhouette: str
    colours: str
    centre: Vector
    area: float
    seen_s: float
    posed_s: float
    velocity: Vector


@dataclass(frozen=True, slots=True)
class TrackerState:
    """What an instance tracker knows after a sample.

    Attributes:
        time_s: of the sample.
        next_id: id of the next new track.
        labels: tracks by label, in the order in which the tracker holds both.
    """

    time_s: float
    next_id: int
    labels: dict[str, list[Track]]


@dataclass(frozen=True, slots=True)
class _StoredState:
    time_s: float
    next_id: int
    size: Size
    labels: dict[str, list[_StoredTrack]]


def encode_state(state: TrackerState) -> bytes:
    """Return the bytes of a state."""
    tracks = [track for each in state.labels.values() for track in each]
    size = tracks[0].silhouette.shape if tracks else (0, 0)
    labels = {label: [_stored(track) for track in each] for label, each in state.labels.items()}
    return bytes(_STATE.dump_json(_StoredState(state.time_s, state.next_id, (size[0], size[1]), labels)))


def decode_state(data: bytes) -> TrackerState | None:
    """Return the state of bytes that `encode_state` wrote; None for anything else."""
    try:
        stored = _STATE.validate_json(data)
        labels = {label: [_track(each, stored.size) for each in tracks] for label, tracks in stored.labels.items()}
    except (ValidationError, ValueError, zlib.error):
        return None
    return TrackerState(stored.time_s, stored.next_id, labels)


def _stored(track: Track) -> _StoredTrack:
    return _StoredTrack(
        track_id=track.track_id,
        silhouette=_packed(np.packbits(track.silhouette).tobytes()),
        colours=_packed(track.colours.astype("<f4").tobytes()),
        centre=track.centre,
        area=track.area,
        seen_s=track.seen_s,
        posed_s=track.posed_s,
        velocity=track.velocity,
    )


def _track(stored: _StoredTrack, size: Size) -> Track:
    return Track(
        track_id=stored.track_id,
        silhouette=_silhouette(stored.silhouette, size),
        centre=stored.centre,
        area=stored.area,
        colours=_colours(stored.colours),
        seen_s=stored.seen_s,
        posed_s=stored.posed_s,
        velocity=stored.velocity,
    )


def _silhouette(text: str, size: Size) -> Bools:
    height, width = size
    bits = np.frombuffer(_unpacked(text, -(-height * width // 8)), np.uint8)
    return np.unpackbits(bits, count=height * width).astype(bool).reshape(size)


def _colours(text: str) -> Histogram:
    return np.frombuffer(_unpacked(text, 4 * NUM_BINS), "<f4").astype(np.float32)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def _unpacked(text: str, num_bytes: int) -> bytes:
    """Return bytes of a known number; raises ValueError or zlib.error for others."""
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), num_bytes + 1)
    if len(data) != num_bytes:
        raise ValueError("not the bytes of an array of this size")
    return data


_STATE: Final = TypeAdapter(_StoredState)
