"""Clips of the synthetic world with the truth of every frame, and a service that answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.mp4 import write_mp4
from model.data.world.mix import Mix, mix_scene
from model.data.world.render import Shot, render
from model.data.world.scene import Scene
from service.bench.processes import running_service
from service.client.answer import Answer
from service.client.connect import open_client
from service.domain.options import SegmentOptions
from service.settings import Settings

WIDTH_PX, HEIGHT_PX = 320, 240
SECONDS = 5.0
ASPECT = WIDTH_PX / HEIGHT_PX
# Half of the usual 25 frames per second: half the time to render, encode and decode; masks do not depend on it.
FRAME_RATE = Fraction(25, 2)
# Samples per second that are asked for.
FPS = 10.0
_FRAMES_AT_ONCE = 8
_CPU = torch.device("cpu")

Respond = Callable[[Path, SegmentOptions], Answer]


@dataclass(frozen=True)
class WorldClip:
    """A scene with its sound and pictures.

    Attributes:
        frames: (T, HEIGHT_PX, WIDTH_PX, 3) uint8 RGB.
        ids: (T, HEIGHT_PX, WIDTH_PX) uint8, object ids.
    """

    scene: Scene
    mix: Mix
    frames: NDArray[np.uint8]
    ids: NDArray[np.uint8]

    def write(self, path: Path) -> Path:
        """Write the clip as an mp4 file."""
        write_mp4(path, frames=iter(self.frames), frame_rate=FRAME_RATE, waveform=self.mix.waveform.numpy())
        return path


def make_world_clip(scene: Scene) -> WorldClip:
    """Render a scene of SECONDS."""
    shots = [Shot(scene, float(number / FRAME_RATE), number) for number in range(int(SECONDS * FRAME_RATE))]
    parts = [
        render(shots[start : start + _FRAMES_AT_ONCE], width=WIDTH_PX, height=HEIGHT_PX, device=_CPU)
        for start in range(0, len(shots), _FRAMES_AT_ONCE)
    ]
    frames = torch.cat([part.frames for part in parts]).numpy()
    return WorldClip(scene, mix_scene(scene, device=_CPU), frames, torch.cat([part.ids for part in parts]).numpy())


@contextmanager
def running_responder(settings: Settings, checkpoint: str) -> Iterator[Respond]:
    """A service with a shipped checkpoint, as a function from a file and options to its answer."""
    with (
        running_service(settings.model_copy(update={"checkpoint": Path(checkpoint)})) as service,
        open_client(f"http://127.0.0.1:{service.http_port}") as client,
    ):
        yield client.segment
