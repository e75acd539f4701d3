"""A sheet of the worst answers: the frame, the truth's outline, the answer in red, and a caption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from model.evaluation.synthetic import EMPTY_SHARE
from service.bench.hearing.conditions import clip_path
from service.bench.hearing.score import BoolMask, Sample, union_of

COLUMNS = 4
PICTURE_PX = 320
CAPTION_PX = 52
FONT_PX = 12
RED, GREEN = np.array([255, 40, 40]), np.array([40, 255, 60])
SHEETS = {
    "sounding": "Lowest IoU of sounding samples. Green outline: what sounds; red: the answer.",
    "quiet": "Nothing visible sounds, but the answer covers more than 0.5 % of the frame (red).",
}


def worst(samples: Sequence[Sample], *, kind: str, num: int) -> list[Sample]:
    """The worst clear samples, at most one of each clip and condition: `sounding` by IoU, `quiet` by area."""
    clear = [s for s in samples if not s.is_ambiguous and s.is_sounding == (kind == "sounding")]
    if kind == "quiet":
        clear = [s for s in clear if s.share >= EMPTY_SHARE]
    clear.sort(key=lambda s: s.iou if kind == "sounding" else -s.share)
    first = {(s.condition, s.clip): s for s in reversed(clear)}
    return [s for s in clear if first[s.condition, s.clip] is s][:num]


def write_sheets(samples: Sequence[Sample], folder: Path, *, clips: Path, num: int = 12) -> list[Path]:
    """Write DIR/sounding.png and DIR/quiet.png, each with a caption; returns those that have anything to show."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, title in SHEETS.items():
        chosen = worst(samples, kind=kind, num=num)
        if chosen:
            path = folder / f"{kind}.png"
            sheet([cell(sample, clips=clips) for sample in chosen], title=title).save(path)
            written.append(path)
    return written


def sheet(cells: Sequence[Image.Image], *, title: str) -> Image.Image:
    """Cells in rows of four under a title."""
    heights = [max(cell.height for cell in cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
    page = Image.new("RGB", (COLUMNS * PICTURE_PX, sum(heights) + 2 * FONT_PX), "white")
    ImageDraw.Draw(page).text((4, 5), title, fill="black", font=ImageFont.load_default(FONT_PX))
    for i, one in enumerate(cells):
        page.paste(one, (i % COLUMNS * PICTURE_PX, 2 * FONT_PX + sum(heights[: i // COLUMNS])))
    return page


def cell(sample: Sample, *, clips: Path) -> Image.Image:
    """Return one sample's picture with its caption."""
    path = clip_path(clips, sample.clip, sample.condition)
    truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    entry = next(frame for frame in truth["frames"] if frame["sample_time_s"] == sample.time_s)
    size = (truth["clip"]["height"], truth["clip"]["width"])
    frame = overlay(
        read_frame(path, entry["index"]), union_of(entry["masks"], size), coco_mask.decode(sample.predicted) > 0
    )
    height = round(PICTURE_PX * size[0] / size[1])
    picture = Image.new("RGB", (PICTURE_PX, height + CAPTION_PX), "white")
    picture.paste(Image.fromarray(frame).resize((PICTURE_PX, height)))
    sounds = [o["kind"] for o in entry["objects"] if o["is_sounding"]]
    silent = [o["kind"] for o in entry["objects"] if not o["is_sounding"]]
    kinds = {source["id"]: source["kind"] for source in truth["off_screen_sources"]}
    off = [kinds[name] for name in entry["off_screen_sounding"]]
    lines = (
        f"{sample.condition}, seed {truth['seed']}, {sample.time_s:.2f} s: IoU {sample.iou:.2f}",
        f"sounds: {', '.join(sounds) or 'nothing'}; off screen: {', '.join(off) or 'nothing'}",
        f"silent: {', '.join(silent) or 'nothing'}",
    )
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PX)
    for i, line in enumerate(lines):
        draw.text((4, height + 4 + i * (FONT_PX + 3)), line, fill="black", font=font)
    return picture


def overlay(frame: NDArray[np.uint8], true: BoolMask, predicted: BoolMask) -> NDArray[np.uint8]:
    """Return the frame (H, W, 3) with the answer tinted and outlined in red and the truth outlined in green."""
    shown = frame.astype(np.float32)
    shown[predicted] = 0.55 * shown[predicted] + 0.45 * RED
    shown[outline(predicted, width=4)] = RED
    shown[outline(true, width=2)] = GREEN
    return shown.astype(np.uint8)


def outline(mask: BoolMask, *, width: int) -> BoolMask:
    """Return the pixels (H, W) of a mask that are within `width` of its edge, along rows and columns."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-width, width):
            inner &= np.roll(mask, step, axis=axis)
    return mask & ~inner


def read_frame(path: Path, index: int) -> NDArray[np.uint8]:
    """(H, W, 3) one frame of a file of ours, in presentation order."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == index:
                pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]
                return pixels
    raise ValueError(f"{path.name} has no frame {index}")
