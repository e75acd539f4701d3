"""Write a page that shows a model's answers on some clips beside the truth, as one HTML file with embedded pictures."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from model.data.avsbench.clip import Clip, palette
from model.evaluation.metrics import mask_iou

# Sounding pixels of a binary answer; classes have the PASCAL VOC colours.
MASK_COLOUR = (255, 64, 64)
MASK_SHARE = 0.55
JPEG_QUALITY = 82

STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:24px;background:#fafafa;color:#222}"
    "table{border-collapse:collapse;margin:0 0 28px}td,th{padding:3px 6px;text-align:left;font-weight:normal}"
    "th{color:#666}img{display:block;width:168px;height:168px}h2{font-size:15px;margin:0 0 4px}"
)


class OverlayPage:
    """Collects clips, evenly spread over a split, and writes the page.

    Args:
        labels: labels of the model; a binary model has one.
        num_clips: number of clips that will be passed to `show`.
        num_kept: most clips on the page.
    """

    def __init__(self, labels: tuple[str, ...], *, num_clips: int, num_kept: int = 12) -> None:
        self.labels = labels
        self._step = max(1, -(-num_clips // num_kept))
        self._seen = 0
        self._sections: list[str] = []

    def show(self, clip: Clip, answer: Tensor, served: Tensor | None) -> None:
        """Add a clip: answers (T, H, W) int64 with AVSBench's windows and with the service's (or None)."""
        if self._seen % self._step == 0:
            self._sections.append(self._section(clip, answer, served))
        self._seen += 1

    def write(self, path: Path, *, title: str) -> None:
        """Write the page; it needs no other files."""
        text = html.escape(title)
        path.write_text(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{text}</title><style>{STYLE}</style>"
            f"<h1>{text}</h1>{''.join(self._sections)}</html>\n"
        )

    def _section(self, clip: Clip, answer: Tensor, served: Tensor | None) -> str:
        rows = {"frame": None, "truth": clip.truth, "answer": answer}
        if served is not None:
            rows["answer, service's windows"] = served
        body = "".join(
            f"<tr><th>{name}</th>{''.join(self._cells(clip, classes))}</tr>" for name, classes in rows.items()
        )
        files = clip.files
        heading = html.escape(f"{files.uid} {files.category} {self._names(clip.truth)}")
        return f"<h2>{heading}</h2><table>{body}</table>"

    def _cells(self, clip: Clip, classes: Tensor | None) -> list[str]:
        frames = clip.frames.numpy()
        if classes is None:
            return [f"<td>{_picture(frame, 'frame')}</td>" for frame in frames]
        iou = mask_iou(classes > 0, clip.truth > 0).tolist()
        return [
            f"<td>{_picture(self._overlay(frame, mask.numpy()), 'mask over the frame')}IoU {value:.2f} "
            f"{html.escape(self._names(mask))}</td>"
            for frame, mask, value in zip(frames, classes, iou, strict=True)
        ]

    def _overlay(self, frame: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        colours = palette(len(self.labels)) if len(self.labels) > 1 else np.array([(0, 0, 0), MASK_COLOUR], np.uint8)
        share = MASK_SHARE * (classes > 0)[..., None]
        mixed = (1 - share) * frame + share * colours[classes]
        return np.asarray(mixed.round(), dtype=np.uint8)

    def _names(self, classes: Tensor) -> str:
        if len(self.labels) == 1:
            return ""
        return ", ".join(self.labels[number] for number in sorted(set(classes.flatten().tolist())) if number)


def _picture(frame: npt.NDArray[np.uint8], description: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
    coded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{description}" src="data:image/jpeg;base64,{coded}">'
