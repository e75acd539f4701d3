"""Losses on cases worked out by hand."""

import math

import pytest
import torch

from model.training.losses import binary_mask_loss, dice_loss, semantic_mask_loss, shrink_masks


def test_shrinking_gives_the_covered_share() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, :3] = True
    assert shrink_masks(masks, height=2, width=2).tolist() == [[[0.5, 0.25], [0.0, 0.0]]]


def test_shrinking_needs_multiples() -> None:
    with pytest.raises(ValueError, match="multiples"):
        shrink_masks(torch.zeros(1, 5, 4, dtype=torch.bool), height=2, width=2)


def test_undecided_logits_cost_five_times_ln_2_and_the_dice_term() -> None:
    truth = torch.zeros(1, 10, 10)
    truth[0, :5] = 1
    smooth = 0.002 * 100
    dice = 1 - (2 * 25 + smooth) / (50 + 50 + smooth)
    loss = binary_mask_loss(torch.zeros(1, 10, 10), truth, torch.ones(1))
    assert float(loss) == pytest.approx(5 * math.log(2) + dice, rel=1e-5)


def test_a_perfect_answer_costs_nothing() -> None:
    truth = (torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    assert float(binary_mask_loss((truth - 0.5) * 60, truth, torch.ones(3))) == pytest.approx(0, abs=1e-4)


def test_samples_of_weight_zero_do_not_count() -> None:
    truth = torch.zeros(2, 8, 8)
    logits = torch.stack((torch.full((8, 8), -20.0), torch.full((8, 8), 20.0)))
    assert float(binary_mask_loss(logits, truth, torch.tensor([1.0, 0.0]))) == pytest.approx(0, abs=1e-4)
    assert float(binary_mask_loss(logits, truth, torch.zeros(2))) == 0


def test_dice_of_an_empty_truth_grows_with_the_blob() -> None:
    truth = torch.zeros(3, 20, 20)
    answer = torch.zeros(3, 20, 20)
    answer[1, 0, :2] = 1
    answer[2, :5] = 1
    none, small, large = dice_loss(answer, truth).tolist()
    assert none == pytest.approx(0, abs=1e-6)
    assert 0.3 < small < large < 1


def test_semantic_loss_prefers_the_right_class() -> None:
    classes = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 30
    weights = torch.ones(2)
    assert float(semantic_mask_loss(right, classes, weights)) == pytest.approx(0, abs=1e-4)
    assert float(semantic_mask_loss(right.roll(1, dims=1), classes, weights)) > 10
