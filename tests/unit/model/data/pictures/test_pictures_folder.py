"""A folder of pictures and recordings: tables, label maps, pasted scenes, mixed windows, the check of every file."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.model.pictures_folder import KINDS, SIZE_PX, write_pictures_folder

from model.data.pictures import windows
from model.data.pictures.check import verify
from model.data.pictures.compose import PictureSource, draw_picture
from model.data.pictures.frames import IGNORED, read_picture
from model.data.pictures.index import PicturesError, read_index
from model.data.pictures.recordings import read_recording, through_aac
from model.data.pictures.windows import SoundSource, WaveformCache, draw_window
from model.network.preprocess import WINDOW_SAMPLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures_folder(tmp_path_factory.mktemp("pictures") / "root")


def edit(root: Path, **changes: object) -> None:
    table = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(table | changes))


def test_index_holds_kinds_splits_and_sounds_without_pictures(folder: Path) -> None:
    index = read_index(folder)
    assert index.kinds == KINDS
    assert [picture.split for picture in index.pictures].count("val") == 6
    ambience = [entry for entry in index.recordings if entry.name == "ambience"]
    assert [entry.kind for entry in ambience] == [None, None]
    assert len(index.backgrounds) == 1
    assert index.cutouts[0].kind == 0


def test_label_map_has_the_annotated_object(folder: Path) -> None:
    picture = read_index(folder).pictures[1]
    labelled = read_picture(picture)
    assert labelled.frame.shape == (*SIZE_PX, 3)
    assert set(np.unique(labelled.classes)) == {0, 2}
    # Drawn blue: the label map and the file agree on where.
    assert labelled.frame[labelled.classes == 2].mean(axis=0).argmax() == 2


def test_ignored_regions_and_polygons(tmp_path: Path) -> None:
    root = write_pictures_folder(tmp_path / "root", per_kind=1)
    square = [10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]
    entries = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square], "ignore": 1},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[60.0, 60.0, 70.0, 60.0, 70.0, 70.0]]},
    ]
    edit(root, annotations=entries)
    classes = read_picture(read_index(root).pictures[0]).classes
    assert (classes == IGNORED).sum() == pytest.approx(900, rel=0.1)
    assert (classes == 2).sum() == pytest.approx(50, rel=0.5)
    assert read_index(root).pictures[0].kinds == {1}


def test_engines_that_sound_alike_are_heard_together(tmp_path: Path) -> None:
    root = write_pictures_folder(tmp_path / "root", per_kind=1)
    edit(root, categories=[{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}])
    index = read_index(root)
    assert index.heard(0) == {0, 1}
    assert index.heard(None) == frozenset()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("annotations.json", "{", "not JSON"),
        ("annotations.json", '{"images": []}', "categories"),
        ("recordings/recordings.csv", "file,split\na.wav,train\n", "kind"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    root = write_pictures_folder(tmp_path / "root", per_kind=1)
    (root / name).write_text(content)
    with pytest.raises(PicturesError, match=message):
        read_index(root)


def test_drawn_pictures_follow_from_the_seed_and_show_kinds(folder: Path) -> None:
    source = PictureSource.of(read_index(folder), split="train")
    drawn = [draw_picture(source, np.random.default_rng(seed), size_px=64) for seed in range(40)]
    again = draw_picture(source, np.random.default_rng(7), size_px=64)
    assert np.array_equal(drawn[7].frame, again.frame)
    assert np.array_equal(drawn[7].classes, again.classes)
    assert {part.frame.shape for part in drawn} == {(64, 64, 3)}
    shown = [set(np.unique(part.classes)) - {0} for part in drawn]
    assert all(shown)
    assert set.union(*shown) == {1, 2}
    # Some are tiled or pasted, and show both kinds.
    assert any(kinds == {1, 2} for kinds in shown)


def test_windows_are_audible_and_name_their_sources(folder: Path) -> None:
    index = read_index(folder)
    source = SoundSource.of(index, split="train")
    waveforms = WaveformCache([entry for entry in index.recordings if entry.split == "train"])
    windows = [draw_window(source, waveforms, np.random.default_rng(seed)) for seed in range(60)]
    assert {window.waveform.shape for window in windows} == {(WINDOW_SAMPLES,)}
    assert all(np.abs(window.waveform).max() <= 1 for window in windows)
    sources = [window.sources for window in windows]
    assert {(), (None,), (0,), (1,)} <= set(sources)
    assert any(len(names) == 2 for names in sources)
    loud = [window.waveform for window in windows if window.sources in ((0,), (1,))]
    assert all(np.abs(waveform).max() > 0.02 for waveform in loud)


def test_aac_keeps_length_and_content(folder: Path) -> None:
    waveform = read_recording(read_index(folder).recordings[0].path)
    coded = through_aac(waveform, bits_per_s=32_000)
    assert len(coded) == len(waveform) == 24_000
    middle = slice(4_000, 20_000)
    shift = max(
        range(-64, 65), key=lambda lag: float(np.dot(waveform[middle], coded[middle.start + lag : middle.stop + lag]))
    )
    moved = coded[middle.start + shift : middle.stop + shift]
    assert np.corrcoef(waveform[middle], moved)[0, 1] > 0.98


def test_verify_counts_and_names_faults(tmp_path: Path) -> None:
    root = write_pictures_folder(tmp_path / "root")
    report = verify(root)
    assert report.faults == []
    assert report.gaps == []
    assert report.pictures["train/dog"] == 3
    assert report.recordings["val/ambience"] == 1
    (root / "pictures" / "dog-val-0.jpg").write_bytes(b"no picture")
    (root / "recordings" / "train-train-1.wav").unlink()
    faults = verify(root).faults
    assert len(faults) == 2
    assert "dog-val-0.jpg" in faults[0]
    assert "train-train-1.wav" in faults[1]


def test_windows_hold_what_a_codec_leaves_of_a_sound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index(folder)
    source, waveforms = SoundSource.of(index, split="train"), WaveformCache(index.recordings)

    def draw(share: float) -> list[windows.Waveform]:
        monkeypatch.setattr(windows, "CODEC_SHARE", share)
        return [draw_window(source, waveforms, np.random.default_rng(seed)).waveform for seed in range(20)]

    likenesses = []
    for plain, coded in zip(draw(0.0), draw(1.0), strict=True):
        assert coded.shape == plain.shape == (WINDOW_SAMPLES,)
        assert coded.dtype == np.float32
        if plain.std() > 1e-3:
            likenesses.append(float(np.corrcoef(plain, coded)[0, 1]))
    assert np.median(likenesses) > 0.7, "the same sound, in step"
    assert max(likenesses) < 0.9999, "a codec changes each"
