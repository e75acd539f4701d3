"""`avesformer live`: a file and a network stream in real time, against a real front."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from support.inputs.clips import make_clip
from support.servers.front import running_front
from support.servers.ports import free_port
from typer.testing import CliRunner, Result

from service.cli.main import app

HANG_S = 90.0


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["live", *map(str, arguments)])


async def run_beside_front(*arguments: object) -> None:
    """Run the command against a front of its own; it must succeed."""
    async with running_front() as front:
        url = f"grpc://{front.grpc_target}"
        result = await asyncio.wait_for(asyncio.to_thread(run, *arguments, "--url", url), HANG_S)
    assert result.exit_code == 0, result.output


@pytest.fixture(name="clip")
def _clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(num_frames=40, width=320, height=240, flash_frames=frozenset(range(10, 20))))
    return path


@pytest.fixture(name="stream")
def _stream(clip: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of an MPEG transport stream that breaks off after the clip; what was asked of it."""
    target = io.BytesIO()
    with av.open(str(clip)) as source, av.open(target, "w", format="mpegts") as out:
        streams = {each.index: out.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(target.getvalue())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/camera.ts", asked
        server.shutdown()
        serving.join()


async def test_a_file_becomes_lines(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    await run_beside_front(clip, "--output", out, "--max-waiting-frames", 64, "--event-min-s", 0)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[0]["type"] == "model"
    frames = [line for line in lines if line["type"] == "frame"]
    assert 30 <= len(frames) <= 40
    assert any(frame["masks"] for frame in frames)
    assert any(line["type"] == "event" for line in lines)


async def test_a_network_stream_that_breaks_is_opened_again(stream: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = stream
    out = tmp_path / "overlay.mp4"
    await run_beside_front(address, "--output", out, "--seconds", 4)
    assert len(asked) >= 2
    with av.open(str(out)) as overlay:
        assert len(list(overlay.decode(video=0))) > 5


async def test_an_overlay_on_stdout_is_a_stream_for_players(clip: Path, tmp_path: Path) -> None:
    lines = tmp_path / "out.ndjson"
    async with running_front() as front:
        command = [sys.executable, "-c", "from service.cli.main import main; main()", "live", str(clip)]
        flags = ["--overlay", "-", "--output", str(lines), "--url", f"grpc://{front.grpc_target}", "--size", "model"]
        playing = await asyncio.create_subprocess_exec(*command, *flags, stdout=subprocess.PIPE)
        stream, _ = await asyncio.wait_for(playing.communicate(), HANG_S)
    assert playing.returncode == 0
    with av.open(io.BytesIO(stream)) as overlay:
        assert overlay.format.name.startswith("matroska")
        num_shown = len(list(overlay.decode(video=0)))
    assert num_shown == sum(json.loads(line)["type"] == "frame" for line in lines.read_text().splitlines())


@pytest.fixture(name="camera")
def _camera(clip: Path) -> Iterator[str]:
    """Address of a GStreamer RTSP server that shows the clip."""
    python = shutil.which("python3", path="/usr/bin")
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if python is None or subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("apt-get install python3-gi gir1.2-gst-rtsp-server-1.0")
    port = free_port()
    script = Path(__file__).parents[2] / "support" / "servers" / "rtsp_server.py"
    with subprocess.Popen([python, str(script), str(clip), str(port)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        yield f"rtsp://127.0.0.1:{port}/camera"
        server.kill()


@pytest.mark.slow  # a camera does not wait for a busy machine
async def test_a_camera_over_rtsp_is_answered(camera: str, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    await run_beside_front(camera, "--output", out, "--seconds", 6, "--max-waiting-frames", 64)
    frames = [line for line in map(json.loads, out.read_text().splitlines()) if line["type"] == "frame"]
    assert any(frame["masks"] for frame in frames), "the sound came along"
    assert len(frames) > 10


def test_faults_are_one_line_and_a_code(clip: Path) -> None:
    refused = run(clip, "--threshold", 7)
    assert (refused.exit_code, "threshold" in refused.output) == (2, True)
    both = run(clip, "--overlay", "-", "--output", "-")
    assert (both.exit_code, "stdout" in both.output) == (2, True)
    wrong = run(clip, "--url", "http://127.0.0.1:1")
    assert (wrong.exit_code, "grpc://" in wrong.output) == (2, True)
