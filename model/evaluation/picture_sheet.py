"""Evaluation on pictures for the command line: plain, with changed sound, and with contact sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from model.data.pictures.frames import IGNORED, Pixels
from model.data.pictures.index import read_index
from model.data.pictures.recordings import Waveform, through_aac
from model.evaluation.picture_pairs import choose_pictures
from model.evaluation.pictures import Change, PairAnswer, Progress, evaluate_pictures
from model.evaluation.robust_pictures import evaluate_robust_pictures
from model.network.checkpoint import Checkpoint
from model.network.preprocess import SAMPLE_RATE_HZ

# Samples of each sheet, and tiles per row (one sample is three tiles).
SHEET_SAMPLES, SHEET_COLUMNS = 40, 4
TILE_PX, CAPTION_PX = 128, 14
AAC_BITS_PER_S = 32_000
NARROW_RATE_HZ = 8_000
GAIN = 10 ** (12 / 20)


def narrow(waveform: Waveform) -> Waveform:
    """Return the waveform without frequencies above 4 kHz, as a recording at 8 kHz has it."""
    spectrum = np.fft.rfft(waveform.astype(np.float64))
    spectrum[np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE_HZ) >= NARROW_RATE_HZ / 2] = 0
    return np.fft.irfft(spectrum, n=len(waveform)).astype(np.float32)


# Changes of the sound under which figures are repeated. Louder sound is clipped at full scale, as recorders do.
ROBUST_CHANGES: Mapping[str, Change] = {
    "louder_12_db": lambda waveform: np.clip(waveform * np.float32(GAIN), -1, 1),
    "quieter_12_db": lambda waveform: waveform / np.float32(GAIN),
    "mono_8_khz": narrow,
    "aac_32_kb_s": lambda waveform: through_aac(waveform, bits_per_s=AAC_BITS_PER_S),
}


@dataclass(frozen=True)
class Tile:
    """A drawn answer.

    Attributes:
        picture: file of the picture.
        is_own: whether something in the picture sounds.
        score: IoU with what sounds; if nothing in the picture sounds, 1 - IoU with what is there.
        pixels: frame, truth and answer side by side.
    """

    picture: Path
    is_own: bool
    score: float
    pixels: Pixels


@dataclass
class ContactSheet:
    """Collects answers and draws the best, the worst and evenly spread ones.

    Attributes:
        labels: names of the classes, background first.
        tiles: each answer to a sound of something in the picture or of something else.
    """

    labels: tuple[str, ...]
    tiles: list[Tile] = field(default_factory=list)

    def show(self, entry: PairAnswer) -> None:
        """Add an answer; silence and ambience are left out."""
        if entry.pair.recording is None or entry.pair.purpose == "ambience":
            return
        is_own = entry.pair.kind is not None
        score = entry.iou if is_own else 1 - entry.iou
        caption = f"hears {entry.pair.recording.name}, {'IoU' if is_own else 'wrong, IoU'} {entry.iou:.2f}"
        parts = [_tint(entry.frame, classes) for classes in (np.zeros_like(entry.truth), entry.truth, entry.answer)]
        tile = np.zeros((TILE_PX + CAPTION_PX, 3 * TILE_PX, 3), np.uint8)
        tile[CAPTION_PX:] = np.hstack([cv2.resize(part, (TILE_PX, TILE_PX)) for part in parts])
        counts = np.bincount(entry.answer[entry.answer > 0], minlength=1)
        if counts.any():
            caption += f", says {self.labels[int(counts.argmax())]}"
        cv2.putText(tile, caption, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
        self.tiles.append(Tile(entry.pair.picture.path, is_own, score, tile))

    def best(self) -> list[Tile]:
        """Return the best answers to a sound of the picture, one for each picture."""
        found = {tile.picture: tile for tile in sorted(self.tiles, key=lambda tile: tile.score) if tile.is_own}
        return sorted(found.values(), key=lambda tile: -tile.score)[:SHEET_SAMPLES]

    def worst(self) -> list[Tile]:
        """Return the worst answers, one for each picture."""
        found = {tile.picture: tile for tile in sorted(self.tiles, key=lambda tile: -tile.score)}
        return sorted(found.values(), key=lambda tile: tile.score)[:SHEET_SAMPLES]

    def spread(self) -> list[Tile]:
        """Return answers from the whole evaluation, evenly spread."""
        count = min(SHEET_SAMPLES, len(self.tiles))
        return [self.tiles[number] for number in np.linspace(0, len(self.tiles) - 1, count).astype(int)]

    def write(self, folder: Path) -> None:
        """Write best.png, worst.png and spread.png: frame, truth and answer of up to 40 samples each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, chosen in (("best", self.best()), ("worst", self.worst()), ("spread", self.spread())):
            tiles = [tile.pixels for tile in chosen]
            if not tiles:
                continue
            tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % SHEET_COLUMNS)
            rows = [np.hstack(tiles[start : start + SHEET_COLUMNS]) for start in range(0, len(tiles), SHEET_COLUMNS)]
            cv2.imwrite(str(folder / f"{name}.png"), np.vstack(rows)[..., ::-1])


@dataclass(frozen=True)
class PicturesRun:
    """One evaluation.

    Attributes:
        root: folder of pictures and recordings.
        split: `train` or `val`.
        num_pictures: most pictures; None for all.
        is_robust: also measure `evaluate_robust_pictures`, and repeat the figures under each of `ROBUST_CHANGES`.
        has_only_experts: measure the product of kinds seen and kinds heard instead of the network.
        sheet: folder for contact sheets; None for none.
    """

    root: Path
    split: str
    num_pictures: int | None = None
    is_robust: bool = False
    has_only_experts: bool = False
    sheet: Path | None = None

    def measure(self, loaded: Checkpoint, device: torch.device, *, progress: Progress | None = None) -> dict[str, Any]:
        """Return the figures of a checkpoint at its own frame size.

        Raises:
            ValueError: no pictures, or a checkpoint with other labels.
        """
        model, index = loaded.build().to(device).eval(), read_index(self.root)
        pictures = choose_pictures(index, split=self.split, num_pictures=self.num_pictures)
        sheet = None if self.sheet is None else ContactSheet(loaded.config.labels)

        def figures(change: Change | None, sheet: ContactSheet | None = None) -> dict[str, Any]:
            return evaluate_pictures(
                model,
                index,
                pictures,
                size_px=loaded.config.input_height,
                change=change,
                has_only_experts=self.has_only_experts,
                show=None if sheet is None else sheet.show,
                progress=progress,
            ).summary()

        answer = {"split": self.split, **figures(None, sheet)}
        if sheet is not None and self.sheet is not None and sheet.tiles:
            sheet.write(self.sheet)
        if self.is_robust:
            changed = {name: figures(change) for name, change in ROBUST_CHANGES.items()}
            robust = evaluate_robust_pictures(
                model,
                index,
                pictures,
                size_px=loaded.config.input_height,
                has_only_experts=self.has_only_experts,
                progress=progress,
            )
            answer["robust"] = robust | {name: {"iou_kinds": values["iou_kinds"]} for name, values in changed.items()}
        return answer


def _tint(frame: Pixels, classes: Pixels) -> Pixels:
    """Tint sounding pixels red and ignored pixels grey."""
    tinted = frame.copy()
    sounds, ignored = (classes > 0) & (classes != IGNORED), classes == IGNORED
    tinted[sounds] = (frame[sounds] // 2 + np.array([127, 20, 20])).astype(np.uint8)
    tinted[ignored] = 90
    return tinted
