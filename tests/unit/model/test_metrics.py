"""Metrics: values by hand, and the field's quirks reproduced by a literal loop."""

import pytest
import torch

from model.metrics import SemanticScore, f_curve, field_f, field_j, mask_iou, order_free_f


def masks(*rows: str) -> torch.Tensor:
    return torch.tensor([[[character == "#" for character in line] for line in row.split("/")] for row in rows])


def test_plain_iou() -> None:
    answer = masks("##../....", "..../....", "#.../....")
    truth = masks("#.../#...", "..../....", "..../....")
    assert mask_iou(answer, truth).tolist() == [pytest.approx(1 / 3), 1.0, 0.0]


def test_the_fields_j_counts_empty_pixels_where_the_truth_is_empty() -> None:
    answer = masks("##../....", "..../....", "#.../....")
    truth = masks("#.../#...", "..../....", "..../....")
    assert field_j(answer, truth).tolist() == [pytest.approx(1 / 3), pytest.approx(1.0), pytest.approx(7 / 8)]


def literal_f_curve(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The published loop over thresholds."""
    rows = []
    for p, g in zip(probability, truth, strict=True):
        if not g.any():
            continue
        scores = []
        for threshold in torch.linspace(0, 1 - 1e-10, 255):
            chosen = p >= threshold
            hits = float((chosen & g).sum())
            precision, recall = hits / (float(chosen.sum()) + 1e-20), hits / (float(g.sum()) + 1e-20)
            denominator = 0.3 * precision + recall
            scores.append(1.3 * precision * recall / denominator if denominator else 0.0)
        rows.append(scores)
    return torch.tensor(rows, dtype=torch.float64)


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    truth = torch.rand(4, 12, 9, generator=generator) > 0.7
    truth[1] = False
    probability = (0.55 * truth + 0.6 * torch.rand(4, 12, 9, generator=generator)).clamp(0, 1)
    probability[0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    return probability, truth


def test_f_curve_equals_the_literal_loop() -> None:
    probability, truth = toy()
    assert torch.allclose(f_curve(probability, truth), literal_f_curve(probability, truth), atol=1e-12)


def test_the_fields_f_depends_on_the_batch_and_the_order_free_one_does_not() -> None:
    probability, truth = toy()
    by_batch = {
        size: [f_curve(probability[i : i + size], truth[i : i + size]) for i in range(0, 4, size)] for size in (1, 2, 4)
    }
    values = {size: field_f(curves) for size, curves in by_batch.items()}
    # The batch that holds nothing but an empty frame counts as zero.
    assert values[1] == pytest.approx(sum(float(c.max()) for c in by_batch[1] if len(c)) / 4)
    assert len({round(value, 6) for value in values.values()}) == 3
    assert {round(order_free_f(torch.cat(curves)), 12) for curves in by_batch.values()} == {round(values[4], 12)}


def test_no_sounding_frame_gives_zero() -> None:
    empty = f_curve(torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool))
    assert empty.shape == (0, 255)
    assert field_f([empty]) == 0
    assert order_free_f(empty) == 0


def test_semantic_scores_by_hand() -> None:
    score = SemanticScore(4)
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    answer = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 2]]])
    score.add(answer, truth)
    # Class 0: 1/2 and 3/4; class 1: 2/3; class 2: one wrong pixel, a frame of value 0; class 3 never seen.
    expected = [0.625, 2 / 3, 0.0]
    assert score.per_class_iou()[:3].tolist() == pytest.approx(expected)
    assert score.field_miou() == pytest.approx(sum(expected) / 4)
    assert score.present_miou() == pytest.approx(sum(expected) / 3)
    precision_recall = [(1.0, 0.5), (1.0, 0.75)]
    by_frame = [1.3 * p * r / (0.3 * p + r) for p, r in precision_recall]
    class_one = 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1)
    assert score.field_f() == pytest.approx((sum(by_frame) / 2 + class_one) / 4)
