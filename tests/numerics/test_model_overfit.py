"""`r50` in full can learn: four pictures under two sounds each, through the loss of real training, to IoU 0.95."""

import math

import pytest
import torch

from model.data.synthetic import TRAINING_SEEDS, SampleBatch, sample_batch
from model.network.avesformer import AVESFormer
from model.network.preprocess import window_log_mel
from model.network.variants import variant
from model.training.tasks.avsbench_objective import ClipBatch, ClipObjective, prepare_clips
from model.training.tasks.synthetic_objective import sounding_masks

SIZE_PX = 64
NUM_CLIPS = 80
NUM_SAMPLES = 8
STEPS = 240
PEAK_RATE = 1e-3
WARMUP_STEPS = 10
# Of the frame: at 64 px a smaller mask is a matter of single pixels.
LEAST_SHARE = 0.06


def choose_pairs(world: SampleBatch) -> list[tuple[int, int]]:
    """Pictures with two windows each, whose true masks are large and have no pixel in common."""
    pairs: list[tuple[int, int]] = []
    for picture in range(NUM_CLIPS):
        masks = masks_of(world, [(picture, window) for window in range(NUM_CLIPS)])
        large = [window for window in range(NUM_CLIPS) if masks[window].float().mean() >= LEAST_SHARE]
        apart = [(a, b) for a in large for b in large if a < b and not (masks[a] & masks[b]).any()]
        if apart and len(pairs) < NUM_SAMPLES:
            pairs += [(picture, apart[0][0]), (picture, apart[0][1])]
    return pairs


def masks_of(world: SampleBatch, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """(B, H, W) boolean: what of each picture sounds under the window that it is paired with."""
    pictures, windows = (list(column) for column in zip(*pairs, strict=True))
    return sounding_masks(world.kind_map[pictures].long(), world.sounding_kinds[windows])


def eight_samples() -> ClipBatch:
    """The same pictures under different sounds, so that pictures alone cannot give the answer."""
    world = sample_batch(range(TRAINING_SEEDS, TRAINING_SEEDS + NUM_CLIPS), samples_per_clip=1, size_px=SIZE_PX)
    pairs = choose_pairs(world)
    pictures, windows = (list(column) for column in zip(*pairs, strict=True))
    return prepare_clips(
        world.frames[pictures],
        window_log_mel(world.windows[windows]),
        masks_of(world, pairs).long(),
        augmentation="none",
        generator=torch.Generator().manual_seed(0),
    )


def learn(objective: ClipObjective, batch: ClipBatch) -> list[float]:
    """The same batch over and over: warm-up, then a cosine to nothing, so that running statistics settle."""
    trained = [value for value in objective.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    losses = []
    objective.train()
    for step in range(STEPS):
        share = min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * share
        loss = objective(batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.inference_mode()
def iou_per_sample(model: AVESFormer, batch: ClipBatch) -> torch.Tensor:
    """Intersection over union of each sample's mask, in eval mode as the service runs it."""
    got, truth = model.eval()(batch.frames, batch.log_mel)[:, 0] > 0, batch.truth > 0
    return (got & truth).sum(dim=(1, 2)) / (got | truth).sum(dim=(1, 2))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_r50_overfits_eight_samples() -> None:
    torch.manual_seed(0)
    objective = ClipObjective(AVESFormer(variant("r50")))
    batch = eight_samples()
    assert len(batch.frames) == NUM_SAMPLES
    assert float(iou_per_sample(objective.model, batch).mean()) < 0.5
    losses = learn(objective, batch)
    assert losses[-1] < 0.3 * losses[0]
    assert float(iou_per_sample(objective.model, batch).mean()) >= 0.95
