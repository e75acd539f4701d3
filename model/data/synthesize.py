"""Writes synthetic clips as mp4 files with their truth as JSON (docs/contract.md, "Synthetic clips")."""

import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask

from model.data.mp4 import Mp4Policy, write_mp4
from model.data.sample_times import FIRST_SAMPLE_S
from model.data.synthetic import MIN_VISIBLE_SHARE
from model.data.world.mix import Mix, is_near_edge, mix_scene, render_stems
from model.data.world.render import Shot, render
from model.data.world.scene import KINDS, WORLD_VERSION, Scene, SceneOptions, Source, draw_scene
from model.network.preprocess import SAMPLE_RATE_HZ

CPU = torch.device("cpu")
FRAMES_AT_ONCE = 8
JsonObject = dict[str, Any]
BoolMask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SynthesizeOptions:
    """What to write.

    Attributes:
        out_dir: folder, made if absent.
        num: number of clips.
        seed: seed of the first clip; clip i has seed + i. Keep below 2**32: training uses seeds from there on.
        width: of the frames in pixels, even.
        height: of the frames in pixels, even.
        fps: frames per second.
        seconds: length of each clip, at least 1.
        visible: least and most visible objects.
        truth: "sampled" writes masks; "full" adds objects, off-screen sources and stems.
    """

    out_dir: Path
    num: int = 8
    seed: int = 0
    width: int = 320
    height: int = 240
    fps: float = 25.0
    seconds: float = 5.0
    visible: tuple[int, int] = (1, 4)
    truth: Literal["sampled", "full"] = "sampled"

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num must be at least 1, got {self.num}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 16 <= self.width <= 4096 or not 16 <= self.height <= 4096 or self.width % 2 or self.height % 2:
            raise ValueError(f"width and height must be even, 16 to 4096, got {self.width}x{self.height}")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps must be 1 to 120, got {self.fps}")
        if self.truth not in ("sampled", "full"):
            raise ValueError(f"truth must be 'sampled' or 'full', got {self.truth!r}")
        self.scene_options()

    def scene_options(self) -> SceneOptions:
        """The scene's part of the options. Raises ValueError where they are out of range."""
        return SceneOptions(seconds=self.seconds, visible=self.visible, aspect=self.width / self.height)


def synthesize(options: SynthesizeOptions, *, progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write options.num clips, each clip_00000.mp4 with clip_00000.json beside it.

    Args:
        options: what to write; the same options give the same clips.
        progress: called with (clips done, clips in all).

    Returns:
        The mp4 files' paths.
    """
    options.out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(options.num):
        path = options.out_dir / f"clip_{i:05d}.mp4"
        write_clip(path, options, seed=options.seed + i)
        paths.append(path)
        if progress is not None:
            progress(i + 1, options.num)
    return paths


def write_clip(path: Path, options: SynthesizeOptions, *, seed: int, policy: Mp4Policy | None = None) -> JsonObject:
    """Write the clip `seed` as path, its truth beside it (.json) and, for full truth, its stems (.stems/).

    Returns:
        The truth, as written.
    """
    scene = draw_scene(seed, options.scene_options())
    mix = mix_scene(scene, device=CPU)
    frame_rate = to_frame_rate(options.fps)
    num_frames = max(1, round(options.seconds * frame_rate))
    write_mp4(
        path,
        frames=_frames(scene, options, num_frames=num_frames, frame_rate=frame_rate),
        frame_rate=frame_rate,
        waveform=mix.waveform.numpy(),
        policy=policy,
    )
    truth = describe_clip(scene, mix, options, num_frames=num_frames, frame_rate=frame_rate)
    path.with_suffix(".json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    if options.truth == "full":
        _write_stems(path.with_suffix(".stems"), scene, mix)
    return truth


def to_frame_rate(fps: float) -> Fraction:
    """Frames per second as a fraction; 23.976, 29.97 and 59.94 become multiples of 1000/1001."""
    ntsc = Fraction(round(fps) * 1000, 1001)
    return ntsc if abs(float(ntsc) - fps) < 0.005 and fps != round(fps) else Fraction(fps).limit_denominator(1001)


def _frames(
    scene: Scene, options: SynthesizeOptions, *, num_frames: int, frame_rate: Fraction
) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        numbers = range(start, min(start + FRAMES_AT_ONCE, num_frames))
        shots = [Shot(scene, float(i / frame_rate), i) for i in numbers]
        yield from render(shots, width=options.width, height=options.height, device=CPU).frames.numpy()


def describe_clip(
    scene: Scene, mix: Mix, options: SynthesizeOptions, *, num_frames: int, frame_rate: Fraction
) -> JsonObject:
    """The truth of a clip in the format of the service's answers (docs/contract.md)."""
    duration_s = float(num_frames / frame_rate)
    times_s = [t for i in range(int(duration_s) + 1) if (t := i + FIRST_SAMPLE_S) < duration_s]
    numbers = [min(int(t * frame_rate + Fraction(1, 10**9)), num_frames - 1) for t in times_s]
    shots = [Shot(scene, float(i / frame_rate), i) for i in numbers]
    ids = render(shots, width=options.width, height=options.height, device=CPU).ids.numpy()
    frames = [
        {
            "sample_time_s": t,
            "timestamp_s": round(float(number / frame_rate), 6),
            "index": number,
            **_describe_frame(scene, mix, ids[k], time_s=t, is_full=options.truth == "full"),
        }
        for k, (t, number) in enumerate(zip(times_s, numbers, strict=True))
    ]
    truth: JsonObject = {
        "world_version": WORLD_VERSION,
        "seed": scene.seed,
        "clip": {
            "width": options.width,
            "height": options.height,
            "sample_aspect_ratio": "1:1",
            "duration_s": round(duration_s, 6),
            "frame_rate": round(float(frame_rate), 6),
            "num_samples": len(frames),
        },
        "frames": frames,
    }
    if options.truth == "full":
        truth["objects"] = [_describe_source(s) for s in scene.sources if s.slot]
        truth["off_screen_sources"] = [_describe_source(s) for s in scene.sources if not s.slot]
    return truth


def _describe_frame(scene: Scene, mix: Mix, ids: npt.NDArray[np.uint8], *, time_s: float, is_full: bool) -> JsonObject:
    is_on = dict(zip([s.name for s in scene.sources], mix.is_sounding(time_s).tolist(), strict=True))
    slots = [s.slot for s in scene.sources if s.slot and is_on[s.name]]
    sounding = np.isin(ids, slots)
    is_tiny = bool(slots) and float(sounding.mean()) < MIN_VISIBLE_SHARE
    entry: JsonObject = {"masks": [], "ambiguous": is_near_edge(scene, mix, time_s=time_s) or is_tiny}
    if sounding.any():
        entry["masks"] = [{"label": "sounding", "score": 1.0, **encode_mask(sounding)}]
    if is_full:
        entry["objects"] = [
            {"id": s.slot, "kind": KINDS[s.kind], "is_sounding": is_on[s.name], **encode_mask(ids == s.slot)}
            for s in scene.sources
            if s.slot and (ids == s.slot).any()
        ]
        entry["off_screen_sounding"] = [s.name for s in scene.sources if not s.slot and is_on[s.name]]
    return entry


def encode_mask(mask: BoolMask) -> JsonObject:
    """Area, bounding box [x, y, width, height] and COCO compressed RLE of a mask (H, W) with a pixel set."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "area": int(mask.sum()),
        "bbox": [int(v) for v in coco_mask.toBbox(rle)],
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def _describe_source(source: Source) -> JsonObject:
    return {
        "id": source.slot or source.name,
        "kind": KINDS[source.kind],
        "level_db": round(source.level_db, 3),
        "gates_s": [[round(float(v), 6) for v in gate] for gate in source.gates],
    }


def _write_stems(folder: Path, scene: Scene, mix: Mix) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, waveform in render_stems(scene, mix, device=CPU).items():
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", "not compressed"))
            file.writeframes((waveform.numpy() * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())
