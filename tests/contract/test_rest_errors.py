"""The error table over HTTP: every code that a request can meet, its status, its headers, its body."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
from support.components.scripted_decoders import Script, ScriptedDecoders
from support.servers.rest_front import FrontSpec, rest_front

from service.domain.errors import CODES, Kind
from service.predictors.fake import FakeTiming
from service.rest.errors import status_of

RAW = {"Content-Type": "video/mp4"}
MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_every_code_has_one_form_on_both_media_types(tmp_path, accept):
    async with rest_front(tmp_path) as front:
        for code, spec in CODES.items():
            if spec.kind is Kind.CANCELLED:
                continue
            headers = {**RAW, "Accept": accept, "X-Request-ID": f"id-{code}"}
            response = await front.client.post("/v1/segment", content=Script(error=code).encode(), headers=headers)
            problem = response.json()
            assert response.status_code == problem["status"] == status_of(code), code
            assert response.headers["content-type"] == "application/problem+json"
            assert problem["code"] == code
            assert problem["type"] == f"urn:avesformer:problem:{code}"
            assert problem["title"] == spec.title
            assert problem["request_id"] == response.headers["x-request-id"] == f"id-{code}"
            must_wait = spec.kind in (Kind.OVERLOADED, Kind.UNAVAILABLE)
            assert set(problem) == MEMBERS | ({"retry_after_s"} if must_wait else set()), code
            if must_wait:
                assert response.headers["retry-after"] == str(problem["retry_after_s"])
            assert front.counted("requests_total", transport="rest", code=code) == 1


class BrokenDecoders(ScriptedDecoders):
    """Fails in a way that nobody foresaw."""

    @asynccontextmanager
    async def open(self, upload, request, *, deadline):
        raise RuntimeError("libsecret said: /root/secret/path")
        yield


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_what_nobody_foresaw_is_internal_and_tells_nothing(tmp_path, accept):
    async with rest_front(tmp_path, decoders=BrokenDecoders()) as front:
        response = await front.client.post("/segment", content=b"{}", headers={**RAW, "Accept": accept})
        again = await front.client.get("/livez")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert again.status_code == 200


async def test_a_deadline_that_cannot_be_met_is_refused_before_the_upload(tmp_path):
    async with rest_front(tmp_path, FrontSpec(timing=FakeTiming(batch_s=0.05))) as front:
        front.admission._predicted_wait_s = lambda: 7.0
        headers = {**RAW, "X-Request-Timeout": "5"}
        response = await front.client.post("/segment", content=Script().encode(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (429, "cannot_meet_deadline")
        assert front.counted("shed_total", reason="cannot_meet_deadline") == 1
        assert front.spool.used_bytes == 0


async def test_error_lines_hold_the_same_problem(tmp_path):
    script = Script(num_samples=300, error="too_costly", error_after=200).encode()
    async with rest_front(tmp_path) as front:
        headers = {**RAW, "Accept": "application/x-ndjson", "X-Request-ID": "late"}
        response = await front.client.post("/segment", content=script, headers=headers)
    last = json.loads(response.text.splitlines()[-1])
    assert last["type"] == "error"
    assert set(last["problem"]) == MEMBERS
    assert last["problem"]["request_id"] == "late"
    assert last["problem"]["status"] == 422
