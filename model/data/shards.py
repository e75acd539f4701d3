"""The world as codecs leave it: samples read back from H.264 and AAC or MP3, kept in files for training to mix in.

Writing needs PyAV; reading needs torch and safetensors only, so that a training machine can do without PyAV.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from model.data.synthetic import KINDS, SampleBatch, draw_times, masks_of, sample_batch
from model.data.world.mix import mix_scene, window_at
from model.data.world.render import Shot, render
from model.data.world.scene import STREAM_CODECS, WORLD_VERSION, Scene, SceneOptions, draw_scene, stream

CLIPS_PER_SHARD, SAMPLES_PER_CLIP = 16, 6
SHARD_SEEDS = 2**48  # above every seed that training renders itself
FRAME_RATE = 10  # a codec damages each frame alike; more frames only take longer
HEIGHTS_PX = (240, 360)
CRFS = (20, 36)  # x264's visually good to clearly damaged
SOUND_CODECS: tuple[tuple[Literal["aac", "libmp3lame"], int], ...] = (
    ("aac", 48_000),
    ("aac", 44_100),
    ("aac", 22_050),
    ("libmp3lame", 44_100),
)
SOUND_BITS_PER_S = (32_000, 128_000)
FRAMES_AT_ONCE = 8
PCM_SCALE = 32_767
CPU = torch.device("cpu")


def write_shards(
    folder: Path, *, num: int, size_px: int, first: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write shards number first .. first + num - 1; those that are there already are kept.

    Args:
        folder: made if absent.
        num: shards to write, 16 clips and 96 samples each: 13 MB at 160 pixels.
        size_px: height and width of the frames.
        first: number of the first shard; it decides the clips.
        progress: called with clips done and in all.

    Returns:
        Their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard_{size_px}px_{number:05d}.safetensors" for number in range(first, first + num)]
    for i, path in enumerate(paths):
        if not path.exists():
            _write_shard(path, number=first + i, size_px=size_px)
        if progress is not None:
            progress((i + 1) * CLIPS_PER_SHARD, num * CLIPS_PER_SHARD)
    return paths


def list_shards(folder: Path) -> list[Path]:
    """The shards of a folder, by name.

    Raises:
        ValueError: there are none.
    """
    paths = sorted(folder.glob("shard_*.safetensors"))
    if not paths:
        raise ValueError(f"shards: {folder} holds none; write some with `avesformer data shards --out {folder}`")
    return paths


def read_shard(path: Path, *, size_px: int, device: torch.device | str = "cpu") -> SampleBatch:
    """The 96 samples of a shard, as `sample_batch` would give them.

    Args:
        path: one of `list_shards`.
        size_px: height and width wanted; other than the shard's, frames are resized (area) and truth is picked.
        device: where the batch is left.

    Raises:
        ValueError: a shard of another world version.
    """
    with safe_open(path, framework="pt") as file:
        version = (file.metadata() or {}).get("world_version")
        if version != str(WORLD_VERSION):
            raise ValueError(f"{path} is of world version {version}, expected {WORLD_VERSION}; write it anew")
        values: dict[str, Tensor] = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
    frames, kind_map = values["frames"], values["kind_map"]
    if frames.shape[1] != size_px:
        resized = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=(size_px, size_px), mode="area")
        frames = resized.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        kind_map = F.interpolate(kind_map[:, None], size=(size_px, size_px), mode="nearest-exact")[:, 0]
    return SampleBatch(
        frames=frames,
        windows=values["windows"].float() / PCM_SCALE,
        masks=masks_of(kind_map, values["sounding_kinds"]),
        kind_map=kind_map,
        sounding_kinds=values["sounding_kinds"],
        ambiguous=values["ambiguous"],
        clip_ids=values["clip_ids"],
    )


def _write_shard(path: Path, *, number: int, size_px: int) -> None:
    seeds = range(SHARD_SEEDS + number * CLIPS_PER_SHARD, SHARD_SEEDS + (number + 1) * CLIPS_PER_SHARD)
    truth = sample_batch(seeds, samples_per_clip=SAMPLES_PER_CLIP, size_px=size_px, frame_rate_hz=FRAME_RATE)
    frames, windows = [], []
    for seed in seeds:
        scene = draw_scene(seed, SceneOptions())
        times_s = draw_times(scene, SAMPLES_PER_CLIP, frame_rate_hz=FRAME_RATE)
        pictures, waveform = _through_codecs(scene, size_px=size_px)
        frames += [pictures[round(time_s * FRAME_RATE)] for time_s in times_s]
        windows += [window_at(waveform, time_s=time_s) for time_s in times_s]
    tensors = {
        "frames": torch.stack(frames),
        "windows": (torch.stack(windows) * PCM_SCALE).round().to(torch.int16),
        "kind_map": truth.kind_map,
        "sounding_kinds": truth.sounding_kinds,
        "ambiguous": truth.ambiguous,
        "clip_ids": truth.clip_ids,
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"world_version": str(WORLD_VERSION), "kinds": ",".join(KINDS)})
    partial.replace(path)


def _through_codecs(scene: Scene, *, size_px: int) -> tuple[list[Tensor], Tensor]:
    """The clip written as mp4 with drawn qualities and read back: (H, W, 3) uint8 squashed frames, (S,) sound."""
    from model.data.mp4 import Mp4Policy, read_mp4, write_mp4  # PyAV is for those who write shards

    rng = stream(scene.seed, STREAM_CODECS)
    height = int(rng.choice(HEIGHTS_PX))
    width = 2 * round(scene.aspect * height / 2)
    codec, rate_hz = SOUND_CODECS[int(rng.integers(len(SOUND_CODECS)))]
    policy = Mp4Policy(
        crf=int(rng.integers(*CRFS)),
        audio_codec=codec,
        audio_rate_hz=rate_hz,
        audio_bits_per_s=int(rng.integers(*SOUND_BITS_PER_S)),
    )
    num_frames = int(scene.seconds * FRAME_RATE)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(
            path,
            frames=_paint(scene, num_frames=num_frames, width=width, height=height),
            frame_rate=Fraction(FRAME_RATE),
            waveform=mix_scene(scene, device=CPU).waveform.numpy(),
            policy=policy,
        )
        frames, waveform = read_mp4(path, width=size_px, height=size_px)
    return [torch.from_numpy(frame) for frame in frames], torch.from_numpy(waveform)


def _paint(scene: Scene, *, num_frames: int, width: int, height: int) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        numbers = range(start, min(start + FRAMES_AT_ONCE, num_frames))
        shots = [Shot(scene, i / FRAME_RATE, i) for i in numbers]
        yield from render(shots, width=width, height=height, device=CPU).frames.numpy()
