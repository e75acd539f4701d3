"""/openapi.json against the running front: references resolve, answers fit the schemas they are documented with."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator
from support.components.scripted_decoders import Script
from support.servers.rest_front import rest_front

from service.codec.answer_json import decode_document
from service.domain.options import OPTION_NAMES
from service.rest.requests.request_head import RAW_TYPES

LINE_MODELS = {"clip": "ClipLine", "frame": "FrameLine", "end": "EndLine", "error": "ErrorLine"}


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_the_document_resolves_and_names_the_routes(tmp_path):
    async with rest_front(tmp_path) as front:
        document = (await front.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    assert {"/v1/segment", "/v1/livez", "/v1/readyz", "/v1/metrics", "/v1/version"} <= set(document["paths"])
    assert all(path.startswith("/v1/") for path in document["paths"])
    segment = document["paths"]["/v1/segment"]["post"]
    assert {"multipart/form-data", "application/json", *RAW_TYPES} == set(segment["requestBody"]["content"])
    assert "422" in segment["responses"]
    assert "HTTPValidationError" not in schemas


async def test_answers_fit_their_schemas_and_have_nothing_else(tmp_path):
    headers = {"Content-Type": "video/mp4"}
    async with rest_front(tmp_path) as front:
        schemas = (await front.client.get("/openapi.json")).json()["components"]["schemas"]
        whole = await front.client.post("/segment", content=Script(num_samples=6).encode(), headers=headers)
        broken = Script(num_samples=300, error="broken", error_after=200).encode()
        lines = await front.client.post(
            "/segment", content=broken, headers={**headers, "Accept": "application/x-ndjson"}
        )
        problem = await front.client.post("/segment", content=b"x", headers=headers)
    assert decode_document(whole.content).frames
    check(schemas, "Answer", whole.json())
    for line in lines.text.splitlines():
        check(schemas, LINE_MODELS[json.loads(line)["type"]], json.loads(line))
    check(schemas, "Problem", problem.json())


def check(schemas, name, value):
    """The value fits the documented schema and has no member that the schema does not name."""
    closed = {key: {**schema, "additionalProperties": False} for key, schema in schemas.items()}
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": closed}}).validate(value)


async def test_options_and_headers_are_parameters_of_the_route(tmp_path):
    async with rest_front(tmp_path) as front:
        document = (await front.client.get("/openapi.json")).json()
    for path, more in (("/v1/segment", ("format", "rle")), ("/v1/jobs", ("webhook",))):
        if path not in document["paths"]:
            continue
        parameters = document["paths"][path]["post"]["parameters"]
        query = {entry["name"]: entry for entry in parameters if entry["in"] == "query"}
        assert tuple(query) == (*OPTION_NAMES, *more)
        assert query["threshold"]["schema"]["maximum"] == 1
        assert query["size"]["schema"]["enum"] == ["source", "model"]
        assert query["audio_track"]["schema"]["type"] == "integer"
        assert all(entry["description"] and not entry["required"] for entry in query.values())
        headers = {entry["name"] for entry in parameters if entry["in"] == "header"}
        assert {"X-Request-ID", "X-Request-Timeout", "Idempotency-Key", "Cache-Control", "traceparent"} <= headers


async def test_pages_are_served_by_us_alone(tmp_path):
    async with rest_front(tmp_path) as front:
        for path in ("/", "/docs", "/v1/docs", "/static/page.js", "/static/viewer/viewer.css"):
            response = await front.client.get(path)
            assert response.status_code == 200, path
            assert "default-src 'self'" in response.headers["content-security-policy"]
            assert "http://" not in response.text.replace("http://www.w3.org", "")
            assert "https://" not in response.text
        for path in (
            "/static/../app.py",
            "/static/%2e%2e%2fapp.py",
            "/static/nothing.js",
            "/static/",
            "/static/api_docs/docs.html",
        ):
            assert (await front.client.get(path)).status_code == 404, path
        assert "avesformer_requests_in_flight" in (await front.client.get("/metrics")).text
        assert (await front.client.head("/readyz")).status_code == 200
