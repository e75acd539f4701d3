"""Pairs of a picture and a recording of the same split, for evaluation.

Every choice follows from the picture's file name, so that two checkpoints are measured on the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.pictures.frames import Pixels
from model.data.pictures.index import Picture, PicturesIndex, Recording
from model.data.pictures.recordings import Waveform
from model.network.preprocess import WINDOW_SAMPLES

# A kind counts in a picture from this share of its pixels on.
LEAST_SHARE = 0.005
# Starts of a recording that are tried for its loudest window.
NUM_STARTS = 16


@dataclass(frozen=True)
class Pair:
    """A picture and the sound that it is evaluated with.

    Attributes:
        picture: picture of the split.
        recording: recording, None for silence.
        kind: kind that sounds in the picture, None if nothing in it sounds.
        purpose: `own`, `other`, `ambience` or `silence`.
        has_two: whether the picture shows another kind, too.
    """

    picture: Picture
    recording: Recording | None
    kind: int | None
    purpose: str
    has_two: bool = False


def choose_pictures(index: PicturesIndex, *, split: str, num_pictures: int | None = None) -> list[Picture]:
    """Return the annotated pictures of a split.

    Args:
        index: pictures and recordings.
        split: `train` or `val`.
        num_pictures: most pictures, evenly spread; None for all.

    Raises:
        ValueError: the split has no pictures with masks.
    """
    pictures = [picture for picture in index.pictures if picture.split == split and picture.kinds]
    if not pictures:
        raise ValueError(f"no pictures with masks in the split {split}")
    if num_pictures is None or num_pictures >= len(pictures):
        return pictures
    return [pictures[number] for number in np.linspace(0, len(pictures) - 1, num_pictures).astype(int)]


def choose_pairs(picture: Picture, classes: Pixels, index: PicturesIndex) -> list[Pair]:
    """Return a picture's pairs: two recordings of each kind in it, two of other kinds, ambience, silence.

    Args:
        picture: picture of any split; the recordings are taken from the same split.
        classes: (H, W) uint8 label map: 0 background, 1 + kind, 255 ignored.
        index: pictures and recordings.
    """
    random = np.random.default_rng(np.frombuffer(picture.path.name.encode(), np.uint8).astype(np.uint32))
    recordings = [entry for entry in index.recordings if entry.split == picture.split]
    counts = np.bincount(classes.ravel(), minlength=256)[1:255]
    present = frozenset(int(kind) for kind in np.flatnonzero(counts))
    visible = [int(kind) for kind in np.flatnonzero(counts >= LEAST_SHARE * classes.size)]
    pairs = []
    for kind in visible:
        alike = index.heard(kind)
        own = [entry for entry in recordings if entry.kind in alike]
        has_two = any(other not in alike for other in visible)
        pairs += [Pair(picture, entry, kind, "own", has_two) for entry in _some(own, 2, random)]
    others = [entry for entry in recordings if entry.kind is not None and not index.heard(entry.kind) & present]
    pairs += [Pair(picture, entry, None, "other") for entry in _some(others, 2, random)]
    ambience = [entry for entry in recordings if entry.kind is None]
    pairs += [Pair(picture, entry, None, "ambience") for entry in _some(ambience, 1, random)]
    return [*pairs, Pair(picture, None, None, "silence")]


def loudest_window(waveform: Waveform) -> Waveform:
    """Return the loudest of some evenly spread windows (15600,); a shorter recording is padded in front with zeros."""
    if len(waveform) <= WINDOW_SAMPLES:
        return np.pad(waveform, (WINDOW_SAMPLES - len(waveform), 0))
    starts = np.linspace(0, len(waveform) - WINDOW_SAMPLES, NUM_STARTS).astype(int)
    return max((waveform[start : start + WINDOW_SAMPLES] for start in starts), key=lambda cut: float((cut**2).sum()))


def _some(entries: Sequence[Recording], count: int, random: np.random.Generator) -> list[Recording]:
    """Return `count` entries, of different kinds if there are that many."""
    kinds = sorted({entry.name for entry in entries})
    chosen = []
    for name in random.permutation(kinds)[:count] if kinds else []:
        of_kind = [entry for entry in entries if entry.name == name]
        chosen.append(of_kind[random.integers(len(of_kind))])
    while entries and len(chosen) < count:
        chosen.append(entries[int(random.integers(len(entries)))])
    return chosen
