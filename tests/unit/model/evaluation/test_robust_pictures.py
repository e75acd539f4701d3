"""AVSBench-Robust's protocol on pictures with recordings, with networks whose answers are known beforehand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.model.colour_model import ColourModel
from support.model.pictures_folder import SIZE_PX, write_pictures_folder

from model.data.pictures.index import read_index
from model.evaluation.picture_pairs import choose_pictures
from model.evaluation.robust_pictures import evaluate_robust_pictures

CONDITIONS = ("silence", "noise", "off_screen")
# Bounds on the share of a picture that its disc (1018 pixels) or square (1073) covers after JPEG and resizing.
SHARES = (900 / (SIZE_PX[0] * SIZE_PX[1]), 1250 / (SIZE_PX[0] * SIZE_PX[1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures_folder(tmp_path / "root", per_kind=4)


def figures(folder: Path, model: ColourModel) -> dict:
    index = read_index(folder)
    steps: list[tuple[int, int]] = []
    measured = evaluate_robust_pictures(
        model.eval(),
        index,
        choose_pictures(index, split="val"),
        size_px=64,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 8) for done in range(1, 9)]
    return measured


def test_a_model_that_hears_marks_nothing_under_silence_and_off_screen_sound(folder: Path) -> None:
    measured = figures(folder, ColourModel())
    assert measured["own_iou"] > 0.9
    assert measured["own_false_positive_rate"] < 0.02
    for condition in ("silence", "off_screen"):
        assert measured[condition] == {
            "false_positive_rate": 0,
            "not_empty": 0,
            "drop": pytest.approx(measured["own_iou"]),
        }
    assert measured["num_pairs"] == 16  # two recordings of its own kind for each of eight pictures


def test_noise_that_is_taken_for_a_hiss_marks_the_squares_only(folder: Path) -> None:
    noise = figures(folder, ColourModel())["noise"]
    assert noise["not_empty"] == 0.5
    assert SHARES[0] / 2 < noise["false_positive_rate"] < SHARES[1] / 2
    assert 0.4 < noise["drop"] < 0.5  # all of the discs is lost, nothing of the squares


def test_a_deaf_model_marks_under_every_sound_and_drops_nothing(folder: Path) -> None:
    measured = figures(folder, ColourModel(is_deaf=True))
    for condition in CONDITIONS:
        assert measured[condition]["drop"] == 0
        assert measured[condition]["not_empty"] == 1
        assert SHARES[0] < measured[condition]["false_positive_rate"] < SHARES[1]
    assert measured["drop"] == 0


def test_pictures_that_show_every_kind_have_no_off_screen_sound(folder: Path) -> None:
    table = folder / "recordings" / "recordings.csv"
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "train"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    measured = figures(folder, ColourModel())
    # Only dogs have recordings: dogs hear no other kind, and trains have no sound of their own.
    assert "off_screen" not in measured
    assert measured["num_pairs"] == 8
    assert measured["silence"]["drop"] > 0.9
