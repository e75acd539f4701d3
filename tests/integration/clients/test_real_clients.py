"""Programs that people use, against the real server: curl and Java with an offer of HTTP/2, Node's fetch, nginx."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.inputs.clips import make_clip
from support.servers.ports import free_port
from support.servers.service_process import ServiceProcess
from support.waiting import wait_until

GUARD_S = 120
JAVA = Path(__file__).parents[2] / "support" / "clients" / "HttpClientProbe.java"

NODE = """
const fs = require('fs');
(async () => {
  const form = new FormData();
  form.append('video', new Blob([fs.readFileSync(process.argv[2])], {type: 'video/mp4'}), 'clip.mp4');
  form.append('fps', '');
  const answer = await fetch(process.argv[1] + '/v1/segment/', {method: 'POST', body: form});
  const lines = await fetch(process.argv[1] + '/v1/segment', {method: 'POST', body: fs.readFileSync(process.argv[2]),
    headers: {'Content-Type': 'video/mp4', 'Accept': 'application/x-ndjson'}});
  const types = (await lines.text()).trim().split('\\n').map(line => JSON.parse(line).type);
  console.log(JSON.stringify({status: answer.status, frames: (await answer.json()).frames.length, types}));
})();
"""

# The images and masks that COCO's tools hold; of each mask its image, its area in the answer and in COCO's pixels.
TOLD = """
import json
masks = [mask for frame in answer.frames for mask in frame.masks]
pairs = list(zip(masks, results.dataset['annotations']))
areas = [[held['image_id'], [told.area, int(results.annToMask(held).sum())]] for told, held in pairs]
print(json.dumps([len(results.getImgIds()), [len(answer.frames), len(masks)], areas]))
"""

NGINX = """
{user}daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_max_body_size 300m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_read_timeout 60s; proxy_send_timeout 60s;
  server {{
    listen 127.0.0.1:{port};
    location /avs/ {{
      proxy_pass {upstream}/; proxy_http_version 1.1; proxy_buffering off; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Prefix /avs;
    }}
  }}
}}
"""


def tool(name: str) -> str:
    """Return a program's path, or skip the test."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not here: apt-get install {'nodejs' if name == 'node' else name}")
    return found


def run(*command: str) -> str:
    """Return what a program prints; fails with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(make_clip(num_frames=50))
    return path


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with ServiceProcess(trusted_proxies="127.0.0.1") as process:
        yield process


@contextmanager
def nginx_in_front(upstream: str, folder: Path) -> Iterator[str]:
    """Yield the address of the prefix behind nginx."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(user="user root;\n" if os.geteuid() == 0 else "", folder=folder, port=port, upstream=upstream)
    )
    with subprocess.Popen([tool("nginx"), "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL) as process:
        try:
            base = f"http://127.0.0.1:{port}/avs"
            command = [tool("curl"), "-fsS", "-o", "/dev/null", f"{base}/livez"]
            wait_until(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0)
            yield base
        finally:
            process.terminate()


@pytest.mark.parametrize("body", ["form", "raw", "chunked"])
def test_curl_that_offers_http2(service: ServiceProcess, clip: Path, body: str) -> None:
    sent = {
        "form": ["-F", f"video=@{clip};type=video/mp4"],
        "raw": ["--data-binary", f"@{clip}", "-H", "Content-Type: video/mp4"],
        "chunked": ["-T", str(clip), "-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Content-Type: video/mp4"],
    }[body]
    answer = json.loads(run(tool("curl"), "--http2", "-fsS", *sent, f"{service.url}/v1/segment"))
    assert len(answer["frames"]) == 2


@pytest.mark.java
def test_http_client_of_java(service: ServiceProcess, clip: Path) -> None:
    printed = run("java", str(JAVA), service.url, str(clip))
    answers = [line.split("\t") for line in printed.splitlines()]
    assert [name for name, *_ in answers] == ["raw", "form", "chunked", "chunked again"]
    for name, status, version, body in answers:
        assert (status, version) == ("200", "HTTP_1_1"), name
        assert len(json.loads(body)["frames"]) == 2, name


def test_fetch_of_node(service: ServiceProcess, clip: Path) -> None:
    answer = json.loads(run(tool("node"), "-e", NODE, service.url, str(clip)))
    assert answer == {"status": 200, "frames": 2, "types": ["clip", "frame", "frame", "end"]}


@pytest.mark.parametrize(
    ("options", "has_masks"),
    [("fps=1", True), ("size='model'", True), ("fps=40, instances=True", True), ("fps='native', threshold=1", False)],
)
def test_the_coco_recipe_reads_an_answer(
    service: ServiceProcess, tmp_path: Path, options: str, has_masks: bool
) -> None:
    clip = tmp_path / "bright.mp4"
    clip.write_bytes(make_clip(num_frames=50, flash_frames=frozenset(range(15, 50))))
    page = (Path(__file__).parents[3] / "docs" / "annotators.md").read_text(encoding="utf-8")
    [recipe] = [code for code in re.findall(r"(?ms)^```python\n(.*?)^```$", page) if "loadRes" in code]
    assert len([line for line in recipe.splitlines() if line.strip()]) == 10
    recipe = recipe.replace("http://127.0.0.1:8000", service.url)
    asked = f"Path({str(clip)!r}), SegmentOptions({options})"
    recipe = recipe.replace('Path("tests/assets/example.mp4")', asked)
    program = f"from avesformer_client import SegmentOptions\n{recipe}\n{TOLD}"
    num_images, num_masks, masks = json.loads(run(sys.executable, "-c", program).splitlines()[-1])
    assert num_images == num_masks[0] > 0
    assert len(masks) == num_masks[1]
    assert (len(masks) > 0) is has_masks
    for image, (told, counted) in masks:
        assert told == counted > 0
        assert 1 <= image <= num_images


def test_nginx_with_a_prefix(service: ServiceProcess, clip: Path, tmp_path: Path) -> None:
    curl = tool("curl")
    with nginx_in_front(service.url, tmp_path) as base:
        answer = json.loads(run(curl, "-fsS", "-F", f"video=@{clip};type=video/mp4", f"{base}/v1/segment"))
        assert len(answer["frames"]) == 2
        head = run(curl, "-fsS", "-D", "-", "-o", "/dev/null", "-F", f"video=@{clip};type=video/mp4", f"{base}/v1/jobs")
        found = re.search(r"(?im)^location: (\S+)", head)
        assert found is not None
        location = found[1]
        assert location.startswith("/avs/v1/jobs/")
        root = base.removesuffix("/avs")
        wait_until(lambda: json.loads(run(curl, "-fsS", root + location))["state"] == "done")
        [server] = json.loads(run(curl, "-fsS", f"{base}/openapi.json"))["servers"]
        assert server["url"].endswith("/avs")
        assert run(curl, "-fsS", f"{base}/docs")
        events = run(curl, "-fsSN", f"{root}{location}/events")
        assert "event: done" in events
