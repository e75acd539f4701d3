"""Training on pictures and recordings: truth under a sound, choice of sounds, a short run that is resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.pictures_folder import KINDS, write_pictures_folder
from typer.testing import CliRunner

from model.cli.main import app
from model.data.pictures.index import read_index
from model.network.checkpoint import load_checkpoint
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.losses import semantic_mask_loss
from model.training.tasks.pictures import PicturesTask, choose_sounds
from model.training.tasks.pictures_objective import heard_classes
from model.training.tasks.sound_bank import SoundBank

SMALL_RUN = ("steps=2", "sizes=0:64", "batch_pictures=2", "sounds_per_picture=2", "heard_windows=2", "sound_windows=32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures_folder(tmp_path_factory.mktemp("pictures") / "root")


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def train(folder: Path, out: Path, *more: str) -> None:
    sets = [part for entry in (*SMALL_RUN, "amp=off", "evaluate_clips=2") for part in ("--set", entry)]
    command("train", "lite-pictures", "--root", str(folder), "--out", str(out), *sets, *more)


def test_only_heard_kinds_are_truth() -> None:
    classes = torch.tensor([[[0, 1], [2, 255]]])
    heard = torch.tensor([[True, False]])
    assert heard_classes(classes, heard).tolist() == [[[0, 1], [0, 255]]]
    assert heard_classes(classes, torch.tensor([[False, False]])).tolist() == [[[0, 0], [0, 255]]]


def test_ignored_pixels_have_no_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    classes = torch.ones(1, 4, 4, dtype=torch.int64)
    classes[:, :2] = 255
    semantic_mask_loss(logits, classes, torch.ones(1)).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()


def test_first_sound_is_of_a_kind_in_the_picture(folder: Path) -> None:
    index = read_index(folder)
    sources = torch.tensor([[0, -1], [0, -1], [1, -1], [0, 1], [-1, -1]])
    bank = SoundBank.of(torch.zeros(5, 1, 1, 1), sources, index)
    config = TrainingConfig(name="x", variant="lite", sounds_per_picture=4)
    drawn = [choose_sounds(bank, [[0], [1], []], config, np.random.default_rng(seed)) for seed in range(50)]
    first = {tuple(numbers[:, 0]) for numbers in drawn}
    assert {numbers[0] for numbers in first} == {0, 1, 3}
    assert {numbers[1] for numbers in first} == {2, 3}
    later = {int(number) for numbers in drawn for number in numbers[0, 1:]}
    assert later == {0, 1, 2, 3, 4}
    assert bank.heard[3].tolist() == [True, True]


def test_batches_follow_from_the_step(folder: Path) -> None:
    config = TrainingConfig(
        name="x", variant="lite", data="pictures", is_semantic=True, root=str(folder), sizes=((0.0, 64),),
        batch_pictures=2, sounds_per_picture=2, heard_windows=3, sound_windows=32,
    )  # fmt: skip
    tasks = []
    for _ in range(2):
        torch.manual_seed(0)
        tasks.append(PicturesTask(config, device=torch.device("cpu"), group=ProcessGroup()))
    try:
        first = tasks[0].batch(3, size_px=64)
        tasks[1].batch(0, size_px=64)
        second = tasks[1].batch(3, size_px=64)
        assert first.frames.shape == (2, 3, 64, 64)
        assert len(first.features) == 2 * 2 + 3
        assert torch.equal(first.frames, second.frames)
        assert torch.equal(first.heard, second.heard)
        assert torch.equal(first.features, second.features)
    finally:
        for task in tasks:
            task.close()


def test_train_resume_and_evaluate(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert checkpoint.config.labels == ("background", *KINDS)
    assert checkpoint.config.input_height == 64
    train(folder, tmp_path / "run", "--resume", "--set", "steps=3")
    longer = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert longer.training["steps"] == 3
    frozen = "backbone.network.mobilenet_v2.conv_stem.first_conv.convolution.weight"
    trained = "experts.seen.weight"
    assert torch.equal(checkpoint.state[frozen], longer.state[frozen])
    assert not torch.equal(checkpoint.state[trained], longer.state[trained])
    evaluated = command(
        "evaluate", "--data", "pictures", "--root", str(folder), "--checkpoint",
        str(tmp_path / "run" / "model.safetensors"), "--robust", "--sheet", str(tmp_path / "sheet"),
    )  # fmt: skip
    figures = json.loads(evaluated)
    assert figures["split"] == "val"
    robust = figures["robust"]
    assert {"louder_12_db", "quieter_12_db", "mono_8_khz", "aac_32_kb_s"} < set(robust)
    for condition in ("silence", "noise", "off_screen"):
        assert set(robust[condition]) == {"false_positive_rate", "not_empty", "drop"}
    assert robust["num_pairs"] == 12
    assert figures["num_pairs"] == 12
    assert (tmp_path / "sheet" / "worst.png").stat().st_size > 10_000


def test_verify_command(folder: Path) -> None:
    assert "train/dog 3" in command("data", "verify", "--data", "pictures", "--root", str(folder))


def test_a_variant_without_the_branches_is_refused(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["train", "lite-pictures", "--root", str(folder), "--out", str(tmp_path), "--set", "variant=tiny"],
    )
    assert result.exit_code == 1
    assert "has no DeepLab backbone" in result.stderr
