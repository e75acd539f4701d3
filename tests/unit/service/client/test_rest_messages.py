"""What a REST client makes of answers and problems, also of those that another program wrote."""

import pytest

from service.client.rest_messages import line_event, response_error
from service.domain.clip import ClipInfo
from service.domain.errors import CODES, ServiceError
from service.domain.options import AppliedOptions
from service.domain.request import ClipStarted
from service.domain.result import SOUNDING, FrameMasks, Mask, Rle, Summary


def test_an_ndjson_answer_is_read() -> None:
    head = (
        '{"type": "clip", "request_id": "id", "model": {"variant": "tiny", "checkpoint": "sha256:ab",'
        ' "labels": ["sounding"], "world_version": null}, "clip": {"width": 4, "height": 2,'
        ' "sample_aspect_ratio": "1:1", "duration_s": null, "frame_rate": 25.0, "num_samples": null},'
        ' "options": {"fps": "native", "start_s": 0.0, "end_s": null, "threshold": 0.5, "size": "source",'
        ' "labels": ["sounding"], "min_area": 0}}'
    )
    started = line_event(head)
    assert isinstance(started, ClipStarted)
    assert started.options == AppliedOptions("native", 0.0, None, 0.5, "source", (SOUNDING,), 0)
    assert started.clip == ClipInfo(4, 2, "1:1", None, 25.0, None)
    frame = line_event(
        '{"type": "frame", "sample_time_s": 0.9, "timestamp_s": 0.8, "index": 3, "masks": [{"label": "sounding",'
        ' "score": 0.5, "area": 2, "bbox": [1, 0, 2, 1], "segmentation": {"size": [2, 4], "counts": "21"}}]}'
    )
    assert frame == FrameMasks(0.9, 0.8, 3, (Mask("sounding", 0.5, 2, (1, 0, 2, 1), Rle((2, 4), "21")),))
    assert line_event('{"type": "end", "num_samples": 1, "timings_s": {"total": 1}}') == Summary(1, {"total": 1})
    with pytest.raises(ServiceError) as failed:
        line_event('{"type": "error", "problem": {"code": "broken", "detail": "d", "status": 422}}')
    assert (failed.value.code, failed.value.detail) == ("broken", "d")


def test_lines_of_a_newer_server_are_ignored() -> None:
    assert line_event('{"type": "heartbeat"}') is None
    assert line_event('{"type": "something new", "value": 1}') is None
    newer = '{"type":"end","num_samples":1,"timings_s":{},"cached":false,"something_new":[1]}'
    assert line_event(newer) == Summary(1)


@pytest.mark.parametrize("code", CODES)
def test_every_problem_is_read(code: str) -> None:
    body = f'{{"code": "{code}", "detail": "why", "retry_after_s": 1.5}}'.encode()
    error = response_error(500, body, retry_after=None)
    assert (error.code, error.detail, error.retry_after_s) == (code, "why", 1.5)


def test_what_a_proxy_says_is_read_by_its_status() -> None:
    error = response_error(503, b"<html>", retry_after="7")
    assert (error.code, error.retry_after_s) == ("backend_down", 7)
    assert response_error(418, b"[]", retry_after=None).code == "internal"
    with pytest.raises(ServiceError, match="protocol"):
        line_event("<html>")
