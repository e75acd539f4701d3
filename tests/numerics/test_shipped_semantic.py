"""The shipped semantic weights: labels are the kinds of the world, right ones, and they follow the sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.data.synthetic import KINDS, WORLD_VERSION
from model.evaluation.synthetic import evaluate_synthetic, segmenter
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.network.config import BACKGROUND

# First of seeds far below those of training (2**32 and up).
UNSEEN = 7_100_000


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(Path("tiny-semantic"))


def test_it_says_what_it_learned(checkpoint: Checkpoint) -> None:
    assert checkpoint.world_version == WORLD_VERSION
    assert checkpoint.config.labels == (BACKGROUND, *KINDS)
    assert checkpoint.config.variant == "tiny"


def test_it_names_what_sounds(checkpoint: Checkpoint) -> None:
    figures = evaluate_synthetic(
        segmenter(checkpoint.build()),
        is_semantic=True,
        num_clips=20,
        samples_per_clip=2,
        size_px=checkpoint.config.input_height,
        first_seed=UNSEEN,
    )
    assert figures["iou_sounding"] >= 0.5
    assert figures["wrong_sound_iou"] <= 0.35
    assert figures["label_accuracy"] >= 0.75
    assert figures["num_matched"] >= 8
    assert figures["muted_ok"] >= 0.95
