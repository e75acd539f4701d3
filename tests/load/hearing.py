"""How well the shipped checkpoint hears, through the whole path: mp4 in, HTTP, RLE out (`make hearing`).

Clips of seeds that training never saw are written as mp4s, posted to a running service, and the masks that come back
are compared with the world's truth. The same pictures are posted again with other sound: another clip's, the clip's
own sources with their gates exchanged, silence, a changed level, a telephone's band. Ambiguous samples are left out.
Prints a table with 95 % intervals (bootstrap over clips) and, with --json, the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rich.progress import Progress
from support.service_process import ServiceProcess

from model.data.mp4 import Mp4Policy, write_mp4
from model.data.synthesize import CPU, SynthesizeOptions, describe_clip, to_frame_rate
from model.data.world_mix import mix_scene
from model.data.world_render import Shot, render
from model.data.world_scene import Scene, draw_scene
from service.client.connect import open_client
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks

SIZES = ((320, 240), (640, 360))
FRAMES_AT_ONCE = 8
QUIET_SHARE = 0.005
"""Under half a percent of the frame counts as nothing said to sound (issue of the shipped checkpoint)."""
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Clip:
    """One picture track with its own sound and truth."""

    scene: Scene
    options: SynthesizeOptions
    frames: tuple[NDArray[np.uint8], ...]
    waveform: NDArray[np.float32]
    truth: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One sample's outcome: of which clip, what was true and what came back."""

    clip: int
    is_ambiguous: bool
    is_sounding: bool
    is_off_screen: bool
    iou: float
    share: float


def make_clip(seed: int, size: tuple[int, int]) -> Clip:
    """The clip of a seed, with its truth and its 5 seconds of frames."""
    options = SynthesizeOptions(Path(), seed=seed, width=size[0], height=size[1], truth="full")
    scene = draw_scene(seed, options.scene_options())
    frame_rate = to_frame_rate(options.fps)
    num_frames = round(options.seconds * frame_rate)
    frames: list[NDArray[np.uint8]] = []
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        shots = [Shot(scene, float(i / frame_rate), i) for i in range(start, min(start + FRAMES_AT_ONCE, num_frames))]
        frames.extend(render(shots, width=size[0], height=size[1], device=CPU).frames.numpy())
    mix = mix_scene(scene, device=CPU)
    truth = describe_clip(scene, mix, options, num_frames=num_frames, frame_rate=frame_rate)
    return Clip(scene, options, tuple(frames), mix.waveform.numpy(), truth)


def with_exchanged_gates(clip: Clip) -> Clip:
    """The same pictures and sources, but each source sounds when the next one did."""
    sources = clip.scene.sources
    moved = tuple(replace(s, gates=sources[(i + 1) % len(sources)].gates) for i, s in enumerate(sources))
    scene = replace(clip.scene, sources=moved)
    mix = mix_scene(scene, device=CPU)
    rate = to_frame_rate(clip.options.fps)
    truth = describe_clip(scene, mix, clip.options, num_frames=len(clip.frames), frame_rate=rate)
    return replace(clip, scene=scene, waveform=mix.waveform.numpy(), truth=truth)


VARIANTS = ("own sound", "exchanged gates", "another clip's sound", "muted", "-12 dB", "+12 dB", "8 kHz")


def variants(clip: Clip, other: Clip) -> Iterator[tuple[str, Clip, Mp4Policy]]:
    """What is posted for a clip: a name, the clip whose truth is asked, and how it is encoded."""
    plain = Mp4Policy()
    yield "own sound", clip, plain
    yield "exchanged gates", with_exchanged_gates(clip), plain
    yield "another clip's sound", replace(clip, waveform=other.waveform), plain
    yield "muted", replace(clip, waveform=np.zeros_like(clip.waveform)), plain
    yield "-12 dB", replace(clip, waveform=clip.waveform * np.float32(10 ** (-12 / 20))), plain
    loud = np.clip(clip.waveform * np.float32(10 ** (12 / 20)), -1, 1)
    yield "+12 dB", replace(clip, waveform=loud), plain
    yield "8 kHz", clip, Mp4Policy(audio_rate_hz=8000, audio_bits_per_s=24_000)


def compare(number: int, truth: dict[str, Any], answered: Sequence[FrameMasks]) -> Iterator[Sample]:
    """The outcome of each sample of an answer."""
    size = (truth["clip"]["height"], truth["clip"]["width"])
    for frame, true_frame in zip(answered, truth["frames"], strict=True):
        said = np.zeros(size, bool)
        for mask in frame.masks:
            rle = {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts.encode()}
            said |= coco_mask.decode(rle).astype(bool)
        true = np.zeros(size, bool)
        for entry in true_frame["masks"]:
            true |= coco_mask.decode(entry["segmentation"]).astype(bool)
        union = (said | true).sum()
        yield Sample(
            clip=number,
            is_ambiguous=true_frame["ambiguous"],
            is_sounding=bool(true.any()),
            is_off_screen=bool(true_frame["off_screen_sounding"]),
            iou=float((said & true).sum() / union) if union else 1.0,
            share=float(said.mean()),
        )


def figures(name: str, samples: Sequence[Sample]) -> Iterator[tuple[str, Sequence[tuple[int, float]]]]:
    """The figures that a variant gives: name and (clip, value) of each sample that counts."""
    clear = [s for s in samples if not s.is_ambiguous]
    if name == "muted":
        yield "muted: samples under 0.5 %", [(s.clip, float(s.share < QUIET_SHARE)) for s in samples]
        return
    yield f"{name}: IoU of sounding samples", [(s.clip, s.iou) for s in clear if s.is_sounding]
    if name in ("own sound", "exchanged gates"):
        quiet = [s for s in clear if not s.is_sounding]
        off = [(s.clip, float(s.share < QUIET_SHARE)) for s in quiet if s.is_off_screen]
        yield f"{name}: off-screen sound only, samples under 0.5 %", off
        none = [(s.clip, float(s.share < QUIET_SHARE)) for s in quiet if not s.is_off_screen]
        yield f"{name}: ambience only, samples under 0.5 %", none


def interval(values: Sequence[tuple[int, float]], *, seed: int = 0) -> dict[str, float]:
    """Mean over samples with its 95 % bootstrap interval over clips."""
    by_clip: dict[int, list[float]] = {}
    for clip, value in values:
        by_clip.setdefault(clip, []).append(value)
    groups = list(by_clip.values())
    if not groups:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "num": 0}
    sums = np.array([sum(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    picks = np.random.default_rng(seed).integers(0, len(groups), (NUM_RESAMPLES, len(groups)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(sums.sum() / counts.sum()),
        "low": float(low),
        "high": float(high),
        "num": int(counts.sum()),
    }


def prepare(folder: Path, *, num_clips: int, seed: int) -> None:
    """Write every variant of every clip with its truth; what is already there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    ahead: Clip | None = None
    with Progress() as bar:
        for number in bar.track(range(num_clips), description="writing clips"):
            if (folder / f"{number:05d}.done").exists():
                ahead = None
                continue
            clip = ahead or make_clip(seed + number, SIZES[number % len(SIZES)])
            ahead = make_clip(seed + number + 1, SIZES[(number + 1) % len(SIZES)])
            for variant, (_, asked, policy) in enumerate(variants(clip, ahead)):
                path = folder / f"{number:05d}.{variant}.mp4"
                rate = to_frame_rate(asked.options.fps)
                write_mp4(path, frames=asked.frames, frame_rate=rate, waveform=asked.waveform, policy=policy)
                path.with_suffix(".json").write_text(json.dumps(asked.truth), encoding="utf-8")
            (folder / f"{number:05d}.done").touch()


def run(url: str, folder: Path, *, num_clips: int) -> dict[str, dict[str, float]]:
    """Post every variant of every clip; returns the figures by name."""
    outcomes: dict[str, list[Sample]] = {}
    with open_client(url) as client, Progress() as bar:
        for number in bar.track(range(num_clips), description="asking the service"):
            for variant, name in enumerate(VARIANTS):
                path = folder / f"{number:05d}.{variant}.mp4"
                truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                answer = client.segment(path, SegmentOptions())
                outcomes.setdefault(name, []).extend(compare(number, truth, answer.frames))
    return {figure: interval(values) for name, samples in outcomes.items() for figure, values in figures(name, samples)}


def main() -> int:
    """Parse the command line, start a service where no URL is given, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first clip; below 2**31")
    parser.add_argument("--url", help="of a running service; without it one is started")
    parser.add_argument("--checkpoint", type=Path, help="for the service that is started; default: the shipped one")
    parser.add_argument("--keep", type=Path, help="folder for the clips, made once and used again")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(folder, num_clips=given.clips, seed=given.seed)
        url = given.url
        if url is None:
            settings = {"checkpoint": given.checkpoint.resolve()} if given.checkpoint else {}
            url = stack.enter_context(ServiceProcess(module="support.serve_shipped", **settings)).url
        found = run(url, folder, num_clips=given.clips)
    for name, figure in found.items():
        line = f"{name:<58} {figure['mean']:.3f}  [{figure['low']:.3f}, {figure['high']:.3f}]  n={figure['num']}"
        print(line)  # noqa: T201  # the table is what the script is for
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
