"""Checkpoints come back as they were written, and bad files are refused with a clear line."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.network.avesformer import AVESFormer
from model.network.checkpoint import (
    SHIPPED_CHECKPOINT,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from model.network.config import ModelConfig
from model.network.variants import variant


def write(path: Path, model: AVESFormer, *, config: ModelConfig | None = None) -> Path:
    save_checkpoint(
        path,
        config=config or model.config,
        state=model.state_dict(),
        world_version=1,
        training={"recipe": {"name": "test"}, "steps": 3},
    )
    return path


def test_what_is_written_is_read(
    tmp_path: Path, tiny: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor
) -> None:
    path = write(tmp_path / "new" / "tiny.safetensors", tiny)
    loaded = load_checkpoint(path)
    assert loaded.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert loaded.world_version == 1
    assert loaded.training == {"recipe": {"name": "test"}, "steps": 3}
    assert loaded.config.labels == ("sounding",)
    with torch.inference_mode():
        assert torch.equal(loaded.build()(frames, log_mels), tiny(frames, log_mels))
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.safetensors"]


def test_a_bare_name_is_a_shipped_checkpoint_unless_a_file_is_called_so(
    tmp_path: Path, tiny: AVESFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path("lite")) == SHIPPED_CHECKPOINT
    assert find_checkpoint(Path("tiny")) == SHIPPED_CHECKPOINT.with_name("tiny.safetensors")
    assert find_checkpoint(Path("nothing")) == Path("nothing")
    assert find_checkpoint(Path("below/tiny")) == Path("below/tiny")
    write(tmp_path / "tiny", tiny)
    assert find_checkpoint(Path("tiny")) == Path("tiny")
    assert load_checkpoint(Path("tiny")).training == {"recipe": {"name": "test"}, "steps": 3}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint nothing\.safetensors"):
        load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("length", [0, 7, 5000])
def test_a_cut_file(tmp_path: Path, tiny: AVESFormer, length: int) -> None:
    path = write(tmp_path / "cut.safetensors", tiny)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_program(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not an AVESFormer checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format_version": "2"}, "format 2"),
        ({"format_version": "1"}, "damaged header"),
        ({"format_version": "1", "config": "{"}, "damaged header"),
    ],
)
def test_a_newer_or_damaged_header(tmp_path: Path, header: dict[str, str], message: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "avesformer-checkpoint", **header})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_weights_of_another_shape(tmp_path: Path, tiny: AVESFormer) -> None:
    other = variant("tiny", labels=("background", "dog"))
    path = write(tmp_path / "odd.safetensors", tiny, config=other)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(path).build()
