"""The ablation: arms differ by one part, take the same batches, and the table is of what was measured."""

import json
import math

import pytest
import torch

from model.cli.ablation import table
from model.data.synthetic import TRAINING_SEEDS, sample_batch
from model.training.ablation import ARMS, AblationPlan, ablate, exchange_sounds, summarise
from model.training.tasks.synthetic_objective import prepare
from model.training.tasks.task import seeded
from model.training.trainer import Trainer

SMALL = AblationPlan(num_samples=24, size_px=48, batch_samples=12, num_clips=8)


def test_every_prompt_mode_and_an_all_transformer_decoder_are_arms() -> None:
    configs = {name: SMALL.training(arm, seed=0).model_config(labels=("sounding",)) for name, arm in ARMS.items()}
    assert {configs[mode].prompt.mode for mode in ("none", "add", "concat", "concat_mix")} == {
        "none",
        "add",
        "concat",
        "concat_mix",
    }
    assert configs["all_transformer"].decoder.num_conv_blocks == 0
    assert configs["all_transformer"].decoder.num_transformer_blocks == 3
    assert configs["shuffled_sound"] == configs["concat_mix"]


def test_shuffled_sound_moves_windows_and_keeps_the_truth() -> None:
    batch = prepare(
        sample_batch(range(TRAINING_SEEDS, TRAINING_SEEDS + 4), samples_per_clip=4, size_px=48), seeded(0, 0, stream=0)
    )
    moved = exchange_sounds(batch, seed=0, step=0)
    count = len(batch.frames)
    assert not torch.equal(moved.log_mel[:count], batch.log_mel[:count])
    sums = [value.log_mel[:count].flatten(1).sum(1).sort()[0] for value in (moved, batch)]
    assert torch.equal(*sums)
    assert torch.equal(moved.log_mel[count:], batch.log_mel[count:])
    assert moved.sounding is batch.sounding
    assert moved.kind_map is batch.kind_map


def test_a_given_batch_trains_as_the_course_s_own(tmp_path) -> None:
    config = SMALL.training(ARMS["add"], seed=0)
    alone, given = Trainer(config, out=tmp_path / "a"), Trainer(config, out=tmp_path / "b")
    for step in range(2):
        first = alone.step()["loss"]
        assert given.step(alone.task.batch(step, size_px=48))["loss"] == first


def test_seeds_that_are_done_are_kept_and_others_refused(tmp_path) -> None:
    summary = ablate(SMALL, arms=["none", "concat"], seeds=[0], out=tmp_path)
    assert summary["arms"]["none"]["attention_entropy"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < summary["arms"]["concat"]["attention_entropy"]["mean"] <= math.log(16) + 1e-6
    assert summary["arms"]["concat"]["latency_ms"]["mean"] > 0
    stored = (tmp_path / "seed0.json").read_text()
    assert ablate(SMALL, arms=["none"], seeds=[0], out=tmp_path) == summary
    assert (tmp_path / "seed0.json").read_text() == stored
    with pytest.raises(ValueError, match="another plan"):
        ablate(AblationPlan(num_samples=48, size_px=48), arms=["none"], seeds=[], out=tmp_path)
    with pytest.raises(ValueError, match="expected one of none, add"):
        ablate(SMALL, arms=["nothing"], seeds=[1], out=tmp_path)


def test_the_summary_is_mean_and_sample_deviation() -> None:
    figures = dict.fromkeys(("wrong_sound_iou", "empty_ok", "latency_ms", "attention_entropy", "attention_distance"))
    seeds = [{"none": {**figures, "iou_sounding": value}} for value in (0.2, 0.4)]
    summary = summarise(seeds)
    assert json.loads(json.dumps(summary["none"]["iou_sounding"])) == pytest.approx(
        {"mean": 0.3, "deviation": 0.02**0.5}
    )
    assert "0.300 ±0.141" in table(summary)[1]
