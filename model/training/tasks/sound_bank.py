"""Windows that are mixed before a run and stored as features of YAMNet's frozen first layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.data.pictures.index import PicturesIndex
from model.data.pictures.windows import SoundSource, WaveformCache, draw_window
from model.network.preprocess import window_log_mel
from model.network.yamnet import Yamnet

CHUNK_WINDOWS = 32
NO_KIND = -1
# Sources of a window: at most two.
MAX_SOURCES = 2
# Share of the drawn windows with a given kind that are mixes with another kind.
MIXED_SHARE = 0.2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SoundBank:
    """Windows and the kinds that are heard in them.

    Attributes:
        features: (N, C, f, m) float16, output of the frozen layers.
        sources: (N, 2) int64, kinds of the sources, -1 for none.
        heard: (N, kinds) boolean, kinds whose pixels sound.
    """

    features: Tensor
    sources: Tensor
    heard: Tensor
    alone: Sequence[NDArray[np.int64]]
    mixed: Sequence[NDArray[np.int64]]
    empty: NDArray[np.int64]

    @staticmethod
    def of(features: Tensor, sources: Tensor, index: PicturesIndex) -> SoundBank:
        """Compute what is heard, and index the windows by kind: alone, in a mix, or none."""
        num_kinds = len(index.kinds)
        heard = torch.zeros(len(sources), num_kinds + 1, dtype=torch.bool)
        for kind in range(num_kinds):
            has_kind = (sources == kind).any(dim=1)
            for alike in index.heard(kind):
                heard[has_kind, alike] = True
        numbers = np.arange(len(sources))
        first, second = sources.numpy().T
        is_alone = (second == NO_KIND) | (second == first)
        alone = [numbers[is_alone & (first == kind)] for kind in range(num_kinds)]
        mixed = [numbers[~is_alone & ((first == kind) | (second == kind))] for kind in range(num_kinds)]
        return SoundBank(features, sources, heard[:, :-1], alone, mixed, numbers[first == NO_KIND])

    def draw(self, kind: int | None, random: np.random.Generator) -> int:
        """Return a window with the kind, or one without sources (for None, or if no window has the kind alone)."""
        if kind is None or not len(self.alone[kind]):
            pool = self.empty
        elif len(self.mixed[kind]) and random.random() < MIXED_SHARE:
            pool = self.mixed[kind]
        else:
            pool = self.alone[kind]
        return int(pool[random.integers(len(pool))])


def build_sound_bank(
    index: PicturesIndex,
    audio: Yamnet,
    *,
    num_windows: int,
    num_layers: int,
    seed: int,
    file: Path | None = None,
    progress: Progress | None = None,
) -> SoundBank:
    """Mix windows of the training recordings and apply the frozen layers to them.

    Args:
        index: the recordings.
        audio: the audio branch.
        num_windows: N.
        num_layers: number of frozen layers, 1 to 14.
        seed: seed of all mixes.
        file: file of the bank; it is read if it exists, else written.
        progress: called with the numbers of windows done and of all windows.

    Returns:
        The bank, on the CPU.
    """
    if file is not None and file.exists():
        kept = load_file(file)
        return SoundBank.of(kept["features"], kept["sources"], index)
    source = SoundSource.of(index, split="train")
    waveforms = WaveformCache([entry for entry in index.recordings if entry.split == "train"])
    device = next(audio.parameters()).device
    features, sources = [], torch.full((num_windows, MAX_SOURCES), NO_KIND, dtype=torch.int64)
    for start in range(0, num_windows, CHUNK_WINDOWS):
        numbers = range(start, min(start + CHUNK_WINDOWS, num_windows))
        windows = [draw_window(source, waveforms, np.random.default_rng((seed, number))) for number in numbers]
        for number, window in zip(numbers, windows, strict=True):
            for place, kind in enumerate(window.sources):
                sources[number, place] = NO_KIND if kind is None else kind
        batch = torch.from_numpy(np.stack([window.waveform for window in windows])).to(device)
        with torch.inference_mode():
            features.append(audio.early(window_log_mel(batch), num_layers=num_layers).half().cpu().contiguous())
        if progress is not None:
            progress(numbers.stop, num_windows)
    together = torch.cat(features).clone()
    if file is not None:
        save_file({"features": together, "sources": sources}, file)
    return SoundBank.of(together, sources, index)
