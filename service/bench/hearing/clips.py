"""The clips of `make hearing`: rendered once, mixed again from their stems with other sounding sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.synthesize import CPU, SynthesizeOptions, describe_clip, to_frame_rate
from model.data.world.mix import BLOCK_SAMPLES, Mix, audible_states, gate_curve, mix_scene, render_stems
from model.data.world.render import Shot, render
from model.data.world.scene import Scene, draw_scene
from model.network.preprocess import SAMPLE_RATE_HZ, WINDOW_SAMPLES

FRAMES_AT_ONCE = 8
SECONDS = 5.0
# Half of the usual 25 frames per second, because it halves the time to render, encode and decode. Masks do not depend
# on it.
FRAME_RATE = Fraction(25, 2)
# Loudest peak of a new mix, as in the world's own.
CEILING = 0.95

Gates = NDArray[np.float64]
Truth = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """A picture track with its sound and truth.

    Attributes:
        scene, options, mix: what it was made from.
        frames: (T, H, W, 3) uint8 RGB.
        ids: (T, H, W) uint8, object ids of each frame.
        truth: as `avesformer synthesize --truth full` writes it, and `signal_to_ambience_db` per frame.
    """

    scene: Scene
    options: SynthesizeOptions
    mix: Mix
    frames: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    truth: Truth

    @property
    def waveform(self) -> NDArray[np.float32]:
        """Return the sound, (S,) float32 at 16 kHz."""
        return self.mix.waveform.numpy()


def clip_options(seed: int, size: tuple[int, int], *, visible: tuple[int, int], fps: Fraction) -> SynthesizeOptions:
    """Return options for full truth and five seconds; `size` is width and height."""
    return SynthesizeOptions(
        Path(), seed=seed, width=size[0], height=size[1], fps=float(fps), seconds=SECONDS, visible=visible, truth="full"
    )


def make_clip(
    seed: int,
    size: tuple[int, int],
    *,
    visible: tuple[int, int] = (1, 4),
    fps: Fraction = FRAME_RATE,
    **scene_options: Any,
) -> Clip:
    """Return the clip of a seed; `scene_options` are further fields of SceneOptions."""
    options = clip_options(seed, size, visible=visible, fps=fps)
    scene = draw_scene(seed, replace(options.scene_options(), **scene_options))
    mix = mix_scene(scene, device=CPU)
    numbers = range(round(SECONDS * fps))
    parts = [
        render(
            [Shot(scene, float(i / fps), i) for i in numbers[start : start + FRAMES_AT_ONCE]],
            width=size[0],
            height=size[1],
            device=CPU,
        )
        for start in range(0, len(numbers), FRAMES_AT_ONCE)
    ]
    frames, ids = torch.cat([p.frames for p in parts]).numpy(), torch.cat([p.ids for p in parts]).numpy()
    return Clip(scene, options, mix, frames, ids, describe(scene, options, mix))


def describe(scene: Scene, options: SynthesizeOptions, mix: Mix) -> Truth:
    """Return the world's truth of a scene with this sound, and how far its sources are above the ambience."""
    fps = to_frame_rate(options.fps)
    truth = describe_clip(scene, mix, options, num_frames=round(SECONDS * fps), frame_rate=fps)
    ambience = render_stems(scene, mix, device=CPU)["ambience"]
    for frame in truth["frames"]:
        frame["signal_to_ambience_db"] = signal_to_ambience_db(mix.waveform, ambience, time_s=frame["sample_time_s"])
    return truth


def signal_to_ambience_db(waveform: Tensor, ambience: Tensor, *, time_s: float) -> float | None:
    """Return the sources' power over the ambience's in the window that ends at time_s, in dB; None without either."""
    end = round(time_s * SAMPLE_RATE_HZ)
    window = slice(max(0, end - WINDOW_SAMPLES), end)
    noise = float(ambience[window].square().mean())
    signal = float((waveform[window] - ambience[window]).square().mean())
    return 10 * float(np.log10(signal / noise)) if signal > 1e-12 and noise > 1e-12 else None


def with_gates(clip: Clip, gates: Mapping[str, Gates]) -> Clip:
    """Return the same pictures with each source, mixed from its stem, sounding by `gates` (by name; missing: never).

    The truth follows the world's own rule on the new mix: gate open, at least -12 dB against the rest.
    """
    never = np.zeros((0, 2))
    sources = tuple(replace(source, gates=gates.get(source.name, never)) for source in clip.scene.sources)
    scene = replace(clip.scene, sources=sources)
    stems = render_stems(clip.scene, clip.mix, device=CPU)
    num_samples = len(clip.mix.waveform)
    gated = [stems[s.name] * gate_curve(s.gates, num_samples=num_samples, device=CPU) for s in sources]
    waveform = torch.stack([*gated, stems["ambience"]]).sum(dim=0)
    # The rule's floor is for sources at their own level, before the recording's gain.
    level = 1.0 / clip.mix.gain
    powers = np.stack([block_powers(wave * level) for wave in gated])
    states = audible_states(scene, powers, ambience_powers=block_powers(stems["ambience"] * level))
    factor = min(1.0, CEILING / max(float(waveform.abs().max()), 1e-6))
    mix = replace(clip.mix, waveform=waveform * factor, states=states, gain=clip.mix.gain * factor)
    return replace(clip, scene=scene, mix=mix, truth=describe(scene, clip.options, mix))


def block_powers(waveform: Tensor) -> NDArray[np.float64]:
    """Return the mean power of every 20 ms, (num_blocks,)."""
    padded = torch.nn.functional.pad(waveform, (0, -len(waveform) % BLOCK_SAMPLES))
    return padded.double().view(-1, BLOCK_SAMPLES).square().mean(dim=1).numpy()


def other_choice(scene: Scene) -> dict[str, Gates]:
    """Return gates in which each source has the times of the next one, reversed: same lengths, other times."""
    sources = scene.sources
    mirrored = [scene.seconds - s.gates[::-1, ::-1] for s in sources]
    return {s.name: mirrored[(i + 1) % len(sources)] for i, s in enumerate(sources)}


def off_screen_only(scene: Scene) -> dict[str, Gates] | None:
    """Return gates in which only off-screen sources sound, nearly all the time; None if there are none."""
    return {s.name: np.array([[0.3, scene.seconds]]) for s in scene.sources if not s.slot} or None
