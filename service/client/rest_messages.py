"""REST on the wire: options to query fields, lines of NDJSON to events, problems to errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from service.client.failures import error_of
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions, MaskSize, SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, Summary

Json = Mapping[str, Any]


def option_fields(options: SegmentOptions) -> dict[str, str]:
    """Query fields of the options that are not the default; the inverse of `domain.options.parse_options`."""
    default = SegmentOptions()
    fields: dict[str, str] = {}
    if options.native_fps:
        fields["fps"] = "native"
    elif options.fps != default.fps:
        fields["fps"] = repr(options.fps)
    for name in ("start_s", "end_s", "threshold", "size", "min_area"):
        value = getattr(options, name)
        if value != getattr(default, name):
            fields[name] = str(value)
    if options.labels:
        fields["labels"] = ",".join(options.labels)
    return fields


def line_event(line: str) -> AnswerEvent | None:
    """One NDJSON line; None for a heartbeat or a kind that is not known yet. Raises what an error line tells."""
    entry = parse_json(line)
    kind = entry.get("type")
    if kind == "clip":
        return clip_started(entry)
    if kind == "frame":
        return frame_masks(entry)
    if kind == "end":
        return Summary(int(entry["num_samples"]), dict(entry["timings_s"]), bool(entry.get("cached", False)))
    if kind == "error":
        raise problem_error(entry["problem"])
    return None


def clip_started(entry: Json) -> ClipStarted:
    """The head of an answer."""
    clip = entry["clip"]
    return ClipStarted(
        request_id=entry["request_id"],
        model=model_info(entry["model"]),
        clip=ClipInfo(
            width=clip["width"],
            height=clip["height"],
            sample_aspect_ratio=clip["sample_aspect_ratio"],
            duration_s=clip["duration_s"],
            frame_rate=clip["frame_rate"],
            num_samples=clip["num_samples"],
        ),
        options=_applied_options(entry["options"]),
    )


def model_info(entry: Json) -> ModelInfo:
    """The model; its input size is not part of a REST answer and is 0 where it is missing."""
    return ModelInfo(
        variant=entry["variant"],
        checkpoint=entry["checkpoint"],
        labels=tuple(entry["labels"]),
        world_version=entry.get("world_version"),
        input_height=entry.get("input_height", 0),
        input_width=entry.get("input_width", 0),
    )


def frame_masks(entry: Json) -> FrameMasks:
    """The masks of one frame."""
    masks = tuple(_mask(mask) for mask in entry["masks"])
    return FrameMasks(entry["sample_time_s"], entry["timestamp_s"], entry["index"], masks)


def problem_error(problem: Json, *, status: int = 500) -> ServiceError:
    """An RFC 9457 problem as the error it stands for."""
    told = problem.get("retry_after_s")
    retry_after_s = float(told) if isinstance(told, int | float) else None
    detail = str(problem.get("detail") or problem.get("title") or "The service gave no reason.")
    code = problem.get("code")
    return error_of(code if isinstance(code, str) else None, detail, http_status=status, retry_after_s=retry_after_s)


def response_error(status: int, body: bytes, *, retry_after: str | None) -> ServiceError:
    """An answer that is not a success as an error, also where a proxy and not the service wrote it."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"The server answered {status} without saying why."}
    if "retry_after_s" not in problem and retry_after is not None and retry_after.isdigit():
        problem["retry_after_s"] = int(retry_after)
    return problem_error(problem, status=status)


def parse_json(text: str) -> Json:
    """A JSON object; raises `backend_down` for anything else."""
    try:
        entry = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise ServiceError("backend_down", "What answered does not speak this service's protocol.")
    return entry


def _applied_options(entry: Json) -> AppliedOptions:
    fps = entry["fps"]
    return AppliedOptions(
        fps=None if fps == "native" else float(fps),
        start_s=entry["start_s"],
        end_s=entry["end_s"],
        threshold=entry["threshold"],
        size=cast(MaskSize, entry["size"]),
        labels=tuple(entry["labels"]),
        min_area=entry["min_area"],
    )


def _mask(entry: Json) -> Mask:
    x, y, width, height = entry["bbox"]
    rle = entry["segmentation"]
    rows, columns = rle["size"]
    return Mask(
        entry["label"], entry["score"], entry["area"], (x, y, width, height), Rle((rows, columns), rle["counts"])
    )
