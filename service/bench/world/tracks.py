"""The part `tracks` of the benchmark: do two crossing objects of one kind keep their identities?

Clips of `model.data.world.crossing` are posted to a service with the checkpoint `tiny` and `instances=true`; the tracks
that come back are compared with the world's objects. The same clips with the true masks in place of the model's tell
errors of tracking from errors of the model. Samples within 0.2 s of a source starting or stopping are left out, and so
are objects of which less than 0.3 % of the frame is visible (the world's rule for what is ambiguous).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from model.data.synthetic import MIN_VISIBLE_SHARE
from model.data.world.crossing import draw_crossing
from model.data.world.mix import is_near_edge
from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.world.clips import (
    ASPECT,
    FPS,
    SECONDS,
    Respond,
    WorldClip,
    make_world_clip,
    running_responder,
)
from service.bench.world.track_score import MATCH_IOU, TrackedFrame, hota, idf1, mask_ious
from service.domain.options import SegmentOptions
from service.domain.result import SOUNDING, FrameMasks, Mask, ModelInfo, Rle
from service.postprocess.instances import InstanceTracker

CHECKPOINT = "tiny"
# Of the first clip. The tracker's constants were chosen on the 40 clips from 3 100 000 on.
FIRST_SEED = 3_000_000
_OPTIONS = SegmentOptions(fps=FPS, instances=True)

_Bools = NDArray[np.bool_]
_Masks = Mapping[int, _Bools]


def measure_tracks(plan: BenchPlan, on_step: OnStep, *, num_clips: int) -> Figures:
    """Return IDF1 and HOTA with the model's masks and with true ones."""
    predicted: list[list[TrackedFrame]] = []
    true: list[list[TrackedFrame]] = []
    with tempfile.TemporaryDirectory() as folder, running_responder(plan.settings, CHECKPOINT) as respond:
        for number in range(num_clips):
            on_step(f"tracks, clip {number + 1} of {num_clips}")
            clip = make_world_clip(draw_crossing(FIRST_SEED + number, seconds=SECONDS, aspect=ASPECT))
            answered, followed = _follow(clip, clip.write(Path(folder) / "clip.mp4"), respond)
            predicted.append(compare_clip(clip, answered))
            true.append(compare_clip(clip, followed))
    return {
        "tracks.idf1": idf1(predicted),
        "tracks.hota": hota(predicted),
        "tracks.true_masks.idf1": idf1(true),
        "tracks.true_masks.hota": hota(true),
        "tracks.tracks_per_object": _num_ids(predicted) / max(1, 2 * sum(any(frames) for frames in predicted)),
        "tracks.num_clips": float(num_clips),
    }


def _follow(clip: WorldClip, path: Path, respond: Respond) -> tuple[Sequence[FrameMasks], Sequence[FrameMasks]]:
    """Return the service's frames, and frames of the same samples followed over the true masks."""
    answer = respond(path, _OPTIONS)
    tracker = InstanceTracker(step_s=1.0 / FPS)
    followed = []
    for frame in answer.frames:
        true = sounding_objects(clip, frame)
        whole = np.any(list(true.values()), axis=0) if true else np.zeros(clip.ids.shape[1:], bool)
        masks = (_mask(whole),) if whole.any() else ()
        picture = _at_model_size(clip.frames[frame.index], answer.model)
        followed.append(tracker.add(FrameMasks(frame.sample_time_s, frame.timestamp_s, frame.index, masks), picture))
    return answer.frames, followed


def sounding_objects(clip: WorldClip, frame: FrameMasks) -> _Masks:
    """Return the visible pixels (H, W) of the objects that sound in a frame, by id; hidden ones have none."""
    states = clip.mix.is_sounding(frame.sample_time_s)
    slots = [source.slot for source, is_on in zip(clip.scene.sources, states, strict=True) if source.slot and is_on]
    masks = {slot: clip.ids[frame.index] == slot for slot in slots}
    return {slot: mask for slot, mask in masks.items() if mask.any()}


def compare_clip(clip: WorldClip, frames: Sequence[FrameMasks]) -> list[TrackedFrame]:
    """Return what identity figures need of a clip; see the module for what is left out."""
    return [
        _compare_frame(sounding_objects(clip, frame), {mask.track_id or 0: _pixels(mask) for mask in frame.masks})
        for frame in frames
        if not is_near_edge(clip.scene, clip.mix, time_s=frame.sample_time_s)
    ]


def _compare_frame(objects: _Masks, answered: _Masks) -> TrackedFrame:
    """Compare a frame; an answered mask that is that of a hardly visible object is neither right nor wrong."""
    true = {slot: mask for slot, mask in objects.items() if mask.mean() >= MIN_VISIBLE_SHARE}
    ignored = [mask for slot, mask in objects.items() if slot not in true]
    kept = dict(answered)
    if ignored:
        ious = mask_ious(ignored, list(answered.values()))
        kept = {
            track: mask for (track, mask), iou in zip(answered.items(), ious.T, strict=True) if max(iou) < MATCH_IOU
        }
    return TrackedFrame(tuple(true), tuple(kept), mask_ious(list(true.values()), list(kept.values())))


def _num_ids(clips: Sequence[Sequence[TrackedFrame]]) -> int:
    return sum(len({track for frame in frames for track in frame.track_ids}) for frames in clips)


def _mask(pixels: _Bools) -> Mask:
    rle = coco.encode(np.asfortranarray(pixels, np.uint8))
    x, y, width, height = (int(side) for side in coco.toBbox(rle))
    size = (pixels.shape[0], pixels.shape[1])
    return Mask(SOUNDING, 1.0, int(pixels.sum()), (x, y, width, height), Rle(size, rle["counts"].decode("ascii")))


def _pixels(mask: Mask) -> _Bools:
    rle = {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts.encode("ascii")}
    return np.asarray(coco.decode(rle), bool)


def _at_model_size(picture: NDArray[np.uint8], model: ModelInfo) -> NDArray[np.uint8]:
    size = (model.input_width, model.input_height)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
