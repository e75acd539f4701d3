"""Synthesise the sound of each kind, with random pitch, rhythm, envelope and timbre.

An emission covers the whole clip and is not gated. It consists of notes (values that are constant from one onset to
the next) and wave tables. Formulas are closed-form in the time since the onset, so every device computes the same.
Rhythms have no pause over 0.25 s, because longer ones count as silence. Most energy is between 150 Hz and 3.5 kHz,
which AAC and 8 kHz telephony preserve.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model.data.world import strikes, tones
from model.data.world.scene import KINDS, STREAM_SOUNDS, stream
from model.data.world.voice import Score, Voice

PEAK = 4.0  # soft limit of an emission, in units of its root mean square

Draw = Callable[[np.random.Generator, float], Score]
Play = Callable[[Voice], Tensor]

# Score, player and typical root mean square of the player's waves (mean power over 200 seeds) of each kind.
FAMILIES: dict[str, tuple[Draw, Play, float]] = {
    "gong": (strikes.draw_gong, strikes.play_gong, 0.464),
    "siren": (tones.draw_siren, tones.play_siren, 0.961),
    "drum": (strikes.draw_drum, strikes.play_drum, 0.21),
    "flute": (tones.draw_flute, tones.play_flute, 0.899),
    "harp": (strikes.draw_harp, strikes.play_harp, 0.885),
    "horn": (tones.draw_horn, tones.play_horn, 0.448),
    "engine": (tones.draw_engine, tones.play_engine, 0.668),
    "spray": (tones.draw_spray, tones.play_spray, 0.438),
    "voice": (tones.draw_voice, tones.play_voice, 0.736),
    "bird": (strikes.draw_bird, strikes.play_bird, 0.305),
    "rattle": (strikes.draw_rattle, strikes.play_rattle, 0.053),
    "phone": (tones.draw_phone, tones.play_phone, 0.907),
    "wind": (tones.draw_wind, tones.play_wind, 0.434),
    "zap": (strikes.draw_zap, strikes.play_zap, 0.384),
}


def emit(seed: int, kind: int, *, seconds: float, span: tuple[int, int], device: torch.device) -> Tensor:
    """Return the emission (S,) float32 of a kind in the clip `seed` from span[0] to span[1], at 16 kHz on device.

    The score is drawn for the whole clip of `seconds`. Power is about 1 for every kind. A soft limiter keeps peaks
    below 4.
    """
    draw, play, level = FAMILIES[KINDS[kind]]
    score = draw(stream(seed, STREAM_SOUNDS, kind), seconds)
    wave = play(Voice(score, span=span, device=device)) / level
    return wave * torch.rsqrt(1.0 + (wave * (1.0 / PEAK)).square_())
