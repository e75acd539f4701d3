"""Evaluation with segmenters whose figures are known beforehand."""

from collections.abc import Callable

import pytest
import torch

from model.data.synthetic import KINDS, TRAINING_SEEDS, SampleBatch
from model.evaluation.synthetic import (
    FIRST_EVALUATION_SEED,
    class_probabilities,
    evaluate_synthetic,
    evaluation_batches,
    probabilities,
)

CLIPS = 12
SIZE_PX = 64


def by_sound(truth_of: Callable[[SampleBatch], torch.Tensor]) -> dict[bytes, torch.Tensor]:
    """What `truth_of` says about each window of the evaluation clips, by the window's bytes."""
    batches = evaluation_batches(CLIPS, samples_per_clip=2, size_px=SIZE_PX, first_seed=FIRST_EVALUATION_SEED)
    return {
        window.numpy().tobytes(): truth
        for batch in batches
        for window, truth in zip(batch.windows, truth_of(batch), strict=True)
    }


@pytest.fixture(scope="module")
def truth_by_sound() -> dict[bytes, torch.Tensor]:
    """The true mask of each window, found again by the window's bytes."""
    return by_sound(lambda batch: batch.masks)


def test_evaluation_seeds_are_no_training_seeds() -> None:
    assert FIRST_EVALUATION_SEED + 10**8 < TRAINING_SEEDS


def test_an_oracle_of_the_sound_has_perfect_figures(truth_by_sound: dict[bytes, torch.Tensor]) -> None:
    def segment(frames: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros(SIZE_PX, SIZE_PX)
        return torch.stack([truth_by_sound.get(window.numpy().tobytes(), nothing).float() for window in windows])

    seen: list[tuple[int, int]] = []
    figures = evaluate_synthetic(
        segment, num_clips=CLIPS, size_px=SIZE_PX, samples_per_clip=2, progress=lambda *done: seen.append(done)
    )
    assert figures["iou_sounding"] == 1
    assert figures["empty_ok"] == figures["muted_ok"] == figures["noise_ok"] == 1
    assert figures["field_j"] == pytest.approx(1, abs=1e-4)
    assert figures["order_free_f"] == pytest.approx(1, abs=1e-6)
    # It answers with the other clip's mask: the picture's own objects are hardly hit.
    assert figures["wrong_sound_iou"] is not None
    assert figures["wrong_sound_iou"] < 0.2
    assert figures["num_samples"] == 2 * CLIPS
    assert seen == [(8, 12), (12, 12)]


def test_a_deaf_segmenter_is_found_out(truth_by_sound: dict[bytes, torch.Tensor]) -> None:
    def segment(frames: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(frames), SIZE_PX, SIZE_PX)

    figures = evaluate_synthetic(segment, num_clips=CLIPS, size_px=SIZE_PX, samples_per_clip=2)
    assert figures["iou_sounding"] == figures["wrong_sound_iou"]
    assert 0 < float(figures["iou_sounding"] or 0) < 0.5
    assert figures["empty_ok"] == figures["muted_ok"] == figures["noise_ok"] == 0


@pytest.fixture(scope="module")
def classes_by_sound() -> dict[bytes, torch.Tensor]:
    """The true classes of each window, found again by the window's bytes."""
    return by_sound(lambda batch: batch.kind_map.long() * batch.masks)


def semantic_oracle(classes_by_sound: dict[bytes, torch.Tensor], *, shift: int):
    """Class probabilities of the truth; `shift` moves every label on to another kind."""

    def segment(frames: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros(SIZE_PX, SIZE_PX, dtype=torch.int64)
        found = torch.stack([classes_by_sound.get(window.numpy().tobytes(), nothing) for window in windows])
        moved = torch.where(found > 0, (found - 1 + shift) % len(KINDS) + 1, 0)
        return torch.nn.functional.one_hot(moved, len(KINDS) + 1).permute(0, 3, 1, 2).float()

    return segment


def test_semantic_figures_of_right_and_of_wrong_labels(classes_by_sound: dict[bytes, torch.Tensor]) -> None:
    figures, misnamed = (
        evaluate_synthetic(
            semantic_oracle(classes_by_sound, shift=shift),
            is_semantic=True,
            num_clips=CLIPS,
            size_px=SIZE_PX,
            samples_per_clip=2,
        )
        for shift in (0, 1)
    )
    assert figures["miou_present_kinds"] == figures["label_accuracy"] == figures["iou_sounding"] == 1
    assert set(figures["iou_by_kind"]) <= set(KINDS)
    assert figures["num_matched"] > 3
    # The masks are right and their names are not: the figures without labels do not notice.
    assert misnamed["iou_sounding"] == 1
    assert misnamed["label_accuracy"] < 0.3
    assert misnamed["miou_present_kinds"] < 0.1
    assert figures["wrong_sound_iou"] == misnamed["wrong_sound_iou"] < 0.2


def test_class_logits_are_upsampled_before_the_softmax() -> None:
    logits = torch.tensor([[[[-10.0, 10.0]], [[0.0, 0.0]]]])
    full = class_probabilities(logits, height=1, width=4)
    assert full.shape == (1, 2, 1, 4)
    assert float(full[0, 0, 0, 1]) == pytest.approx(torch.sigmoid(torch.tensor(-5.0)).item())


def test_logits_are_upsampled_before_the_sigmoid() -> None:
    logits = torch.tensor([[[[-10.0, 10.0]]]])
    full = probabilities(logits, height=1, width=4)
    assert full.shape == (1, 1, 4)
    assert float(full[0, 0, 1]) == pytest.approx(torch.sigmoid(torch.tensor(-5.0)).item())
