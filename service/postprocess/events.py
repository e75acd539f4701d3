"""Sound events: the intervals in which a label (or a track) sounds, found while frames pass.

scores of a label's masks         .2  .5  .8  .5  .2   -  .5  .9   -   -   -  .5  .2
samples (onset .7, offset .4)      -  on  on  on   -   -  on  on   -   -   -   -   -
events, short pauses bridged         [-----------------------]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from service.domain.result import ANSWER_DECIMALS, FrameMasks, Mask, SoundEvent
from service.postprocess.split_objects import SplitObjects
from service.postprocess.stream_holes import StreamHoles

_Key = tuple[str, int | None]
# A mask with less than this share of the largest one of its event is a speck: some pixels that a model leaves where an
# object has fallen silent. Chosen with the defaults of the event options.
SPECK_SHARE = 0.03
# An event keeps this duration whatever the lag of the masks: an interval without length is none.
LEAST_TOLD_S = 0.1


class EventRules(Protocol):
    """What makes an event; the options of clips and of live streams have these members. Times in seconds."""

    @property
    def event_onset(self) -> float:
        """Score that the best sample of an event reaches at least."""
        ...

    @property
    def event_offset(self) -> float:
        """Least score of its samples."""
        ...

    @property
    def event_gap_s(self) -> float:
        """Longest pause inside of an event."""
        ...

    @property
    def event_min_s(self) -> float:
        """Least duration times mean score."""
        ...


@dataclass(slots=True)
class _OpenEvent:
    """An event that has begun. `ended_at_s` is None while it sounds, else the start of the current pause.

    `is_cut` says that the frames ended before it did.
    """

    start_s: float
    ended_at_s: float | None = None
    peak_area: int = 0
    peak_score: float = 0.0
    score_sum: float = 0.0
    num_samples: int = 0
    is_cut: bool = False

    def add(self, mask: Mask) -> None:
        self.ended_at_s = None
        self.peak_area = max(self.peak_area, mask.area)
        self.peak_score = max(self.peak_score, mask.score)
        self.score_sum += mask.score
        self.num_samples += 1

    @property
    def mean_score(self) -> float:
        return round(self.score_sum / self.num_samples, ANSWER_DECIMALS)


class EventTracker:
    """Turns frames into events; holds one open event per label and track, however long the clip is.

    A sample says whether a label sounds at its time, so an event starts and ends half way between two samples that
    differ. The first sample also stands for the half step before it; nothing is known of the time after the last one.

    Where the pixels of one object are split between two labels, one of them is heard (`SplitObjects`). Specks are not:
    masks far smaller than the largest one of their event. An event must last the longer the less sure its masks are:
    its duration counts by its mean score.

    A window is a second long: it holds a sound that is over for as long. Where a model's masks go on after their sound,
    an event that they end is told to end `offset_lag_s` earlier, though it keeps the least duration. Pauses and the
    duration that an event must have are measured before that. An event that is open at the last sample ends there.

    A live stream can have holes: no frames came for longer than `event_gap_s` (`StreamHoles`). Nothing is known of a
    hole, so an event that is open before it ends at the last sample, and the next one starts at the first sample
    behind it at the earliest. The frames of a clip have no holes: a frame stands until the next one.

    Hysteresis works both ways, as in edge detection by Canny (1986): samples from `event_offset` on form an event if
    one of them reaches `event_onset`. An event is announced when it closes, so its weak beginning costs nothing.

    Args:
        rules: hysteresis, longest pause, least duration.
        start_s: start of the range; no event begins earlier.
        step_s: seconds between samples; 0 where it is not known (every frame of a clip, live streams).
        offset_lag_s: seconds that the model's masks go on after their sound (`ModelInfo.offset_lag_s`).
        is_live: whether frames can stay away for a time.
    """

    def __init__(
        self,
        rules: EventRules,
        *,
        start_s: float = 0.0,
        step_s: float = 0.0,
        offset_lag_s: float = 0.0,
        is_live: bool = False,
    ) -> None:
        self._rules = rules
        self._holes = StreamHoles(rules.event_gap_s) if is_live else None
        self._offset_lag_s = offset_lag_s
        self._start_s = start_s
        self._half_step_s = step_s / 2
        self._last_s: float | None = None
        self._open: dict[_Key, _OpenEvent] = {}
        self._objects = SplitObjects()

    def add(self, frame: FrameMasks) -> list[SoundEvent]:
        """Take the next frame; returns the events that closed, in order of their starts."""
        time_s = frame.sample_time_s
        closed = self._closed_by_hole(time_s)
        boundary_s = self._boundary_s(time_s)
        self._last_s = time_s
        closed += self._closed(boundary_s)
        heard = {(mask.label, mask.track_id) for mask in self._objects.heard(frame) if self._hear(mask, boundary_s)}
        for key, event in self._open.items():
            if event.ended_at_s is None and key not in heard:
                event.ended_at_s = boundary_s
        return sorted(closed + self._closed(time_s), key=event_order)

    def finish(self) -> list[SoundEvent]:
        """Close what is open at the last sample."""
        for event in self._open.values():
            if event.ended_at_s is None:
                event.ended_at_s = self._last_s
                event.is_cut = True
        return self._take(list(self._open))

    def _closed_by_hole(self, time_s: float) -> list[SoundEvent]:
        """Close what is open if there is a hole before the sample at `time_s`, which then is like a first one."""
        if self._holes is None or self._last_s is None or not self._holes.is_hole(time_s - self._last_s):
            return []
        closed = self.finish()
        self._last_s, self._start_s = None, time_s
        return closed

    def _boundary_s(self, time_s: float) -> float:
        if self._last_s is None:
            return max(min(self._start_s, time_s), time_s - self._half_step_s)
        return (self._last_s + time_s) / 2

    def _hear(self, mask: Mask, boundary_s: float) -> bool:
        """Add a mask to its event; return False if it is none of an event. Specks before a mask begin no event."""
        if mask.score < min(self._rules.event_offset, self._rules.event_onset):
            return False
        key = (mask.label, mask.track_id)
        event = self._open.get(key)
        if event is not None and mask.area < SPECK_SHARE * event.peak_area:
            return False
        if event is None or event.peak_area < SPECK_SHARE * mask.area:
            event = self._open[key] = _OpenEvent(boundary_s)
        event.add(mask)
        return True

    def _closed(self, onset_s: float) -> list[SoundEvent]:
        """Take the events whose pause would be too long if the label sounded again at `onset_s`."""
        gap_s = self._rules.event_gap_s
        return self._take(
            [key for key, event in self._open.items() if event.ended_at_s is not None and _over(event, onset_s, gap_s)]
        )

    def _take(self, keys: Iterable[_Key]) -> list[SoundEvent]:
        taken = [(key, self._open.pop(key)) for key in keys]
        least_s = self._rules.event_min_s - 1e-9
        heard = [
            (key, event)
            for key, event in taken
            if event.peak_score >= self._rules.event_onset and _weighted_length_s(event) >= least_s
        ]
        return sorted((self._told(key, event) for key, event in heard), key=event_order)

    def _told(self, key: _Key, event: _OpenEvent) -> SoundEvent:
        assert event.ended_at_s is not None
        end_s = event.ended_at_s
        if not event.is_cut:
            end_s = min(
                end_s, max(end_s - self._offset_lag_s, event.start_s + max(self._rules.event_min_s, LEAST_TOLD_S))
            )
        return _event(key, event, end_s)


def event_order(event: SoundEvent) -> tuple[float, float, str, int]:
    """Return the sort key of events in a document: by start, end, label, track."""
    return (event.start_s, event.end_s, event.label, -1 if event.track_id is None else event.track_id)


def _weighted_length_s(event: _OpenEvent) -> float:
    assert event.ended_at_s is not None
    return (event.ended_at_s - event.start_s) * event.mean_score


def _over(event: _OpenEvent, onset_s: float, gap_s: float) -> bool:
    assert event.ended_at_s is not None
    return onset_s - event.ended_at_s > gap_s


def _event(key: _Key, event: _OpenEvent, end_s: float) -> SoundEvent:
    return SoundEvent(
        label=key[0],
        track_id=key[1],
        start_s=round(event.start_s, ANSWER_DECIMALS),
        end_s=round(end_s, ANSWER_DECIMALS),
        peak_area=event.peak_area,
        mean_score=event.mean_score,
    )
