"""Metrics: values by hand, and the field's quirks reproduced by a literal loop."""

import pytest
import torch

from model.evaluation.metrics import BinaryScore, SemanticScore, f_curve, field_f, field_j, mask_iou, order_free_f


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


def test_padded_frames_lift_the_background_only() -> None:
    score = SemanticScore(4)
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    answer = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 2]]])
    score.add(answer, truth)
    figures = score.figures(num_padded=3)
    others = 2 / 3 + 0.0
    assert figures["field_miou"] == pytest.approx((0.625 + others) / 4)
    assert figures["field_miou_padded"] == pytest.approx(((0.5 + 0.75 + 3) / 5 + others) / 4)
    by_frame = [1.3 * p * r / (0.3 * p + r) for p, r in [(1.0, 0.5), (1.0, 0.75)]]
    class_one = 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1)
    assert figures["field_f_padded"] == pytest.approx(((sum(by_frame) + 3) / 5 + class_one) / 4)
    # Over the whole data set: background 4 of 6 pixels, class 1 2 of 3, class 2 none of 1.
    assert figures["dataset_miou"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)


def test_semantic_scores_equal_the_published_loop() -> None:
    generator = torch.Generator().manual_seed(9)
    num_classes = 6
    truth = torch.randint(0, 4, (5, 7, 8), generator=generator)
    answer = torch.where(torch.rand(5, 7, 8, generator=generator) < 0.6, truth, (truth + 2) % num_classes)
    iou_sum, f_sum, seen = torch.zeros(num_classes), torch.zeros(num_classes), torch.zeros(num_classes)
    for predicted, true in zip(answer, truth, strict=True):
        area = [torch.bincount(x, minlength=num_classes) for x in (predicted.flatten(), true.flatten())]
        hits = torch.bincount(true[predicted == true], minlength=num_classes)
        union = area[0] + area[1] - hits
        iou_sum += hits / (2.220446049250313e-16 + union)
        precision, recall = hits / area[0], hits / area[1]
        f_sum += torch.nan_to_num(1.3 * precision * recall / (0.3 * precision + recall), nan=0.0)
        seen += (union > 0).float()
    score = SemanticScore(num_classes)
    score.add(answer, truth)
    assert score.field_miou() == pytest.approx(float(torch.nan_to_num(iou_sum / seen, nan=0.0).mean()), rel=1e-5)
    assert score.field_f() == pytest.approx(float(torch.nan_to_num(f_sum / seen, nan=0.0).mean()), rel=1e-5)


# Four frames of four pixels, worked out by hand.
PROBABILITY = torch.tensor([[0.9, 0.6, 0.4, 0.1], [0.3, 0.8, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.2]])[
    :, None
]
TRUTH = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)[:, None]


def f_of(precision: float, recall: float) -> float:
    return 1.3 * precision * recall / (0.3 * precision + recall)


@pytest.mark.parametrize(
    ("size", "field_f_by_hand"),
    [
        # Between 0.1 and 0.2 every frame with a truth finds all of it: precisions 2/3, 1/2 and 1.
        (4, (f_of(2 / 3, 1) + f_of(1 / 2, 1) + 1) / 3),
        # The first two are best there as well; the third is empty, so the fourth's best (1, below 0.2) stands alone.
        (2, ((f_of(2 / 3, 1) + f_of(1 / 2, 1)) / 2 + 1) / 2),
        # One by one: 1 at 0.5, 1/2 and 1 between 0.1 and 0.3, 0 for the empty one, 1 at most at 0.2.
        (1, (1 + f_of(1 / 2, 1) + 0 + 1) / 4),
    ],
)
def test_golden_figures_of_a_toy_set(size: int, field_f_by_hand: float) -> None:
    score = BinaryScore()
    for start in range(0, 4, size):
        score.add(PROBABILITY[start : start + size], TRUTH[start : start + size])
    figures = score.figures()
    assert figures["field_f_2_clips"] == pytest.approx(field_f_by_hand)
    # Frame by frame: both pixels right; the wrong one; three of four left empty; three of four found.
    assert figures["order_free_j"] == pytest.approx((1 + 0 + 0.75 + 0.75) / 4)
    assert figures["field_j_2_clips"] == pytest.approx((1 + 0 + 0.75 + 0.75) / 4)
    assert figures["mean_iou"] == pytest.approx((1 + 0 + 0 + 0.75) / 4)
    assert figures["order_free_f"] == pytest.approx((f_of(2 / 3, 1) + f_of(1 / 2, 1) + 1) / 3)
    # 5 hits in a union of 2 + 2 + 1 + 4 pixels; of the background 7 in 11.
    assert figures["dataset_iou"] == pytest.approx(5 / 9)
    assert figures["dataset_mean_iou"] == pytest.approx((5 / 9 + 7 / 11) / 2)


def test_the_fields_j_weighs_batches_and_not_frames() -> None:
    score = BinaryScore()
    score.add(PROBABILITY[:3], TRUTH[:3])
    score.add(PROBABILITY[3:], TRUTH[3:])
    assert score.figures()["field_j_2_clips"] == pytest.approx(((1 + 0 + 0.75) / 3 + 0.75) / 2)
    assert score.figures()["order_free_j"] == pytest.approx(0.625)
