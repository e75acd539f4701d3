"""The objects of one label from frame to frame, at the model's resolution: which pixels, and who is who.

A frame's mask of the label falls into connected components. A component in which one known object is expected is that
object. Where several are expected (they touch or cross) it is cut between them, pixel by pixel, by what colours they
have and where they were going. Components nobody is expected in go to tracks that lost theirs, by place and colour, or
begin new tracks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.postprocess.appearance import Bins, similarity
from service.postprocess.assignment import assign
from service.postprocess.cutting import cut
from service.postprocess.silhouettes import Bools, components, distances, share_out
from service.postprocess.tracks import FrameObjects, Track

# A track without a mask for longer is forgotten, in seconds; or for two samples where they are further apart.
MEMORY_S: Final = 2.0
# Most tracks of a label; the one that has been away longest goes first.
MAX_TRACKS: Final = 16
# Components under this share of the picture are specks: they go to the nearest object. The least area that the
# synthetic world counts as visible is 0.3 %.
_SPECK_SHARE: Final = 0.0015
# A track is expected in a component that covers this share of the silhouette it should have now.
_EXPECTED_SHARE: Final = 0.25
# A lost track takes a component from this likeness on (mean of place and colour, 0 to 1).
_LEAST_LIKENESS: Final = 0.35
# A component this near to an object (in square roots of its area), or within its silhouette, is a piece of it.
_NEAR: Final = 0.15
# A mask that has suddenly less than this share of its object's area has crumbled: the model was unsure for a moment.
# The object keeps its pose for at most this long in seconds.
_CRUMBLED_SHARE: Final = 0.25
_CRUMBLED_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """An object in one frame: its pixels (h, w), not empty, and how long it had none before, None without a gap."""

    track_id: int
    pixels: Bools
    gap_s: float | None


class LabelTracks:
    """Follows the objects of one label; holds at most MAX_TRACKS of them, however long the stream is.

    Args:
        next_id: gives the ids of new tracks.
        step_s: seconds between samples; 0 where it is not known.
        tracks: to begin with.
    """

    def __init__(self, next_id: Callable[[], int], *, step_s: float = 0.0, tracks: Sequence[Track] = ()) -> None:
        self._next_id = next_id
        self._memory_s = max(MEMORY_S, 2.5 * step_s)
        self._tracks: list[Track] = list(tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    @property
    def tracks(self) -> list[Track]:
        """Return the tracks, in the tracker's order."""
        return list(self._tracks)

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
        numbers = components(inside, least_area=_SPECK_SHARE * inside.size, most=MAX_TRACKS)
        frame = FrameObjects.of_frame(numbers, bins, list(self._tracks), time_s=time_s)
        rest = self._take_expected(frame)
        rest = self._find_lost(frame, rest)
        self._begin(frame, rest)
        share_out(frame.found, inside)
        gaps_s = {track.track_id: time_s - track.seen_s for track in self._tracks if track.seen_s < before_s}
        self._update(frame)
        return [Found(track_id, pixels, gaps_s.get(track_id)) for track_id, pixels in sorted(frame.found.items())]

    def _take_expected(self, frame: FrameObjects) -> list[int]:
        """Give components to the tracks that are expected in them; returns the places of those that are left."""
        claims = _claims(frame)
        for component, here in zip(frame.components, claims, strict=True):
            parts = {here[0]: component} if len(here) == 1 else cut(component, here, frame)
            for number, part in parts.items():
                track_id = frame.tracks[number].track_id
                if len(here) == 1 and track_id not in frame.found:
                    frame.alone.add(track_id)
                elif len(here) > 1:
                    frame.alone.discard(track_id)
                frame.found[track_id] = frame.found.get(track_id, False) | part
        return [place for place, here in enumerate(claims) if not here]

    def _find_lost(self, frame: FrameObjects, rest: list[int]) -> list[int]:
        """Give components to tracks that have none, by place and colour; returns the components that are left."""
        lost = [track for track in frame.tracks if track.track_id not in frame.found]
        if not lost or not rest:
            return rest
        likeness = np.array([[_likeness(frame, track, place) for track in lost] for place in rest])
        left = set(rest)
        for row, column in assign(-likeness):
            if likeness[row, column] >= _LEAST_LIKENESS:
                frame.found[lost[column].track_id] = frame.components[rest[row]]
                frame.alone.add(lost[column].track_id)
                left.discard(rest[row])
        return sorted(left)

    def _begin(self, frame: FrameObjects, rest: list[int]) -> None:
        """Begin tracks of the components that are left, largest first, but for pieces of an object that is there."""
        far = {track_id: distances(mask) / math.sqrt(mask.sum()) for track_id, mask in frame.found.items()}
        areas = {track_id: int(mask.sum()) for track_id, mask in frame.found.items()}
        for place in rest:
            component = frame.components[place]
            near = {
                track_id: float(each[component].min())
                for track_id, each in far.items()
                if component.sum() < areas[track_id] / 2
            }
            owner = min(near, key=lambda track_id: near[track_id], default=None)
            if owner is not None and near[owner] <= _NEAR:
                frame.found[owner] = frame.found[owner] | component
                continue
            track_id = self._next_id()
            frame.found[track_id] = component
            frame.alone.add(track_id)
            areas[track_id] = int(component.sum())
            far[track_id] = distances(component) / math.sqrt(areas[track_id])

    def _update(self, frame: FrameObjects) -> None:
        known = {track.track_id: track for track in self._tracks}
        for track_id, mask in frame.found.items():
            track = known.get(track_id)
            if track is None:
                self._tracks.append(Track.starting_at(track_id, mask, frame.bins, time_s=frame.time_s))
            elif track_id in frame.alone and _has_crumbled(track, int(mask.sum()), time_s=frame.time_s):
                track.seen_s = frame.time_s
            elif track_id in frame.alone:
                track.see_alone(mask, frame.bins, time_s=frame.time_s)
            else:
                track.seen_s = frame.time_s
        for number, move in frame.moves.items():
            track = frame.tracks[number]
            if track.track_id not in frame.alone:
                track.see_among_others(frame.expected[number], move, time_s=frame.time_s)
        self._tracks.sort(key=lambda track: (-track.seen_s, track.track_id))
        del self._tracks[MAX_TRACKS:]


def _likeness(frame: FrameObjects, track: Track, place: int) -> float:
    """Return how well a component fits a lost track: the mean of place and colour, each 0 to 1."""
    offset = track.offset_at(frame.time_s)
    x, y = frame.centre_of(place)
    far = math.hypot(x - track.centre[0] - offset[0], y - track.centre[1] - offset[1])
    reach = math.sqrt(track.area) * (1.0 + 2.0 * (frame.time_s - track.seen_s))
    return (math.exp(-far / reach) + similarity(track.colours, frame.colours_of(place))) / 2


def _has_crumbled(track: Track, area: int, *, time_s: float) -> bool:
    """Return whether `area` pixels are what is left for a moment of an object, rather than all of it."""
    return area < _CRUMBLED_SHARE * track.area and time_s - track.posed_s <= _CRUMBLED_S


def _claims(frame: FrameObjects) -> list[list[int]]:
    """Return the tracks (by their places) that are expected in each component.

    A track is expected where much of its silhouette should be now. Of several such components it has the one that fits
    best by pixels and colours, and those near to that one: pieces of one object. Two objects that part are no longer
    near. Of an object whose mask has crumbled it has all pieces.
    """
    claims: list[list[int]] = [[] for _ in frame.components]
    sizes = [int(component.sum()) for component in frame.components]
    for number, (track, silhouette) in enumerate(zip(frame.tracks, frame.expected, strict=True)):
        area, shared = int(silhouette.sum()), frame.shared_with(silhouette)
        likely = [
            place for place, size in enumerate(sizes) if shared[place] >= max(1.0, _EXPECTED_SHARE * min(area, size))
        ]
        pieces = sum(sizes[place] for place in likely)
        if len(likely) > 1 and not _has_crumbled(track, pieces, time_s=frame.time_s):
            fits = {place: shared[place] * similarity(track.colours, frame.colours_of(place)) for place in likely}
            main = max(likely, key=lambda place: fits[place])
            far = distances(frame.components[main])
            reach = _NEAR * math.sqrt(track.area)
            likely = [place for place in likely if float(far[frame.components[place]].min()) <= reach]
        for place in likely:
            claims[place].append(number)
    return claims
