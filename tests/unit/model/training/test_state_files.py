"""Saved states in pieces: what is written is read, damage is found."""

import json
from pathlib import Path

import pytest
import torch

from model.training.state_files import INDEX_NAME, MAX_FILE_BYTES, StateFilesError, load_state, save_state


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "large": torch.randn(3000, 2000, generator=generator),  # 24 MB: more than one piece
        "half": torch.randn(7, 5, generator=generator).to(torch.bfloat16),
        "step": torch.tensor(12.0),
        "count": torch.arange(9)[::2],
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


def test_a_state_comes_back_as_it_was_in_pieces_under_15_mb(tmp_path: Path) -> None:
    save_state(tmp_path / "state", tensors=state(), values={"step": 3, "name": "x"})
    tensors, values = load_state(tmp_path / "state")
    assert values == {"step": 3, "name": "x"}
    for name, value in state().items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name
    files = list((tmp_path / "state").iterdir())
    assert len(files) == 3
    assert all(path.stat().st_size < 15_000_000 for path in files)
    assert MAX_FILE_BYTES < 15_000_000


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    save_state(tmp_path / "state", tensors=state(), values={"step": 1})
    save_state(tmp_path / "state", tensors={"a": torch.ones(2)}, values={"step": 2})
    tensors, values = load_state(tmp_path / "state")
    assert values["step"] == 2
    assert set(tensors) == {"a"}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "no index", "index of another program"])
def test_damage_is_found(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "state"
    save_state(folder, tensors=state(), values={})
    piece = folder / "piece_00001.safetensors"
    content = piece.read_bytes()
    if harm == "changed":
        piece.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut":
        piece.write_bytes(content[:-10])
    elif harm == "missing":
        piece.unlink()
    elif harm == "no index":
        (folder / INDEX_NAME).unlink()
    else:
        (folder / INDEX_NAME).write_text(json.dumps({"hello": 1}))
    with pytest.raises(StateFilesError, match="cannot read the saved state"):
        load_state(folder)
