"""Training windows: recordings cut, mixed, moved to other rooms and devices, with the kinds that are heard in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.pictures.index import PicturesIndex, Recording
from model.data.pictures.recordings import Waveform, read_recording, through_aac
from model.network.preprocess import SAMPLE_RATE_HZ, WINDOW_SAMPLES

Random = np.random.Generator

# Kinds are drawn with the power of their number of origins, as pictures are.
KIND_POWER = 0.3
# Shares of the windows: two kinds at once; sounds without pictures (ambience); silence or faint noise. The rest has one
# kind.
TWO_SHARE, AMBIENCE_SHARE, QUIET_SHARE = 0.15, 0.14, 0.05
# A cut of a recording is loud enough to be heard: at most so much below its loudest part.
LEAST_LEVEL_DB = -18.0
CUT_TRIES = 8
# Second kinds against the first, and ambience below the sources.
SECOND_RANGE_DB = (-7.0, 7.0)
AMBIENCE_RANGE_DB = (5.0, 25.0)
WITH_AMBIENCE_SHARE = 0.55
# Level of the loudest sample of a window, and how often it is left out of 0.2 s to 0.7 s at its start or end.
PEAK_RANGE_DB = (-30.0, -0.5)
PART_SHARE, PART_RANGE_S = 0.15, (0.2, 0.6)
SPEED_SHARE, SPEED_RANGE = 0.5, (0.9, 1.11)
ROOM_SHARE, ROOM_RANGE_S = 0.35, (0.1, 0.9)
TONE_SHARE, TONE_RANGE_DB, TONE_BANDS = 0.6, 9.0, 7
NARROW_SHARE, NARROW_RANGE_HZ = 0.2, (3_400.0, 7_000.0)
# Share of the windows that were in a film: AAC, from the bit rates of a telephone's messages to those of a camera.
CODEC_SHARE, CODEC_RANGE_BITS_PER_S = 0.4, (16_000, 96_000)
SILENT_PEAK = 1e-4


@dataclass(frozen=True)
class Window:
    """One training window.

    Attributes:
        waveform: (15600,) float32 in [-1, 1].
        sources: kinds of the recordings in it (None: a sound without pictures), loudest not necessarily first.
    """

    waveform: Waveform
    sources: tuple[int | None, ...]


@dataclass(frozen=True)
class SoundSource:
    """What training windows are made of: for each kind its recordings, by origin; likewise sounds without pictures."""

    by_kind: Sequence[Sequence[Sequence[Recording]]]
    others: Sequence[Sequence[Recording]]
    kind_shares: NDArray[np.float64]

    @staticmethod
    def of(index: PicturesIndex, *, split: str) -> SoundSource:
        """The recordings of a split."""
        by_kind = [_groups(index, split, kind) for kind in range(len(index.kinds))]
        counts = np.array([len(groups) for groups in by_kind], np.float64)
        powers = np.where(counts > 0, counts**KIND_POWER, 0.0)
        return SoundSource(by_kind, _groups(index, split, None), powers / max(powers.sum(), 1e-9))


class WaveformCache(Mapping[Recording, Waveform]):
    """Recordings, decoded when first asked for."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings
        self._decoded: dict[Recording, Waveform] = {}

    def __getitem__(self, recording: Recording) -> Waveform:
        if recording not in self._decoded:
            self._decoded[recording] = read_recording(recording.path)
        return self._decoded[recording]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._recordings)

    def __len__(self) -> int:
        return len(self._recordings)


def draw_window(source: SoundSource, waveforms: Mapping[Recording, Waveform], random: Random) -> Window:
    """One training window."""
    draw = random.random()
    if draw < QUIET_SHARE:
        return Window(quiet_window(random), ())
    if draw < QUIET_SHARE + AMBIENCE_SHARE and source.others:
        cut = _cut_of(source.others, waveforms, random)
        return Window(_record(cut, random), (None,))
    kinds = [int(random.choice(len(source.by_kind), p=source.kind_shares))]
    mixed = _cut_of(source.by_kind[kinds[0]], waveforms, random)
    if random.random() < TWO_SHARE:
        kinds.append(int(random.choice(len(source.by_kind), p=source.kind_shares)))
        mixed = _add(mixed, _cut_of(source.by_kind[kinds[1]], waveforms, random), -random.uniform(*SECOND_RANGE_DB))
    if source.others and random.random() < WITH_AMBIENCE_SHARE:
        ambience = _cut_of(source.others, waveforms, random)
        mixed = _add(mixed, ambience, random.uniform(*AMBIENCE_RANGE_DB))
    return Window(_record(mixed, random), tuple(kinds))


def quiet_window(random: Random) -> Waveform:
    """Digital silence, or noise of any colour between -75 and -35 dB of full scale."""
    if random.random() < 0.4:
        return np.zeros(WINDOW_SAMPLES, np.float32)
    spectrum = np.fft.rfft(random.normal(size=WINDOW_SAMPLES))
    slope = random.uniform(0.0, 1.2)  # 0 white, 0.5 pink, 1 brown
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** slope, n=WINDOW_SAMPLES)
    level = 10 ** (random.uniform(-75.0, -35.0) / 20)
    quiet: Waveform = (noise / noise.std() * level).astype(np.float32)
    return quiet


def _groups(index: PicturesIndex, split: str, kind: int | None) -> list[list[Recording]]:
    groups: dict[str, list[Recording]] = {}
    for recording in index.recordings:
        if recording.split == split and recording.kind == kind:
            groups.setdefault(recording.group, []).append(recording)
    return [groups[name] for name in sorted(groups)]


def _cut_of(
    groups: Sequence[Sequence[Recording]], waveforms: Mapping[Recording, Waveform], random: Random
) -> NDArray[np.float64]:
    group = groups[int(random.integers(len(groups)))]
    return cut_window(waveforms[group[int(random.integers(len(group)))]], random)


def cut_window(waveform: Waveform, random: Random) -> NDArray[np.float64]:
    """A second of a recording in which it is heard, at a deviation of 1; at times only a part of it sounds.

    Args:
        waveform: (S,) of any length.
        random: decides where.

    Returns:
        (15600,) float64.
    """
    speed = random.uniform(*SPEED_RANGE) if random.random() < SPEED_SHARE else 1.0
    length = int(WINDOW_SAMPLES * speed) + 1
    padded = np.pad(waveform, (0, max(0, length - len(waveform))))
    best, best_level = padded[:length], 0.0
    loudest = _loudest(waveform)
    for _ in range(CUT_TRIES):
        start = int(random.integers(len(padded) - length + 1))
        cut = padded[start : start + length]
        level = float(np.sqrt(np.mean(cut.astype(np.float64) ** 2)))
        if level > best_level:
            best, best_level = cut, level
        if level > loudest * 10 ** (LEAST_LEVEL_DB / 20):
            break
    places = np.linspace(0, length - 1, WINDOW_SAMPLES)
    window = np.interp(places, np.arange(length), best.astype(np.float64))
    shift = max(0, WINDOW_SAMPLES - len(waveform))
    if shift:
        window = np.roll(window, int(random.integers(shift + 1)))
    if random.random() < PART_SHARE:
        part = int(random.uniform(*PART_RANGE_S) * SAMPLE_RATE_HZ)
        window[-part:] *= 0
        window = np.roll(window, part) if random.random() < 0.5 else window
    return window / max(float(window.std()), SILENT_PEAK)


def _loudest(waveform: Waveform) -> float:
    """Largest root mean square of a recording's windows, half a window apart."""
    starts = range(0, max(1, len(waveform) - WINDOW_SAMPLES + 1), WINDOW_SAMPLES // 2)
    levels = [float(np.mean(waveform[start : start + WINDOW_SAMPLES].astype(np.float64) ** 2)) for start in starts]
    return float(max(levels) ** 0.5)


def _add(first: NDArray[np.float64], second: NDArray[np.float64], below_db: float) -> NDArray[np.float64]:
    return first + second * 10 ** (-below_db / 20)


def _record(window: NDArray[np.float64], random: Random) -> Waveform:
    """What another room, microphone, device and level make of it."""
    size = 2 * WINDOW_SAMPLES
    spectrum = np.fft.rfft(window, n=size)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    if random.random() < ROOM_SHARE:
        spectrum = spectrum * np.fft.rfft(_room(random), n=size)
    if random.random() < TONE_SHARE:
        bands = random.normal(0, TONE_RANGE_DB / 2, size=TONE_BANDS)
        places = np.log2(np.maximum(frequencies, 60.0) / 60.0) / np.log2(8_000 / 60.0) * (TONE_BANDS - 1)
        spectrum = spectrum * 10 ** (np.interp(places, np.arange(TONE_BANDS), bands) / 20)
    if random.random() < NARROW_SHARE:
        edge = random.uniform(*NARROW_RANGE_HZ)
        spectrum = spectrum / (1 + (frequencies / edge) ** 16)
    recorded = np.fft.irfft(spectrum, n=size)[:WINDOW_SAMPLES]
    peak = max(float(np.abs(recorded).max()), SILENT_PEAK)
    waveform = (recorded / peak * 10 ** (random.uniform(*PEAK_RANGE_DB) / 20)).astype(np.float32)
    if random.random() < CODEC_SHARE:
        waveform = through_aac(waveform, bits_per_s=int(random.integers(*CODEC_RANGE_BITS_PER_S)))
    return waveform


def _room(random: Random) -> NDArray[np.float64]:
    """Impulse response: the direct sound and noise that decays by 60 dB within the room's time."""
    decay_s = random.uniform(*ROOM_RANGE_S)
    times = np.arange(int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = random.normal(size=len(times)) * 10 ** (-3 * times / decay_s)
    response: NDArray[np.float64] = tail / np.sqrt((tail**2).sum()) * 10 ** (random.uniform(-20.0, 0.0) / 20)
    response[0] += 1.0
    return response
