"""Reading an AVSBench clip: pictures, labels and sound as arrays, by the rules of AVSBench's loaders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from model.data.avsbench.index import ClipFiles
from model.data.avsbench.sound import field_examples, pad_examples, read_wav, service_windows
from model.data.avsbench.subsets import AVSS_PADDED_FRAMES, Subset
from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS

# A pixel of an S4 or MS3 label is set if its grey value is above this, which is right for 0/255 files of any mode.
LABEL_THRESHOLD = 127
COLOUR_DIGITS = np.array((65_536, 256, 1))


@dataclass(frozen=True)
class Clip:
    """A clip in memory.

    Attributes:
        files: the files it was read from.
        frames: (T, H, W, 3) uint8 RGB.
        truth: (T, H, W) int64: 0 background, 1 sounding or the class number; 0 in frames without a label.
        is_labelled: (T,) bool.
        log_mel: (T, 1, 96, 64) float32, AVSBench's examples.
        windows: (T, 15600) float32, the service's windows; None if they were not requested.
    """

    files: ClipFiles
    frames: Tensor
    truth: Tensor
    is_labelled: Tensor
    log_mel: Tensor
    windows: Tensor | None


def read_clip(
    files: ClipFiles, *, size_px: int, num_classes: int, is_cropped: bool = False, only_labelled: bool = False,
    has_windows: bool = False,
) -> Clip:  # fmt: skip
    """Read a clip.

    Args:
        files: what to read.
        size_px: height and width of the frames.
        num_classes: K with the background; 2 for S4 and MS3.
        is_cropped: shorter side to `size_px`, then the centre (AVSS in training), instead of squashing.
        only_labelled: leave frames without a label out: frames are independent, so training does not need them.
        has_windows: also make the service's windows.

    Raises:
        ValueError: a file is missing, damaged, or holds a class number outside 0 .. K - 1.
    """
    kept = [i for i, label in enumerate(files.labels) if label is not None or not only_labelled]
    log_mel = read_sound(files)[kept]
    frames = [_picture(files.frames[i], size_px=size_px, is_cropped=is_cropped) for i in kept]
    labels = [files.labels[i] for i in kept]
    empty = np.zeros((size_px, size_px), np.int64)
    truth = [
        empty if path is None else _label(files.subset, path, size_px, is_cropped=is_cropped, num_classes=num_classes)
        for path in labels
    ]
    windows = service_windows(read_wav(files.wav), num_frames=len(files.frames))[kept] if has_windows else None
    return Clip(
        files=files,
        frames=torch.from_numpy(np.stack(frames)),
        truth=torch.from_numpy(np.stack(truth)),
        is_labelled=torch.tensor([path is not None for path in labels]),
        log_mel=log_mel,
        windows=windows,
    )


def read_sound(files: ClipFiles) -> Tensor:
    """Return AVSBench's log-mel examples of a clip's frames, (T, 1, 96, 64) float32.

    Raises:
        ValueError: neither converted examples nor a wav file, or damaged ones.
    """
    num_frames = len(files.frames)
    is_zero_padded = files.subset is Subset.AVSS
    try:
        values = np.load(files.log_mel, allow_pickle=False)
    except FileNotFoundError:
        if not files.wav.exists():
            raise ValueError(f"no sound for {files.uid}: run `avesformer data convert` (no {files.log_mel})") from None
        return examples_of_wav(files)[:num_frames]
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {files.log_mel}: {error}") from error
    if values.shape[1:] != (1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS) or values.dtype != np.float32:
        raise ValueError(f"{files.log_mel}: got {values.shape} {values.dtype}, expected (N, 1, 96, 64) float32")
    return pad_examples(torch.from_numpy(values), num_frames=num_frames, is_zero_padded=is_zero_padded)


def examples_of_wav(files: ClipFiles) -> Tensor:
    """Compute AVSBench's examples (T, 1, 96, 64) from a clip's wav file, padded as AVSBench's loaders pad."""
    is_avss = files.subset is Subset.AVSS
    num_frames = AVSS_PADDED_FRAMES if is_avss else len(files.frames)
    try:
        return field_examples(read_wav(files.wav), num_frames=num_frames, is_zero_padded=is_avss)
    except ValueError as error:
        raise ValueError(f"{files.uid}: {error}") from error


def label_path(path: Path) -> Path:
    """Return the existing label picture: AVSS has index pictures (labels_semantic) or colour ones (labels_rgb)."""
    if path.parent.name == "labels_semantic" and not path.exists():
        return path.parent.parent / "labels_rgb" / path.name
    return path


@lru_cache(maxsize=4)
def palette(num_classes: int) -> npt.NDArray[np.uint8]:
    """Return the PASCAL VOC colours (K, 3): bits of the class number go to R, G, B in turn, highest bits first."""
    colours = np.zeros((num_classes, 3), np.uint8)
    for number in range(num_classes):
        rest, place = number, 7
        while rest:
            colours[number] |= np.array([(rest >> channel) & 1 for channel in range(3)], np.uint8) << place
            rest, place = rest >> 3, place - 1
    return colours


def _picture(path: Path, *, size_px: int, is_cropped: bool) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, bilinear."""
    with _opened(path) as picture:
        return np.array(_fit(picture.convert("RGB"), size_px, is_cropped=is_cropped, is_label=False))


def _label(
    subset: Subset, path: Path, size_px: int, *, is_cropped: bool, num_classes: int
) -> npt.NDArray[np.int64]:  # fmt: skip
    """(H, W) int64, nearest neighbour."""
    path = label_path(path)
    with _opened(path) as picture:
        if not subset.is_semantic:
            grey = np.array(_fit(picture.convert("L"), size_px, is_cropped=is_cropped, is_label=True))
            return (grey > LABEL_THRESHOLD).astype(np.int64)
        is_indexed = path.parent.name == "labels_semantic" and picture.mode in ("L", "P", "I", "I;16", "1")
        kept = picture if is_indexed else picture.convert("RGB")
        values = np.array(_fit(kept, size_px, is_cropped=is_cropped, is_label=True))
    classes = values.astype(np.int64) if is_indexed else _classes_of_colours(values, num_classes)
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"{path}: got class {classes.max()}, expected 0 .. {num_classes - 1}")
    return classes


def _classes_of_colours(colours: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.int64]:
    """(H, W, 3) to (H, W); a colour outside the palette is background, as in AVSBench's loader."""
    packed = colours.astype(np.int64) @ COLOUR_DIGITS
    return np.asarray(_colour_table(num_classes)[packed], dtype=np.int64)


@lru_cache(maxsize=2)
def _colour_table(num_classes: int) -> npt.NDArray[np.uint16]:
    """(2^24,) from packed colour to class."""
    table = np.zeros(2**24, np.uint16)
    table[palette(num_classes).astype(np.int64) @ COLOUR_DIGITS] = np.arange(num_classes)
    return table


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {path}: {error}") from error
    return picture


def _fit(picture: Image.Image, size_px: int, *, is_cropped: bool, is_label: bool) -> Image.Image:
    """Squash to a square, or scale the shorter side and keep the centre, as AVSBench's AVSS loader does."""
    how = Image.Resampling.NEAREST if is_label else Image.Resampling.BILINEAR
    width, height = picture.size
    if not is_cropped:
        return picture if picture.size == (size_px, size_px) else picture.resize((size_px, size_px), how)
    short = min(width, height)
    picture = picture.resize((width * size_px // short, height * size_px // short), how)
    left, top = round((picture.width - size_px) / 2), round((picture.height - size_px) / 2)
    return picture.crop((left, top, left + size_px, top + size_px))
