"""Pictures and recordings through the whole path, with a network that marks everything as a dog."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.pictures_folder import KINDS, write_pictures_folder

from model.data.pictures.frames import read_picture
from model.data.pictures.index import read_index
from model.data.pictures.recordings import read_recording
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.config import BACKGROUND
from model.network.variants import variant
from service.bench.hearing import lag
from service.bench.hearing.pictures import main

pytestmark = pytest.mark.e2e


def save_dog_everywhere(path: Path) -> Path:
    """`lite` whose experts see a dog in each place and hear one in each window."""
    config = replace(variant("lite", labels=(BACKGROUND, *KINDS)), input_height=64, input_width=64)
    model = AVESFormer(config)
    assert model.experts is not None
    with torch.no_grad():
        for layer in (model.experts.seen, model.experts.heard):
            layer.weight.zero_()
        model.experts.seen.bias.copy_(torch.tensor([0.0, 8.0, 0.0]))
        model.experts.heard.bias.fill_(8.0)
    save_checkpoint(path, config=config, state=model.state_dict(), world_version=None, training={})
    return path


def test_masks_of_the_service_are_compared_with_the_truth(tmp_path: Path) -> None:
    root = write_pictures_folder(tmp_path / "root", per_kind=1)
    checkpoint = save_dog_everywhere(tmp_path / "dog.safetensors")
    arguments = ["--root", str(root), "--checkpoint", str(checkpoint), "--json", str(tmp_path / "figures.json")]
    assert main(arguments) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    dog = next(picture for picture in read_index(root).pictures if picture.path.name == "dog-val-0.jpg")
    share = float((read_picture(dog).classes > 0).mean())
    assert figures["num_pairs"] == 4
    assert figures["per_kind"]["dog"]["iou"] == pytest.approx(share, abs=1e-3)
    assert figures["per_kind"]["train"]["iou"] == 0.0
    assert figures["silence_empty"] == 0.0
    assert figures["other_sound_iou"] == pytest.approx(share, abs=0.1)


def test_the_loud_part_of_a_recording_starts_at_its_sound_and_ends_at_its_pause() -> None:
    tone = np.sin(np.arange(8_000) * 0.3).astype(np.float32)
    quiet = np.zeros(8_000, np.float32)
    part = lag.loud_part(np.concatenate((quiet, tone, quiet, tone)))
    assert len(part) == 8_000
    assert np.allclose(part[lag.FADE_SAMPLES : -lag.FADE_SAMPLES], tone[lag.FADE_SAMPLES : -lag.FADE_SAMPLES])


def test_lags_are_counted_from_the_start_and_the_end_of_the_sound(tmp_path: Path) -> None:
    """A network that marks dogs at all times starts two seconds early and ends three seconds late."""
    root = write_pictures_folder(tmp_path / "root", per_kind=1)
    checkpoint = save_dog_everywhere(tmp_path / "dog.safetensors")
    arguments = ["--root", str(root), "--checkpoint", str(checkpoint), "--json", str(tmp_path / "lags.json")]
    assert lag.main(arguments) == 0
    figures = json.loads((tmp_path / "lags.json").read_text())["by_kind"]
    sound_s = len(lag.loud_part(read_recording(root / "recordings" / "dog-val-0.wav"))) / 16_000
    assert figures["dog"]["first_mask_s"]["median"] == pytest.approx(0.094 - lag.ONSET_S, abs=1e-3)  # the first sample
    assert figures["dog"]["last_mask_s"]["median"] == pytest.approx(5.994 - lag.ONSET_S - sound_s, abs=1e-3)
    assert figures["train"]["without_mask"] == figures["train"]["num_sounds"] == 1
