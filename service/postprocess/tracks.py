"""An object that is followed, and what is known of a frame while its objects are found. Pixels are the model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from service.postprocess.appearance import Bins, Histogram, histogram
from service.postprocess.silhouettes import Bools, Places, centre, moved

# Motion is carried on for this long in seconds; then the object is expected where it was then.
_COAST_S: Final = 0.6
# Weights of a new velocity and of new colours against the old ones; of a new velocity where objects touch.
_VELOCITY_GAIN: Final = 0.5
_COLOUR_GAIN: Final = 0.2
_TOUCHED_GAIN: Final = 0.3

Vector = tuple[float, float]


@dataclass(slots=True)
class Track:
    """An object.

    Attributes:
        silhouette: (h, w) its pixels as last seen alone, moved to where it was last.
        centre: x and y of the silhouette in pixels; `velocity` in pixels per second.
        area: pixels, as last seen alone.
        colours: as seen alone.
        seen_s: time of its last mask.
        posed_s: time of `silhouette` and `centre`.
    """

    track_id: int
    silhouette: Bools
    centre: Vector
    area: float
    colours: Histogram
    seen_s: float
    posed_s: float
    velocity: Vector = (0.0, 0.0)

    @classmethod
    def starting_at(cls, track_id: int, mask: Bools, bins: Bins, *, time_s: float) -> Track:
        """Return a new track of a mask (h, w) that is not empty."""
        return cls(track_id, mask, centre(mask), float(mask.sum()), histogram(bins, mask), time_s, time_s)

    def offset_at(self, time_s: float) -> Vector:
        """Return how far the silhouette should have moved by now."""
        after_s = min(time_s - self.posed_s, _COAST_S)
        return self.velocity[0] * after_s, self.velocity[1] * after_s

    def see_alone(self, mask: Bools, bins: Bins, *, time_s: float) -> None:
        """Take over the pose, motion and colours of an object that touches no other."""
        place, after_s = centre(mask), time_s - self.posed_s
        measured = ((place[0] - self.centre[0]) / after_s, (place[1] - self.centre[1]) / after_s)
        self.velocity = (
            self.velocity[0] + _VELOCITY_GAIN * (measured[0] - self.velocity[0]),
            self.velocity[1] + _VELOCITY_GAIN * (measured[1] - self.velocity[1]),
        )
        self.colours = (1 - _COLOUR_GAIN) * self.colours + _COLOUR_GAIN * histogram(bins, mask)
        self.silhouette, self.centre, self.area = mask, place, float(mask.sum())
        self.seen_s = self.posed_s = time_s

    def see_among_others(self, silhouette: Bools, move: Vector, *, time_s: float) -> None:
        """Take over the pose of an object that touches others; its shape and colours stay those it had alone.

        Args:
            silhouette: where it was found.
            move: how far that is from where it was expected.
            time_s: now.
        """
        offset, after_s = self.offset_at(time_s), time_s - self.posed_s
        self.velocity = (
            self.velocity[0] + _TOUCHED_GAIN * move[0] / after_s,
            self.velocity[1] + _TOUCHED_GAIN * move[1] / after_s,
        )
        self.centre = (self.centre[0] + offset[0] + move[0], self.centre[1] + offset[1] + move[1])
        self.silhouette, self.posed_s = silhouette, time_s


@dataclass(slots=True)
class FrameObjects:
    """What is known of one frame. Tracks are named by their places in `tracks`, but for the ids in `found`.

    Attributes:
        bins: (h, w) colours.
        numbers: (h, w) numbers of the mask's components, from 1.
        components: the pixels of each.
        tracks: those that may be there.
        expected: (h, w) where the silhouette of each should be, later where it was found among others.
        moves: how far `expected` was moved, of those that touch others.
        found: pixels by track id.
        alone: ids of those that touch no other.
    """

    time_s: float
    bins: Bins
    numbers: Places
    components: list[Bools]
    tracks: list[Track]
    expected: list[Bools]
    moves: dict[int, Vector] = field(default_factory=dict)
    found: dict[int, Bools] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    _colours: dict[int, Histogram] = field(default_factory=dict)
    _centres: dict[int, Vector] = field(default_factory=dict)

    @classmethod
    def of_frame(cls, numbers: Places, bins: Bins, tracks: list[Track], *, time_s: float) -> FrameObjects:
        """Return what is known before any object is found."""
        components = [numbers == place for place in range(1, int(numbers.max()) + 1)]
        expected = [moved(track.silhouette, track.offset_at(time_s)) for track in tracks]
        return cls(time_s, bins, numbers, components, tracks, expected)

    def colours_of(self, place: int) -> Histogram:
        """Return the colours of a component."""
        if place not in self._colours:
            self._colours[place] = histogram(self.bins, self.components[place])
        return self._colours[place]

    def centre_of(self, place: int) -> Vector:
        """Return the mean x and y of a component."""
        if place not in self._centres:
            self._centres[place] = centre(self.components[place])
        return self._centres[place]

    def shared_with(self, silhouette: Bools) -> list[int]:
        """Return the number of pixels that a silhouette has in each component."""
        counts = np.bincount(self.numbers[silhouette], minlength=len(self.components) + 1)
        return [int(count) for count in counts[1:]]
