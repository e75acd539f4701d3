"""Mix the sound track of a scene (gates, levels, reverb, ambience) and compute which source is audible when."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.world.scene import STREAM_AMBIENCE, Floats, Scene, Source, stream
from model.data.world.sounds import emit
from model.data.world.voice import draw_noise, stretch
from model.network.preprocess import SAMPLE_RATE_HZ, WINDOW_SAMPLES

BLOCK_SAMPLES = 320  # 20 ms: the grid on which levels are compared
LEVEL_BLOCKS = 15  # levels are powers over the last 0.3 s, a little over the longest pause that counts as sounding
AUDIBLE_DB = -12.0  # level against the rest of the mix above which a source sounds
EDGE_S = 0.2  # samples within this of a start or stop are ambiguous
NUM_REFLECTIONS = 32
ATTACK_S, RELEASE_S = 0.015, 0.03


@dataclass(frozen=True)
class Mix:
    """The sound of one clip.

    Attributes:
        waveform: (S,) float32 in [-1, 1], mono, 16 kHz.
        states: (num_sources, num_blocks) bool: gate open and audible at the end of each 20 ms block.
        gain: factor from the sources' nominal level to the waveform.
    """

    waveform: Tensor
    states: npt.NDArray[np.bool_]
    gain: float

    def is_sounding(self, time_s: float) -> npt.NDArray[np.bool_]:
        """Return which sources sound at time_s, (num_sources,)."""
        num_blocks = self.states.shape[1]
        return self.states[:, min(int(time_s * SAMPLE_RATE_HZ / BLOCK_SAMPLES), num_blocks - 1)]


def is_near_edge(scene: Scene, mix: Mix, *, time_s: float) -> bool:
    """Return whether a source starts or stops, by its gate or by its audibility, within 0.2 s of time_s."""
    for source in scene.sources:
        edges = source.gates.flatten()
        # A gate that is open at the clip's end has no stop edge there.
        if np.any((np.abs(edges - time_s) <= EDGE_S) & (edges < scene.seconds)):
            return True
    block_s = BLOCK_SAMPLES / SAMPLE_RATE_HZ
    near = mix.states[:, max(0, int((time_s - EDGE_S) / block_s)) : int((time_s + EDGE_S) / block_s) + 1]
    return bool((near != near[:, :1]).any())


def mix_scene(scene: Scene, *, device: torch.device) -> Mix:
    """Return the clip's sound: gated sources at their levels with reverb, plus ambience, times one gain."""
    num_samples = round(scene.seconds * SAMPLE_RATE_HZ)
    room, ambience = _draw_surroundings(scene, device=device)
    total = torch.zeros(num_samples, device=device)
    powers = np.zeros((len(scene.sources), -(-num_samples // BLOCK_SAMPLES)))
    for i, source in enumerate(scene.sources):
        if not len(source.gates):
            continue
        span = span_of(source.gates, num_samples=num_samples)
        gated = emission(scene, source, span=span, device=device)
        gated *= gate_curve(source.gates, num_samples=num_samples, device=device)[slice(*span)]
        total[slice(*span)] += gated
        powers[i] = _block_powers(F.pad(gated, (span[0], num_samples - span[1])))
    states = audible_states(scene, powers, ambience_powers=_block_powers(ambience))
    waveform = reverberate(total, room) + ambience
    gain = min(room.gain, 0.95 / max(float(waveform.abs().max()), 1e-6))
    return Mix(waveform=waveform * gain, states=states, gain=gain)


def render_stems(scene: Scene, mix: Mix, *, device: torch.device) -> dict[str, Tensor]:
    """Return the ungated sound of every source by its name, and the ambience.

    Each is (S,) float32 at the mix's gain with the clip's reverb. The sum of the stems, gated by the sources' gates,
    and the ambience equals the mix, up to the reverb's tails.
    """
    room, ambience = _draw_surroundings(scene, device=device)
    span = (0, round(scene.seconds * SAMPLE_RATE_HZ))
    stems = {
        source.name: reverberate(emission(scene, source, span=span, device=device), room) * mix.gain
        for source in scene.sources
    }
    return {**stems, "ambience": ambience * mix.gain}


def _draw_surroundings(scene: Scene, *, device: torch.device) -> tuple["Room", Tensor]:
    rng = stream(scene.seed, STREAM_AMBIENCE)
    room = draw_room(rng)
    return room, room.ambience_level * make_ambience(rng, seconds=scene.seconds, device=device)


@dataclass(frozen=True)
class Room:
    """Acoustics of a clip: delays (in samples, empty without reverb) and factors of the reflections, ambience, gain."""

    delays: npt.NDArray[np.int64]
    echoes: Floats
    ambience_level: float
    gain: float


def draw_room(rng: np.random.Generator) -> Room:
    """Draw acoustics: reverb in three clips of five, ambience mostly 0 to 20 dB below a source, sometimes none.

    The recording level puts a source between -42 and -18 dB of full scale; even the loudest peak of a single
    source then stays below full scale.
    """
    decay_s = float(rng.uniform(0.02, 0.06))  # amplitude e-folding time: RT60 of 0.14 to 0.41 s
    delays_s = np.sort(rng.uniform(0.004, 5 * decay_s, NUM_REFLECTIONS))
    echoes = np.exp(-delays_s / decay_s) * rng.choice((-1.0, 1.0), NUM_REFLECTIONS)
    echoes *= rng.uniform(0.1, 0.4) / np.sqrt(np.square(echoes).sum())
    has_reverb = rng.random() < 0.6
    # Few recordings come from a quiet room: one clip in eight is beyond 20 dB, one in twelve has no ambience.
    snr_db = float(rng.uniform(0.0, 20.0) if rng.random() < 0.87 else rng.uniform(20.0, 35.0))
    is_noiseless = rng.random() < 0.08
    return Room(
        delays=np.round(delays_s * SAMPLE_RATE_HZ).astype(np.int64) if has_reverb else np.zeros(0, np.int64),
        echoes=echoes,
        ambience_level=0.0 if is_noiseless else 10.0 ** (-snr_db / 20),
        gain=10.0 ** (float(rng.uniform(-42.0, -18.0)) / 20),
    )


def span_of(gates: Floats, *, num_samples: int) -> tuple[int, int]:
    """Return the first and last sample for which any of the gates (G >= 1) can be open."""
    first, last = round(gates[0, 0] * SAMPLE_RATE_HZ), round((gates[-1, 1] + RELEASE_S) * SAMPLE_RATE_HZ)
    return min(first, num_samples), min(last, num_samples)


def emission(scene: Scene, source: Source, *, span: tuple[int, int], device: torch.device) -> Tensor:
    """Return what the source emits at its level from sample span[0] to span[1] while its gate is open, (S,)."""
    wave = emit(scene.seed, source.kind, seconds=scene.seconds, span=span, device=device)
    return wave * float(10.0 ** (source.level_db / 20))


def gate_curve(gates: Floats, *, num_samples: int, device: torch.device) -> Tensor:
    """Return the gate's factor (S,) in 0..1: 1 between each pair of times, with short ramps that start at the edges."""
    curve = np.zeros(num_samples, np.float32)
    attack, release = int(ATTACK_S * SAMPLE_RATE_HZ), int(RELEASE_S * SAMPLE_RATE_HZ)
    for start_s, stop_s in gates:
        first, last = round(start_s * SAMPLE_RATE_HZ), round(stop_s * SAMPLE_RATE_HZ)
        curve[first:last] = 1.0
        rise = curve[first : first + attack]
        rise *= np.linspace(0.0, 1.0, attack, dtype=np.float32)[: len(rise)]
        fall = curve[last : last + release]
        fall += np.linspace(1.0, 0.0, release, dtype=np.float32)[: len(fall)]
    return torch.from_numpy(curve).to(device)


def make_ambience(rng: np.random.Generator, *, seconds: float, device: torch.device) -> Tensor:
    """Return noise (S,) of unit power whose spectrum falls with frequency by a random slope."""
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    slope = rng.uniform(0.3, 1.0)
    total = torch.zeros(num_samples, device=device)
    for octave, rate_hz in enumerate((16000, 4000, 1000, 250)):
        noise = draw_noise(rng, rate_hz=rate_hz, seconds=seconds)
        total += stretch(noise, span=(0, num_samples), device=device) * (2.0 ** (octave * slope))
    scale = total.square().mean().sqrt() + 1e-9
    return total.div_(scale)


def reverberate(waveform: Tensor, room: Room) -> Tensor:
    """Return the waveform (S,) plus its reflections: sparse with random signs ("velvet noise"), cheaper than an FFT."""
    wet = waveform.clone()
    for delay, echo in zip(room.delays.tolist(), room.echoes.tolist(), strict=False):
        wet[delay:].add_(waveform[:-delay], alpha=echo)
    return wet


def _block_powers(waveform: Tensor) -> Floats:
    """Return the mean power of every 20 ms block, (num_blocks,)."""
    padded = F.pad(waveform, (0, -waveform.shape[0] % BLOCK_SAMPLES))
    powers: Floats = padded.view(-1, BLOCK_SAMPLES).square().mean(dim=1).double().cpu().numpy()
    return powers


def audible_states(scene: Scene, powers: Floats, *, ambience_powers: Floats) -> npt.NDArray[np.bool_]:
    """Return states (num_sources, num_blocks): the gate is open and the source at least -12 dB against the rest.

    Both powers are taken over the part of the last 0.3 s in which the source's gate is open.

    Args:
        scene: scene with the sources and their gates.
        powers: (num_sources, num_blocks) of the gated sources.
        ambience_powers: (num_blocks,).
    """
    block_s = BLOCK_SAMPLES / SAMPLE_RATE_HZ
    middles = (np.arange(powers.shape[1]) + 0.5) * block_s
    everything = powers.sum(axis=0) + ambience_powers
    states = np.zeros(powers.shape, bool)
    for i, source in enumerate(scene.sources):
        is_open = ((source.gates[:, :1] <= middles) & (middles < source.gates[:, 1:])).any(axis=0)
        own = _trailing(powers[i] * is_open)
        rest = _trailing((everything - powers[i]) * is_open)
        states[i] = is_open & (own > 1e-9) & (own >= 10.0 ** (AUDIBLE_DB / 10) * rest)
    return states


def _trailing(values: Floats) -> Floats:
    """Return the trailing sums over LEVEL_BLOCKS blocks, (num_blocks,)."""
    sums = np.concatenate([np.zeros(LEVEL_BLOCKS), np.cumsum(values)])
    return np.asarray(sums[LEVEL_BLOCKS:] - sums[:-LEVEL_BLOCKS])


def window_at(waveform: Tensor, *, time_s: float) -> Tensor:
    """Return the audio window (15600,) that ends at time_s, with silence before the clip's start."""
    end = min(round(time_s * SAMPLE_RATE_HZ), waveform.shape[0])
    heard = waveform[max(0, end - WINDOW_SAMPLES) : end]
    return F.pad(heard, (WINDOW_SAMPLES - heard.shape[0], 0))
