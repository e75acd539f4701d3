"""Heartbeats carry streams that are silent for longer than the read time-outs of nginx, over HTTP and gRPC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from support.clips import make_clip
from support.ports import free_port
from support.service_process import ServiceProcess
from support.waiting import wait_until

from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
GUARD_S = 120.0
# The first chunk has at most 4 samples, the second one 32: 4.5 s of silence between their answers.
READ_TIMEOUT_S, ITEM_S, NUM_FRAMES, MAX_BATCH = 3, 0.14, 36, 4
CONFIG = """
{user}daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 10m;
  server {{
    listen 127.0.0.1:{http_port};
    location / {{ proxy_pass {url}; proxy_http_version 1.1; proxy_read_timeout {timeout}s; }}
  }}
  server {{
    listen 127.0.0.1:{grpc_port} http2;
    location / {{ grpc_pass grpc://{target}; grpc_read_timeout {timeout}s; grpc_send_timeout {timeout}s; }}
  }}
}}
"""


@contextmanager
def nginx_in_front(service: ServiceProcess, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URL and the gRPC address behind nginx."""
    assert NGINX is not None
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            user="user root;\n" if os.geteuid() == 0 else "",
            folder=folder,
            url=service.url,
            target=service.grpc_target,
            timeout=READ_TIMEOUT_S,
            **ports,
        )
    )
    with subprocess.Popen([NGINX, "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{ports['http_port']}"
            wait_until(lambda: answers(url))
            yield url, f"127.0.0.1:{ports['grpc_port']}"
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def http_lines(url: str, clip: bytes) -> list[str]:
    """Return the kinds of the lines of an NDJSON answer."""
    headers = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson"}
    answer = httpx.post(f"{url}/v1/segment?fps=native", content=clip, headers=headers, timeout=GUARD_S)
    return [json.loads(line)["type"] for line in answer.text.splitlines()]


def grpc_messages(target: str, clip: bytes) -> list[str]:
    """Return the kinds of the messages of a Segment call."""
    requests = [pb.SegmentRequest(options=pb.SegmentOptions(native_fps=True)), pb.SegmentRequest(chunk=clip)]
    with grpc.insecure_channel(target) as channel:
        answer = SegmentationStub(channel).Segment(iter(requests), timeout=GUARD_S)
        return [str(message.WhichOneof("payload")) for message in answer]


@pytest.mark.skipif(NGINX is None, reason="nginx is not here: apt-get install nginx-light")
def test_heartbeats_outlive_the_read_timeouts_of_nginx(tmp_path: Path) -> None:
    clip = make_clip(num_frames=NUM_FRAMES, width=32, height=32)
    with (
        ServiceProcess(max_batch=MAX_BATCH, fake_item_s=ITEM_S, fake_heartbeat_s=READ_TIMEOUT_S / 4) as service,
        nginx_in_front(service, tmp_path) as (url, target),
        ThreadPoolExecutor(2) as pool,
    ):
        over_http, over_grpc = pool.submit(http_lines, url, clip), pool.submit(grpc_messages, target, clip)
        for kinds, last in ((over_http.result(), "end"), (over_grpc.result(), "summary")):
            assert kinds.count("frame") == NUM_FRAMES
            assert kinds[-1] == last, "the stream was cut"
            # as many in a row as the time-out has heartbeats
            assert "heartbeat,heartbeat,heartbeat,heartbeat" in ",".join(kinds)
