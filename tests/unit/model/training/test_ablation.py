"""The ablation: arms differ by one part, take the same batches, and the table is of what was measured."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.efficientnet_state import published_efficientnet_lite
from support.model.pictures_folder import KINDS, write_pictures_folder
from support.model.tflite_files import deeplab_file
from typer.testing import CliRunner

from model.cli.ablation import table
from model.cli.main import app
from model.data.pictures.frames import IGNORED, LabelledFrame, read_picture, squash
from model.data.pictures.index import read_index
from model.data.synthetic import TRAINING_SEEDS, sample_batch
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.mobilenet import EfficientNetLiteDeepLab
from model.network.variants import variant
from model.training.ablation.backbones import VOC_HEAD, BackbonesPlan, Seer, iou_seen
from model.training.ablation.backbones import _Row as BackboneRow
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


@pytest.fixture(scope="module")
def backbones_plan(tmp_path_factory: pytest.TempPathFactory) -> BackbonesPlan:
    """A plan over the tests' own pictures, with random weights in the public files' forms."""
    folder = tmp_path_factory.mktemp("backbones")
    root = write_pictures_folder(folder / "root", per_kind=10)
    torch.manual_seed(0)
    deeplab_file(AVESFormer(variant("lite", labels=("background", *KINDS))), folder / "deeplab.tflite")
    torch.save(published_efficientnet_lite(), folder / "efficientnet.pth")
    weights = {
        "mobilenet_v2_deeplab": str(folder / "deeplab.tflite"),
        "efficientnet_lite0_deeplab": str(folder / "efficientnet.pth"),
    }
    return BackbonesPlan(str(root), weights, num_samples=4, size_px=64, batch_pictures=2, num_pictures=20)


def test_backbones_are_compared_by_the_command(backbones_plan: BackbonesPlan, tmp_path: Path) -> None:
    weights = [part for name, file in backbones_plan.weights.items() for part in ("--weights", f"{name}={file}")]
    sizes = ["--size", "64", "--samples", "8", "--clips", "20", "--seeds", "0", "--out", str(tmp_path)]
    command = ["ablate", "--data", "backbones", "--root", backbones_plan.root, *sizes]
    done = CliRunner().invoke(app, [*command, *weights])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["plan"]["weights"]["mobilenet_v2_deeplab"] == "deeplab.tflite"
    assert set(summary["arms"]) == {"mobilenet_v2", VOC_HEAD, "efficientnet_lite0"}
    for row in summary["arms"].values():
        assert 0 <= row["iou_seen"]["mean"] <= 1
        assert row["latency_ms"]["mean"] > 0
    missing = CliRunner().invoke(app, command)
    assert missing.exit_code == 1
    assert "--weights mobilenet_v2_deeplab=FILE" in missing.stderr


def test_a_backbone_stays_and_its_head_learns(backbones_plan: BackbonesPlan) -> None:
    index = read_index(Path(backbones_plan.root))
    fresh, published = (BackboneRow(name, index, backbones_plan, seed=0).network for name in ("mobilenet_v2", VOC_HEAD))
    for name, value in fresh.state_dict().items():
        is_layer = name.startswith("backbone.mobilenet_v2.")
        is_learned = name.startswith(("backbone.segmentation_head.", "classifier."))
        assert is_layer != is_learned
        assert torch.equal(value, published.state_dict()[name]) == is_layer
    row = BackboneRow("efficientnet_lite0", index, backbones_plan, seed=0)
    before = {name: value.clone() for name, value in row.network.state_dict().items()}
    picture = squash(read_picture(index.pictures[0]), size_px=64)
    row.step([picture, picture], 0)
    changed = {name for name, value in row.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("backbone.mobilenet_v2.")}


def test_iou_seen_is_over_the_pixels_of_all_pictures() -> None:
    class Left(Seer):
        """Sees kind 1 in the left half of every frame."""

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(frames), 2, *frames.shape[-2:])
            logits[:, 0, :, 4:] = 1
            logits[:, 1, :, :4] = 1
            return logits

    network = Left(EfficientNetLiteDeepLab(), torch.nn.Conv2d(1, 2, 1))
    classes = np.zeros((10, 8, 8), np.uint8)
    classes[:, :, 2:6] = 1  # half of it is seen
    classes[0, :, 4:] = IGNORED  # and in one picture, the rest does not count
    pictures = [LabelledFrame(np.zeros((8, 8, 3), np.uint8), entry) for entry in classes]
    seen, truth, answer = 10 * 16, 9 * 32 + 16, 10 * 32
    assert iou_seen(network, pictures) == pytest.approx(seen / (truth + answer - seen))
    assert iou_seen(network, pictures[:9]) is None
