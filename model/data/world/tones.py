"""Sustained sound families: a random score and a player per kind (see sounds.py)."""

from math import pi

import numpy as np
from torch import Tensor

from model.data.world.voice import (
    Score,
    Voice,
    beat,
    draw_noise,
    draw_onsets,
    partials_below_top,
    wave_table,
)


def draw_siren(rng: np.random.Generator, seconds: float) -> Score:
    centre, rate = float(rng.uniform(750, 1050)), float(rng.uniform(0.9, 1.6))
    tilt = rng.uniform(1.0, 2.0)
    return Score(
        draw_onsets(rng, seconds=seconds, step_s=(3 / rate, 3 / rate)),
        tables=wave_table(np.array([1.0, 0.0, 0.5, 0.0, 0.25]) ** tilt),
        scalars={"hz": centre, "span_hz": centre * rng.uniform(0.35, 0.5), "rate_hz": rate},
    )


def play_siren(voice: Voice) -> Tensor:
    """A wail that glides up and down about once a second."""
    rate = voice.scalar("rate_hz")
    glide = voice.sine(voice.since * rate + 0.25)  # the integral of a sine, up to scale
    turns = voice.since * voice.scalar("hz") - glide * (voice.scalar("span_hz") / (2 * pi * rate)) + 512.0
    return voice.wave(turns) * voice.fade(rise_s=0.005, fall_s=0.005)


def draw_flute(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=(0.35, 0.9))
    scale = 2 ** (rng.choice((0, 2, 4, 7, 9, 12), len(onsets)) / 12)
    return Score(
        onsets,
        notes={"hz": rng.uniform(480, 800) * scale},
        noises={"breath": draw_noise(rng, rate_hz=8000, seconds=seconds)},
        tables=wave_table(np.array([1.0, rng.uniform(0.03, 0.15)])),
        scalars={"vibrato_hz": rng.uniform(4.5, 6.5), "breath": rng.uniform(0.03, 0.1)},
    )


def play_flute(voice: Voice) -> Tensor:
    """A nearly pure tone with vibrato and a little breath, in slow notes."""
    hz, rate = voice.held("hz"), voice.scalar("vibrato_hz")
    sway = voice.sine(voice.since * rate) * hz * (0.012 / (2 * pi * rate))
    tone = voice.wave(voice.since * hz + sway + 8.0) + voice.scalar("breath") * voice.noise("breath")
    return tone * voice.fade(rise_s=0.05, fall_s=0.04)


def draw_horn(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=(0.8, 1.6))
    return Score(
        onsets,
        notes={"hz": rng.uniform(190, 270) * 2 ** (rng.choice((0, 3, 5, 7), len(onsets)) / 12)},
        scalars={
            "index": rng.uniform(1.6, 2.6), "tremolo_hz": rng.uniform(4.5, 7.0), "depth": rng.uniform(0.5, 0.8),
            "ratio": float(rng.choice((1.0, 2.0))),
        },
    )  # fmt: skip


def play_horn(voice: Voice) -> Tensor:
    """Frequency modulation at the note's own pitch (brass), beating five to seven times a second."""
    turns = voice.since * voice.held("hz")
    swell = 0.5 + 0.5 * voice.sine(voice.since * voice.scalar("tremolo_hz"))
    bend = voice.sine(turns * voice.scalar("ratio")) * (voice.scalar("index") / (2 * pi)) * (0.4 + 0.6 * swell)
    loud = 1.0 - voice.scalar("depth") * (1.0 - swell)
    return voice.sine(turns + bend) * loud * voice.fade(rise_s=0.03, fall_s=0.03)


def draw_engine(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=(0.5, 1.2))
    steps = partials_below_top(75.0)
    return Score(
        onsets,
        notes={"hz": rng.uniform(62, 95) * rng.uniform(0.94, 1.06, len(onsets))},
        tables=wave_table(steps ** -rng.uniform(0.5, 0.8) * rng.uniform(0.6, 1.0, len(steps))),
        scalars={"throb": 0.25 * rng.integers(1, 3), "depth": rng.uniform(0.3, 0.6)},
    )


def play_engine(voice: Voice) -> Tensor:
    """A low buzz rich in partials that throbs at a quarter or half of its own pitch."""
    turns = voice.since * voice.held("hz")
    throb = 1.0 - voice.scalar("depth") * (0.5 + 0.5 * voice.sine(turns * voice.scalar("throb")))
    return voice.wave(turns) * throb * voice.fade(rise_s=0.02, fall_s=0.02)


# First three formants in Hz of the vowels in "heed", "head", "had", "hod", "who'd" (Peterson and Barney, 1952).
VOWELS = np.array(
    [[270, 2290, 3010], [530, 1840, 2480], [660, 1720, 2410], [730, 1090, 2440], [300, 870, 2240]],
    dtype=np.float64,
)


def draw_voice(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.17, 0.27)))
    pitch = float(rng.uniform(110, 210))
    steps = partials_below_top(pitch * 1.1)
    tract = VOWELS * rng.uniform(0.92, 1.12)
    peaks = np.exp(-(((steps * pitch)[None, :, None] - tract[:, None]) ** 2) / (2 * np.array([80, 110, 150]) ** 2))
    weights = (peaks * np.array([1.0, 0.7, 0.4])).sum(axis=2) + 0.02
    return Score(
        onsets,
        notes={
            "hz": pitch * rng.uniform(0.88, 1.12, len(onsets)),
            "vowel": rng.integers(0, len(VOWELS), len(onsets)).astype(np.float64),
        },
        tables=wave_table(*weights),
        scalars={"glide": rng.uniform(-0.25, 0.25)},
    )


def play_voice(voice: Voice) -> Tensor:
    """Babble: a new vowel four to six times a second on a gliding pitch."""
    turns = voice.held("hz") * voice.since * (1.0 + voice.scalar("glide") * voice.since) + 1.0
    return voice.wave(turns, row=voice.held("vowel").int()) * voice.fade(rise_s=0.03, fall_s=0.06)


def draw_phone(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.05, 0.08)))
    low = float(rng.uniform(620, 780))
    pitches = np.where(np.arange(len(onsets)) % 2 == 0, low, low * rng.uniform(1.22, 1.36))
    return Score(
        onsets,
        notes={"hz": pitches},
        tables=wave_table(np.array([1.0, 0.0, 0.6, 0.0, 0.2]) * rng.uniform(0.8, 1.0, 5)),
    )


def play_phone(voice: Voice) -> Tensor:
    """A ringer: two hollow tones in quick alternation."""
    return voice.wave(voice.since * voice.held("hz")) * voice.fade(rise_s=0.003, fall_s=0.006)


def draw_spray(rng: np.random.Generator, seconds: float) -> Score:
    return Score(
        draw_onsets(rng, seconds=seconds, step_s=(2.0, 3.0)),
        noises={
            "cos": draw_noise(rng, rate_hz=1600, seconds=seconds),
            "sin": draw_noise(rng, rate_hz=1600, seconds=seconds),
            "flicker": draw_noise(rng, rate_hz=20, seconds=seconds),
        },
        scalars={"hz": rng.uniform(2100, 2700)},
    )


def play_spray(voice: Voice) -> Tensor:
    """Steady hiss: a band of noise a good kilohertz wide round 2.4 kHz."""
    turns = voice.since * voice.scalar("hz")
    band = voice.noise("cos") * voice.sine(turns + 0.25) + voice.noise("sin") * voice.sine(turns)
    return band * (1.0 + 0.25 * voice.noise("flicker")) * voice.fade(rise_s=0.01, fall_s=0.01)


def draw_wind(rng: np.random.Generator, seconds: float) -> Score:
    rate = float(rng.uniform(0.3, 0.6))
    return Score(
        draw_onsets(rng, seconds=seconds, step_s=(1 / rate, 1 / rate)),
        noises={
            "cos": draw_noise(rng, rate_hz=160, seconds=seconds),
            "sin": draw_noise(rng, rate_hz=160, seconds=seconds),
        },
        scalars={"hz": rng.uniform(420, 600), "span_hz": rng.uniform(80, 180), "rate_hz": rate},
    )


def play_wind(voice: Voice) -> Tensor:
    """Howling: a narrow band of noise that drifts slowly between 250 and 800 Hz."""
    rate = voice.scalar("rate_hz")
    drift = voice.sine(voice.since * rate) * (voice.scalar("span_hz") / (2 * pi * rate))
    turns = voice.since * voice.scalar("hz") + drift
    band = voice.noise("cos") * voice.sine(turns + 0.25) + voice.noise("sin") * voice.sine(turns)
    return band * voice.fade(rise_s=0.02, fall_s=0.02)
