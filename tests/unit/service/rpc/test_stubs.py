"""The committed stubs are what proto/ gives, and the file holds what the contract says."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

ROOT = Path(__file__).parents[4]
PROTO = "proto/avesformer/v1/segmentation.proto"

MESSAGES = {
    "SegmentRequest": "options=1 chunk=2",
    "SegmentOptions": "fps=1 native_fps=2 start_s=3 end_s=4 threshold=5 size=6 labels=7 min_area=8 audio_track=9",
    "SegmentResponse": "clip=1 frame=2 summary=3",
    "ClipInfo": (
        "request_id=1 model=2 width=3 height=4 sample_aspect_ratio=5 duration_s=6 frame_rate=7 num_samples=8 audio=9"
    ),
    "AudioInfo": "track=1 codec=2 channels=3 sample_rate_hz=4 language=5",
    "FrameMasks": "sample_time_s=1 timestamp_s=2 index=3 masks=4",
    "Mask": "label=1 score=2 area=3 bbox=4 segmentation=5",
    "Box": "x=1 y=2 width=3 height=4",
    "Rle": "height=1 width=2 counts=3",
    "Summary": "num_samples=1 timings_s=2 cached=3 audio_notes=4",
    "GetModelRequest": "",
    "ModelInfo": "variant=1 checkpoint=2 labels=3 input_height=4 input_width=5",
    "LiveRequest": "options=1 frame=2 audio=3",
    "LiveOptions": "threshold=1 size=2 labels=3 max_audio_wait_s=4 max_waiting_frames=5",
    "LiveFrame": "timestamp_s=1 data=2 format=3 width=4 height=5",
    "AudioChunk": "timestamp_s=1 pcm_s16le=2 sample_rate_hz=3",
    "LiveResponse": "model=1 frame=2 frame_error=3",
    "LiveFrameMasks": "masks=1 latency_s=2 num_dropped_frames=3",
    "FrameError": "timestamp_s=1 code=2 detail=3",
}
OPTIONAL = {
    "SegmentOptions": {"fps", "start_s", "end_s", "threshold", "min_area", "audio_track"},
    "ClipInfo": {"duration_s", "frame_rate", "num_samples"},
    "AudioInfo": {"language"},
    "LiveOptions": {"threshold", "max_audio_wait_s", "max_waiting_frames"},
}


def test_stubs_are_current(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iservice/rpc/pb=proto", *outputs, PROTO]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert [path.name for path in made] == ["segmentation_pb2.py", "segmentation_pb2.pyi", "segmentation_pb2_grpc.py"]
    for path in made:
        assert (ROOT / path).read_text() == (tmp_path / path).read_text(), f"{path} is old: run `make proto`"


def test_the_linter_has_nothing_to_say() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run(
        [str(buf), "lint", "proto"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_keep_the_contract(name: str) -> None:
    fields = pb.DESCRIPTOR.message_types_by_name[name].fields
    named = {f"{field.name}={field.number}" for field in fields}
    assert set(MESSAGES[name].split()) <= named
    optional = {field.name for field in fields if field.has_presence and field.type != FieldDescriptor.TYPE_MESSAGE}
    in_oneof = {field.name for field in fields if field.containing_oneof is not None and name.endswith("Request")}
    assert OPTIONAL.get(name, set()) <= optional - in_oneof


def test_the_service_has_its_methods() -> None:
    service = pb.DESCRIPTOR.services_by_name["Segmentation"]
    assert service.full_name == "avesformer.v1.Segmentation"
    shapes = {m.name: (m.client_streaming, m.server_streaming) for m in service.methods}
    assert shapes == {"Segment": (True, True), "SegmentLive": (True, True), "GetModel": (False, False)}


def test_every_message_and_rpc_is_documented() -> None:
    lines = (ROOT / PROTO).read_text().splitlines()
    bare = []
    for number, line in enumerate(lines):
        is_declared = line.strip().startswith(("message ", "enum ", "service ", "rpc "))
        if is_declared and not lines[number - 1].strip().startswith("//") and "{}" not in line:
            bare.append(line.strip())
    assert not bare
