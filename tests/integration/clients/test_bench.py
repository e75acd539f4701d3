"""The benchmark's route and command: they run, and their figures have the contract's names."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from support.inputs.clips import make_clip
from support.servers.front import running_front
from support.waiting import until
from typer.testing import CliRunner

from service.bench.figures import BenchPlan, latency_figures
from service.bench.http_load import Load, drive
from service.bench.live_speed import measure_live, measure_streams
from service.bench.process_usage import descendants_of
from service.bench.processes import RunningService, cli_command
from service.bench.world.events import measure_events
from service.bench.world.tracks import measure_tracks
from service.cli.main import app
from service.settings import Settings

ITEM = bytes(12_288)


async def test_items_that_come_together_share_batches():
    async with running_front(bench_routes=True, decode_processes=1, bench_batch_ms=20.0, bench_item_ms=1.0) as front:
        async with httpx.AsyncClient(base_url=front.http_url, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/bench/batch", content=ITEM) for _ in range(32)))
            wrong = await client.post("/v1/bench/batch", content=ITEM[:-1])
        value = front.front.core.metrics.registry.get_sample_value
        assert [answer.status_code for answer in answers] == [200] * 32
        assert len({answer.json()["request_id"] for answer in answers}) == 32
        assert (wrong.status_code, wrong.json()["code"]) == (400, "malformed_body")
        assert value("avesformer_batch_requests_sum") / value("avesformer_batch_requests_count") > 1.5
        assert value("avesformer_batch_size_sum") == 32


async def test_without_the_setting_there_is_no_such_route():
    async with running_front(decode_processes=1) as front, httpx.AsyncClient(base_url=front.http_url) as client:
        assert (await client.post("/bench/batch", content=ITEM)).status_code == 404


async def test_overload_is_refused_with_a_time_to_come_back():
    async with (
        running_front(
            bench_routes=True, decode_processes=1, max_concurrent_requests=4, max_waiting_requests=0
        ) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=60) as client,
    ):
        answers = await asyncio.gather(*(client.post("/bench/batch", content=ITEM) for _ in range(40)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert len(refused) < 40
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1


async def test_the_load_counts_answers_and_refusals():
    async with running_front(
        bench_routes=True, decode_processes=1, max_concurrent_requests=2, max_waiting_requests=0
    ) as front:
        load = Load("127.0.0.1", front.http_port, "/bench/batch", ITEM, "application/octet-stream", 12, 0.3)
        result = await asyncio.wait_for(drive(load), 60)
        num_done = front.front.core.metrics.registry.get_sample_value("avesformer_batch_size_sum")
    assert len(result.latencies_s) == num_done > 0
    assert result.num_refused > 0
    assert result.elapsed_s >= 0.3


async def test_live_streams_are_measured():
    """On a CPU 1 and 16 streams; the load for a GPU is measured here with two streams."""
    async with running_front(decode_processes=1) as front:
        service = RunningService(front.http_port, front.grpc_target, os.getpid())
        plan = BenchPlan({}, Path("none.mp4"), front.front.settings, 0.5)
        figures = await asyncio.to_thread(measure_live, plan, service, lambda text: None)
        many = await measure_streams("live.c2", front.grpc_target, 2, 25, seconds=0.2)
    figures_of_load = ("p50_s", "p95_s", "num_dropped_frames", "num_frames")
    assert set(figures) == {f"{load}.{name}" for load in ("live.c1", "live.c16_10fps") for name in figures_of_load}
    assert 0 < figures["live.c1.p50_s"] <= figures["live.c1.p95_s"]
    assert set(many) == {f"live.c2.{name}" for name in figures_of_load}


def test_latency_figures_are_the_ranks_they_claim():
    figures = latency_figures("service.c4", [0.4, 0.1, 0.3, 0.2], elapsed_s=2.0, unit="clips")
    assert figures == {"service.c4.clips_per_s": 2.0, "service.c4.p50_s": 0.3, "service.c4.p99_s": 0.4}


def run_bench(folder, *args, num_frames=50):
    """Run the command on a small clip; return the figures that it wrote, and what it printed."""
    clip, target = folder / "small.mp4", folder / "bench.json"
    clip.write_bytes(make_clip(num_frames=num_frames))
    result = CliRunner().invoke(app, ["bench", *args, "--clip", str(clip), "--json", str(target)])
    assert result.exit_code == 0, result.output
    return json.loads(target.read_bytes()), result.stdout


def test_the_command_writes_the_contracts_keys(tmp_path):
    figures, printed = run_bench(tmp_path, "--only", "decode,rle,batcher", "--seconds", "0.1")
    assert {"decode.small.cpu_s", "rle.ratio_to_pycocotools", "batcher.ratio_to_limit"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    assert "rle.ratio_to_pycocotools" in printed


def test_an_earlier_run_is_shown_as_ratios(tmp_path):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"batcher.ratio_to_limit": 1e-6, "batcher.items_per_s": 1e12}))
    args = ["bench", "--only", "batcher", "--seconds", "0.1", "--compare", str(earlier)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    rows = {words[1]: words for line in result.stdout.splitlines() if len(words := line.split()) == 7}
    assert float(rows["batcher.ratio_to_limit"][5]) > 1e4
    assert float(rows["batcher.items_per_s"][5]) == 0


@pytest.mark.parametrize("text", ["", "[1]", '{"batcher.items_per_s": "fast"}'])
def test_a_file_that_is_no_earlier_run_is_a_bad_argument(tmp_path, text):
    (tmp_path / "earlier.json").write_text(text)
    result = CliRunner().invoke(app, ["bench", "--only", "batcher", "--compare", str(tmp_path / "earlier.json")])
    assert result.exit_code == 2
    assert "--compare" in result.stderr


@pytest.mark.slow
def test_clips_and_starts_of_a_real_service_are_measured(tmp_path):
    args = ("--only", "start,service", "--seconds", "0.2", "--checkpoint", "tiny", "--device", "cpu")
    figures, _ = run_bench(tmp_path, *args)
    hd = {"clips_per_s", "cpu_s_per_clip", "floor_cpu_s", "cpu_ratio_to_floor", "ratio_to_limit"}
    assert {f"service.hd.{name}" for name in hd} <= set(figures)
    assert {f"service.keep_alive.{name}" for name in ("p50_s", "stages_s", "ratio_to_stages")} <= set(figures)
    assert figures["start.ready_s"] > figures["start.help_s"] > 0
    assert figures["start.idle_pss_bytes"] > 50e6
    assert figures["service.hd.cpu_s_per_clip"] > figures["service.hd.floor_cpu_s"] > 0


@pytest.mark.slow
@pytest.mark.redis
def test_two_workers_are_measured_beside_one(tmp_path):
    figures, _ = run_bench(tmp_path, "--only", "redis", "--seconds", "0.1", num_frames=10)
    assert set(figures) == {"redis.w2.ratio_to_one_worker", "redis.w1.samples_per_s", "redis.w2.samples_per_s"}
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("only", ["", "speed", "rle,speed"])
def test_unknown_parts_are_bad_arguments(only):
    result = CliRunner().invoke(app, ["bench", "--only", only])
    assert result.exit_code == 2
    assert "model, decode, rle, batcher, start, service" in result.stderr


@pytest.mark.slow
def test_tracks_and_events_of_one_clip_are_measured() -> None:
    plan = BenchPlan({}, Path(), Settings(device="cpu"), 0.1)
    steps: list[str] = []
    figures = measure_tracks(plan, steps.append, num_clips=1) | measure_events(plan, steps.append, num_clips=1)
    assert len(steps) == 2
    assert figures["tracks.true_masks.idf1"] >= figures["tracks.idf1"] > 0.8
    for name in ("tiny", "tiny-semantic"):
        assert 0 <= figures[f"events.{name}.precision"] <= 1
        assert figures[f"events.{name}.num_true"] >= 0


async def test_a_terminated_bench_leaves_no_service_behind(tmp_path: Path) -> None:
    """`start` starts the service before anything else is measured."""
    command = cli_command("bench", "--only", "start", "--checkpoint", "tiny", "--device", "cpu")
    bench = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        await until(lambda: len(descendants_of(bench.pid)) >= 4, hang_s=120)  # a service, its zygote and decoders
        started = descendants_of(bench.pid)[1:]
        bench.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(bench.wait(), 120) == 128 + signal.SIGTERM
        await until(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()], hang_s=60)
    finally:
        if bench.returncode is None:
            bench.kill()
            await bench.wait()
