"""Training pictures: a crop of a real one, objects pasted before real backgrounds, other light and colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.pictures.frames import (
    LabelledFrame,
    Pixels,
    read_cutout,
    read_frame,
    read_picture,
    resize_classes,
    resize_frame,
)
from model.data.pictures.index import Cutout, Picture, PicturesIndex

Random = np.random.Generator

# Kinds are drawn with the power of their number of origins: 1 would be as they come, 0 all alike.
KIND_POWER = 0.4
# Of a kind's pictures, the source is drawn with the power of its number of origins, so that few street scenes are not
# lost among many pictures of single objects.
SOURCE_POWER = 0.3
# Share of the pictures that are tiled from two or four others: small objects, several kinds at once.
TILED_SHARE = 0.2
# Share of pictures that are a background with pasted objects only, and of real ones that get an object pasted.
COMPOSED_SHARE, PASTED_SHARE = 0.18, 0.45
# Share of pasted objects that make no sound at all.
SILENT_SHARE = 0.15
MAX_PASTED = 3
# Side of a pasted object over that of the frame: of a cut-out, and of an object taken from another picture. The latter
# are often small, as most things in a street are, and are enlarged little, since they were small already.
PASTED_SIDES = (0.2, 0.95)
TAKEN_SIDES, MAX_ENLARGEMENT = (0.08, 0.6), 1.5
# Share of the sounding pasted objects that are taken from another picture, and the least area of such an object.
TAKEN_SHARE, LEAST_TAKEN_PX = 0.6, 900
# Side of the crop over that of the picture, and how often the whole picture is taken.
CROP_SIDES, WHOLE_SHARE = (0.45, 1.0), 0.3
# A crop keeps at least this share of the chosen kind's pixels, or is drawn again.
KEPT_SHARE, CROP_TRIES = 0.5, 6
# Aspect of a crop against the picture's: films of all shapes are squashed to a square.
ASPECT_RANGE = (0.65, 1.55)
BLUR_SHARE, GRAIN_SHARE, COARSE_SHARE, GREY_SHARE = 0.15, 0.25, 0.2, 0.05
ALPHA_INSIDE = 128


@dataclass(frozen=True)
class PictureSource:
    """What training pictures are made of.

    Attributes:
        by_kind: for each kind its pictures, by origin.
        origin_shares: for each kind, how often each of its origins is drawn.
        cutouts: for each kind, and last for silent things.
        kind_shares: how often each kind is drawn.
        pasted_shares: how often each kind is pasted.
        index: the folder, for its backgrounds.
    """

    by_kind: Sequence[Sequence[Sequence[Picture]]]
    origin_shares: Sequence[NDArray[np.float64]]
    cutouts: Sequence[Sequence[Cutout]]
    kind_shares: NDArray[np.float64]
    pasted_shares: NDArray[np.float64]
    index: PicturesIndex

    @staticmethod
    def of(index: PicturesIndex, *, split: str) -> PictureSource:
        """The pictures and cut-outs of a split."""
        by_kind: list[list[list[Picture]]] = []
        for kind in range(len(index.kinds)):
            groups: dict[str, list[Picture]] = {}
            for picture in index.pictures:
                if picture.split == split and kind in picture.kinds:
                    groups.setdefault(picture.group, []).append(picture)
            by_kind.append([groups[name] for name in sorted(groups)])
        cutouts = [
            [entry for entry in index.cutouts if entry.split == split and entry.kind == kind]
            for kind in (*range(len(index.kinds)), None)
        ]
        pictures = np.array([len(groups) for groups in by_kind], np.float64)
        pasted = np.array([len(entries) for entries in cutouts[:-1]], np.float64)
        origin_shares = [_origin_shares(groups) for groups in by_kind]
        return PictureSource(by_kind, origin_shares, cutouts, _shares(pictures), _shares(pasted), index)


def draw_picture(source: PictureSource, random: Random, *, size_px: int) -> LabelledFrame:
    """One training picture.

    Args:
        source: what to draw from.
        random: decides everything.
        size_px: height and width of the result.

    Returns:
        Frame and classes, (size_px, size_px).
    """
    labelled = _tile(source, random, size_px) if random.random() < TILED_SHARE else _scene(source, random, size_px)
    frame, classes = labelled.frame, labelled.classes
    if random.random() < 0.5:
        frame, classes = frame[:, ::-1], classes[:, ::-1]
    return LabelledFrame(_change_light(frame, random), np.ascontiguousarray(classes))


def _tile(source: PictureSource, random: Random, size_px: int) -> LabelledFrame:
    """Two scenes side by side or one above the other, or four in the corners; the seam lies anywhere in the middle."""
    seam = int(size_px * random.uniform(0.35, 0.65))
    across, down = [(True, False), (False, True), (True, True)][random.integers(3)]
    columns = [(0, seam), (seam, size_px)] if across else [(0, size_px)]
    frame, classes = np.empty((size_px, size_px, 3), np.uint8), np.empty((size_px, size_px), np.uint8)
    for left, right in columns:
        # Each column of four has a seam of its own.
        seam = int(size_px * random.uniform(0.35, 0.65))
        for top, bottom in [(0, seam), (seam, size_px)] if down else [(0, size_px)]:
            part = _scene(source, random, max(bottom - top, right - left))
            shape = (right - left, bottom - top)
            frame[top:bottom, left:right] = cv2.resize(part.frame, shape, interpolation=cv2.INTER_AREA)
            classes[top:bottom, left:right] = cv2.resize(part.classes, shape, interpolation=cv2.INTER_NEAREST_EXACT)
    return LabelledFrame(frame, classes)


def _scene(source: PictureSource, random: Random, size_px: int) -> LabelledFrame:
    """A crop of a picture or a background, with objects pasted into it."""
    if source.index.backgrounds and source.pasted_shares.any() and random.random() < COMPOSED_SHARE:
        path = source.index.backgrounds[random.integers(len(source.index.backgrounds))]
        frame = read_frame(path)
        labelled = _crop(LabelledFrame(frame, np.zeros(frame.shape[:2], np.uint8)), None, random, size_px)
        num_pasted = int(random.integers(1, MAX_PASTED + 1))
    else:
        kind, picture = _draw_kind(source, random)
        labelled = _crop(read_picture(picture), 1 + kind, random, size_px)
        num_pasted = int(random.random() < PASTED_SHARE)
    for _ in range(num_pasted):
        labelled = _paste(labelled, source, random)
    return labelled


def _draw_kind(source: PictureSource, random: Random) -> tuple[int, Picture]:
    """Draw a kind and a picture that shows it."""
    kind = int(random.choice(len(source.by_kind), p=source.kind_shares))
    groups = source.by_kind[kind]
    group = groups[int(random.choice(len(groups), p=source.origin_shares[kind]))]
    return kind, group[int(random.integers(len(group)))]


def _origin_shares(groups: Sequence[Sequence[Picture]]) -> NDArray[np.float64]:
    sources = [group[0].source for group in groups]
    counts = Counter(sources)
    shares = np.array([counts[source] ** (SOURCE_POWER - 1) for source in sources], np.float64)
    normed: NDArray[np.float64] = shares / max(shares.sum(), 1e-9)
    return normed


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.where(counts > 0, counts**KIND_POWER, 0.0)
    return powers / powers.sum() if powers.any() else powers


def _crop(labelled: LabelledFrame, wanted: int | None, random: Random, size_px: int) -> LabelledFrame:
    """A part of the picture at the final size that still shows the wanted class."""
    height, width = labelled.classes.shape
    total = 0 if wanted is None else int((labelled.classes == wanted).sum())
    for _ in range(CROP_TRIES):
        side = 1.0 if random.random() < WHOLE_SHARE else random.uniform(*CROP_SIDES)
        aspect = float(np.exp(random.uniform(*np.log(ASPECT_RANGE))))
        tall = round(min(1.0, side / aspect**0.5) * height)
        wide = round(min(1.0, side * aspect**0.5) * width)
        top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
        classes = labelled.classes[top : top + tall, left : left + wide]
        if wanted is None or (classes == wanted).sum() >= KEPT_SHARE * total:
            frame = labelled.frame[top : top + tall, left : left + wide]
            return LabelledFrame(resize_frame(frame, size_px), resize_classes(classes, size_px))
    return LabelledFrame(resize_frame(labelled.frame, size_px), resize_classes(labelled.classes, size_px))


def _paste(labelled: LabelledFrame, source: PictureSource, random: Random) -> LabelledFrame:
    """Paste one object: a silent cut-out, one of a kind, or an object of another picture."""
    size_px = labelled.frame.shape[0]
    if source.cutouts[-1] and random.random() < SILENT_SHARE:
        entries = source.cutouts[-1]
        cutout = read_cutout(entries[int(random.integers(len(entries)))])
        return _paste_object(labelled, cutout, 0, random, side=random.uniform(*PASTED_SIDES) * size_px)
    if not source.pasted_shares.any() or random.random() < TAKEN_SHARE:
        return _paste_taken(labelled, source, random)
    kind = int(random.choice(len(source.pasted_shares), p=source.pasted_shares))
    entries = source.cutouts[kind]
    cutout = read_cutout(entries[int(random.integers(len(entries)))])
    return _paste_object(labelled, cutout, 1 + kind, random, side=random.uniform(*PASTED_SIDES) * size_px)


def _paste_taken(labelled: LabelledFrame, source: PictureSource, random: Random) -> LabelledFrame:
    """Paste one connected object of another picture; nothing if the picture that is drawn has none that is large."""
    kind, picture = _draw_kind(source, random)
    other = read_picture(picture)
    _, parts, statistics, _ = cv2.connectedComponentsWithStats((other.classes == 1 + kind).astype(np.uint8))
    large = [part for part in range(1, len(statistics)) if statistics[part][cv2.CC_STAT_AREA] >= LEAST_TAKEN_PX]
    if not large:
        return labelled
    part = large[int(random.integers(len(large)))]
    left, top, wide, tall = (int(value) for value in statistics[part][:4])
    box = slice(top, top + tall), slice(left, left + wide)
    alpha = cv2.GaussianBlur((parts[box] == part).astype(np.float32), (0, 0), 1.0) * 255
    cutout = np.dstack((other.frame[box], alpha.astype(np.uint8)))
    size_px = labelled.frame.shape[0]
    side = float(np.exp(random.uniform(*np.log(TAKEN_SIDES)))) * size_px
    return _paste_object(labelled, cutout, 1 + kind, random, side=min(side, MAX_ENLARGEMENT * max(tall, wide)))


def _paste_object(labelled: LabelledFrame, cutout: Pixels, label: int, random: Random, *, side: float) -> LabelledFrame:
    """Paste an RGBA object with its soft edge, its light drawn towards that of the place.

    Args:
        labelled: picture to paste into.
        cutout: (h, w, 4) uint8.
        label: class of the object's pixels.
        random: decides the place and the shape.
        side: larger side of the object in the picture, in pixels.
    """
    size_px = labelled.frame.shape[0]
    scale = side / max(cutout.shape[:2])
    stretch = float(np.exp(random.uniform(-0.25, 0.25)))
    wide, tall = (max(8, round(cutout.shape[1] * scale * stretch)), max(8, round(cutout.shape[0] * scale / stretch)))
    resized = cv2.resize(cutout, (wide, tall), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if random.random() < 0.5:
        resized = resized[:, ::-1]
    # Up to a quarter of the object may lie beyond the frame's edge.
    top = int(random.integers(-(tall // 4), max(1, size_px - (3 * tall) // 4)))
    left = int(random.integers(-(wide // 4), max(1, size_px - (3 * wide) // 4)))
    rows, columns = slice(max(0, top), min(size_px, top + tall)), slice(max(0, left), min(size_px, left + wide))
    part = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    frame, classes = labelled.frame.copy(), labelled.classes.copy()
    place = frame[rows, columns].astype(np.float32)
    colour = part[..., :3].astype(np.float32)
    colour += random.uniform(0.0, 0.4) * (place.mean(axis=(0, 1)) - colour.mean(axis=(0, 1)))
    alpha = part[..., 3:].astype(np.float32) / 255
    frame[rows, columns] = np.clip(place * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    inside = part[..., 3] >= ALPHA_INSIDE
    classes[rows, columns][inside] = label
    return LabelledFrame(frame, classes)


def _change_light(frame: Pixels, random: Random) -> Pixels:
    """Brightness, contrast, colour, blur, coarse sources, grain."""
    values: NDArray[Any] = frame.astype(np.float32)
    size_px = frame.shape[0]
    if random.random() < COARSE_SHARE:
        small = round(size_px * random.uniform(0.4, 0.9))
        values = cv2.resize(values, (small, small), interpolation=cv2.INTER_AREA)
        values = cv2.resize(values, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    if random.random() < BLUR_SHARE:
        values = cv2.GaussianBlur(values, (0, 0), random.uniform(0.5, 1.5))
    if random.random() < GREY_SHARE:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    grey = values.mean(axis=2, keepdims=True)
    values = grey + (values - grey) * random.uniform(0.6, 1.4)
    values = (values - 128) * random.uniform(0.65, 1.35) + 128 + random.uniform(-30, 30)
    values *= random.uniform(0.88, 1.12, size=3).astype(np.float32)
    if random.random() < GRAIN_SHARE:
        values += random.normal(0, random.uniform(1, 8), size=values.shape).astype(np.float32)
    changed: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return changed
