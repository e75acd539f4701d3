"""`synthesize`: files on disk, their truth as JSON, and that the picture on disk is the rendered one."""

import json
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from model.data.synthesize import SynthesizeOptions, synthesize, to_frame_rate
from model.data.world.render import Shot, render
from model.data.world.scene import KINDS, WORLD_VERSION, draw_scene

ASSETS = Path(__file__).parents[3] / "assets"
JsonObject = dict[str, Any]
Made = tuple[SynthesizeOptions, list[Path], list[tuple[int, int]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    options = SynthesizeOptions(
        out_dir=tmp_path_factory.mktemp("clips"), num=2, seed=40, width=160, height=120, fps=12.5, seconds=4.0,
        visible=(2, 3), truth="full",
    )  # fmt: skip
    calls: list[tuple[int, int]] = []
    return options, synthesize(options, progress=lambda done, total: calls.append((done, total))), calls


def _truth(path: Path) -> JsonObject:
    loaded: JsonObject = json.loads(path.with_suffix(".json").read_text())
    return loaded


def test_files_and_progress(made: Made) -> None:
    _, paths, calls = made
    assert [path.name for path in paths] == ["clip_00000.mp4", "clip_00001.mp4"]
    assert calls == [(1, 2), (2, 2)]
    for i, path in enumerate(paths):
        truth = _truth(path)
        assert truth["world_version"] == WORLD_VERSION
        assert truth["seed"] == 40 + i
        assert truth["clip"] == {
            "width": 160, "height": 120, "sample_aspect_ratio": "1:1", "duration_s": 4.0, "frame_rate": 12.5,
            "num_samples": 4,
        }  # fmt: skip
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == 50


def test_frames_follow_the_time_rule(
    made: Made,
) -> None:
    frames = _truth(made[1][0])["frames"]
    assert [frame["sample_time_s"] for frame in frames] == [0.9375, 1.9375, 2.9375, 3.9375]
    assert [frame["index"] for frame in frames] == [11, 24, 36, 49]
    assert [frame["timestamp_s"] for frame in frames] == [0.88, 1.92, 2.88, 3.92]


def test_masks_are_the_union_of_the_sounding_objects(
    made: Made,
) -> None:
    num_masks = 0
    for frame in (frame for path in made[1] for frame in _truth(path)["frames"]):
        assert isinstance(frame["ambiguous"], bool)
        union = np.zeros((120, 160), bool)
        for thing in frame["objects"]:
            assert thing["kind"] in KINDS
            mask = coco_mask.decode(thing["segmentation"]).astype(bool)
            assert mask.sum() == thing["area"] > 0
            union |= mask & thing["is_sounding"]
        assert len(frame["masks"]) == int(union.any())
        for entry in frame["masks"]:
            assert entry["label"] == "sounding"
            assert np.array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), union)
            x, y, width, height = entry["bbox"]
            rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
            assert (x, y) == (columns[0], rows[0])
            assert (x + width - 1, y + height - 1) == (columns[-1], rows[-1])
            num_masks += 1
    assert num_masks >= 1


def test_stems_cover_the_clip(made: Made) -> None:
    for path in made[1]:
        truth = _truth(path)
        wanted = {str(thing["id"]) for thing in truth["objects"] + truth["off_screen_sources"]} | {"ambience"}
        stems = sorted(path.with_suffix(".stems").iterdir())
        assert {stem.stem for stem in stems} == wanted
        for stem in stems:
            with wave.open(str(stem)) as file:
                assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
                assert file.getnframes() == 64_000


def test_the_encoded_picture_is_the_rendered_one(
    made: Made,
) -> None:
    options, paths, _ = made
    with av.open(str(paths[0])) as container:
        decoded = next(f for i, f in enumerate(container.decode(video=0)) if i == 24)
    shot = Shot(draw_scene(40, options.scene_options()), 24 / 12.5, 24)
    rendered = render([shot], width=160, height=120, device=torch.device("cpu")).frames[0].numpy()
    error = decoded.to_ndarray(format="rgb24").astype(float) - rendered
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 26


def test_same_options_give_the_same_truth(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        options = SynthesizeOptions(out_dir=tmp_path / name, num=1, width=64, height=48, fps=5, seconds=1.5)
        texts.append(synthesize(options)[0].with_suffix(".json").read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num", 0), ("seed", -1), ("width", 33), ("fps", 0.0), ("seconds", 0.2), ("visible", (4, 1))],
)
def test_bad_options_are_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        SynthesizeOptions(out_dir=tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("fps", "expected"), [(25.0, Fraction(25)), (29.97, Fraction(30_000, 1001)), (12.5, Fraction(25, 2))]
)
def test_frame_rates(fps: float, expected: Fraction) -> None:
    assert to_frame_rate(fps) == expected


def test_the_synthetic_clip_is_of_this_world() -> None:
    path = ASSETS / "synthetic.mp4"
    assert path.stat().st_size < 500_000
    truth = _truth(path)
    assert truth["world_version"] == WORLD_VERSION
    assert truth["clip"]["duration_s"] == 5.0
    sounding = [tuple(o["id"] for o in frame["objects"] if o["is_sounding"]) for frame in truth["frames"]]
    assert len(set(sounding)) >= 3
    assert {i for ids in sounding for i in ids} == {1, 2, 3}
