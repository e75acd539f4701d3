"""Instances: the objects inside of each label's mask, with ids that stay the same from frame to frame.

A pure streaming stage over the frames of an answer. Which pixels belong to whom is decided at the model's resolution
(`label_tracks`); the label's own mask then decides, at the answer's size, which pixels there are. So the masks of a
label's instances are disjoint, and together they are the mask that the answer has without instances.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.chunk import ProbabilityMap
from service.domain.result import ANSWER_DECIMALS, FrameMasks, Mask, Rle
from service.postprocess.appearance import colour_bins
from service.postprocess.label_tracks import Found, LabelTracks
from service.postprocess.silhouettes import Bools, nearest_of
from service.postprocess.track_state import TrackerState, decode_state, encode_state
from service.postprocess.tracks import Track

Picture = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class InstanceTracker:
    """Turns the masks of labels into masks of objects, frame after frame. Deterministic.

    Holds a bounded number of tracks for each label of the checkpoint, however long the stream is.

    Args:
        step_s: seconds between samples; 0 where it is not known.
        state: continue from the `state` of an equal tracker that had frames of the same size; other bytes are ignored.
    """

    def __init__(self, *, step_s: float = 0.0, state: bytes | None = None) -> None:
        self._next_id = 1
        self._step_s = step_s
        self._labels: dict[str, LabelTracks] = {}
        self._before_s = -math.inf
        restored = None if state is None else decode_state(state)
        if restored is not None:
            self._before_s, self._next_id = restored.time_s, restored.next_id
            self._labels = {label: self._label_tracks(tracks) for label, tracks in restored.labels.items()}

    @property
    def num_tracks(self) -> int:
        """Number of tracks that are followed, over all labels."""
        return sum(len(tracks) for tracks in self._labels.values())

    def state(self) -> bytes:
        """Return what the tracker knows after its last frame, as bytes for another one to continue from."""
        labels = {label: tracks.tracks for label, tracks in self._labels.items() if len(tracks)}
        return encode_state(TrackerState(self._before_s, self._next_id, labels))

    def add(self, frame: FrameMasks, picture: Picture, maps: Sequence[ProbabilityMap] = ()) -> FrameMasks:
        """Return the frame with one mask per object, in label order and by track id.

        Args:
            frame: the next frame, one mask per label.
            picture: uint8 (h, w, 3) RGB, the same frame at the model's size.
            maps: the probabilities behind each mask; without them instances have their label's score.

        A frame that is not after the state that the tracker continues from is returned as it is.
        """
        if frame.sample_time_s <= self._before_s:
            return frame
        before_s, self._before_s = self._before_s, frame.sample_time_s
        for tracks in self._labels.values():
            tracks.forget(frame.sample_time_s)
        if not frame.masks:
            return frame
        bins = colour_bins(picture)
        found: list[Mask] = []
        for number, mask in enumerate(frame.masks):
            pixels = _decode(mask.segmentation)  # (W, H)
            tracks = self._labels.setdefault(mask.label, self._label_tracks())
            inside = _at_size(pixels, bins.shape)
            objects = tracks.add(inside, bins, time_s=frame.sample_time_s, before_s=before_s)
            probabilities = _decode_map(maps[number], bins.shape) if number < len(maps) else None
            found += _instances(mask, pixels, objects, probabilities)
        return replace(frame, masks=tuple(found))

    def _label_tracks(self, tracks: Sequence[Track] = ()) -> LabelTracks:
        return LabelTracks(self._new_id, step_s=self._step_s, tracks=tracks)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _instances(mask: Mask, pixels: Bools, objects: Sequence[Found], probabilities: _Floats | None) -> list[Mask]:
    """Return the masks of a label's objects at the answer's size.

    Args:
        mask: the label's.
        pixels: its pixels, transposed (W, H).
        objects: at the model's size.
        probabilities: (h, w) at the model's size, or None.
    """
    if len(objects) == 1:
        return [replace(mask, track_id=objects[0].track_id, gap_s=_rounded(objects[0].gap_s))]
    nearest = nearest_of([each.pixels for each in objects])
    size = pixels.shape[::-1]
    owner = cv2.resize(np.ascontiguousarray(nearest.T), size, interpolation=cv2.INTER_NEAREST)  # (W, H)
    found: list[tuple[Mask, float]] = []
    for place, each in enumerate(objects):
        part = _encode(pixels & (owner == place), mask)
        if part is not None:
            certainty = 1.0 if probabilities is None else float(probabilities[each.pixels].mean())
            found.append((replace(part, track_id=each.track_id, gap_s=_rounded(each.gap_s)), certainty))
    return _with_scores(found, mask)


def _with_scores(found: list[tuple[Mask, float]], whole: Mask) -> list[Mask]:
    """Return the masks with scores in proportion to their probabilities, whose mean by area is the label's score."""
    mean = sum(part.area * certainty for part, certainty in found) / whole.area
    factor = whole.score / mean if mean > 0 else 0.0
    return [replace(part, score=round(min(1.0, certainty * factor), ANSWER_DECIMALS)) for part, certainty in found]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, ANSWER_DECIMALS)


def _decode(rle: Rle) -> Bools:
    """Return the pixels of run lengths, transposed: bool (W, H), row-major as they are coded."""
    pixels = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})
    return np.asarray(pixels.T, bool)


def _encode(pixels: Bools, whole: Mask) -> Mask | None:
    """Return the mask of a part (W, H) of a mask, None where it is empty; its score is the whole's."""
    rle = coco.encode(np.ascontiguousarray(pixels).view(np.uint8).T)
    area = int(coco.area(rle))
    if not area:
        return None
    x, y, width, height = (int(side) for side in coco.toBbox(rle))
    segmentation = Rle(size=whole.segmentation.size, counts=rle["counts"].decode("ascii"))
    return replace(whole, area=area, bbox=(x, y, width, height), segmentation=segmentation)


def _at_size(pixels: Bools, size: tuple[int, ...]) -> Bools:
    """Return transposed pixels (W, H), not empty, at (h, w): where at least half is inside, else where any is."""
    scaled = cv2.resize(pixels.astype(np.float32), (size[0], size[1]), interpolation=cv2.INTER_AREA).T
    inside = scaled >= 0.5
    return np.ascontiguousarray(inside if inside.any() else scaled >= scaled.max())


def _decode_map(given: ProbabilityMap, size: tuple[int, ...]) -> _Floats:
    """Return a map's probabilities at (h, w)."""
    values = np.frombuffer(base64.b64decode(given.values), np.uint8).reshape(given.size)
    scaled = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(scaled, np.float32) / np.float32(255.0)
