"""Events as subtitles: WebVTT and SubRip, a cue per event."""

from __future__ import annotations

from service.domain.request import ClipStarted
from service.domain.result import SoundEvent, Summary
from service.formats.formatter import Formatter
from service.postprocess.events import event_order


class CaptionFormatter(Formatter):
    """Collects events and writes the cues at the end, in order of their starts as WebVTT demands.

    Args:
        is_webvtt: WebVTT (https://www.w3.org/TR/webvtt1/), else SubRip.
    """

    def __init__(self, *, is_webvtt: bool) -> None:
        self._is_webvtt = is_webvtt
        self._events: list[SoundEvent] = []

    def start(self, started: ClipStarted) -> bytes:
        """Write the head."""
        return b"WEBVTT\n\n" if self._is_webvtt else b""

    def event(self, event: SoundEvent) -> bytes:
        """Keep an event for the end."""
        self._events.append(event)
        return b""

    def end(self, summary: Summary) -> bytes:
        """Write the cues."""
        events = sorted(self._events, key=event_order)
        return "".join(self._cue(number, event) for number, event in enumerate(events, start=1)).encode()

    def _cue(self, number: int, event: SoundEvent) -> str:
        start, end = (self._time(time_s) for time_s in (event.start_s, event.end_s))
        return f"{number}\n{start} --> {end}\n{self._text(event)}\n\n"

    def _time(self, time_s: float) -> str:
        ms = round(1000 * time_s)
        mark = "." if self._is_webvtt else ","
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"

    def _text(self, event: SoundEvent) -> str:
        text = event.label if event.track_id is None else f"{event.label} {event.track_id}"
        text = " ".join(text.split())
        if self._is_webvtt:
            return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return text
