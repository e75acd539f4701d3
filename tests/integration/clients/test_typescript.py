"""The TypeScript client of examples/typescript, built and run against the real server; needs Node with npm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.inputs.clips import make_clip
from support.servers.service_process import ServiceProcess

from service.client.public import GrpcClient, SegmentOptions

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None, reason="apt-get install nodejs npm"
    ),
]
ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "typescript"
GUARD_S = 600
_OFFLINE = re.compile(r"ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|ECONNRESET")
# Larger than one chunk of the client.
CLIP = {"width": 640, "height": 480, "num_frames": 150, "flash_frames": frozenset(range(20, 90))}


def npm(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=GUARD_S, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program, in a copy of the folder beside a copy of the proto file."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "proto", root / "proto")
    folder = root / "examples" / "typescript"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "generated"))
    installed = npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)
    if installed.returncode and _OFFLINE.search(installed.stderr):
        pytest.skip("needs the npm registry for the packages of examples/typescript")
    assert installed.returncode == 0, installed.stderr
    built = npm("run", "build", folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "dist" / "main.js"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(state_dir=tmp_path_factory.mktemp("state")) as process:
        yield process


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)


def test_it_answers_as_the_python_client_does(program: Path, service: ServiceProcess, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(make_clip(**CLIP))
    done = run(program, str(clip), service.grpc_target, "5")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    with GrpcClient(service.grpc_target) as client:
        answer = client.segment(clip, SegmentOptions(fps=5))
    frames = [line for line in lines if "masks" in line]
    assert [line["timeS"] for line in frames] == [frame.sample_time_s for frame in answer.frames]
    areas = [[mask.area for mask in frame.masks] for frame in answer.frames]
    assert [[mask["area"] for mask in line["masks"]] for line in frames] == areas
    assert [[mask["numPixels"] for mask in line["masks"]] for line in frames] == areas, "run lengths are decoded"
    assert any(areas)
    events = [(line["event"], line["startS"], line["endS"]) for line in lines if "event" in line]
    assert sorted(events) == sorted((event.label, event.start_s, event.end_s) for event in answer.events)
    assert f"model: {answer.model.variant}" in done.stderr


def test_an_error_is_one_line(program: Path, service: ServiceProcess, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"no clip" * 100_000)
    done = run(program, str(clip), service.grpc_target)
    assert done.returncode == 1
    assert re.search(r"^INVALID_ARGUMENT: .+$", done.stderr, re.MULTILINE)
    assert "    at " not in done.stderr, "no stack trace"


def test_a_file_that_is_not_there_ends_the_call(program: Path, service: ServiceProcess, tmp_path: Path) -> None:
    done = run(program, str(tmp_path / "none.mp4"), service.grpc_target)
    assert done.returncode == 1
    assert "ENOENT" in done.stderr


def test_a_service_that_is_not_there_is_one_line(program: Path, tmp_path: Path) -> None:
    done = run(program, str(tmp_path / "clip.mp4"), "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("UNAVAILABLE: ")
