"""POST /segment over a real socket: both bodies, both answers, options, headers."""

from __future__ import annotations

import json

import httpx
import pytest
from support.components.scripted_decoders import Script
from support.servers.rest_front import FrontSpec, rest_front

from service.domain.errors import CODES

RAW = {"Content-Type": "video/mp4"}
NDJSON = {**RAW, "Accept": "application/x-ndjson"}


def comparable(answer: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in answer.items() if name not in ("request_id", "timings_s")}


def lines_of(response: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_json_answer_has_every_member_of_the_contract(tmp_path):
    async with rest_front(tmp_path) as front:
        response = await front.client.post("/v1/segment", content=Script(num_samples=40).encode(), headers=RAW)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert response.headers["content-type"] == "application/json"
        assert list(answer) == ["request_id", "model", "clip", "options", "frames", "events", "timings_s", "cached"]
        assert answer["request_id"] == response.headers["x-request-id"]
        assert answer["clip"]["num_samples"] == len(answer["frames"]) == 40
        assert [frame["index"] for frame in answer["frames"]] == list(range(40))
        masks = [mask for frame in answer["frames"] for mask in frame["masks"]]
        assert masks, "the fake predictor marks bright parts"
        assert all(mask["segmentation"]["size"] == [80, 96] for mask in masks)
        assert set(answer["timings_s"]) == {"upload", "decode", "queue", "predict", "encode", "total"}
        assert front.counted("requests_total", transport="rest", code="ok") == 1
        assert front.spool.used_bytes == 0


async def test_form_raw_and_ndjson_answer_alike(tmp_path):
    script = Script(num_samples=11, seed=5, num_samples_known=False).encode()
    async with rest_front(tmp_path) as front:
        raw = (await front.client.post("/segment?threshold=0.4&size=model", content=script, headers=RAW)).json()
        form = (
            await front.client.post(
                "/segment", files={"video": ("../../x", script)}, data={"threshold": "0.4", "size": "model"}
            )
        ).json()
        response = await front.client.post("/segment?threshold=0.4&size=model", content=script, headers=NDJSON)
        first, *rest, end = lines_of(response)
    frames = [line for line in rest if line["type"] == "frame"]
    events = [line for line in rest if line["type"] == "event"]
    assert raw["options"]["size"] == "model"
    assert comparable(raw) == comparable(form)
    assert first["type"] == "clip"
    assert first["clip"]["num_samples"] is None
    assert end["type"] == "end"
    assert end["num_samples"] == 11
    assert [{**frame, "type": "frame"} for frame in raw["frames"]] == frames
    assert [{**event, "type": "event"} for event in raw["events"]] == events
    assert events
    assert first["model"] == raw["model"]
    assert first["options"] == raw["options"]


@pytest.mark.parametrize(
    ("query", "naming"),
    [
        ("fps=0", "fps"),
        ("fps=nan", "fps"),
        ("fps=1e9", "fps"),
        ("fps=abc", "fps"),
        ("start_s=-1", "start_s"),
        ("start_s=5&end_s=4", "end_s"),
        ("threshold=1.5", "threshold"),
        ("size=huge", "size"),
        ("labels=dog", "dog"),
        ("min_area=-3", "min_area"),
        ("fsp=2", "fsp"),
        ("fps=1&fps=2", "fps"),
        ("fps=%ff", "query"),
    ],
)
async def test_bad_options_are_refused_by_name(tmp_path, query, naming):
    async with rest_front(tmp_path) as front:
        response = await front.client.post(f"/segment?{query}", content=Script().encode(), headers=RAW)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "bad_option")
    assert response.headers["content-type"] == "application/problem+json"
    assert naming in problem["detail"]


@pytest.mark.parametrize("fields", [{"fps": ["1", "2"]}, {"nonsense": "1"}, {"fps": "x" * 9000}])
async def test_bad_form_fields_are_refused(tmp_path, fields):
    async with rest_front(tmp_path) as front:
        response = await front.client.post("/segment", files={"video": ("a.mp4", Script().encode())}, data=fields)
        assert (response.status_code, response.json()["code"]) == (400, "bad_option")
        assert front.spool.used_bytes == 0


async def test_an_option_in_query_and_form_is_given_twice(tmp_path):
    async with rest_front(tmp_path) as front:
        response = await front.client.post(
            "/segment?fps=1", files={"video": ("a.mp4", Script().encode())}, data={"fps": "2"}
        )
    assert response.json()["code"] == "bad_option"


BODIES = [
    ({}, b"", 400, "missing_file"),
    (RAW, b"", 400, "empty_file"),
    ({"Content-Type": "text/plain"}, b"x", 415, "unsupported_content_type"),
    ({}, b"x", 415, "unsupported_content_type"),
    ({**RAW, "Content-Encoding": "gzip"}, b"x", 415, "unsupported_encoding"),
    ({**RAW, "Accept": "text/html"}, b"x", 406, "not_acceptable"),
    ({**RAW, "Accept": "application/json;q=0"}, b"x", 406, "not_acceptable"),
    ({**RAW, "X-Request-Timeout": "soon"}, b"x", 400, "bad_option"),
    ({**RAW, "X-Request-Timeout": "-1"}, b"x", 400, "bad_option"),
    (RAW, b"x", 415, "not_mp4"),
    (RAW, b"x" * (5 * 1024**2), 413, "upload_too_large"),
    ({"Content-Type": "multipart/form-data"}, b"x", 400, "malformed_body"),
    ({"Content-Type": "multipart/form-data; boundary=b"}, b"x", 400, "malformed_body"),
    ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 400, "missing_file"),
    (
        {"Content-Type": "multipart/form-data; boundary=b"},
        b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n',
        400,
        "malformed_body",
    ),
    (
        {"Content-Type": "multipart/form-data; boundary=b"},
        b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n\r\n--b--\r\n',
        400,
        "empty_file",
    ),
    (
        {"Content-Type": "multipart/form-data; boundary=b"},
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--b--\r\n',
        400,
        "bad_option",
    ),
    (
        {"Content-Type": "multipart/form-data; boundary=b"},
        b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n",
        400,
        "malformed_body",
    ),
]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"), BODIES, ids=[f"{n}-{case[3]}" for n, case in enumerate(BODIES)]
)
async def test_bad_bodies_have_their_documented_answer(tmp_path, headers, body, status, code):
    async with rest_front(tmp_path) as front:
        response = await front.client.post("/segment", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert front.counted("requests_total", transport="rest", code=code) == 1
        assert front.spool.used_bytes == 0
        assert front.admission.in_flight == 0


async def test_two_files_are_one_too_many(tmp_path):
    async with rest_front(tmp_path) as front:
        files = [("video", ("a.mp4", Script().encode())), ("video", ("b.mp4", Script().encode()))]
        response = await front.client.post("/segment", files=files)
    assert response.json()["code"] == "malformed_body"


async def test_chunked_body_over_the_limit_is_refused_while_it_comes(tmp_path):
    async def too_long():
        for _ in range(FrontSpec.max_upload_bytes // 65536 + 16):  # a little more: it is read to its end for 10 s only
            yield b"x" * 65536

    async with rest_front(tmp_path) as front:
        response = await front.client.post("/segment", content=too_long(), headers=RAW)
        assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")


@pytest.mark.parametrize("code", sorted(code for code, spec in CODES.items() if spec.kind == "unusable_clip"))
async def test_a_clip_that_fails_at_once_keeps_its_status_on_both_media_types(tmp_path, code):
    script = Script(error=code).encode()
    async with rest_front(tmp_path) as front:
        for headers in (RAW, NDJSON):
            response = await front.client.post("/segment", content=script, headers=headers)
            assert response.status_code == 422
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == code


async def test_failure_after_the_first_frame_is_an_error_line(tmp_path):
    script = Script(num_samples=300, error="broken", error_after=200).encode()
    async with rest_front(tmp_path) as front:
        response = await front.client.post("/segment", content=script, headers=NDJSON)
        whole = await front.client.post("/segment", content=script, headers=RAW)
        lines = lines_of(response)
        assert response.status_code == 200
        assert lines[-1]["type"] == "error"
        assert lines[-1]["problem"]["code"] == "broken"
        assert [line["index"] for line in lines[1:-1]] == list(range(len(lines) - 2))
        assert whole.status_code == 422
        assert front.counted("requests_total", transport="rest", code="broken") == 2


async def test_answer_over_the_limit_is_refused_as_json_and_streams_as_lines(tmp_path):
    script = Script(num_samples=64).encode()
    async with rest_front(tmp_path, FrontSpec(max_answer_bytes=4096)) as front:
        whole = await front.client.post("/segment", content=script, headers=RAW)
        lines = await front.client.post("/segment", content=script, headers=NDJSON)
    assert (whole.status_code, whole.json()["code"]) == (422, "answer_too_large")
    assert lines_of(lines)[-1]["type"] == "end"


async def test_request_id_is_echoed_if_safe_and_made_anew_if_not(tmp_path):
    async with rest_front(tmp_path) as front:
        echoed = await front.client.get("/livez", headers={"X-Request-ID": "abc-123"})
        replaced = await front.client.get("/livez", headers={"X-Request-ID": "a b\t<script>"})
        problem = await front.client.get("/nowhere", headers={"X-Request-ID": "abc-124"})
    assert echoed.headers["x-request-id"] == "abc-123"
    assert len(replaced.headers["x-request-id"]) == 32
    assert problem.json()["request_id"] == "abc-124"


async def test_unknown_routes_and_methods_are_problems(tmp_path):
    async with rest_front(tmp_path) as front:
        missing = await front.client.get("/v1/nowhere")
        method = await front.client.get("/v1/segment")
    assert (missing.status_code, missing.json()["code"]) == (404, "route_not_found")
    assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


async def test_timeout_header_ends_a_hanging_clip(tmp_path):
    async with rest_front(tmp_path) as front:
        response = await front.client.post(
            "/segment", content=Script(hangs_after=0).encode(), headers={**RAW, "X-Request-Timeout": "0.3"}
        )
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        assert front.decoders.num_open == 0


async def test_keys_are_asked_before_anything_else(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# hashes\n2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683 me\n")  # "key"
    async with rest_front(tmp_path, FrontSpec(keys_file=keys)) as front:
        without = await front.client.post("/segment", content=b"x", headers=RAW)
        wrong = await front.client.post("/segment", content=b"x", headers={**RAW, "Authorization": "Bearer nope"})
        right = await front.client.post(
            "/segment", content=Script().encode(), headers={**RAW, "Authorization": "Bearer key"}
        )
        open_route = await front.client.get("/readyz")
    assert (without.status_code, without.json()["code"]) == (401, "unauthenticated")
    assert without.headers["www-authenticate"].startswith("Bearer")
    assert wrong.status_code == 401
    assert right.status_code == 200
    assert open_route.status_code == 200


async def test_before_the_model_is_loaded_work_is_refused_and_readyz_says_so(tmp_path):
    async with rest_front(tmp_path, FrontSpec(is_warm=False)) as front:
        ready = await front.client.get("/readyz")
        alive = await front.client.get("/livez")
        work = await front.client.post("/segment", content=Script().encode(), headers=RAW)
    assert (ready.status_code, ready.json()["code"]) == (503, "warming_up")
    assert alive.status_code == 200
    assert (work.status_code, work.json()["code"]) == (503, "warming_up")
    assert int(work.headers["retry-after"]) >= 1
