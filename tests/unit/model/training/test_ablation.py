"""The ablation: arms differ by one part, take the same batches, and the table is of what was measured."""

import json
import math

import pytest
import torch
from support.model.pictures_folder import KINDS, write_pictures_folder

from model.cli.ablation import table
from model.data.synthetic import TRAINING_SEEDS, sample_batch
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.variants import variant
from model.training.ablation.pictures import ENCODERS, PicturesPlan, _Encoded, _Row
from model.training.ablation.run import ablate, summarise
from model.training.ablation.synthetic import SyntheticPlan, exchange_sounds
from model.training.distributed import ProcessGroup
from model.training.initial_weights import load_initial_weights
from model.training.tasks.pictures import PicturesTask
from model.training.tasks.synthetic_objective import prepare
from model.training.tasks.task import seeded
from model.training.trainer import Trainer

SMALL = SyntheticPlan(num_samples=24, size_px=48, batch_samples=12, num_clips=8)


def test_every_prompt_mode_and_an_all_transformer_decoder_are_arms() -> None:
    configs = {name: SMALL.training(arm, seed=0).model_config(labels=("sounding",)) for name, arm in SMALL.arms.items()}
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
    config = SMALL.training(SMALL.arms["add"], seed=0)
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
        ablate(SyntheticPlan(num_samples=48, size_px=48), arms=["none"], seeds=[], out=tmp_path)
    with pytest.raises(ValueError, match="expected one of none, add"):
        ablate(SMALL, arms=["nothing"], seeds=[1], out=tmp_path)


def test_the_summary_is_mean_and_sample_deviation() -> None:
    figures = dict.fromkeys(("wrong_sound_iou", "empty_ok", "latency_ms", "attention_entropy", "attention_distance"))
    seeds = [{"none": {**figures, "iou_sounding": value}} for value in (0.2, 0.4)]
    summary = summarise(seeds, SMALL.figures)
    assert json.loads(json.dumps(summary["none"]["iou_sounding"])) == pytest.approx(
        {"mean": 0.3, "deviation": 0.02**0.5}
    )
    assert "0.300 ±0.141" in table(summary, SMALL.figures)[1]


@pytest.fixture(scope="module")
def pictures_plan(tmp_path_factory: pytest.TempPathFactory) -> PicturesPlan:
    """A plan over the tests' own pictures, with an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("pictures")
    root = write_pictures_folder(folder / "root")
    config = variant("lite", labels=("background", *KINDS))
    torch.manual_seed(0)
    state = AVESFormer(config).state_dict()
    init = folder / "init.safetensors"
    save_checkpoint(init, config=config, state=state, world_version=None, training={})
    return PicturesPlan(
        str(root), str(init), num_samples=12, size_px=64, batch_pictures=2, num_pictures=2, sound_windows=32
    )


def test_rows_on_pictures_share_the_encoders_and_learn_to_fuse(pictures_plan: PicturesPlan, tmp_path) -> None:
    summary = ablate(pictures_plan, arms=["none", "concat_mix", "experts"], seeds=[0], out=tmp_path)
    assert (summary["data"], summary["seeds"], summary["plan"]["init"]) == ("pictures", [0], "init.safetensors")
    rows = summary["arms"]
    assert 0 <= rows["experts"]["other_empty"]["mean"] <= 1
    assert "latency_ms" not in rows["experts"]
    assert rows["concat_mix"]["latency_ms"]["mean"] > 0
    stored = json.loads((tmp_path / "seed0.json").read_text())["arms"]
    assert stored["none"]["loss"] != stored["concat_mix"]["loss"]
    assert math.isfinite(stored["none"]["loss"])


def test_a_row_on_pictures_changes_only_what_fuses(pictures_plan: PicturesPlan) -> None:
    config = pictures_plan.training(seed=0)
    task = PicturesTask(config, device=torch.device("cpu"), group=ProcessGroup())
    encoders = task.objective.model
    load_initial_weights(encoders, config)
    encoders.requires_grad_(False).eval()
    row = _Row(pictures_plan.arms["add"], encoders, config)
    before = {name: value.clone() for name, value in row.model.state_dict().items()}
    batch = task.batch(0, size_px=64)
    task.close()
    row.step(_Encoded.of(encoders, batch, num_audio_layers=config.audio_frozen_layers), 0)
    changed = {name for name, value in row.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"neck", "prompt_query", "decoder", "head"}
    assert all(
        torch.equal(before[name], value) for name, value in encoders.state_dict().items() if name.startswith(ENCODERS)
    )
