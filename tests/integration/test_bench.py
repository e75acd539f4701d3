"""The benchmark's route and command: they run, and their figures have the contract's names."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from support.clips import make_clip
from support.front import running_front
from typer.testing import CliRunner

from service.bench.figures import BenchPlan, latency_figures
from service.bench.http_load import Load, drive
from service.bench.live_speed import measure_live, measure_streams
from service.bench.processes import RunningService
from service.cli.main import app

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
    """On a CPU one stream; the load for a GPU is measured here with two streams."""
    async with running_front(decode_processes=1) as front:
        service = RunningService(front.http_port, front.grpc_target)
        plan = BenchPlan({}, front.front.settings, 0.5)
        figures = await asyncio.to_thread(measure_live, plan, service, lambda text: None)
        many = await measure_streams(front.grpc_target, 2, 25, seconds=0.2)
    assert set(figures) == {"live.c1.p50_s", "live.c1.p95_s", "live.c1.num_dropped_frames"}
    assert 0 < figures["live.c1.p50_s"] <= figures["live.c1.p95_s"]
    assert set(many) == {"live.c2.p50_s", "live.c2.p95_s", "live.c2.num_dropped_frames"}


def test_latency_figures_are_the_ranks_they_claim():
    figures = latency_figures("service.c4", [0.4, 0.1, 0.3, 0.2], elapsed_s=2.0, unit="clips")
    assert figures == {"service.c4.clips_per_s": 2.0, "service.c4.p50_s": 0.3, "service.c4.p99_s": 0.4}


def test_the_command_writes_the_contracts_keys(tmp_path):
    clip, target = tmp_path / "small.mp4", tmp_path / "bench.json"
    clip.write_bytes(make_clip(num_frames=50))
    args = ["bench", "--only", "decode,rle,batcher", "--seconds", "0.1", "--clip", str(clip), "--json", str(target)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    figures = json.loads(target.read_bytes())
    assert {"decode.small.cpu_s", "rle.ratio_to_pycocotools", "batcher.ratio_to_limit"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    assert "rle.ratio_to_pycocotools" in result.stdout


@pytest.mark.slow
@pytest.mark.redis
def test_two_workers_are_measured_beside_one(tmp_path):
    clip, target = tmp_path / "small.mp4", tmp_path / "bench.json"
    clip.write_bytes(make_clip(num_frames=10))
    args = ["bench", "--only", "redis", "--seconds", "0.1", "--clip", str(clip), "--json", str(target)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    figures = json.loads(target.read_bytes())
    assert set(figures) == {"redis.w2.ratio_to_one_worker", "redis.w1.samples_per_s", "redis.w2.samples_per_s"}
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("only", ["", "speed", "rle,speed"])
def test_unknown_parts_are_bad_arguments(only):
    result = CliRunner().invoke(app, ["bench", "--only", only])
    assert result.exit_code == 2
    assert "model, decode, rle, batcher, service" in result.stderr
