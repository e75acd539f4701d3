"""The objects of one label from frame to frame, at the model's resolution: which pixels, and who is who.

A frame's mask of the label falls into connected components. A component in which one known object is expected is that
object. Where several are expected (they touch or cross) it is cut between them, pixel by pixel, by what colours they
have and where they were going. Components nobody is expected in go to tracks that lost theirs, by place and colour, or
begin new tracks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.postprocess.appearance import Bins, Bools, Histogram, histogram, similarity, surprise
from service.postprocess.assignment import assign

Places = NDArray[np.int32]

# A track without a mask for longer is forgotten, in seconds; or for two samples where they are further apart.
MEMORY_S: Final = 2.0
# Most tracks of a label; the one that has been away longest goes first.
MAX_TRACKS: Final = 32
# Components under this share of the picture are specks: they go to the nearest object. The least area that the
# synthetic world counts as visible is 0.3 %.
_SPECK_SHARE: Final = 0.0015
# A track is expected in a component that covers this share of the silhouette it should have now.
_EXPECTED_SHARE: Final = 0.25
# A part under this share of its track's area is too little to be told from noise: the track is hidden.
_LEAST_PART: Final = 0.08
# Motion is carried on for this long; then the object is expected where it was then.
_COAST_S: Final = 0.6
# Weight of a new velocity and of new colours against the old ones.
_VELOCITY_GAIN: Final = 0.5
_COLOUR_GAIN: Final = 0.2
_TOUCHED_GAIN: Final = 0.3
# How much a pixel outside of the expected silhouette costs, per square root of the silhouette's area.
_PLACE_WEIGHT: Final = 12.0
_PLACE_LIMIT: Final = 6.0
# An object among others is looked for this far around its expected place, in square roots of its area; the cost of
# the farthest place; bounds of a pixel's evidence (an object in front may cover any pixel, so little speaks against
# one); evidence of a pixel outside of the label's mask.
_FIT_REACH: Final = 0.3
_FIT_STRAY: Final = 0.3
_EVIDENCE: Final = (-0.5, 3.0)
_OUTSIDE: Final = -1.5
# Side of the box over which costs of pixels are averaged.
_SMOOTH_PX: Final = 5
# A lost track takes a component from this likeness on (mean of place and colour, 0 to 1).
_LEAST_LIKENESS: Final = 0.35
# A component this near to an object (in square roots of its area), or within its silhouette, is a piece of it.
_NEAR: Final = 0.15


@dataclass(slots=True)
class Track:
    """An object. Pixels at the model's resolution.

    Attributes:
        silhouette: (h, w) the object as last seen whole.
        centre: x and y of the silhouette; velocity in pixels per second.
        seen_s: time of its last mask.
        posed_s: time of the silhouette.
    """

    track_id: int
    silhouette: Bools
    centre: tuple[float, float]
    area: float
    colours: Histogram
    seen_s: float
    posed_s: float
    velocity: tuple[float, float] = (0.0, 0.0)

    def offset_at(self, time_s: float) -> tuple[float, float]:
        """Return how far the silhouette should have moved by now."""
        after_s = min(time_s - self.posed_s, _COAST_S)
        return self.velocity[0] * after_s, self.velocity[1] * after_s


@dataclass(frozen=True, slots=True)
class Found:
    """An object in one frame: its pixels (h, w), not empty, and how long it had none before, None without a gap."""

    track_id: int
    pixels: Bools
    gap_s: float | None


@dataclass(slots=True)
class _Frame:
    """What is known of one frame while its objects are found."""

    time_s: float
    bins: Bins
    components: list[Bools]
    tracks: list[Track]
    expected: list[Bools]
    moved: dict[int, tuple[float, float]] = field(default_factory=dict)
    found: dict[int, Bools] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)


class LabelTracks:
    """Follows the objects of one label; holds at most MAX_TRACKS of them, however long the stream is.

    Args:
        next_id: gives the ids of new tracks.
        step_s: seconds between samples; 0 where it is not known.
    """

    def __init__(self, next_id: Callable[[], int], *, step_s: float = 0.0) -> None:
        self._next_id = next_id
        self._memory_s = max(MEMORY_S, 2.5 * step_s)
        self._tracks: list[Track] = []

    def forget(self, time_s: float) -> None:
        """Forget the tracks that have been away for too long."""
        self._tracks = [track for track in self._tracks if time_s - track.seen_s <= self._memory_s]

    def add(self, inside: Bools, bins: Bins, *, time_s: float, before_s: float) -> list[Found]:
        """Return the objects of the next frame, by track id.

        Args:
            inside: (h, w) the label's mask, not empty.
            bins: (h, w) colours of the picture.
            time_s: rises strictly from call to call.
            before_s: time of the sample before, whether or not the label had a mask in it.

        Returns:
            Objects whose pixels are disjoint and are those of `inside` together.
        """
        self.forget(time_s)
        expected = [_moved(track.silhouette, track.offset_at(time_s)) for track in self._tracks]
        frame = _Frame(time_s, bins, _components(inside), list(self._tracks), expected)
        rest = self._take_expected(frame)
        rest = self._find_lost(frame, rest)
        self._begin(frame, rest)
        _share_out(frame.found, inside)
        gaps_s = {track.track_id: time_s - track.seen_s for track in self._tracks if track.seen_s < before_s}
        self._update(frame)
        return [Found(track_id, pixels, gaps_s.get(track_id)) for track_id, pixels in sorted(frame.found.items())]

    def _take_expected(self, frame: _Frame) -> list[Bools]:
        """Give components to the tracks that are expected in them; returns the components that are left."""
        claims = _claims(frame)
        rest = []
        for component, here in zip(frame.components, claims, strict=True):
            if not here:
                rest.append(component)
            parts = {here[0]: component} if len(here) == 1 else _cut(component, here, frame)
            for number, part in parts.items():
                track_id = frame.tracks[number].track_id
                if len(here) == 1 and track_id not in frame.found:
                    frame.whole.add(track_id)
                elif len(here) > 1:
                    frame.whole.discard(track_id)
                frame.found[track_id] = frame.found.get(track_id, False) | part
        return rest

    def _find_lost(self, frame: _Frame, rest: list[Bools]) -> list[Bools]:
        """Give components to tracks that have none, by place and colour; returns the components that are left."""
        lost = [number for number, track in enumerate(frame.tracks) if track.track_id not in frame.found]
        if not lost or not rest:
            return rest
        likeness = np.array([[self._likeness(frame, number, component) for number in lost] for component in rest])
        left = set(range(len(rest)))
        for row, column in assign(-likeness):
            if likeness[row, column] >= _LEAST_LIKENESS:
                track = frame.tracks[lost[column]]
                frame.found[track.track_id] = rest[row]
                frame.whole.add(track.track_id)
                left.discard(row)
        return [rest[number] for number in sorted(left)]

    def _likeness(self, frame: _Frame, number: int, component: Bools) -> float:
        track = frame.tracks[number]
        offset = track.offset_at(frame.time_s)
        x, y = _centre(component)
        far = math.hypot(x - track.centre[0] - offset[0], y - track.centre[1] - offset[1])
        reach = math.sqrt(track.area) * (1.0 + 2.0 * (frame.time_s - track.seen_s))
        place = math.exp(-far / reach)
        return (place + similarity(track.colours, histogram(frame.bins, component))) / 2

    def _begin(self, frame: _Frame, rest: list[Bools]) -> None:
        """Begin tracks of the components that are left, except of pieces of an object that is there."""
        for component in sorted(rest, key=lambda each: -int(each.sum())):
            owner = _owner(component, frame.found)
            if owner is not None:
                frame.found[owner] = frame.found[owner] | component
                continue
            track_id = self._next_id()
            frame.found[track_id] = component
            frame.whole.add(track_id)

    def _update(self, frame: _Frame) -> None:
        known = {track.track_id: track for track in self._tracks}
        for track_id, mask in frame.found.items():
            track = known.get(track_id)
            if track is None:
                colours = histogram(frame.bins, mask)
                area = float(mask.sum())
                self._tracks.append(Track(track_id, mask, _centre(mask), area, colours, frame.time_s, frame.time_s))
            elif track_id in frame.whole:
                _see_whole(track, mask, frame)
            else:
                track.seen_s = frame.time_s
        for number, move in frame.moved.items():
            if frame.tracks[number].track_id not in frame.whole:
                _pose_among_others(frame.tracks[number], number, move, frame)
        self._tracks.sort(key=lambda track: (-track.seen_s, track.track_id))
        del self._tracks[MAX_TRACKS:]


def _see_whole(track: Track, mask: Bools, frame: _Frame) -> None:
    """Take over the pose, motion and colours of an object that nothing touches."""
    centre, after_s = _centre(mask), frame.time_s - track.posed_s
    measured = ((centre[0] - track.centre[0]) / after_s, (centre[1] - track.centre[1]) / after_s)
    track.velocity = (
        track.velocity[0] + _VELOCITY_GAIN * (measured[0] - track.velocity[0]),
        track.velocity[1] + _VELOCITY_GAIN * (measured[1] - track.velocity[1]),
    )
    track.colours = (1 - _COLOUR_GAIN) * track.colours + _COLOUR_GAIN * histogram(frame.bins, mask)
    track.silhouette, track.centre, track.area = mask, centre, float(mask.sum())
    track.seen_s = track.posed_s = frame.time_s


def _pose_among_others(track: Track, number: int, move: tuple[float, float], frame: _Frame) -> None:
    """Take over the pose of an object that touches others; its shape and colours stay those it had alone."""
    offset, after_s = track.offset_at(frame.time_s), frame.time_s - track.posed_s
    track.velocity = (
        track.velocity[0] + _TOUCHED_GAIN * move[0] / after_s,
        track.velocity[1] + _TOUCHED_GAIN * move[1] / after_s,
    )
    track.centre = (track.centre[0] + offset[0] + move[0], track.centre[1] + offset[1] + move[1])
    track.silhouette, track.posed_s = frame.expected[number], frame.time_s


def _components(inside: Bools) -> list[Bools]:
    """Return the connected components (8 neighbours), largest first, without specks; the largest in any case."""
    count, places, statistics, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    order = sorted(range(count - 1), key=lambda number: -int(areas[number]))
    least = _SPECK_SHARE * inside.size
    kept = [number for number in order if areas[number] >= least][:MAX_TRACKS] or order[:1]
    return [places == number + 1 for number in kept]


def _claims(frame: _Frame) -> list[list[int]]:
    """Return the tracks (by their places) that are expected in each component.

    A track is expected where much of its silhouette should be now. Of several such components it has the one that it
    covers most, and those near to that one: pieces of one object. Two objects that part are no longer near.
    """
    claims: list[list[int]] = [[] for _ in frame.components]
    for number, silhouette in enumerate(frame.expected):
        area = silhouette.sum()
        shared = [int((component & silhouette).sum()) for component in frame.components]
        likely = [
            place
            for place, component in enumerate(frame.components)
            if shared[place] >= _EXPECTED_SHARE * min(area, component.sum()) and shared[place] > 0
        ]
        if not likely:
            continue
        main = max(likely, key=lambda place: shared[place] * _colour_share(frame, number, place))
        reach = _NEAR * math.sqrt(frame.tracks[number].area)
        for place in likely:
            if place == main or _distance(frame.components[place], frame.components[main]) <= reach:
                claims[place].append(number)
    return claims


def _colour_share(frame: _Frame, number: int, place: int) -> float:
    return similarity(frame.tracks[number].colours, histogram(frame.bins, frame.components[place]))


def _distance(one: Bools, other: Bools) -> float:
    """Return the least distance of two masks in pixels."""
    return float(cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, 3)[one].min())


def _cut(component: Bools, here: list[int], frame: _Frame) -> dict[int, Bools]:
    """Cut a component between the tracks that are expected in it; parts too small to be told are left out."""
    if len(here) < 2:
        return {}
    surprises = {number: surprise(frame.bins, frame.tracks[number].colours) for number in here}
    for number in here:
        others = np.min([surprises[other] for other in here if other != number], axis=0)
        _fit(number, component, others - surprises[number], frame)
    weight = cv2.boxFilter(component.astype(np.float32), -1, (_SMOOTH_PX, _SMOOTH_PX), normalize=False)
    costs = []
    for number in here:
        cost = surprises[number] + _off_place(frame.expected[number], frame.tracks[number].area)
        masked = np.where(component, cost, np.float32(0.0))
        costs.append(cv2.boxFilter(masked, -1, (_SMOOTH_PX, _SMOOTH_PX), normalize=False) / np.maximum(weight, 1.0))
    best = np.argmin(np.stack(costs), axis=0)
    parts = {number: component & (best == place) for place, number in enumerate(here)}
    seen = {
        number: part for number, part in parts.items() if part.sum() >= _LEAST_PART * frame.tracks[number].area
    } or {max(parts, key=lambda number: int(parts[number].sum())): component}
    _share_out(seen, component)
    return seen


def _fit(number: int, component: Bools, evidence: NDArray[np.float32], frame: _Frame) -> None:
    """Move a track's expected silhouette to where its colours are, near to where it should be.

    Args:
        number: place of the track.
        component: in which it is expected.
        evidence: (h, w) how much likelier each pixel's colour is for this track than for the others there.
        frame: its `expected` and `moved` are changed.
    """
    expected, track = frame.expected[number], frame.tracks[number]
    if not expected.any():
        return
    reach = max(3, round(_FIT_REACH * math.sqrt(track.area)))
    values = np.where(component, np.clip(evidence, *_EVIDENCE), np.float32(_OUTSIDE))
    padded = cv2.copyMakeBorder(values, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=_OUTSIDE)
    x, y, width, height = cv2.boundingRect(expected.view(np.uint8))
    shape = expected[y : y + height, x : x + width].astype(np.float32)
    window = padded[y : y + height + 2 * reach, x : x + width + 2 * reach]
    fits = cv2.matchTemplate(window, shape, cv2.TM_CCORR) / shape.sum()
    steps = np.arange(-reach, reach + 1, dtype=np.float32) / reach
    fits -= np.float32(_FIT_STRAY) * (steps[:, None] ** 2 + steps[None] ** 2)
    down, right = np.unravel_index(int(np.argmax(fits)), fits.shape)
    move = (float(right) - reach, float(down) - reach)
    frame.expected[number] = _moved(expected, move)
    frame.moved[number] = move


def _off_place(expected: Bools, area: float) -> NDArray[np.float32]:
    """Return the cost of each pixel's distance from a silhouette, (h, w)."""
    if not expected.any():
        return np.full(expected.shape, np.float32(_PLACE_LIMIT))
    distance = np.asarray(cv2.distanceTransform((~expected).view(np.uint8), cv2.DIST_L2, 3), np.float32)
    return np.asarray(np.minimum(distance * np.float32(_PLACE_WEIGHT / math.sqrt(area)), _PLACE_LIMIT), np.float32)


def _owner(component: Bools, found: dict[int, Bools]) -> int | None:
    """Return the object that a component is a piece of: the nearest one, if it is larger and near enough."""
    best: tuple[float, int] | None = None
    for track_id, mask in found.items():
        area = float(mask.sum())
        distance = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3)
        near = float(distance[component].min()) / math.sqrt(area)
        if component.sum() < area / 2 and near <= _NEAR and (best is None or near < best[0]):
            best = (near, track_id)
    return None if best is None else best[1]


def _share_out(found: dict[int, Bools], inside: Bools) -> None:
    """Give every pixel of a mask that nobody has to the nearest object; changes `found`."""
    taken = np.zeros(inside.shape, bool)
    for mask in found.values():
        taken |= mask
    if not (inside & ~taken).any():
        return
    nearest = nearest_of(list(found.values()))
    for place, key in enumerate(found):
        found[key] = found[key] | (inside & ~taken & (nearest == place))


def nearest_of(masks: list[Bools]) -> Places:
    """Return the place in the list of the mask nearest to each pixel, (h, w); the first where two are as near."""
    if len(masks) == 1:
        return np.zeros(masks[0].shape, np.int32)
    distances = [cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3) for mask in masks]
    return np.asarray(np.argmin(np.stack(distances), axis=0), np.int32)


def _moved(mask: Bools, offset: tuple[float, float]) -> Bools:
    """Return the mask moved by whole pixels; what leaves the picture is lost."""
    x, y = round(offset[0]), round(offset[1])
    if not x and not y:
        return mask
    height, width = mask.shape
    moved = np.zeros_like(mask)
    if abs(x) < width and abs(y) < height:
        moved[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = mask[
            max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)
        ]
    return moved


def _centre(mask: Bools) -> tuple[float, float]:
    """Return the mean x and y of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())
