"""Changes to a clip before it is posted: other sound, another level, codec, shape or size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.mp4 import WAVEFORM_RATE_HZ, Mp4Policy, copy_with_sound, write_mp4
from model.data.synthesize import CPU
from model.data.world.mix import mix_scene
from model.data.world.scene import draw_scene
from service.bench.hearing.clips import (
    FRAME_RATE,
    Clip,
    Truth,
    clip_options,
    make_clip,
    off_screen_only,
    other_choice,
    with_gates,
)
from service.bench.hearing.rotation import rotated

SIZES = ((320, 240), (480, 270))
# Frames per second at 1080 lines, where each frame costs twenty small ones to make.
FULL_HD_RATE = Fraction(5, 2)
EDIT_S = 0.3
# Step of the seeds from one number of visible objects to the next, larger than any number of base clips.
VISIBLE_SEEDS = 100_000
TIMING_FPS = 10.0


@dataclass(frozen=True)
class PreparedClip:
    """A clip to post: truth and sound; `frames` None keeps the plain clip's encoded pictures."""

    truth: Truth
    waveform: NDArray[np.float32]
    policy: Mp4Policy = field(default_factory=Mp4Policy)
    frames: NDArray[np.uint8] | None = None
    fps: Fraction = FRAME_RATE
    turn_degrees: int = 0


class BaseClip:
    """The clip of a number, rendered at its first use."""

    def __init__(self, seed: int, number: int) -> None:
        self.number = number
        self.seed = seed + number
        self.size = SIZES[number % len(SIZES)]

    @cached_property
    def clip(self) -> Clip:
        """Return the plain clip."""
        return make_clip(self.seed, self.size)

    @cached_property
    def other_waveform(self) -> NDArray[np.float32]:
        """Return the next clip's sound."""
        options = clip_options(self.seed + 1, self.size, visible=(1, 4), fps=FRAME_RATE)
        return mix_scene(draw_scene(self.seed + 1, options.scene_options()), device=CPU).waveform.numpy()


@dataclass(frozen=True)
class Condition:
    """One way to post the clips.

    Attributes:
        make: the clip to post, None where the condition does not apply to a clip.
        share: of the base clips, the first ones; 1 is all.
        fps: samples per second that are asked for.
        files: name of the condition whose files are posted, where it is not its own.
    """

    make: Callable[[BaseClip], PreparedClip | None]
    share: float = 1.0
    fps: float = 1.0
    files: str | None = None

    def numbers(self, num_clips: int) -> range:
        """Return the numbers of the base clips that take part."""
        return range(max(1, round(num_clips * self.share)))


def _unchanged(base: BaseClip) -> PreparedClip:
    return PreparedClip(base.clip.truth, base.clip.waveform, frames=base.clip.frames)


def _remix(base: BaseClip) -> PreparedClip:
    return _with_sound_of(with_gates(base.clip, other_choice(base.clip.scene)))


def _off_screen(base: BaseClip) -> PreparedClip | None:
    gates = off_screen_only(base.clip.scene)
    return None if gates is None else _with_sound_of(with_gates(base.clip, gates))


def _ambience(base: BaseClip) -> PreparedClip:
    return _with_sound_of(with_gates(base.clip, {}))


def _with_sound_of(clip: Clip) -> PreparedClip:
    return PreparedClip(clip.truth, clip.waveform)


def _other_sound(base: BaseClip) -> PreparedClip:
    return PreparedClip(base.clip.truth, base.other_waveform)


def _silence(base: BaseClip) -> PreparedClip:
    return PreparedClip(base.clip.truth, np.zeros_like(base.clip.waveform))


def _louder(base: BaseClip, *, gain_db: float) -> PreparedClip:
    loud = base.clip.waveform * np.float32(10 ** (gain_db / 20))
    return PreparedClip(base.clip.truth, np.clip(loud, -1, 1))


def _timing_edit(base: BaseClip) -> PreparedClip:
    """Half of the clips carry 0.3 s of sound from before the first frame, which an edit list cuts; half start late."""
    wave, lead = base.clip.waveform, round(EDIT_S * WAVEFORM_RATE_HZ)
    if base.number % 2:
        return PreparedClip(base.clip.truth, wave[lead:], Mp4Policy(sound_start_s=EDIT_S))
    return PreparedClip(
        base.clip.truth, np.concatenate([wave[lead::-1][:lead], wave]), Mp4Policy(sound_start_s=-EDIT_S)
    )


def _narrow_band(base: BaseClip) -> PreparedClip:
    return PreparedClip(base.clip.truth, base.clip.waveform, Mp4Policy(audio_rate_hz=8000, audio_bits_per_s=24_000))


def _mp3(base: BaseClip) -> PreparedClip:
    policy = Mp4Policy(audio_codec="libmp3lame", audio_rate_hz=44_100, audio_bits_per_s=64_000)
    return PreparedClip(base.clip.truth, base.clip.waveform, policy)


def _rotated(base: BaseClip) -> PreparedClip:
    frames = np.ascontiguousarray(np.rot90(base.clip.frames, axes=(1, 2)))  # anticlockwise; the file turns it back
    return PreparedClip(base.clip.truth, base.clip.waveform, frames=frames, turn_degrees=90)


def _rendered_again(
    base: BaseClip, *, size: tuple[int, int], fps: Fraction = FRAME_RATE, **scene_options: Any
) -> PreparedClip:
    clip = make_clip(base.seed, size, fps=fps, **scene_options)
    return PreparedClip(clip.truth, clip.waveform, frames=clip.frames, fps=fps)


def _portrait(base: BaseClip) -> PreparedClip:
    return _rendered_again(base, size=(270, 480))


def _full_hd(base: BaseClip) -> PreparedClip:
    return _rendered_again(base, size=(1440, 1080) if base.number % 2 == 0 else (1920, 1080), fps=FULL_HD_RATE)


def _unseen(base: BaseClip) -> PreparedClip:
    return _rendered_again(base, size=base.size, background="unseen")


def _visible(base: BaseClip, *, num: int) -> PreparedClip:
    clip = make_clip(base.seed + num * VISIBLE_SEEDS, base.size, visible=(num, num))
    return PreparedClip(clip.truth, clip.waveform, frames=clip.frames)


_THIRD = 1 / 3
CONDITIONS: dict[str, Condition] = {
    "own": Condition(_unchanged),
    "remix": Condition(_remix),
    "other": Condition(_other_sound),
    "off_screen": Condition(_off_screen),
    "ambience": Condition(_ambience),
    "silence": Condition(_silence),
    "timing": Condition(_unchanged, fps=TIMING_FPS, files="own"),
    "timing_edit": Condition(_timing_edit, fps=TIMING_FPS, share=_THIRD),
    "quieter": Condition(lambda base: _louder(base, gain_db=-12), share=_THIRD),
    "louder": Condition(lambda base: _louder(base, gain_db=12), share=_THIRD),
    "8khz": Condition(_narrow_band, share=_THIRD),
    "mp3": Condition(_mp3, share=_THIRD),
    "portrait": Condition(_portrait, share=_THIRD),
    "rotated": Condition(_rotated, share=_THIRD),
    "1080p": Condition(_full_hd, share=1 / 4),
    "unseen": Condition(_unseen, share=_THIRD),
    **{f"visible{num}": Condition(partial(_visible, num=num), share=0.1) for num in range(1, 7)},
}
VISIBLE_NAMES = tuple(name for name in CONDITIONS if name.startswith("visible"))


def choose_conditions(names: Sequence[str]) -> Iterator[str]:
    """The conditions to run (no names: all), `own` always, `visible` for 1 to 6 objects.

    Raises:
        ValueError: for an unknown name.
    """
    wanted = {"own", *names, *(VISIBLE_NAMES if "visible" in names else ())} - {"visible"}
    unknown = sorted(wanted - set(CONDITIONS))
    if unknown:
        raise ValueError(f"conditions: unknown {unknown[0]!r}; there are visible, {', '.join(CONDITIONS)}")
    yield from (name for name in CONDITIONS if not names or name in wanted)


def clip_path(folder: Path, number: int, name: str) -> Path:
    """Where a clip of a condition lies; its truth is beside it, .json, `null` where the condition does not apply."""
    return folder / f"{number:05d}.{CONDITIONS[name].files or name}.mp4"


def prepare_clip(folder: Path, seed: int, number: int, names: Sequence[str]) -> dict[str, float]:
    """Write the files of one base clip that are not there yet; returns the seconds that each condition took."""
    torch.set_num_threads(1)
    base = BaseClip(seed, number)
    seconds: dict[str, float] = {}
    for name in names:
        path = clip_path(folder, number, name)
        if path.with_suffix(".json").exists():
            continue
        start_s = time.perf_counter()
        prepared = CONDITIONS[name].make(base)
        if prepared is not None:
            _write_clip(path, prepared, plain=clip_path(folder, number, "own"))
        if name == "own":
            _save_timing(path, base.clip)
        path.with_suffix(".json").write_text(json.dumps(prepared and prepared.truth), encoding="utf-8")
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start_s
    return seconds


def _save_timing(path: Path, clip: Clip) -> None:
    slots = np.array([source.slot for source in clip.scene.sources])
    np.savez_compressed(path.with_suffix(".npz"), ids=clip.ids, states=clip.mix.states, slots=slots)


def load_timing(folder: Path, number: int) -> tuple[NDArray[np.uint8], dict[int, NDArray[np.bool_]]]:
    """Object ids of a plain clip's frames (T, H, W), and by id when each visible object sounds, (num_blocks,)."""
    with np.load(clip_path(folder, number, "own").with_suffix(".npz")) as saved:
        states = {int(slot): row for slot, row in zip(saved["slots"], saved["states"], strict=True) if slot}
        return saved["ids"], states


def _write_clip(path: Path, prepared: PreparedClip, *, plain: Path) -> None:
    if prepared.frames is None:
        copy_with_sound(path, pictures=plain, waveform=prepared.waveform, policy=prepared.policy)
        return
    write_mp4(path, frames=prepared.frames, frame_rate=prepared.fps, waveform=prepared.waveform, policy=prepared.policy)
    if prepared.turn_degrees:
        path.write_bytes(rotated(path.read_bytes(), prepared.turn_degrees))
