"""Building blocks of the sound families: notes, wave tables, noise, and their evaluation on a device."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.world.scene import Floats
from model.network.preprocess import SAMPLE_RATE_HZ

TABLE_SIZE = 2048
TOP_HZ = 3_600.0  # no partial of a wave table lies above

_STEPS = np.arange(1, 49)
_PARTIALS = np.sin(2 * np.pi * np.outer(_STEPS, np.arange(TABLE_SIZE) / TABLE_SIZE)).astype(np.float32)


@dataclass(frozen=True)
class Noise:
    """Random points in -1..1, `step` samples apart."""

    points: npt.NDArray[np.float32]
    step: int


@dataclass(frozen=True)
class Score:
    """Random parameters of one source's emission, all drawn on the CPU.

    Attributes:
        onsets: (N,) first sample of each note, rising, the first 0.
        notes: named values per note, each (N,).
        tables: (R, TABLE_SIZE) one period of each wave.
        noises: named noises.
        scalars: named values for the whole clip.
    """

    onsets: npt.NDArray[np.int64]
    notes: dict[str, Floats] = field(default_factory=dict)
    tables: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, TABLE_SIZE), np.float32))
    noises: dict[str, Noise] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)


class Voice:
    """Evaluates a score on a device, from sample `span[0]` to `span[1]`.

    Attributes:
        since: (S,) float32 seconds since the current note's onset; S = span[1] - span[0].
    """

    def __init__(self, score: Score, *, span: tuple[int, int], device: torch.device) -> None:
        self._score = score
        self._span = span
        self._device = device
        ends = np.clip(np.append(score.onsets[1:], span[1]), *span)
        lengths = np.diff(ends, prepend=span[0])
        self._note = torch.repeat_interleave(
            torch.arange(len(ends), dtype=torch.int32, device=device),
            torch.from_numpy(lengths).to(device),
            output_size=span[1] - span[0],
        )
        self._tables = torch.from_numpy(score.tables).to(device).flatten()
        self._ticks = torch.arange(*span, dtype=torch.int32, device=device)
        self.since = (self._ticks - self._held(score.onsets)) * (1.0 / SAMPLE_RATE_HZ)

    def _held(self, onsets: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(onsets.astype(np.int32)).to(self._device).index_select(0, self._note)

    def scalar(self, name: str) -> float:
        """Return a value that is constant over the clip."""
        return self._score.scalars[name]

    def held(self, name: str) -> Tensor:
        """Return the current note's value at each sample, (S,)."""
        values = torch.from_numpy(self._score.notes[name].astype(np.float32)).to(self._device)
        return values.index_select(0, self._note)

    def wave(self, turns: Tensor, *, row: int | Tensor = 0) -> Tensor:
        """Read a wave table at the phase `turns` (S,) in periods; returns (S,)."""
        position = (turns * TABLE_SIZE).to(torch.int32) & (TABLE_SIZE - 1)
        return self._tables.index_select(0, position + row * TABLE_SIZE)

    def sine(self, turns: Tensor) -> Tensor:
        """Return sin(2 pi turns) (S,) within 0.001: a parabola with one correction, cheaper than sin on a CPU."""
        phase = turns - torch.round(turns)
        rough = phase * (8.0 - 16.0 * phase.abs())
        return rough * (0.775 + 0.225 * rough.abs())

    def noise(self, name: str) -> Tensor:
        """Return the named noise (S,), linearly interpolated to the sample rate."""
        return stretch(self._score.noises[name], span=self._span, device=self._device)

    def fade(self, *, rise_s: float, fall_s: float) -> Tensor:
        """Return ramps (S,) in 0..1 at both ends of every note (the last note has no end)."""
        ends = np.append(self._score.onsets[1:], np.iinfo(np.int32).max)
        left = (self._held(ends) - self._ticks) * (1.0 / (SAMPLE_RATE_HZ * fall_s))
        return (self.since * (1.0 / rise_s)).clamp_(max=1.0) * left.clamp_(max=1.0)


def stretch(noise: Noise, *, span: tuple[int, int], device: torch.device) -> Tensor:
    """Return the noise (S,) from sample span[0] to span[1], linearly interpolated between its points."""
    num, first = span[1] - span[0], span[0] // noise.step
    points = torch.from_numpy(noise.points[first : -(-span[1] // noise.step) + 1]).to(device)
    if noise.step == 1:
        return points[:num]
    ramp = torch.arange(noise.step, device=points.device) / noise.step
    rises = points[1:] - points[:-1]
    return (points[:-1, None] + rises[:, None] * ramp).flatten()[span[0] - first * noise.step :][:num]


def draw_noise(rng: np.random.Generator, *, rate_hz: int, seconds: float) -> Noise:
    """Draw uniform noise in -1..1 for the clip, with rate_hz points a second (a divisor of 16 000)."""
    step = SAMPLE_RATE_HZ // rate_hz
    num = -(-round(seconds * SAMPLE_RATE_HZ) // step) + 1
    return Noise(points=rng.random(num, dtype=np.float32) * 2 - 1, step=step)


def wave_table(*amplitudes: Floats) -> npt.NDArray[np.float32]:
    """Return unit-power waves (R, TABLE_SIZE) from rows of up to 48 partial amplitudes."""
    rows = [(a / (np.sqrt(0.5 * np.sum(a * a)) + 1e-9)) @ _PARTIALS[: len(a)] for a in amplitudes]
    return np.stack(rows).astype(np.float32)


def partials_below_top(frequency_hz: float) -> Floats:
    """Return the numbers 1..H of the partials below TOP_HZ, (H,)."""
    return _STEPS[: max(1, min(len(_STEPS), int(TOP_HZ / frequency_hz)))].astype(np.float64)


def draw_onsets(rng: np.random.Generator, *, seconds: float, step_s: tuple[float, float]) -> npt.NDArray[np.int64]:
    """Draw note onsets with steps uniform in step_s. The first note starts at 0 and is shortened at random."""
    num = int(seconds / step_s[0]) + 2
    steps = rng.uniform(*step_s, num)
    steps[0] *= rng.random()
    onsets = np.concatenate([[0], np.round(np.cumsum(steps) * SAMPLE_RATE_HZ)]).astype(np.int64)
    return onsets[onsets < seconds * SAMPLE_RATE_HZ]


def beat(rng: np.random.Generator, *, period_s: tuple[float, float]) -> tuple[float, float]:
    """Return the step range of a steady rhythm: 8 % wide, around one period drawn from period_s."""
    period = float(rng.uniform(*period_s))
    return 0.96 * period, 1.04 * period
