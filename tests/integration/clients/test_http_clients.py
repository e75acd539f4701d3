"""What HTTP clients, browsers and proxies do that is neither usual nor wrong."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
from support.components.scripted_decoders import Script
from support.servers.front import running_front
from support.servers.rest_front import FrontSpec, rest_front

from service.rest.app import EdgePolicy
from service.rest.connection.proxy import proxy_policy
from service.settings import Settings

RAW = {"Content-Type": "video/mp4"}
PAGES = ("/", "/docs", "/static/page.js", "/openapi.json", "/livez", "/readyz", "/metrics", "/version")
ORIGIN = "https://app.example"


@pytest.mark.parametrize("path", ["/segment/", "/v1/segment/", "/segment", "/v1/segment"])
async def test_a_trailing_slash_changes_nothing(tmp_path, path):
    async with rest_front(tmp_path) as front:
        answer = await front.client.post(path, content=Script().encode(), headers=RAW, follow_redirects=False)
        assert answer.status_code == 200, answer.text
        assert (await front.client.get("/readyz/")).json() == {"status": "ready"}
        assert (await front.client.get("/nothing/")).json()["code"] == "route_not_found"


@pytest.mark.parametrize("path", PAGES)
async def test_head_is_get_without_its_body(tmp_path, path):
    async with rest_front(tmp_path) as front:
        head, get = await front.client.head(path), await front.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("is_stripped", [True, False], ids=["stripped", "kept"])
async def test_behind_a_prefix_every_address_is_right(tmp_path, is_stripped):
    sent = "" if is_stripped else "/avs"
    spec = FrontSpec(edge=EdgePolicy(proxy_policy("/avs/", [])))
    async with rest_front(tmp_path, spec) as front:
        page = (await front.client.get(f"{sent}/")).text
        links = re.findall(r'(?:href|src)="([^"#]+)"', page)
        assert links
        for link in links:
            assert link.startswith("/avs/"), link
            answer = await front.client.get(sent + link.removeprefix("/avs"))
            assert answer.status_code == 200 or link.endswith("icon.svg")
        document = (await front.client.get(f"{sent}/openapi.json")).json()
        assert document["servers"] == [{"url": "/avs"}]
        assert (await front.client.post(f"{sent}/segment", content=Script().encode(), headers=RAW)).status_code == 200
        if not is_stripped:
            assert (await front.client.get("/avs")).text == page


async def test_only_trusted_proxies_set_the_prefix(tmp_path):
    told = {"X-Forwarded-Prefix": "/avs"}
    for trusted, expected in ((["127.0.0.0/8"], [{"url": "/avs"}]), (["10.0.0.0/8"], None), ([], None)):
        spec = FrontSpec(edge=EdgePolicy(proxy_policy("", trusted)))
        async with rest_front(tmp_path, spec) as front:
            document = (await front.client.get("/openapi.json", headers=told)).json()
            assert document.get("servers") == expected
            for hostile in ('/"><script>', "//evil.example", "https://evil.example", "/a b"):
                page = (await front.client.get("/", headers={"X-Forwarded-Prefix": hostile})).text
                assert 'href="/static/page.css"' in page


async def test_the_location_of_a_job_carries_the_prefix(tmp_path):
    clip = (Path(__file__).parents[2] / "assets" / "synthetic.mp4").read_bytes()
    async with (
        running_front(root_path="/avs", state_dir=tmp_path) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=60) as client,
    ):
        answer = await client.post("/v1/jobs", content=clip, headers=RAW)
        assert answer.status_code == 202, answer.text
        location = answer.headers["location"]
        assert location == f"/avs/v1/jobs/{answer.json()['job_id']}"
        assert (await client.get(location)).status_code == 200
        assert (await client.put(location)).headers["allow"] == "DELETE, GET"


async def test_jobs_take_a_trailing_slash_behind_a_trusted_proxy(tmp_path):
    clip = (Path(__file__).parents[2] / "assets" / "synthetic.mp4").read_bytes()
    told = {"X-Forwarded-Prefix": "/team/avs/"}
    async with (
        running_front(trusted_proxies="127.0.0.1", state_dir=tmp_path) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=60) as client,
    ):
        answer = await client.post("/v1/jobs/?fps=2", content=clip, headers={**RAW, **told})
        assert answer.status_code == 202, answer.text
        location = f"/v1/jobs/{answer.json()['job_id']}"
        assert answer.headers["location"] == f"/team/avs{location}"
        for path in (f"{location}/", f"/team/avs{location}"):
            found = await client.get(path, headers=told)
            assert (found.status_code, found.json()["job_id"]) == (200, answer.json()["job_id"]), path
        assert (await client.delete(f"{location}/", headers=told)).status_code == 204


async def test_other_origins_are_let_in_where_they_are_named(tmp_path):
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-request-timeout",
    }
    async with rest_front(tmp_path, FrontSpec(edge=EdgePolicy(cors_origins=(ORIGIN,)))) as front:
        allowed = await front.client.options("/v1/segment", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        answers = [
            await front.client.post("/v1/segment", content=Script().encode(), headers={**RAW, "Origin": ORIGIN}),
            await front.client.post("/v1/segment", content=b"", headers={**RAW, "Origin": ORIGIN}),
        ]
        for answer, status in zip(answers, (200, 400), strict=True):
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
            assert {"Location", "Retry-After", "X-Request-ID", "ETag"} <= exposed
        other = await front.client.options("/v1/segment", headers={**preflight, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
    async with rest_front(tmp_path) as front:
        refused = await front.client.options("/v1/segment", headers=preflight)
        assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
        assert "access-control-allow-origin" not in refused.headers


async def test_a_refused_method_names_all_that_the_path_takes(tmp_path):
    wanted = {"/v1/segment": "POST", "/segment/": "POST", "/v1/livez": "GET, HEAD", "/": "GET, HEAD"}
    async with rest_front(tmp_path) as front:
        for path, methods in wanted.items():
            refused = await front.client.request("PATCH", path)
            assert (refused.status_code, refused.headers["allow"]) == (405, methods), path


@pytest.mark.parametrize("value", ["", "  "], ids=repr)
async def test_blank_form_fields_are_options_not_given(tmp_path, value):
    fields = {"fps": value, "threshold": value, "labels": value, "min_area": value, "size": "model"}
    async with rest_front(tmp_path) as front:
        answer = await front.client.post("/segment", data=fields, files={"video": Script().encode()})
        assert answer.status_code == 200, answer.text
        options = answer.json()["options"]
        assert (options["fps"], options["min_area"], options["size"]) == (1, 0, "model")


async def test_blank_query_parameters_are_options_not_given(tmp_path):
    async with rest_front(tmp_path) as front:
        path = "/segment?fps=&labels=&end_s=%20&threshold=&size=model"
        answer = await front.client.post(path, content=Script().encode(), headers=RAW)
        assert answer.status_code == 200, answer.text
        options = answer.json()["options"]
        assert (options["fps"], options["end_s"], options["size"]) == (1, None, "model")


@pytest.mark.parametrize(
    "content_type",
    ["video/x-m4v", "video/3gpp", "video/3gpp2", "application/mp4", "video/mp4; codecs=avc1", "VIDEO/MP4"],
)
async def test_more_names_of_the_same_format(tmp_path, content_type):
    async with rest_front(tmp_path) as front:
        answer = await front.client.post("/segment", content=Script().encode(), headers={"Content-Type": content_type})
        assert answer.status_code == 200, answer.text


def form(preamble: bytes, epilogue: bytes = b"") -> bytes:
    part = b'--cut\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    return preamble + part + Script().encode() + b"\r\n--cut--\r\n" + epilogue


@pytest.mark.parametrize("is_slow", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(b"This is a multi-part message in MIME format.\r\n"), 200),
        (form(b"\r\n"), 200),
        (form(b"--cu is no boundary\r\n"), 200),
        (form(b""), 200),
        (form(b"no line end"), 400),
        (form(b"x" * 20_000 + b"\r\n"), 400),
    ],
)
async def test_text_before_the_first_boundary_is_ignored(tmp_path, body, status, is_slow):
    async def pieces():
        for at in range(0, len(body), 7 if is_slow else len(body)):
            yield body[at : at + (7 if is_slow else len(body))]

    async with rest_front(tmp_path) as front:
        headers = {"Content-Type": "multipart/form-data; boundary=cut"}
        answer = await front.client.post("/segment", content=pieces(), headers=headers)
        assert answer.status_code == status, answer.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_with_http2_sends_its_body_once(tmp_path):
    """curl offers `Upgrade: h2c` with the upload and needs the body to be read."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(Script().encode())
    async with rest_front(tmp_path) as front:
        url = f"http://127.0.0.1:{front.port}/v1/segment"
        for how in (["-F", f"video=@{clip}"], ["--data-binary", f"@{clip}", "-H", "Content-Type: video/mp4"]):
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "--http2", *how, url, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert json.loads(out)["frames"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"root_path": "avs"},
        {"root_path": "/a b"},
        {"root_path": "//host"},
        {"trusted_proxies": "10.0.0.1/8"},
        {"trusted_proxies": "proxy.example"},
        {"cors_origins": "app.example"},
        {"cors_origins": "https://app.example/path"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_name_their_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
