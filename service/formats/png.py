"""A zip of PNG masks: one 8-bit picture per mask (255 inside), and `masks.csv` that says what each file shows."""

from __future__ import annotations

import io
import re
import zipfile

import cv2

from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, Summary
from service.formats.formatter import Formatter
from service.formats.pixels import decode

_DATE = (1980, 1, 1, 0, 0, 0)  # equal answers are equal files


class PngFormatter(Formatter):
    """Writes pictures as frames come; the names hold the frame's number, the label and the track."""

    def __init__(self) -> None:
        self._out = _Pipe()
        self._zip = zipfile.ZipFile(self._out, "w", zipfile.ZIP_STORED)
        self._rows = ["file,sample_time_s,timestamp_s,index,label,track_id,score,area"]

    def start(self, started: ClipStarted) -> bytes:
        """Keep the order of labels for the names."""
        self._labels = {label: number for number, label in enumerate(started.model.labels)}
        return b""

    def frame(self, frame: FrameMasks) -> bytes:
        """Write the frame's masks."""
        for mask in frame.masks:
            name = self._name(frame, mask)
            self._write(name, cv2.imencode(".png", decode(mask.segmentation) * 255)[1].tobytes())
            track = "" if mask.track_id is None else mask.track_id
            label = '"' + mask.label.replace('"', '""') + '"'
            times = f"{frame.sample_time_s},{frame.timestamp_s},{frame.index}"
            self._rows.append(f"{name},{times},{label},{track},{mask.score},{mask.area}")
        return self._out.take()

    def end(self, summary: Summary) -> bytes:
        """Write the table and the zip's directory."""
        self._write("masks.csv", "\r\n".join([*self._rows, ""]).encode())
        self._zip.close()
        return self._out.take()

    def _name(self, frame: FrameMasks, mask: Mask) -> str:
        """Return a name that is unique also where two samples show one frame, and that every system can store."""
        label = re.sub(r"[^A-Za-z0-9-]+", "-", mask.label).strip("-")
        track = "" if mask.track_id is None else f"_{mask.track_id}"
        time_ms = round(1000 * frame.sample_time_s)
        return f"masks/{time_ms:09d}ms_frame{frame.index:06d}_{self._labels.get(mask.label, 0):03d}-{label}{track}.png"

    def _write(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, _DATE), data)


class _Pipe(io.RawIOBase):
    """A file that cannot seek, whose bytes are taken as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Keep bytes until they are taken."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return and forget what was written."""
        taken, self._parts = b"".join(self._parts), []
        return taken
