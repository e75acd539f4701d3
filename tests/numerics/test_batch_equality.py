"""The real network behind the batcher: an answer does not depend on its neighbours."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
import pytest
from pycocotools import mask as coco
from support.components.chunks import make_chunk
from support.equality import SCORE_SLACK, allowed_pixels
from support.model.untrained import save_untrained

from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.result import FrameMasks
from service.predictors.torch import load_predictor
from service.telemetry.metrics import Metrics

SIDE_PX = 160
OUTPUT = (240, 320)


@pytest.fixture(name="predictor", scope="module")
def _predictor(tmp_path_factory):
    return load_predictor(save_untrained(tmp_path_factory.mktemp("weights")), device="cpu", threads=1)


@pytest.fixture(name="threshold", scope="module")
def _threshold(predictor) -> float:
    """The untrained network's middle: about half of each picture is then inside."""
    samples = make_chunk("middle", 4, size_px=SIDE_PX).samples
    return float(1 / (1 + np.exp(-np.median(predictor.predict(samples.frames, samples.windows())))))


def chunk(name: str, num: int, threshold: float) -> Chunk:
    made = make_chunk(name, num, size_px=SIDE_PX)
    policy = dataclasses.replace(made.masks, output_size=OUTPUT, threshold=threshold)
    return dataclasses.replace(made, masks=policy)


async def answers_of(predictor, chunks: list[Chunk], *, buckets: tuple[int, ...]) -> list[SegmentedChunk]:
    """All chunks at once through a segmenter with these batch shapes."""
    policy = BatchPolicy(max_batch=max(buckets), buckets=buckets)
    segmenter = LocalSegmenter(lambda: predictor, policy, metrics=Metrics(), clock=time.monotonic)
    await segmenter.start()
    try:
        return list(await asyncio.gather(*(segmenter.segment(part) for part in chunks)))
    finally:
        await segmenter.aclose()


def pixels(frame: FrameMasks) -> np.ndarray:
    if not frame.masks:
        return np.zeros(OUTPUT, bool)
    (mask,) = frame.masks
    return coco.decode({"size": list(mask.segmentation.size), "counts": mask.segmentation.counts}).astype(bool)


async def test_in_one_batch_shape_an_answer_is_the_same_to_the_byte(predictor, threshold):
    alone = await answers_of(predictor, [chunk("a", 3, threshold)], buckets=(8,))
    among = await answers_of(
        predictor, [chunk("x", 4, threshold), chunk("a", 3, threshold), chunk("y", 5, threshold)], buckets=(8,)
    )
    assert among[1].frames == alone[0].frames
    assert all(frame.masks for frame in alone[0].frames)


async def test_in_other_batch_shapes_answers_are_equal(predictor, threshold):
    names = [f"clip{number}" for number in range(4)]
    singles = [(await answers_of(predictor, [chunk(name, 2, threshold)], buckets=(1,)))[0] for name in names]
    batched = await answers_of(predictor, [chunk(name, 2, threshold) for name in names], buckets=(8,))
    scale = (OUTPUT[0] / SIDE_PX) * (OUTPUT[1] / SIDE_PX)
    for single, among in zip(singles, batched, strict=True):
        for one, other in zip(single.frames, among.frames, strict=True):
            difference = np.count_nonzero(pixels(one) != pixels(other))
            assert difference <= allowed_pixels(pixels(one).sum(), pixels(other).sum(), scale=scale)
            assert abs(one.masks[0].score - other.masks[0].score) <= SCORE_SLACK
