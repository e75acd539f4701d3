"""Clips of `make hearing`: mixes from stems, conditions and their files."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from model.data.world.scene import SceneOptions, draw_scene
from service.bench.hearing import conditions as hearing_conditions
from service.bench.hearing.clips import Clip, make_clip, off_screen_only, other_choice, with_gates
from service.bench.hearing.conditions import CONDITIONS, choose_conditions, clip_path, load_timing, prepare_clip
from service.bench.hearing.failures import read_frame

SIZE = (64, 48)
SEED = 1_000_000


@pytest.fixture(scope="module")
def clip() -> Clip:
    """One with something off screen."""
    return next(made for made in (make_clip(SEED + i, SIZE) for i in range(20)) if off_screen_only(made.scene))


def test_the_stems_with_the_own_gates_give_the_mix_and_its_truth(clip: Clip) -> None:
    again = with_gates(clip, {source.name: source.gates for source in clip.scene.sources})
    error = again.waveform - clip.waveform
    assert np.square(error).mean() < 0.02 * np.square(clip.waveform).mean()  # reverb tails after a gate closes
    assert (again.mix.states == clip.mix.states).mean() > 0.98
    plain, anew = clip.truth["frames"], again.truth["frames"]
    for one, two in zip(plain, anew, strict=True):
        if not one["ambiguous"] and not two["ambiguous"]:
            assert one["masks"] == two["masks"]
            assert one["off_screen_sounding"] == two["off_screen_sounding"]


def test_another_choice_moves_the_truth_and_not_the_pictures(clip: Clip) -> None:
    other = with_gates(clip, other_choice(clip.scene))
    assert other.frames is clip.frames
    assert [f["masks"] for f in other.truth["frames"]] != [f["masks"] for f in clip.truth["frames"]]
    lengths = sorted(float((s.gates[:, 1] - s.gates[:, 0]).sum()) for s in clip.scene.sources)
    assert sorted(float((s.gates[:, 1] - s.gates[:, 0]).sum()) for s in other.scene.sources) == pytest.approx(lengths)
    assert all(s.gates.size == 0 or (np.diff(s.gates.flatten()) > 0).all() for s in other.scene.sources)


def test_off_screen_only_and_ambience_only(clip: Clip) -> None:
    gates = off_screen_only(clip.scene)
    assert gates is not None
    off = with_gates(clip, gates)
    assert all(frame["masks"] == [] for frame in off.truth["frames"])
    assert any(frame["off_screen_sounding"] for frame in off.truth["frames"])
    ambience = with_gates(clip, {})
    assert all(frame["masks"] == [] and not frame["ambiguous"] for frame in ambience.truth["frames"])
    assert all(frame["off_screen_sounding"] == [] for frame in ambience.truth["frames"])
    assert all(frame["signal_to_ambience_db"] is None for frame in ambience.truth["frames"])
    assert np.square(ambience.waveform).mean() < np.square(off.waveform).mean()


def test_conditions_by_name() -> None:
    assert list(choose_conditions(["mp3"])) == ["own", "mp3"]
    assert list(choose_conditions(["visible"])) == ["own", *(f"visible{num}" for num in range(1, 7))]
    assert list(choose_conditions([])) == list(CONDITIONS)
    with pytest.raises(ValueError, match="mp4"):
        list(choose_conditions(["mp4"]))


def _loud_pair() -> int:
    """The first seed of two neighbours in both of which there is sound for two seconds."""

    def sounding_s(seed: int) -> float:
        sources = draw_scene(seed, SceneOptions(aspect=SIZE[0] / SIZE[1])).sources
        return max(float((s.gates[:, 1] - s.gates[:, 0]).sum()) for s in sources)

    return next(seed for seed in range(SEED, SEED + 100) if min(sounding_s(seed), sounding_s(seed + 1)) > 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hearing_conditions, "SIZES", (SIZE,))
        made = tmp_path_factory.mktemp("hearing")
        seed = _loud_pair()
        for number in (0, 1):
            names = ["own", "silence", "louder", "mp3", "rotated", "timing", "timing_edit", "visible3"]
            assert set(prepare_clip(made, seed, number, names)) == set(names) - {"timing"}
            assert prepare_clip(made, seed, number, names) == {}
    return made


def _sound(path: Path) -> np.ndarray:
    """(S,) at the track's rate, by the time line."""
    with av.open(str(path)) as container:
        pieces = [(float(f.pts * f.time_base), f.to_ndarray()[0], f.sample_rate) for f in container.decode(audio=0)]
    waveform = np.zeros(round(5.2 * pieces[0][2]), np.float32)
    for start_s, piece, rate_hz in pieces:
        first = max(0, round(start_s * rate_hz))
        waveform[first : first + len(piece)] = piece[: len(waveform) - first]
    return waveform


def test_the_edit_list_leaves_the_sound_where_it_was(folder: Path) -> None:
    for number in (0, 1):
        own, edited = (_sound(clip_path(folder, number, name)) for name in ("own", "timing_edit"))
        part = slice(24_000, 230_000)  # 0.5 s to 4.8 s: the half that starts late has no sound before 0.3 s
        assert np.square(own[part]).mean() > 1e-7
        spectra = np.fft.rfft(own[part]), np.fft.rfft(edited[part])
        match = np.fft.irfft(spectra[0].conj() * spectra[1])
        assert match.max() > 0.9 * np.linalg.norm(own[part]) * np.linalg.norm(edited[part])
        lag = (int(match.argmax()) + len(match) // 2) % len(match) - len(match) // 2
        assert abs(lag) <= 48  # an mp4's edits are told in milliseconds


def test_a_rotated_file_shows_the_same_picture_when_it_is_turned(folder: Path) -> None:
    plain, turned = (read_frame(clip_path(folder, 0, name), 20) for name in ("own", "rotated"))
    assert turned.shape == (64, 48, 3)
    assert np.abs(np.rot90(turned, -1).astype(float) - plain).mean() < 6
    with av.open(str(clip_path(folder, 0, "rotated"))) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90


def test_files_and_truths_of_the_conditions(folder: Path) -> None:
    truths = {
        name: json.loads(clip_path(folder, 0, name).with_suffix(".json").read_text())
        for name in ("own", "silence", "visible3")
    }
    assert truths["own"] == truths["silence"]
    assert len(truths["visible3"]["objects"]) == 3
    assert np.abs(_sound(clip_path(folder, 0, "silence"))).max() < 1e-4
    assert clip_path(folder, 0, "timing") == clip_path(folder, 0, "own")
    ids, states = load_timing(folder, 0)
    assert ids.shape == (62, 48, 64)
    assert set(states) == {thing["id"] for thing in truths["own"]["objects"]}
    assert all(row.shape == (250,) for row in states.values())
