"""Miniature AVSBench trees in the published layout. A red square rings high, a blue disc hums low; both are in view.

Pictures, labels, sounds and pickled log-mels are real files of the published kinds, so that the real readers run.
"""

from __future__ import annotations

import csv
import json
import pickle
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.data.avsbench.clip import palette
from model.data.avsbench.sound import field_examples

COUNTS = {"train": 4, "val": 2, "test": 3}
CATEGORIES = ("bell", "hum")
TONES_HZ = {"bell": 2500.0, "hum": 300.0}
COLOURS = {"bell": (220, 30, 30), "hum": (30, 40, 220)}
LABELS = ("background", "bell", "hum", "never")
FRAME_SIZE = (64, 64)
WIDE_FRAME_SIZE = (96, 64)


def make_s4(root: Path, *, counts: Mapping[str, int] = COUNTS, has_wav: bool = True, has_pickle: bool = True) -> Path:
    """Single-source: one category sounds per clip. Returns the root."""
    base = root / "Single-source" / "s4_data"
    rows = []
    for split, number, uid in _uids("s4", counts):
        category = CATEGORIES[number % 2]
        rows.append((uid, "0", category, split))
        num_labels = 1 if split == "train" else 5
        for frame in range(5):
            picture, classes = draw(seed=hash_of(uid, frame), sounding={category})
            below = Path(split, category, uid, f"{uid}_{frame + 1}.png")
            _save(base / "visual_frames" / below, Image.fromarray(picture))
            if frame < num_labels:
                _save(base / "gt_masks" / below, Image.fromarray(((classes > 0) * 255).astype(np.uint8)).convert("1"))
        _sounds(base, Path(split, category, uid), tone(category, 5.0), has_wav=has_wav, has_pickle=has_pickle)
    _write_csv(root / "Single-source" / "s4_meta_data.csv", ("video_id", "start", "label", "split"), rows)
    return root


def make_ms3(root: Path, *, counts: Mapping[str, int] = COUNTS) -> Path:
    """Multi-sources: one sounds, then both, then none. Returns the root."""
    base = root / "Multi-sources" / "ms3_data"
    rows = []
    for split, _, uid in _uids("ms3", counts):
        rows.append((uid, split))
        for frame in range(5):
            sounding = {0: {"bell"}, 1: {"bell"}, 2: set(CATEGORIES), 3: {"hum"}, 4: set()}[frame]
            picture, classes = draw(seed=hash_of(uid, frame), sounding=sounding)
            _save(base / "visual_frames" / uid / f"{uid}.mp4_{frame + 1}.png", Image.fromarray(picture))
            label = Image.fromarray(((classes > 0) * 255).astype(np.uint8))
            _save(base / "gt_masks" / split / uid / f"{uid}_{frame + 1}.png", label)
        waveform = np.concatenate([tone("bell", 3.0), np.zeros(16_000), np.zeros(16_000)])
        waveform[32_000:64_000] += tone("hum", 2.0)
        _sounds(base, Path(split, uid), waveform, has_wav=True, has_pickle=True)
    _write_csv(root / "Multi-sources" / "ms3_meta_data.csv", ("video_id", "split"), rows)
    return root


def make_avss(root: Path, *, counts: Mapping[str, int] = COUNTS, first_index: int = 1) -> Path:
    """AVSS: v1s, v1m and v2 in turn, wide frames; v2 has colour labels only. Returns the root."""
    rows = []
    for split, number, uid in _uids("avss", counts):
        origin, num_frames = (("v1s", 5), ("v1m", 5), ("v2", 10))[number % 3]
        category = CATEGORIES[number % 2]
        rows.append((f"video{number}", uid, "0", "10", category, origin, split))
        base = root / "AVSS" / origin / uid
        num_labels = 1 if origin == "v1s" and split == "train" else num_frames
        for frame in range(num_frames):
            picture, classes = draw(seed=hash_of(uid, frame), sounding={category}, size=WIDE_FRAME_SIZE)
            _save(base / "frames" / f"{frame}.jpg", Image.fromarray(picture))
            if frame >= num_labels:
                continue
            _save(base / "labels_rgb" / f"{frame}.png", Image.fromarray(palette(len(LABELS))[classes]))
            if origin != "v2":
                _save(base / "labels_semantic" / f"{frame}.png", Image.fromarray(classes.astype(np.uint8)))
        write_wav(base / "audio.wav", tone(category, float(num_frames)))
    (root / "AVSS").mkdir(parents=True, exist_ok=True)
    (root / "AVSS" / "label2idx.json").write_text(
        json.dumps({name: place + first_index for place, name in enumerate(LABELS)})
    )
    header = ("vid", "uid", "s_min", "s_sec", "a_obj", "label", "split")
    _write_csv(root / "AVSS" / "metadata.csv", header, rows)
    return root


def draw(*, seed: int, sounding: set[str], size: tuple[int, int] = FRAME_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A frame (H, W, 3) uint8 and its classes (H, W) int64: 1 bell, 2 hum, 0 where silent."""
    width, height = size
    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    classes = np.zeros((height, width), np.int64)
    rows, columns = np.mgrid[:height, :width]
    left = int(rng.integers(2, width // 2 - 24))
    top = int(rng.integers(2, height - 26))
    square = (rows >= top) & (rows < top + 22) & (columns >= left) & (columns < left + 22)
    middle = (int(rng.integers(14, height - 14)), int(rng.integers(width // 2 + 12, width - 12)))
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 11**2
    for number, (category, shape) in enumerate(zip(CATEGORIES, (square, disc), strict=True), start=1):
        picture[shape] = COLOURS[category]
        if category in sounding:
            classes[shape] = number
    return picture, classes


def tone(category: str, seconds: float) -> np.ndarray:
    """(S,) float64 at 16 kHz."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    return 0.4 * np.sin(2 * np.pi * TONES_HZ[category] * times)


def write_wav(path: Path, waveform: np.ndarray, *, rate_hz: int = 16_000, num_channels: int = 1) -> None:
    """16-bit PCM; every channel the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.repeat((np.clip(waveform, -1, 1) * 32_767).astype("<i2")[:, None], num_channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(num_channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(values.tobytes())


def hash_of(uid: str, frame: int) -> int:
    """A seed that is the same in every process."""
    return sum(ord(character) * 31**place for place, character in enumerate(uid)) * 16 + frame


def _uids(prefix: str, counts: Mapping[str, int]) -> list[tuple[str, int, str]]:
    return [(split, n, f"{prefix}_{split}_{n}") for split, count in counts.items() for n in range(count)]


def _sounds(base: Path, below: Path, waveform: np.ndarray, *, has_wav: bool, has_pickle: bool) -> None:
    if has_wav:
        write_wav(base / "audio_wav" / below.parent / f"{below.name}.wav", waveform)
    if has_pickle:
        examples = field_examples(torch.from_numpy(waveform).float(), num_frames=5, is_zero_padded=False)
        path = base / "audio_log_mel" / below.parent / f"{below.name}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # As published: a tensor that asks for gradients and is the result of an operation.
        path.write_bytes(pickle.dumps(examples.requires_grad_() * 1.0))


def _save(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
