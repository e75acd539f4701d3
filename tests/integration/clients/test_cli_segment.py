"""`avesformer segment` as a user calls it: files out, exit codes, one clear line, the service's own JSON."""

from __future__ import annotations

import asyncio
import json

import av
import httpx
import pytest
from pycocotools import mask as coco
from support.inputs.clips import make_clip
from support.servers.front import running_front
from support.servers.service_process import ServiceProcess
from typer.testing import CliRunner

from service.cli.main import app
from service.predictors.fake import FakePredictor
from service.wiring import core as wiring_core

# What differs between two answers to one clip.
OWN_KEYS = {"request_id", "timings_s"}


@pytest.fixture(name="clip")
def _clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(width=96, height=64, num_frames=75, flash_frames=frozenset(range(30, 60))))
    return path


@pytest.fixture(name="run")
def _run(monkeypatch):
    monkeypatch.setattr(wiring_core, "predictor_maker", lambda settings: FakePredictor)
    monkeypatch.setenv("AVES_DECODE_PROCESSES", "1")

    def run(*args: object):
        return CliRunner().invoke(app, ["segment", *map(str, args)])

    return run


def without_own(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in OWN_KEYS}


def test_json_to_stdout_by_default(run, clip):
    result = run(clip)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["clip"] | {"frame_rate": 25.0} == {
        "width": 96,
        "height": 64,
        "sample_aspect_ratio": "1:1",
        "duration_s": 3.0,
        "frame_rate": 25.0,
        "num_samples": 3,
        "audio": {
            "track": 0, "codec": "aac", "channels": 2, "sample_rate_hz": 48_000, "language": None, "notes": [],
        },
    }  # fmt: skip
    assert [frame["sample_time_s"] for frame in answer["frames"]] == [0.9375, 1.9375, 2.9375]
    assert answer["cached"] is False
    assert set(answer["timings_s"]) >= {"upload", "decode", "queue", "predict", "encode", "total"}


def test_json_and_overlay_to_files_with_options(run, clip, tmp_path):
    output, overlay = tmp_path / "out" / "a.json", tmp_path / "out" / "a.mp4"
    result = run(
        *(clip, "--output", output, "--overlay", overlay),
        *("--fps", "native", "--threshold", 0.2, "--size", "model", "--rle", "uncompressed"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    answer = json.loads(output.read_bytes())
    assert len(answer["frames"]) == 75
    assert answer["options"]["fps"] == "native"
    assert answer["options"]["threshold"] == 0.2
    [first, *_] = [mask for frame in answer["frames"] for mask in frame["masks"]]
    rle = coco.frPyObjects(first["segmentation"], *first["segmentation"]["size"])
    assert coco.decode(rle).sum() == first["area"]
    with av.open(str(overlay)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 75
        assert len(video.streams.audio) == 1
    assert sorted(path.name for path in output.parent.iterdir()) == ["a.json", "a.mp4"]


def test_several_clips_go_to_folders_and_one_bad_clip_does_not_stop_the_others(run, clip, tmp_path):
    bad, third = tmp_path / "bad.mp4", tmp_path / "third.mp4"
    bad.write_bytes(b"not a video at all, but long enough to be looked at")
    third.write_bytes(clip.read_bytes())
    result = run(clip, bad, third, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["batch.jsonl", "clip.json", "third.json"]
    lines = [line for line in result.stderr.splitlines() if line.startswith("avesformer:")]
    assert len(lines) == 1
    assert "bad.mp4" in lines[0]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--fps", "61"], 2, "fps"),
        (["--threshold", "high"], 2, "threshold"),
        (["--labels", "unicorn"], 2, "unicorn"),
        (["--size", "huge"], 2, "size"),
        (["--device", "abacus"], 1, "abacus"),
        (["--url", "ftp://nowhere"], 2, "ftp://nowhere"),
        (["--no-such-option"], 2, "no-such-option"),
    ],
)
def test_bad_arguments_end_with_their_code_and_one_clear_line(run, clip, monkeypatch, args, code, words):
    if "abacus" in args:

        def refuse(settings):
            def make():
                raise ValueError(f"device: got {settings.device!r}, expected auto, cpu, cuda or cuda:N")

            return make

        monkeypatch.setattr(wiring_core, "predictor_maker", refuse)
    result = run(clip, *args)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_is_one_line(run, tmp_path):
    result = run(tmp_path / "nothing.mp4")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "nothing.mp4: No such file" in result.stderr


def test_a_result_never_overwrites_its_clip_or_another_result(run, clip, tmp_path):
    before = clip.read_bytes()
    assert run(clip, "--overlay", clip).exit_code == 2
    other = tmp_path / "b" / "clip.mp4"
    other.parent.mkdir()
    other.write_bytes(before)
    assert run(clip, other, "--output", tmp_path / "out").exit_code == 2
    assert clip.read_bytes() == before


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_url_gives_the_same_json_as_this_process(run, clip, scheme):
    async with running_front(decode_processes=1) as front:
        url = front.http_url if scheme == "http" else f"grpc://{front.grpc_target}"
        remote = await asyncio.to_thread(run, clip, "--url", url, "--fps", "5")
    assert remote.exit_code == 0, remote.output
    local = await asyncio.to_thread(run, clip, "--fps", "5")
    found, wanted = without_own(json.loads(remote.stdout)), without_own(json.loads(local.stdout))
    if scheme == "grpc":  # scores travel as float32 there
        for frame in [*found["frames"], *wanted["frames"]]:
            for mask in frame["masks"]:
                mask["score"] = round(mask["score"], 5)
    assert found == wanted
    assert any(frame["masks"] for frame in wanted["frames"])


def test_a_service_that_is_not_there_is_one_line(run, clip, monkeypatch):
    monkeypatch.setattr("service.client.policy.ClientPolicy.retry_delay_s", lambda *_, **__: None)
    result = run(clip, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_formats_are_what_the_service_answers(run, clip, tmp_path):
    forms = ("ndjson", "coco", "polygons", "png", "csv", "vtt")
    for form in forms:
        result = run(clip, "--format", form, "--output", tmp_path / form, "--event-min-s", "0")
        assert result.exit_code == 0, result.output

    async def ask() -> dict[str, bytes]:
        async with running_front() as front, httpx.AsyncClient(base_url=front.http_url, timeout=60) as http:
            headers, body = {"Content-Type": "video/mp4"}, clip.read_bytes()
            answers = [
                await http.post("/segment", params={"format": form, "event_min_s": "0"}, content=body, headers=headers)
                for form in forms
            ]
            assert [answer.status_code for answer in answers] == [200] * len(forms)
            return {form: answer.content for form, answer in zip(forms, answers, strict=True)}

    for form, asked in asyncio.run(ask()).items():
        written = (tmp_path / form).read_bytes()
        if form == "polygons":
            assert without_own(json.loads(written)) == without_own(json.loads(asked))
        elif form == "ndjson":
            assert written.splitlines()[1:-1] == asked.splitlines()[1:-1]
        else:
            assert written == asked


@pytest.mark.parametrize("transport", ["here", "http"])
def test_an_event_line_follows_the_frame_that_closes_it(transport, run, clip, tmp_path):
    out = tmp_path / "out.ndjson"
    options = ("--format", "ndjson", "--output", out, "--fps", "10", "--event-gap-s", "0.1")
    if transport == "here":
        result = run(clip, *options)
    else:
        with ServiceProcess(state_dir=tmp_path / "state") as service:
            result = run(clip, *options, "--url", service.url)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds.count("event") == 1
    at = kinds.index("event")
    assert kinds[at + 1] == "frame", "the clip goes on in silence"
    assert lines[at]["end_s"] <= lines[at - 1]["sample_time_s"]
    assert lines[0]["clip"]["num_samples"] == kinds.count("frame")


@pytest.fixture(name="library")
def _library(tmp_path, clip):
    library = tmp_path / "library"
    for name in ("a.mp4", "deep/b.MP4", "deep/c.mov"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_bytes(clip.read_bytes())
    (library / "notes.txt").write_text("no clip")
    return library


def test_a_folder_is_segmented_and_resumed(run, library, tmp_path):
    out = tmp_path / "out"
    (library / "deep/broken.mp4").write_text("no clip")
    asked = (library, "--output", out, "--format", "csv")
    result = run(*asked, "--resume")
    assert result.exit_code == 1
    assert "not an MP4" in result.output
    assert "3 done, 0 skipped, 1 failed" in result.output
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.csv")) == [
        "a.csv",
        "deep/b.csv",
        "deep/c.csv",
    ]
    (library / "deep/broken.mp4").unlink()
    assert "0 done, 3 skipped, 0 failed" in run(*asked, "--resume").output
    (out / "a.csv").unlink()
    assert "1 done, 2 skipped, 0 failed" in run(*asked, "--resume").output
    assert "3 done, 0 skipped" in run(*asked, "--resume", "--threshold", "0.6").output, "other settings, other results"
    assert "3 done, 0 skipped" in run(*asked).output


def test_a_pattern_names_clips(run, library, tmp_path):
    result = run(str(library / "deep" / "*"), "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["b.json", "c.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{empty}",), "holds no clip"),
        (("{empty}/*.mp4",), "No file fits"),
        (("{clip}", "--resume"), "--resume needs a folder"),
        (("{clip}", "--format", "gif"), "format: 'gif' is not"),
        (("{clip}", "--format", "png", "--rle", "uncompressed"), "no run lengths"),
    ],
)
def test_bad_batches_are_refused(run, clip, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    result = run(*(argument.format(empty=tmp_path / "empty", clip=clip) for argument in arguments))
    assert result.exit_code == 2
    assert said in result.output
