"""Struck and repeated sound families: a random score and a player per kind (see sounds.py)."""

import numpy as np
import torch
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


def draw_gong(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.45, 0.8)))
    return Score(
        onsets,
        notes={"loud": rng.uniform(0.7, 1.0, len(onsets))},
        scalars={"hz": rng.uniform(260, 480), "decay_s": rng.uniform(0.35, 0.6)},
    )


def play_gong(voice: Voice) -> Tensor:
    """Struck metal: inharmonic partials (ratios of a church bell), each with its own decay."""
    turns = voice.since * voice.scalar("hz")
    fade = torch.exp(-voice.since / voice.scalar("decay_s"))
    body = voice.sine(turns) + voice.sine(1.183 * turns) * 0.8 + voice.sine(2.514 * turns) * 0.7 * fade
    shine = (voice.sine(3.011 * turns) + voice.sine(4.166 * turns)) * fade * fade
    return (body + 0.6 * shine) * fade * voice.held("loud") * voice.fade(rise_s=0.002, fall_s=0.01)


def draw_drum(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.17, 0.26)))
    return Score(
        onsets,
        notes={"loud": rng.choice((1.0, 0.65), len(onsets), p=(0.6, 0.4))},
        noises={"skin": draw_noise(rng, rate_hz=4000, seconds=seconds)},
        scalars={"hz": rng.uniform(140, 210), "decay_s": rng.uniform(0.05, 0.08)},
    )


def play_drum(voice: Voice) -> Tensor:
    """Hits four to six times a second, each falling in pitch within 30 ms."""
    hz = voice.scalar("hz")
    drop = torch.exp(-voice.since / 0.03)
    turns = hz * (voice.since + 1.6 * 0.03 * (1.0 - drop))
    body = voice.sine(turns) * torch.exp(-voice.since / voice.scalar("decay_s"))
    return (body + 0.5 * voice.noise("skin") * drop * drop) * voice.held("loud")


def draw_harp(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.13, 0.22)))
    base = float(rng.uniform(330, 440))
    steps = partials_below_top(base * 2)
    tilt = rng.uniform(0.8, 1.3)
    return Score(
        onsets,
        notes={"hz": base * 2 ** (rng.choice((0, 2, 4, 7, 9, 12), len(onsets)) / 12)},
        tables=wave_table(steps**-tilt, steps ** (-tilt - 2)),
        scalars={"decay_s": rng.uniform(0.09, 0.16)},
    )


def play_harp(voice: Voice) -> Tensor:
    """Plucked strings, a new pitch five to eight times a second, bright first and dull later."""
    turns = voice.since * voice.held("hz")
    fade = torch.exp(-voice.since / voice.scalar("decay_s"))
    string = voice.wave(turns) * fade * fade + voice.wave(turns, row=1) * fade
    return string * voice.fade(rise_s=0.002, fall_s=0.01)


def draw_bird(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=(0.10, 0.20))
    return Score(
        onsets,
        notes={
            "hz": rng.uniform(1900, 2300) * rng.uniform(0.9, 1.1, len(onsets)),
            "rise_hz": rng.uniform(700, 1100, len(onsets)),
        },
        scalars={"length_s": rng.uniform(0.055, 0.085)},
    )


def play_bird(voice: Voice) -> Tensor:
    """Tweets: short rising chirps above 1.9 kHz, seven to ten a second."""
    part = voice.since / voice.scalar("length_s")
    turns = voice.since * (voice.held("hz") + voice.held("rise_hz") * (0.5 * part))
    hump = (4.0 * part * (1.0 - part)).clamp(min=0.0)
    return voice.sine(turns) * hump


def draw_rattle(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=(0.06, 0.13))
    return Score(
        onsets,
        notes={"loud": rng.uniform(0.5, 1.0, len(onsets))},
        noises={"grit": draw_noise(rng, rate_hz=8000, seconds=seconds)},
        scalars={"decay_s": rng.uniform(0.010, 0.020), "hz": rng.uniform(1400, 1900)},
    )


def play_rattle(voice: Voice) -> Tensor:
    """Dry clicks of noise, eight to fifteen a second."""
    knock = voice.noise("grit") * (0.6 + voice.sine(voice.since * voice.scalar("hz")))
    return knock * torch.exp(-voice.since / voice.scalar("decay_s")) * voice.held("loud")


def draw_zap(rng: np.random.Generator, seconds: float) -> Score:
    onsets = draw_onsets(rng, seconds=seconds, step_s=beat(rng, period_s=(0.14, 0.24)))
    return Score(
        onsets,
        notes={"hz": rng.uniform(1500, 2200) * rng.uniform(0.95, 1.05, len(onsets))},
        tables=wave_table(np.array([1.0, 0.45])),
        scalars={"drop_s": rng.uniform(0.035, 0.055), "low_hz": rng.uniform(180, 280)},
    )


def play_zap(voice: Voice) -> Tensor:
    """Shots that fall from about 2 kHz to 200 Hz, four to seven a second."""
    drop_s = voice.scalar("drop_s")
    fall = torch.exp(-voice.since / drop_s)
    turns = voice.since * voice.scalar("low_hz") + voice.held("hz") * drop_s * (1.0 - fall)
    return voice.wave(turns) * (0.15 + fall) * voice.fade(rise_s=0.002, fall_s=0.04)
