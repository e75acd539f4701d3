"""Answers as JSON (docs/contract.md, "Answer"): domain values to plain mappings."""

from __future__ import annotations

import json

from service.domain.clip import ClipInfo
from service.domain.options import AppliedOptions
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Summary

_SCORE_DECIMALS = 6


def encode(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def model_shape(model: ModelInfo) -> dict[str, object]:
    """The answer's `model`."""
    return {
        "variant": model.variant,
        "checkpoint": model.checkpoint,
        "labels": list(model.labels),
        "world_version": model.world_version,
    }


def clip_shape(clip: ClipInfo, *, num_samples: int | None) -> dict[str, object]:
    """The answer's `clip`; the caller may know the number of samples better than the file's index did."""
    return {
        "width": clip.width,
        "height": clip.height,
        "sample_aspect_ratio": clip.sample_aspect_ratio,
        "duration_s": clip.duration_s,
        "frame_rate": clip.frame_rate,
        "num_samples": num_samples,
    }


def options_shape(options: AppliedOptions) -> dict[str, object]:
    """The answer's `options`, as applied."""
    return {
        "fps": "native" if options.fps is None else options.fps,
        "start_s": options.start_s,
        "end_s": options.end_s,
        "threshold": options.threshold,
        "size": options.size,
        "labels": list(options.labels),
        "min_area": options.min_area,
    }


def started_shape(started: ClipStarted, *, num_samples: int | None) -> dict[str, object]:
    """What an answer opens with on both media types."""
    return {
        "request_id": started.request_id,
        "model": model_shape(started.model),
        "clip": clip_shape(started.clip, num_samples=num_samples),
        "options": options_shape(started.options),
    }


def frame_shape(frame: FrameMasks) -> dict[str, object]:
    """One entry of `frames`."""
    return {
        "sample_time_s": frame.sample_time_s,
        "timestamp_s": frame.timestamp_s,
        "index": frame.index,
        "masks": [_mask_shape(mask) for mask in frame.masks],
    }


def summary_shape(summary: Summary) -> dict[str, object]:
    """What an answer closes with."""
    return {"timings_s": summary.timings_s, "cached": summary.cached}


def _mask_shape(mask: Mask) -> dict[str, object]:
    return {
        "label": mask.label,
        "score": round(float(mask.score), _SCORE_DECIMALS),
        "area": int(mask.area),
        "bbox": [int(value) for value in mask.bbox],
        "segmentation": {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts},
    }
