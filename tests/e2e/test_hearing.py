"""`make hearing` as it is run, small: two clips, a few conditions, a semantic checkpoint that knows nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.bench.hearing import run as hearing

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


def _save_semantic(folder: Path) -> Path:
    import torch

    from model.data.world.scene import KINDS
    from model.network.avesformer import AVESFormer
    from model.network.checkpoint import save_checkpoint
    from model.network.config import BACKGROUND
    from model.network.variants import variant

    torch.manual_seed(0)
    config = variant("tiny", labels=(BACKGROUND, *KINDS))
    path = folder / "semantic.safetensors"
    save_checkpoint(path, config=config, state=AVESFormer(config).state_dict(), world_version=None, training={})
    return path


def test_two_clips_through_the_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figures_path = tmp_path / "clips", tmp_path / "figures.json"
    code = hearing.main(
        [
            *("--clips", "2", "--workers", "2", "--strict", "--conditions", "mp3,rotated,timing,timing_edit,silence"),
            *("--semantic", str(_save_semantic(tmp_path)), "--keep", str(folder), "--json", str(figures_path)),
            *("--failures", str(tmp_path / "failures")),
        ]
    )
    assert code == 1  # random weights do not name kinds
    assert "MISS" in capsys.readouterr().out
    report = json.loads(figures_path.read_text())
    figures = report["figures"]
    assert figures["semantic: mIoU over present kinds"]["passed"] is False
    assert report["semantic"]["labels"] == 14
    assert figures["silence: samples under 0.5 %"]["num"] == 10
    assert figures["silence: samples under 0.5 %"]["value"] == 1.0
    # One clip each: the same pictures and sound, so nearly the same answers.
    assert abs(figures["rotated: loss of IoU"]["value"]) < 0.1
    assert abs(figures["MP3: loss of IoU"]["value"]) < 0.1
    assert figures["edges at 10 fps: true edges not predicted"]["num"] > 0
    # An edit list that is not honoured moves every edge by 0.3 s.
    assert figures["edges at 10 fps, edit list: moved by, s (mean)"]["value"] < 0.1
    assert set(report["seconds"]) == {"all", "own", "silence", "timing", "timing_edit", "mp3", "rotated", "semantic"}
    assert sorted(path.name for path in (tmp_path / "failures").iterdir()) == sorted(report["failures"])
    assert "sounding.png" in report["failures"]
    assert len(list(folder.glob("*.mp4"))) == 2 * 2 + 3  # two for each clip, three for the first alone
