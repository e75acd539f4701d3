"""Measure how long a viewer waits for the first mask after the upload has ended: NDJSON over HTTP, one client."""

from __future__ import annotations

import json
import statistics
import time
from http.client import HTTPConnection
from pathlib import Path

from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.processes import RunningService

_REPEATS = 7
_HEADERS = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson", "Cache-Control": "no-cache"}
# Longest wait for an answer, in seconds.
_HANG_S = 300.0


def measure_first_mask(plan: BenchPlan, service: RunningService, on_step: OnStep) -> Figures:
    """Post the first clip of the plan again and again, past the cache.

    Returns:
        `service.first_mask.p50_s` and `.max_s`: seconds from the last byte of the upload to the first frame line
        that has a mask.

    Raises:
        RuntimeError: the answer has no mask.
    """
    on_step("first mask")
    clip = next(iter(plan.clips.values()))
    waits_s = [_first_mask_s(clip, service) for _ in range(_REPEATS)]
    return {"service.first_mask.p50_s": statistics.median(waits_s), "service.first_mask.max_s": max(waits_s)}


def _first_mask_s(clip: Path, service: RunningService) -> float:
    connection = HTTPConnection("127.0.0.1", service.http_port, timeout=_HANG_S)
    try:
        connection.request("POST", "/v1/segment", body=clip.read_bytes(), headers=_HEADERS)
        sent_s = time.monotonic()
        for line in connection.getresponse():
            arrived_s = time.monotonic()
            if json.loads(line).get("masks"):
                return arrived_s - sent_s
    finally:
        connection.close()
    raise RuntimeError(f"{clip.name}: the answer has no mask")
