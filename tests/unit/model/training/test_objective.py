"""Pairing of pictures and windows, and the truth that follows from it."""

import pytest
import torch

from model.data.synthetic import KINDS, TRAINING_SEEDS, SampleBatch, sample_batch
from model.network.avesformer import AVESFormer
from model.network.variants import variant
from model.training.augment import _shift, augment_frames, augment_windows, flip, quiet_windows
from model.training.tasks.synthetic_objective import TrainingObjective, choose_swapped, prepare, sounding_masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def samples() -> SampleBatch:
    return sample_batch(range(TRAINING_SEEDS, TRAINING_SEEDS + 4), samples_per_clip=4, size_px=64)


def test_the_truth_of_a_picture_with_its_own_window_is_its_mask(samples: SampleBatch) -> None:
    masks = sounding_masks(samples.kind_map.long(), samples.sounding_kinds)
    assert masks.any()
    assert torch.equal(masks, samples.masks)


def test_the_truth_with_another_window_follows_the_kinds_heard() -> None:
    kind_map = torch.tensor([[[0, 1], [2, 3]]])
    sounding = torch.tensor([[False, True, True]])
    assert sounding_masks(kind_map, sounding).tolist() == [[[False, False], [True, True]]]


def test_a_swapped_window_is_never_the_own_one_and_often_matches() -> None:
    kind_map = torch.zeros(6, 4, 4, dtype=torch.int64)
    for row in range(6):
        kind_map[row, 0, 0] = 1 + row % 3
    sounding = torch.eye(3, dtype=torch.bool)[torch.tensor([0, 1, 2, 0, 1, 2, 0])]
    matches = 0
    for seed in range(200):
        chosen = choose_swapped(kind_map, sounding, generator(seed))
        assert (chosen != torch.arange(6)).all()
        assert chosen.max() <= 6
        matches += int(sounding_masks(kind_map, sounding[chosen]).flatten(1).any(dim=1).sum())
    # 60 % are drawn among the matching windows; of the rest, at most 2 in 6 match by chance.
    assert 0.6 < matches / 1200 < 0.85


def test_preparing_repeats_itself_and_keeps_the_truth_aligned(samples: SampleBatch) -> None:
    first, again, other = (prepare(samples, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.log_mel, again.log_mel)
    assert not torch.equal(first.frames, other.frames)
    count, num_quiet = len(samples.frames), len(samples.frames) // 8
    assert first.log_mel.shape == (count + num_quiet, 1, 96, 64)
    assert not first.sounding[count:].any()
    assert torch.isfinite(first.frames).all()
    # A frame's own kinds stay in it, whichever way it was flipped.
    assert torch.equal(first.kind_map.flatten(1).sum(dim=1), samples.kind_map.long().flatten(1).sum(dim=1))


def test_flips_move_picture_and_truth_alike() -> None:
    kind_map = torch.arange(32 * 32).view(1, 32, 32) % 7
    frames = kind_map[..., None].expand(1, 32, 32, 3).to(torch.uint8)
    changed = 0
    for seed in range(12):
        flipped, moved = flip(frames, kind_map, generator(seed))
        assert torch.equal(flipped[..., 0].long(), moved)
        changed += int(not torch.equal(moved, kind_map))
    assert 4 <= changed <= 12


def test_augmented_frames_stay_pictures(samples: SampleBatch) -> None:
    before = samples.frames.clone()
    changed = augment_frames(samples.frames, generator())
    assert changed.dtype == torch.uint8
    assert changed.shape == samples.frames.shape
    assert torch.equal(samples.frames, before)
    # The picture is still recognisable: it correlates with itself.
    pairs = zip(changed.float().flatten(1), before.float().flatten(1), strict=True)
    assert min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) > 0.7


def test_augmented_windows_stay_in_range_and_vary_in_level(samples: SampleBatch) -> None:
    before = samples.windows.clone()
    loud = samples.windows[samples.windows.abs().amax(dim=1) > 0.05][:1].expand(64, -1)
    changed = augment_windows(loud, generator())
    assert torch.equal(samples.windows, before)
    assert changed.abs().max() <= 1
    level_db = 20 * changed.square().mean(dim=1).sqrt().log10()
    assert float(level_db.max() - level_db.min()) > 15


def test_a_shifted_window_keeps_its_sound_and_knows_nothing_beyond() -> None:
    ramp = torch.linspace(0.1, 0.5, 15_600).expand(64, -1)
    shifted = _shift(ramp, generator())
    lost = (shifted == 0).sum(dim=1)
    assert 200 < int(lost.max()) <= 320  # 20 ms
    for row in shifted:
        known = row[row > 0]
        at = int((ramp[0] - known[0]).abs().argmin())
        assert torch.equal(known, ramp[0, at : at + len(known)])
    assert any(float(row[0]) == 0 for row in shifted)
    assert any(float(row[-1]) == 0 for row in shifted)


def test_a_false_alarm_weighs_more_than_a_miss(samples: SampleBatch) -> None:
    torch.manual_seed(0)
    objective = TrainingObjective(AVESFormer(variant("tiny")), num_kinds=len(KINDS))
    batch = prepare(samples, generator())
    own = torch.arange(len(batch.frames))
    shares = sounding_masks(batch.kind_map, batch.sounding[own]).float().mean(dim=(1, 2))
    is_clear = ~batch.ambiguous[own]
    logits = torch.zeros(len(own), 1, 32, 32)
    logits[is_clear & (shares == 0)] = 10.0  # wrong wherever nothing sounds, undecided elsewhere
    wrong = float(objective._mask_loss(logits, own, batch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.tasks.synthetic_objective.EMPTY_WEIGHT", 1.0)
        assert wrong > float(objective._mask_loss(logits, own, batch))


def test_quiet_windows_are_quiet() -> None:
    windows = quiet_windows(64, generator())
    assert windows.shape == (64, 15_600)
    level = windows.square().mean(dim=1).sqrt()
    assert 10 < int((level == 0).sum()) < 45
    assert float(level.max()) < 0.08


def test_every_part_of_the_loss_reaches_its_weights(samples: SampleBatch) -> None:
    torch.manual_seed(0)
    objective = TrainingObjective(AVESFormer(variant("tiny")), num_kinds=len(KINDS))
    losses = objective(prepare(samples, generator()))
    assert set(losses) == {"loss", "mask", "swapped", "pixel_kind", "audio_kind"}
    losses["loss"].backward()
    without = [name for name, value in objective.named_parameters() if value.grad is None]
    assert without == []


def test_the_semantic_loss_trains_too(samples: SampleBatch) -> None:
    objective = TrainingObjective(AVESFormer(variant("tiny", labels=("background", *KINDS))), num_kinds=len(KINDS))
    losses = objective(prepare(samples, generator()))
    assert all(torch.isfinite(value) for value in losses.values())
