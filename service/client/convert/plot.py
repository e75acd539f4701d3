"""A picture of an answer: the curve of each label and track over time, and its events."""

from __future__ import annotations

from typing import Any

from service.client.answer import Answer
from service.client.convert.missing import needed


def plot(answer: Answer, *, axes: Any = None, value: str = "area") -> Any:
    """Draw an answer with matplotlib; returns the axes.

    Args:
        answer: a whole answer.
        axes: to draw on; a new figure by default.
        value: `area` (share of the picture) or `score`.

    Raises:
        ServiceError: `bad_option`, matplotlib is not installed, or there is no such value.
    """
    with needed("matplotlib"):
        from matplotlib import pyplot
    axes = axes or pyplot.subplots(figsize=(10, 3))[1]
    times_s = [frame.sample_time_s for frame in answer.frames]
    for number, track in enumerate(answer.tracks):
        colour = f"C{number % 10}"
        heights = [0.0] * len(times_s)
        for at, mask in track.masks:
            pixels = mask.segmentation.size[0] * mask.segmentation.size[1]
            heights[at] = mask.area / pixels if value == "area" else mask.score
        axes.plot(times_s, heights, color=colour, label=track.name)
        for event in answer.events:
            if (event.label, event.track_id) == (track.label, track.track_id):
                axes.axvspan(event.start_s, event.end_s, color=colour, alpha=0.15)
    axes.set_xlabel("seconds")
    axes.set_ylabel("share of the picture" if value == "area" else "score")
    if answer.tracks:
        axes.legend()
    return axes
