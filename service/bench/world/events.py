"""The part `events` of the benchmark: precision and recall of sound events, with the default options.

Clips of the synthetic world with one to four visible objects are posted with `only=events` to a service with the
checkpoint `tiny` (when something visible sounds) and to one with `tiny-semantic` (which kind). See `event_score` for
what is compared and left out.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from model.data.world.scene import SceneOptions, draw_scene
from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.world.clips import (
    ASPECT,
    FPS,
    FRAME_RATE,
    SECONDS,
    Respond,
    WorldClip,
    make_world_clip,
    running_responder,
)
from service.bench.world.event_score import EventTally, true_events
from service.domain.options import SegmentOptions

# By the name of the figures: whether kinds are labels.
CHECKPOINTS = {"tiny": False, "tiny-semantic": True}
# Of the first clip. The defaults of the event options were chosen on 60 clips from 3 200 000 on and 100 from 3 210 000
# on.
FIRST_SEED = 3_300_000
_OPTIONS = SegmentOptions(fps=FPS, only="events")


def measure_events(plan: BenchPlan, on_step: OnStep, *, num_clips: int) -> Figures:
    """Return precision, recall and lags of events for both checkpoints of the world."""
    tallies = {name: EventTally() for name in CHECKPOINTS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = {name: stack.enter_context(running_responder(plan.settings, name)) for name in CHECKPOINTS}
        for number in range(num_clips):
            on_step(f"events, clip {number + 1} of {num_clips}")
            options = SceneOptions(seconds=SECONDS, aspect=ASPECT)
            clip = make_world_clip(draw_scene(FIRST_SEED + number, options))
            path = clip.write(folder / "clip.mp4")
            for name, respond in services.items():
                _compare(clip, path, respond, tallies[name], is_semantic=CHECKPOINTS[name])
    figures: Figures = {}
    for name, tally in tallies.items():
        figures |= _figures(f"events.{name}", tally)
    return figures | {"events.num_clips": float(num_clips)}


def _compare(clip: WorldClip, path: Path, respond: Respond, tally: EventTally, *, is_semantic: bool) -> None:
    true = true_events(clip.scene, clip.mix.states, clip.ids, frame_rate_hz=float(FRAME_RATE), is_semantic=is_semantic)
    answered = respond(path, _OPTIONS).events
    for label in sorted({*true, *(event.label for event in answered)}):
        tally.add(true.get(label, []), [event for event in answered if event.label == label])


def _figures(name: str, tally: EventTally) -> Figures:
    lags_s = tally.lags_s or [(0.0, 0.0)]
    return {
        f"{name}.precision": tally.precision,
        f"{name}.recall": tally.recall,
        f"{name}.onset_lag_s": statistics.median(onset_s for onset_s, _ in lags_s),
        f"{name}.offset_lag_s": statistics.median(offset_s for _, offset_s in lags_s),
        f"{name}.num_true": float(tally.num_right + tally.num_missed),
    }
