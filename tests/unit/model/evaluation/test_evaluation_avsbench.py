"""AVSBench figures of answers that are known beforehand."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.model.avsbench_oracle import Oracle
from support.model.avsbench_tree import LABELS, make_avss, make_ms3, make_s4
from typer.testing import CliRunner

from model.cli.main import app
from model.data.avsbench.index import read_index
from model.data.avsbench.subsets import Subset
from model.evaluation.avsbench import evaluate_avsbench, evaluate_own_sound
from model.evaluation.overlay_page import OverlayPage
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.variants import variant


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts; tests must not change it."""
    return make_avss(make_ms3(make_s4(tmp_path_factory.mktemp("avsbench"))))


def evaluate(tree: Path, subset: Subset, model: object, **options: object) -> dict:
    clips = read_index(tree, subset=subset, split="test")
    return evaluate_avsbench(model, clips, size_px=64, **options)


def test_an_oracle_has_perfect_figures_on_s4(tree: Path) -> None:
    seen: list[tuple[int, int]] = []
    figures = evaluate(tree, Subset.S4, Oracle(), progress=lambda *done: seen.append(done))
    assert (figures["num_clips"], figures["num_frames"]) == (3, 15)
    for windows in ("avsbench_windows", "service_windows"):
        for name, value in figures[windows].items():
            assert value == pytest.approx(1, abs=1e-6), (windows, name)
    hearing = figures["hearing"]
    assert hearing["own_iou"] == hearing["silence_ok"] == hearing["noise_ok"] == 1
    assert hearing["wrong_sound_iou"] == 0
    # The other category's object is in view too, so its sound rightly marks it.
    assert hearing["off_screen_ok"] == 0
    assert figures["per_class"]["bell"] == {"field_j": pytest.approx(1, abs=1e-6), "num_frames": 10}
    assert seen == [(2, 3), (3, 3)]


def test_an_oracle_follows_sources_that_come_and_go_on_ms3(tree: Path) -> None:
    figures = evaluate(tree, Subset.MS3, Oracle())
    assert figures["avsbench_windows"]["mean_iou"] == 1
    assert figures["service_windows"]["mean_iou"] == 1
    assert figures["per_class"] == {}


def test_a_deaf_model_is_found_out(tree: Path) -> None:
    figures = evaluate(tree, Subset.S4, Oracle(is_deaf=True))
    hearing = figures["hearing"]
    assert hearing["own_iou"] == hearing["wrong_sound_iou"]
    assert 0.3 < hearing["own_iou"] < 0.7
    assert hearing["silence_ok"] == hearing["noise_ok"] == 0
    assert figures["avsbench_windows"]["field_j_2_clips"] < 0.7


def test_avss_figures_of_both_protocols(tree: Path) -> None:
    figures = evaluate(tree, Subset.AVSS, Oracle(LABELS))
    own = figures["avsbench_windows"]
    # Frames are JPEG and squashed, so edges differ by a pixel; the class that never occurs counts as 0 in the field.
    assert own["present_miou"] > 0.85
    assert own["field_miou"] == pytest.approx(own["present_miou"] * 3 / 4)
    assert own["field_miou"] < own["field_miou_padded"] < 0.75
    assert own["dataset_miou"] > 0.85
    assert set(figures["per_class"]) == {"background", "bell", "hum"}
    assert figures["hearing"]["off_screen_ok"] is None


def test_figures_during_training_are_those_of_the_evaluation(tree: Path) -> None:
    clips = read_index(tree, subset=Subset.S4, split="test")
    model = Oracle(is_deaf=True)
    assert evaluate_own_sound(model, clips, size_px=64) == evaluate(tree, Subset.S4, model)["avsbench_windows"]


def test_without_wav_files_there_are_no_service_windows(tmp_path: Path) -> None:
    from model.data.avsbench.check import convert

    make_s4(tmp_path, has_wav=False)
    convert(tmp_path, subset=Subset.S4)
    assert evaluate(tmp_path, Subset.S4, Oracle())["service_windows"] is None


def test_the_other_kind_of_checkpoint_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="needs a semantic checkpoint"):
        evaluate(tree, Subset.AVSS, Oracle())
    with pytest.raises(ValueError, match="needs a binary checkpoint"):
        evaluate(tree, Subset.S4, Oracle(LABELS))


def test_the_page_holds_its_pictures_and_escapes_names(tree: Path, tmp_path: Path) -> None:
    page = OverlayPage((*LABELS[:3], "<b>"), num_clips=3, num_kept=2)
    evaluate(tree, Subset.AVSS, Oracle(LABELS), show=page.show)
    page.write(tmp_path / "page.html", title="avss <test>")
    text = (tmp_path / "page.html").read_text()
    assert "avss &lt;test&gt;" in text
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    # Every second clip: the first and the third, 5 + 10 frames, four rows each.
    assert len(sources) == 4 * 15
    assert "IoU 0.9" in text or "IoU 1.0" in text


def test_page_colours_mark_the_mask_only(tree: Path) -> None:
    (files,) = read_index(tree, subset=Subset.S4, split="test")[:1]
    from model.data.avsbench.clip import read_clip

    clip = read_clip(files, size_px=64, num_classes=2)
    page = OverlayPage(("sounding",), num_clips=1)
    mixed = torch.from_numpy(page._overlay(clip.frames[0].numpy(), clip.truth[0].numpy()))
    assert torch.equal(mixed[clip.truth[0] == 0], clip.frames[0][clip.truth[0] == 0])
    assert not torch.equal(mixed, clip.frames[0])


@pytest.mark.parametrize("mode", ["none", "concat_mix"])
def test_attention_is_measured_on_the_data(tree: Path, tmp_path: Path, mode: str) -> None:
    model = AVESFormer(replace(variant("tiny", knobs={"prompt.mode": mode}), input_height=64, input_width=64))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, config=model.config, state=model.state_dict(), world_version=None, training={})
    arguments = ("--data", "avsbench-s4", "--root", str(tree), "--checkpoint", str(path), "--attention")
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.stderr
    blocks = json.loads(result.stdout)["attention"]
    assert list(blocks) == ["block_0", "block_1"]
    for block in blocks.values():
        if mode == "none":
            assert block == {"entropy": 0, "largest_entropy": 0, "row_distance": 0}
        else:
            assert block["largest_entropy"] == pytest.approx(math.log(16))
            assert 0 < block["entropy"] <= block["largest_entropy"]
            assert 0 < block["row_distance"] < 2**0.5
    assert "attention.block_1.row_distance" in result.stderr
