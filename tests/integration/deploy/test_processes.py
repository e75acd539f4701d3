"""What docker-compose.yml starts, started here: two fronts without torch, two workers, both Redis roles."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from support.equality import SCORE_SLACK, allowed_pixels
from support.fleets.deploy_files import ROOT
from support.fleets.deploy_fleet import Fleet, Member

from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.variants import variant

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(1200)]

CLIP = ROOT / "tests" / "assets" / "synthetic.mp4"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, the last ones large enough that about half of the pixels are in a mask."""
    torch.manual_seed(0)
    config = variant("tiny")
    state = AVESFormer(config).state_dict()
    state["head.logits.weight"] *= 50
    state["head.logits.bias"] *= 0
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, config=config, state=state, world_version=None, training={})
    return path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Both Redis roles, and the means to start the rest."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.start_redis("redis-jobs")
        fleet.start_redis("redis-data")
        yield fleet


@pytest.fixture(scope="module")
def members(fleet: Fleet, checkpoint: Path) -> list[Member]:
    """Two fronts, two workers and the worker's image serving alone, all healthy by the images' own check."""
    model = {"AVES_CHECKPOINT": str(checkpoint), "AVES_TORCH_THREADS": "1", "AVES_DECODE_PROCESSES": "1"}
    started = [fleet.start("worker", command="serve", **{**model, "AVES_REDIS_URL": "", "AVES_REDIS_DATA_URL": ""})]
    started += [fleet.start("worker", **model) for _ in range(2)]
    started += [fleet.start("front", AVES_DECODE_PROCESSES="1") for _ in range(2)]
    for member in started:
        member.wait_until_healthy()
    return started


def answer(member: Member) -> dict:
    """The example clip's answer, at the model's size, worked out anew."""
    with CLIP.open("rb") as clip:
        found = httpx.post(
            f"{member.url}/v1/segment",
            files={"video": clip},
            data={"size": "model", "fps": "4"},
            headers={"Cache-Control": "no-cache"},
            timeout=300,
        )
    assert found.status_code == 200, found.text
    body: dict = found.json()
    return body


def metric(member: Member, name: str) -> float:
    """The sum of a metric's series in one process."""
    text = httpx.get(f"{member.url}/metrics", timeout=30).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def assert_equal(one: dict, other: dict) -> None:
    """Equal by ARCHITECTURE.md section 1."""
    assert one["clip"] == other["clip"]
    assert one["model"] == other["model"]
    assert len(one["frames"]) == len(other["frames"]) > 0
    for mine, theirs in zip(one["frames"], other["frames"], strict=True):
        assert {key: mine[key] for key in mine if key != "masks"} == {
            key: theirs[key] for key in theirs if key != "masks"
        }
        assert [mask["label"] for mask in mine["masks"]] == [mask["label"] for mask in theirs["masks"]]
        for left, right in zip(mine["masks"], theirs["masks"], strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=SCORE_SLACK)
            pixels = [coco.decode(mask["segmentation"]).astype(bool) for mask in (left, right)]
            allowed = allowed_pixels(left["area"], right["area"])
            assert np.count_nonzero(pixels[0] ^ pixels[1]) <= allowed


def test_fronts_answer_as_one_process_does(members: list[Member]) -> None:
    alone, _, _, *fronts = members
    expected = answer(alone)
    assert any(frame["masks"] for frame in expected["frames"]), "an answer without masks would prove nothing"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(answer, [*fronts, *fronts]))
    for found in answers:
        assert_equal(expected, found)


def test_workers_did_the_work_and_fronts_see_them(members: list[Member]) -> None:
    _, *workers, first, second = members
    num_before = sum(metric(worker, "avesformer_samples_total") for worker in workers)
    found = answer(first)
    num_after = sum(metric(worker, "avesformer_samples_total") for worker in workers)
    assert num_after - num_before == len(found["frames"])
    assert [metric(front, "avesformer_worker_up") for front in (first, second)] == [2.0, 2.0]


def test_everything_stops_cleanly_within_its_grace_period(members: list[Member]) -> None:
    for member in members:
        member.process.terminate()
    assert [member.wait() for member in members] == [0] * len(members)
