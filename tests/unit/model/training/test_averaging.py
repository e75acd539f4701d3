"""Means of checkpoints: weights, shares, header, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from model.cli.main import app
from model.network.avesformer import AVESFormer
from model.network.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.network.variants import variant
from model.training.averaging import average_checkpoints


def saved(path: Path, fill: float, *, labels: tuple[str, ...] = ("sounding",), world_version: int | None = 2) -> Path:
    """A checkpoint of `tiny` with one value in all weights; its counters hold it rounded."""
    config = variant("tiny", labels=labels)
    state = {name: torch.full_like(value, fill) for name, value in AVESFormer(config).state_dict().items()}
    save_checkpoint(path, config=config, state=state, world_version=world_version, training={"steps": int(fill)})
    return path


def weights_of(path: Path) -> Tensor:
    """All floating-point weights of a checkpoint in a row."""
    state = load_checkpoint(path).state
    return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])


def test_the_shares_are_divided_by_their_sum(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a.safetensors", 1.0), saved(tmp_path / "b.safetensors", 5.0)
    average_checkpoints([(first, 3.0), (second, 1.0)], tmp_path / "mean.safetensors")
    assert torch.equal(weights_of(tmp_path / "mean.safetensors"), torch.full_like(weights_of(first), 2.0))
    mean = load_checkpoint(tmp_path / "mean.safetensors")
    counters = [value for value in mean.state.values() if not value.is_floating_point()]
    assert counters
    assert all((value == 1).all() for value in counters)
    assert mean.world_version == 2
    assert mean.training == {
        "average_of": [
            {"checkpoint": load_checkpoint(first).digest, "share": 0.75, "training": {"steps": 1}},
            {"checkpoint": load_checkpoint(second).digest, "share": 0.25, "training": {"steps": 5}},
        ]
    }
    mean.build()


def test_frame_size_and_lag_are_the_first_ones(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "a.safetensors", 1.0), tmp_path / "mean.safetensors"
    plain = load_checkpoint(path)
    config = replace(plain.config, input_height=320, input_width=320, offset_lag_s=0.9)
    lagging = tmp_path / "lagging.safetensors"
    save_checkpoint(lagging, config=config, state=plain.state, world_version=2, training={})
    average_checkpoints([(lagging, 1.0), (path, 1.0)], out)
    assert load_checkpoint(out).config == config


def test_a_file_without_one_of_the_weights_is_refused(tmp_path: Path) -> None:
    path, partial = saved(tmp_path / "a.safetensors", 1.0), tmp_path / "partial.safetensors"
    plain = load_checkpoint(path)
    state = dict(list(plain.state.items())[1:])
    save_checkpoint(partial, config=plain.config, state=state, world_version=2, training={})
    with pytest.raises(ValueError, match="another network"):
        average_checkpoints([(path, 1.0), (partial, 1.0)], tmp_path / "mean.safetensors")


def test_the_command_takes_files_with_and_without_shares(tmp_path: Path) -> None:
    folder = tmp_path / "lr=4e-4"
    first, second = saved(folder / "a.safetensors", 1.0), saved(folder / "b.safetensors", 4.0)
    out = tmp_path / "mean.safetensors"
    result = CliRunner().invoke(app, ["average", str(first), f"{second}=0.5", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert torch.equal(weights_of(out), torch.full_like(weights_of(first), 2.0))


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_share_that_is_not_over_0_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "a.safetensors", 1.0)
    with pytest.raises(ValueError, match="expected a number over 0"):
        average_checkpoints([(path, 1.0), (path, share)], tmp_path / "mean.safetensors")


def test_one_checkpoint_other_labels_another_world_and_no_file_are_refused(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "a.safetensors", 1.0), tmp_path / "mean.safetensors"
    others = [
        saved(tmp_path / "labels.safetensors", 1.0, labels=("barking",)),
        saved(tmp_path / "world.safetensors", 1.0, world_version=1),
    ]
    with pytest.raises(ValueError, match="two or more"):
        average_checkpoints([(path, 1.0)], out)
    for other in others:
        with pytest.raises(ValueError, match="another network, other labels or another world"):
            average_checkpoints([(path, 1.0), (other, 1.0)], out)
    with pytest.raises(CheckpointError):
        average_checkpoints([(path, 1.0), (tmp_path / "missing.safetensors", 1.0)], out)
    assert not out.exists()
