"""Robustness figures of answers that are known beforehand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.model.avsbench_oracle import Oracle
from support.model.avsbench_tree import LABELS, make_avss, make_ms3, make_s4
from typer.testing import CliRunner

from model.cli.main import app
from model.data.avsbench.index import read_index
from model.data.avsbench.subsets import Subset
from model.evaluation.robust import RobustScore, evaluate_robust
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.variants import variant

OBJECT_SHARE = 22 * 22 / 64**2


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts; tests must not change it."""
    return make_avss(make_ms3(make_s4(tmp_path_factory.mktemp("avsbench"))))


def evaluate(tree: Path, subset: Subset, model: object) -> dict:
    return evaluate_robust(model, read_index(tree, subset=subset, split="test"), size_px=64)


def test_a_model_that_hears_marks_nothing_under_silence_and_noise(tree: Path) -> None:
    figures = evaluate(tree, Subset.S4, Oracle())
    assert figures["own_iou"] == 1
    assert figures["own_false_positive_rate"] == 0
    assert figures["silence"] == {"false_positive_rate": 0, "not_empty": 0, "drop": 1}
    # The other category's object is in view too, and its sound marks it: the wrong object, so the IoU is lost.
    assert figures["off_screen"]["drop"] == 1
    assert figures["off_screen"]["false_positive_rate"] > 0.05
    assert figures["off_screen_is_other_category"]


@pytest.mark.parametrize("subset", list(Subset))
def test_a_deaf_model_marks_as_much_as_ever_and_drops_nothing(tree: Path, subset: Subset) -> None:
    labels = LABELS if subset.is_semantic else ("sounding",)
    figures = evaluate(tree, subset, Oracle(labels, is_deaf=True))
    for condition in ("silence", "noise", "off_screen"):
        assert figures[condition]["drop"] == 0
        assert figures[condition]["not_empty"] == 1
        assert figures[condition]["false_positive_rate"] > OBJECT_SHARE
    assert figures["drop"] == 0
    assert figures["off_screen_is_other_category"] is (subset is Subset.S4)


def test_rates_are_shares_of_pixels_and_of_frames() -> None:
    score = RobustScore()
    truth = torch.zeros(2, 10, 10, dtype=torch.bool)
    truth[0, :5] = True
    noisy = torch.zeros_like(truth)
    noisy[0, :5, :2] = True  # 10 of 100 pixels, all of them in what really sounded: IoU 0.2
    score.add(truth, truth, {"noise": noisy})
    figures = score.figures()
    assert figures["own_iou"] == 1
    assert figures["noise"] == {
        "false_positive_rate": pytest.approx(0.05),
        "not_empty": 0.5,
        "drop": pytest.approx(0.8),
    }
    assert figures["false_positive_rate"] == pytest.approx(0.05)
    assert "silence" not in figures


def test_ignored_pixels_are_neither_right_nor_wrong() -> None:
    score = RobustScore()
    truth, ignored = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    truth[0, :5] = True
    ignored[0, 5:, :5] = True  # 25 of 100 pixels
    everywhere = torch.ones_like(truth)
    score.add(truth, everywhere, {"silence": everywhere, "noise": ignored}, ignored=ignored)
    figures = score.figures()
    assert figures["own_iou"] == pytest.approx(50 / 75)
    assert figures["own_false_positive_rate"] == 1
    assert figures["silence"] == {"false_positive_rate": 1, "not_empty": 1, "drop": 0}
    assert figures["noise"] == {"false_positive_rate": 0, "not_empty": 0, "drop": pytest.approx(50 / 75)}


def test_the_command_prints_the_figures(tree: Path, tmp_path: Path) -> None:
    config = variant("tiny")
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, config=config, state=AVESFormer(config).state_dict(), world_version=None, training={})
    arguments = ["evaluate", "--data", "avsbench-ms3", "--root", str(tree), "--checkpoint", str(path), "--robust"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    robust = json.loads(result.stdout)["robust"]
    assert set(robust["noise"]) == {"false_positive_rate", "not_empty", "drop"}
    assert "robust.noise.false_positive_rate" in result.stderr
    refused = CliRunner().invoke(app, ["evaluate", "--robust"])
    assert refused.exit_code == 2
    assert "avsbench" in refused.stderr
