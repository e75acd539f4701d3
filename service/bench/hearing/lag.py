"""Measure how late answers start and end against the sound: real recordings, cut where loud, in clips of silence.

    python -m service.bench.hearing.lag --root DATA [--per-kind 4] [--json FILE]

A picture that shows the kind stands still for six seconds; its recording is heard from the second one on, for at most
a second and a half. Lags are in seconds, positive where the answer is late; the answer has ten samples a second.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from model.data.mp4 import write_mp4
from model.data.pictures.frames import read_picture
from model.data.pictures.index import Picture, PicturesIndex, Recording, read_index
from model.data.pictures.recordings import Waveform, read_recording
from model.evaluation.picture_pairs import choose_pictures
from model.network.preprocess import SAMPLE_RATE_HZ
from service.bench.hearing.pictures import argument_parser, crop_to_even, service_url, show_figures
from service.client.answer import Answer
from service.client.connect import open_client
from service.domain.options import SegmentOptions

FRAME_RATE = Fraction(10)
CLIP_S, ONSET_S, MAX_SOUND_S = 6.0, 2.0, 1.5
# Level of a recording: blocks of 20 ms, sounding down to 25 dB below the loudest; a pause of 0.3 s ends a cut.
BLOCK_SAMPLES, SOUNDING_DB, PAUSE_BLOCKS = 320, -25.0, 15
# A shorter cut is a click without a clear end.
LEAST_BLOCKS = 5
FADE_SAMPLES = 80
# The kind fills at least this share of the picture, so that a miss is one of hearing.
LEAST_SHARE = 0.05
OPTIONS = SegmentOptions(fps=10)


@dataclass(frozen=True)
class Lag:
    """Timing of one sound in an answer, in seconds; None where the answer has no mask or event of its kind.

    Attributes:
        kind: name of what sounds.
        sound_s: length of the sound.
        first_mask_s: first sample with a mask of the kind, less the sound's start.
        last_mask_s: last such sample, less the sound's end.
        event_start_s: start of the kind's first event, less the sound's start.
        event_end_s: end of its last event, less the sound's end.
    """

    kind: str
    sound_s: float
    first_mask_s: float | None
    last_mask_s: float | None
    event_start_s: float | None
    event_end_s: float | None


def loud_part(waveform: Waveform) -> Waveform:
    """Return the part of a recording from where it is first loud to its first pause, (S,) at 16 kHz, edges faded."""
    blocks = waveform[: len(waveform) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    levels_db = 10 * np.log10((blocks**2).mean(axis=1) + 1e-12)
    is_loud = levels_db >= levels_db.max() + SOUNDING_DB
    for start in np.flatnonzero(is_loud):
        part = is_loud[start : start + int(MAX_SOUND_S * SAMPLE_RATE_HZ / BLOCK_SAMPLES)]
        end = next((n for n in range(1, len(part)) if not part[n : n + PAUSE_BLOCKS].any()), len(part))
        if end >= LEAST_BLOCKS:
            cut = blocks[start : start + end].ravel().copy()
            fade = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
            cut[:FADE_SAMPLES] *= fade
            cut[-FADE_SAMPLES:] *= fade[::-1]
            return cut
    return np.zeros(0, np.float32)


def choose_sounds(
    index: PicturesIndex, pictures: Sequence[Picture], *, split: str, per_kind: int
) -> Iterator[tuple[Picture, Recording]]:
    """Yield pictures that show one kind only, largest first, each with another recording of the kind."""
    by_kind: dict[int, list[tuple[float, Picture]]] = defaultdict(list)
    for picture in pictures:
        if len(picture.kinds) == 1:
            share = float((read_picture(picture).classes > 0).mean())
            by_kind[next(iter(picture.kinds))].append((share, picture))
    for kind, entries in sorted(by_kind.items()):
        recordings = [entry for entry in index.recordings if entry.split == split and entry.kind == kind]
        shown = sorted((entry for entry in entries if entry[0] >= LEAST_SHARE), key=lambda entry: -entry[0])
        for number, recording in enumerate(recordings[:per_kind] if shown else []):
            yield shown[number % len(shown)][1], recording


def compare(answer: Answer, names: frozenset[str], kind: str, sound_s: float) -> Lag:
    """Compare an answer with a sound that was heard from `ONSET_S` on.

    Args:
        answer: of the service.
        names: labels that count: the kind and those that sound alike.
        kind: name of the kind.
        sound_s: length of the sound.
    """
    end_s = ONSET_S + sound_s
    times = [frame.sample_time_s for frame in answer.frames if any(mask.label in names for mask in frame.masks)]
    events = [event for event in answer.events if event.label in names]
    return Lag(
        kind,
        sound_s,
        first_mask_s=min(times) - ONSET_S if times else None,
        last_mask_s=max(times) - end_s if times else None,
        event_start_s=min(event.start_s for event in events) - ONSET_S if events else None,
        event_end_s=max(event.end_s for event in events) - end_s if events else None,
    )


def summarise(lags: Sequence[Lag]) -> dict[str, Any]:
    """Return medians and 90th percentiles of the absolute lags.

    `missed` is the share of sounds without a mask or without an event.
    """

    def figures(name: str) -> dict[str, Any]:
        values = [getattr(lag, name) for lag in lags if getattr(lag, name) is not None]
        if not values:
            return {"median": None, "p90_abs": None}
        return {
            "median": round(float(np.median(values)), 3),
            "p90_abs": round(float(np.quantile(np.abs(values), 0.9)), 3),
        }

    names = ("first_mask_s", "last_mask_s", "event_start_s", "event_end_s")
    missed = {name: sum(getattr(lag, name) is None for lag in lags) for name in ("first_mask_s", "event_start_s")}
    return {
        "num_sounds": len(lags),
        "without_mask": missed["first_mask_s"],
        "without_event": missed["event_start_s"],
        **{name: figures(name) for name in names},
    }


def measure(url: str, index: PicturesIndex, chosen: Iterable[tuple[Picture, Recording]]) -> list[Lag]:
    """Post each sound with its picture."""
    lags = []
    with tempfile.TemporaryDirectory() as folder, open_client(url) as client:
        for picture, recording in chosen:
            sound = loud_part(read_recording(recording.path))
            if not len(sound):
                continue
            path = Path(folder) / "clip.mp4"
            frame = crop_to_even(read_picture(picture)).frame
            waveform = np.zeros(int(CLIP_S * SAMPLE_RATE_HZ), np.float32)
            start = int(ONSET_S * SAMPLE_RATE_HZ)
            waveform[start : start + len(sound)] = sound
            frames = (frame for _ in range(int(CLIP_S * FRAME_RATE)))
            write_mp4(path, frames=frames, frame_rate=FRAME_RATE, waveform=waveform)
            names = frozenset(index.kinds[kind] for kind in index.heard(recording.kind))
            lags.append(compare(client.segment(path, OPTIONS), names, recording.name, len(sound) / SAMPLE_RATE_HZ))
    return lags


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the figures."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--per-kind", type=int, default=4, help="at most so many recordings of a kind")
    given = parser.parse_args(arguments)
    index = read_index(given.root)
    pictures = choose_pictures(index, split=given.split)
    with ExitStack() as stack:
        url = service_url(stack, url=given.url, checkpoint=given.checkpoint)
        lags = measure(url, index, choose_sounds(index, pictures, split=given.split, per_kind=given.per_kind))
    kinds = sorted({lag.kind for lag in lags})
    by_kind = {kind: summarise([lag for lag in lags if lag.kind == kind]) for kind in kinds}
    show_figures({**summarise(lags), "by_kind": by_kind}, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
