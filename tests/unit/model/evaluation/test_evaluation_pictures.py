"""Figures on pictures: an answer is compared with what sounds, and with what is there where nothing does."""

from pathlib import Path

import numpy as np
import pytest
from support.model.colour_model import ColourModel
from support.model.pictures_folder import write_pictures_folder

from model.data.pictures.index import read_index
from model.evaluation.picture_pairs import choose_pairs, choose_pictures, loudest_window
from model.evaluation.picture_sheet import ROBUST_CHANGES, SHEET_SAMPLES, ContactSheet, narrow
from model.evaluation.pictures import PairAnswer, evaluate_pictures
from model.network.avesformer import AVESFormer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures_folder(tmp_path_factory.mktemp("pictures") / "root", per_kind=6)


def figures(folder: Path, model: AVESFormer, **options: object) -> tuple[dict[str, object], list[PairAnswer]]:
    index = read_index(folder)
    entries: list[PairAnswer] = []
    measured = evaluate_pictures(
        model.eval(), index, choose_pictures(index, split="val"), size_px=64, show=entries.append, **options
    )
    return measured.summary(), entries


def test_a_model_that_sees_and_hears_scores_high(folder: Path) -> None:
    summary, entries = figures(folder, ColourModel())
    assert summary["iou_kinds"] > 0.9
    assert summary["other_sound_iou"] < 0.01
    assert summary["other_empty"] == summary["silence_empty"] == 1.0
    assert summary["label_accuracy"] == 1.0
    # Each picture: two own recordings, two of the other kind, ambience, silence.
    assert len(entries) == 12 * 6
    assert {entry.pair.purpose for entry in entries} == {"own", "other", "ambience", "silence"}
    assert summary["per_kind"]["dog"]["samples"] == 12


def test_a_deaf_model_paints_under_every_sound(folder: Path) -> None:
    summary, _ = figures(folder, ColourModel(is_deaf=True))
    assert summary["iou_kinds"] > 0.9
    assert summary["other_sound_iou"] > 0.9
    assert summary["silence_empty"] == 0.0
    assert summary["score"] < figures(folder, ColourModel())[0]["score"]


def test_changes_of_the_sound_reach_the_model(folder: Path) -> None:
    summary, _ = figures(folder, ColourModel(), change=lambda waveform: 0 * waveform)
    assert summary["iou_kinds"] < 0.01
    assert figures(folder, ColourModel(), change=ROBUST_CHANGES["louder_12_db"])[0]["iou_kinds"] > 0.9


def test_pairs_are_the_same_every_time_and_of_one_split(folder: Path) -> None:
    index = read_index(folder)
    picture = choose_pictures(index, split="val")[0]
    classes = np.ones((64, 64), np.uint8)
    pairs = choose_pairs(picture, classes, index)
    assert pairs == choose_pairs(picture, classes, index)
    assert {pair.recording.split for pair in pairs if pair.recording} == {"val"}
    assert len(choose_pictures(index, split="val", num_pictures=5)) == 5


def test_loudest_window_of_a_long_and_a_short_recording() -> None:
    waveform = np.full(80_000, 0.01, np.float32)
    waveform[60_000:70_000] = 0.5
    assert (loudest_window(waveform) == 0.5).mean() > 0.6
    short = loudest_window(np.ones(100, np.float32))
    assert short.shape == (15_600,)
    assert short[-100:].all()
    assert not short[:-100].any()


def test_narrow_sound_has_nothing_above_4_khz() -> None:
    times = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 1_000 * times), np.sin(2 * np.pi * 6_000 * times)
    assert np.allclose(narrow((low + high).astype(np.float32)), low, atol=1e-3)


def test_other_labels_and_an_empty_split_are_refused(folder: Path, tiny: AVESFormer) -> None:
    index = read_index(folder)
    with pytest.raises(ValueError, match="labels"):
        evaluate_pictures(tiny, index, choose_pictures(index, split="val"), size_px=64)
    with pytest.raises(ValueError, match="no pictures"):
        choose_pictures(index, split="test")


def test_sheets_show_the_best_and_the_worst_of_each_picture(folder: Path) -> None:
    _, entries = figures(folder, ColourModel())
    for is_deaf in (False, True):
        _, entries = figures(folder, ColourModel(is_deaf=is_deaf))
        sheet = ContactSheet(("background", *read_index(folder).kinds))
        for entry in entries:
            sheet.show(entry)
        best, worst, spread = sheet.best(), sheet.worst(), sheet.spread()
        pictures = {entry.pair.picture.path for entry in entries}
        assert {tile.picture for tile in best} == {tile.picture for tile in worst} == pictures
        assert len(best) == len(worst) == len(pictures)
        assert all(tile.is_own and tile.score > 0.8 for tile in best)
        assert [tile.score for tile in worst] == sorted(tile.score for tile in worst)
        assert all(tile.is_own != is_deaf for tile in worst)  # a deaf model is wrong under other sounds
        assert len(spread) == SHEET_SAMPLES
