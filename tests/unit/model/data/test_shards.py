"""Shards: what codecs leave of a clip still belongs to its truth, and training takes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.data import shards
from model.data.shards import SHARD_SEEDS, list_shards, read_shard, write_shards
from model.data.synthetic import SampleBatch, sample_batch
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.synthetic import SyntheticTask

SIZE_PX = 48
CONFIG = TrainingConfig(name="shards", variant="tiny", sizes=((0.0, SIZE_PX),), steps=8, batch_samples=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard; its pictures pass the codec at 64 or 96 lines instead of 240 or 360, a tenth of the work."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "HEIGHTS_PX", (64, 96))
        write_shards(folder, num=1, size_px=SIZE_PX)
    return folder


@pytest.fixture(scope="module")
def shard(folder: Path) -> SampleBatch:
    return read_shard(list_shards(folder)[0], size_px=SIZE_PX)


@pytest.fixture(scope="module")
def pure() -> SampleBatch:
    return sample_batch(range(SHARD_SEEDS, SHARD_SEEDS + 16), samples_per_clip=6, size_px=SIZE_PX, frame_rate_hz=10)


def test_truth_is_the_world_s_own(shard: SampleBatch, pure: SampleBatch) -> None:
    for name in ("masks", "kind_map", "sounding_kinds", "ambiguous", "clip_ids"):
        assert torch.equal(getattr(shard, name), getattr(pure, name)), name


def test_frames_are_the_same_pictures_changed_by_a_codec(shard: SampleBatch, pure: SampleBatch) -> None:
    difference = (shard.frames.float() - pure.frames.float()).abs().mean(dim=(1, 2, 3))
    other = (shard.frames.roll(6, dims=0).float() - pure.frames.float()).abs().mean(dim=(1, 2, 3))
    assert (difference < other).all()
    assert 0.5 < float(difference.mean()) < 12


def test_windows_are_the_same_sound_at_the_same_time(shard: SampleBatch, pure: SampleBatch) -> None:
    """Correlation over lags of +-50 ms: high, and highest within 5 ms of no lag."""
    heard = 0
    for coded, true in zip(shard.windows, pure.windows, strict=True):
        if float(true.square().mean()) < 1e-5:
            continue
        size = 2 * len(true)
        spectrum = torch.fft.rfft(coded, size) * torch.fft.rfft(true, size).conj()
        correlation = torch.fft.irfft(spectrum, size).roll(800)[:1601] / (coded.norm() * true.norm())
        assert float(correlation.max()) > 0.7
        assert abs(int(correlation.argmax()) - 800) <= 80
        heard += 1
    assert heard > 40


def test_another_size_is_resized(folder: Path, shard: SampleBatch) -> None:
    small = read_shard(list_shards(folder)[0], size_px=32)
    assert small.frames.shape == (96, 32, 32, 3)
    assert set(small.kind_map.unique().tolist()) <= set(shard.kind_map.unique().tolist())
    share = [batch.masks.float().mean(dim=(1, 2)) for batch in (small, shard)]
    assert (share[0] - share[1]).abs().max() < 0.03


def test_shards_that_are_there_are_kept(folder: Path) -> None:
    before = list_shards(folder)[0].stat().st_mtime_ns
    assert write_shards(folder, num=1, size_px=SIZE_PX) == list_shards(folder)
    assert list_shards(folder)[0].stat().st_mtime_ns == before


def test_training_draws_its_share_from_the_shards(folder: Path, shard: SampleBatch) -> None:
    task = SyntheticTask(
        replace(CONFIG, shards=str(folder), shard_share=0.5), device=torch.device("cpu"), group=ProcessGroup()
    )
    ids = [set(task._samples(step, SIZE_PX).clip_ids.tolist()) for step in range(6)]
    from_shard = [chosen == set(shard.clip_ids.tolist()) for chosen in ids]
    assert any(from_shard)
    assert not all(from_shard)
    assert set(task._samples(0, SIZE_PX).clip_ids.tolist()) == ids[0]


def test_what_cannot_be_used_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write some with"):
        SyntheticTask(replace(CONFIG, shards=str(tmp_path)), device=torch.device("cpu"), group=ProcessGroup())
    with pytest.raises(ValueError, match="expected 16 and 6"):
        SyntheticTask(
            replace(CONFIG, shards=str(folder), clips_per_group=8), device=torch.device("cpu"), group=ProcessGroup()
        )
    save_file(load_file(list_shards(folder)[0]), tmp_path / "shard_old.safetensors", {"world_version": "0"})
    with pytest.raises(ValueError, match="world version 0"):
        read_shard(tmp_path / "shard_old.safetensors", size_px=SIZE_PX)
