"""How each kind sounds: a family of emissions per kind, with random pitch, rhythm, envelope and colour.

An emission covers the whole clip and does not know about gates. It is made of notes (held values that change at the
notes' onsets) and wave tables; formulas are closed-form in the time since the onset, so every device computes the
same. Rhythms leave no pause over 0.25 s (contract section 8) and most energy lies between 150 Hz and 3.5 kHz, where
AAC and 8 kHz telephony keep it.
"""

from collections.abc import Callable
from math import pi

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.world_scene import KINDS, STREAM_SOUNDS, Floats, stream
from model.data.world_voice import SAMPLE_RATE_HZ, TABLE_SIZE, Score, Voice, draw_noise

PEAK = 4.0  # soft limit of an emission, in units of its root mean square
TOP_HZ = 3_600.0  # no partial of a wave table lies above

_STEPS = np.arange(1, 49)
_PARTIALS = np.sin(2 * np.pi * np.outer(_STEPS, np.arange(TABLE_SIZE) / TABLE_SIZE)).astype(np.float32)


def _table(*amplitudes: Floats) -> npt.NDArray[np.float32]:
    """(R, TABLE_SIZE) unit-power waves from rows of up to 48 partial amplitudes."""
    rows = [(a / (np.sqrt(0.5 * np.sum(a * a)) + 1e-9)) @ _PARTIALS[: len(a)] for a in amplitudes]
    return np.stack(rows).astype(np.float32)


def _partials(frequency_hz: float) -> Floats:
    """(H,) numbers 1..H of the partials below TOP_HZ."""
    return _STEPS[: max(1, min(len(_STEPS), int(TOP_HZ / frequency_hz)))].astype(np.float64)


def _onsets(rng: np.random.Generator, *, seconds: float, step_s: tuple[float, float]) -> npt.NDArray[np.int64]:
    """Note onsets with steps drawn uniformly from step_s, the first at 0 but cut at random."""
    num = int(seconds / step_s[0]) + 2
    steps = rng.uniform(*step_s, num)
    steps[0] *= rng.random()
    onsets = np.concatenate([[0], np.round(np.cumsum(steps) * SAMPLE_RATE_HZ)]).astype(np.int64)
    return onsets[onsets < seconds * SAMPLE_RATE_HZ]


def _beat(rng: np.random.Generator, *, period_s: tuple[float, float]) -> tuple[float, float]:
    """A steady rhythm with 8 % of play: narrow step range about one period drawn from period_s."""
    period = float(rng.uniform(*period_s))
    return 0.96 * period, 1.04 * period


Draw = Callable[[np.random.Generator, float], Score]
Play = Callable[[Voice], Tensor]


def _draw_gong(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.45, 0.8)))
    return Score(
        onsets,
        notes={"loud": rng.uniform(0.7, 1.0, len(onsets))},
        scalars={"hz": rng.uniform(260, 480), "decay_s": rng.uniform(0.35, 0.6)},
    )


def _gong(voice: Voice) -> Tensor:
    """Struck metal: inharmonic partials (ratios of a church bell) that die at their own pace."""
    turns = voice.since * voice.scalar("hz")
    fade = torch.exp(-voice.since / voice.scalar("decay_s"))
    body = voice.sine(turns) + voice.sine(1.183 * turns) * 0.8 + voice.sine(2.514 * turns) * 0.7 * fade
    shine = (voice.sine(3.011 * turns) + voice.sine(4.166 * turns)) * fade * fade
    return (body + 0.6 * shine) * fade * voice.held("loud") * voice.fade(rise_s=0.002, fall_s=0.01)


def _draw_siren(rng: np.random.Generator, seconds: float) -> Score:
    centre, rate = float(rng.uniform(750, 1050)), float(rng.uniform(0.9, 1.6))
    tilt = rng.uniform(1.0, 2.0)
    return Score(
        _onsets(rng, seconds=seconds, step_s=(3 / rate, 3 / rate)),
        tables=_table(np.array([1.0, 0.0, 0.5, 0.0, 0.25]) ** tilt),
        scalars={"hz": centre, "span_hz": centre * rng.uniform(0.35, 0.5), "rate_hz": rate},
    )


def _siren(voice: Voice) -> Tensor:
    """A wail that glides up and down about once a second."""
    rate = voice.scalar("rate_hz")
    glide = voice.sine(voice.since * rate + 0.25)  # the integral of a sine, up to scale
    turns = voice.since * voice.scalar("hz") - glide * (voice.scalar("span_hz") / (2 * pi * rate)) + 512.0
    return voice.wave(turns) * voice.fade(rise_s=0.005, fall_s=0.005)


def _draw_drum(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.17, 0.26)))
    return Score(
        onsets,
        notes={"loud": rng.choice((1.0, 0.65), len(onsets), p=(0.6, 0.4))},
        noises={"skin": draw_noise(rng, rate_hz=4000, seconds=seconds)},
        scalars={"hz": rng.uniform(140, 210), "decay_s": rng.uniform(0.05, 0.08)},
    )


def _drum(voice: Voice) -> Tensor:
    """Hits four to six times a second, each falling in pitch within 30 ms."""
    hz = voice.scalar("hz")
    drop = torch.exp(-voice.since / 0.03)
    turns = hz * (voice.since + 1.6 * 0.03 * (1.0 - drop))
    body = voice.sine(turns) * torch.exp(-voice.since / voice.scalar("decay_s"))
    return (body + 0.5 * voice.noise("skin") * drop * drop) * voice.held("loud")


def _draw_flute(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=(0.35, 0.9))
    scale = 2 ** (rng.choice((0, 2, 4, 7, 9, 12), len(onsets)) / 12)
    return Score(
        onsets,
        notes={"hz": rng.uniform(480, 800) * scale},
        noises={"breath": draw_noise(rng, rate_hz=8000, seconds=seconds)},
        tables=_table(np.array([1.0, rng.uniform(0.03, 0.15)])),
        scalars={"vibrato_hz": rng.uniform(4.5, 6.5), "breath": rng.uniform(0.03, 0.1)},
    )


def _flute(voice: Voice) -> Tensor:
    """A nearly pure tone with vibrato and a little breath, in slow notes."""
    hz, rate = voice.held("hz"), voice.scalar("vibrato_hz")
    sway = voice.sine(voice.since * rate) * hz * (0.012 / (2 * pi * rate))
    tone = voice.wave(voice.since * hz + sway + 8.0) + voice.scalar("breath") * voice.noise("breath")
    return tone * voice.fade(rise_s=0.05, fall_s=0.04)


def _draw_harp(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.13, 0.22)))
    base = float(rng.uniform(330, 440))
    steps = _partials(base * 2)
    tilt = rng.uniform(0.8, 1.3)
    return Score(
        onsets,
        notes={"hz": base * 2 ** (rng.choice((0, 2, 4, 7, 9, 12), len(onsets)) / 12)},
        tables=_table(steps**-tilt, steps ** (-tilt - 2)),
        scalars={"decay_s": rng.uniform(0.09, 0.16)},
    )


def _harp(voice: Voice) -> Tensor:
    """Plucked strings, a new pitch five to eight times a second, bright first and dull later."""
    turns = voice.since * voice.held("hz")
    fade = torch.exp(-voice.since / voice.scalar("decay_s"))
    string = voice.wave(turns) * fade * fade + voice.wave(turns, row=1) * fade
    return string * voice.fade(rise_s=0.002, fall_s=0.01)


def _draw_horn(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=(0.8, 1.6))
    return Score(
        onsets,
        notes={"hz": rng.uniform(190, 270) * 2 ** (rng.choice((0, 3, 5, 7), len(onsets)) / 12)},
        scalars={
            "index": rng.uniform(1.6, 2.6), "tremolo_hz": rng.uniform(4.5, 7.0), "depth": rng.uniform(0.5, 0.8),
            "ratio": float(rng.choice((1.0, 2.0))),
        },
    )  # fmt: skip


def _horn(voice: Voice) -> Tensor:
    """Frequency modulation at the note's own pitch (brass), beating five to seven times a second."""
    turns = voice.since * voice.held("hz")
    swell = 0.5 + 0.5 * voice.sine(voice.since * voice.scalar("tremolo_hz"))
    bend = voice.sine(turns * voice.scalar("ratio")) * (voice.scalar("index") / (2 * pi)) * (0.4 + 0.6 * swell)
    loud = 1.0 - voice.scalar("depth") * (1.0 - swell)
    return voice.sine(turns + bend) * loud * voice.fade(rise_s=0.03, fall_s=0.03)


def _draw_engine(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=(0.5, 1.2))
    steps = _partials(75.0)
    return Score(
        onsets,
        notes={"hz": rng.uniform(62, 95) * rng.uniform(0.94, 1.06, len(onsets))},
        tables=_table(steps ** -rng.uniform(0.5, 0.8) * rng.uniform(0.6, 1.0, len(steps))),
        scalars={"throb": 0.25 * rng.integers(1, 3), "depth": rng.uniform(0.3, 0.6)},
    )


def _engine(voice: Voice) -> Tensor:
    """A low buzz rich in partials that throbs at a quarter or half of its own pitch."""
    turns = voice.since * voice.held("hz")
    throb = 1.0 - voice.scalar("depth") * (0.5 + 0.5 * voice.sine(turns * voice.scalar("throb")))
    return voice.wave(turns) * throb * voice.fade(rise_s=0.02, fall_s=0.02)


def _draw_spray(rng: np.random.Generator, seconds: float) -> Score:
    return Score(
        _onsets(rng, seconds=seconds, step_s=(2.0, 3.0)),
        noises={
            "cos": draw_noise(rng, rate_hz=1600, seconds=seconds),
            "sin": draw_noise(rng, rate_hz=1600, seconds=seconds),
            "flicker": draw_noise(rng, rate_hz=20, seconds=seconds),
        },
        scalars={"hz": rng.uniform(2100, 2700)},
    )


def _spray(voice: Voice) -> Tensor:
    """Steady hiss: a band of noise a good kilohertz wide round 2.4 kHz."""
    turns = voice.since * voice.scalar("hz")
    band = voice.noise("cos") * voice.sine(turns + 0.25) + voice.noise("sin") * voice.sine(turns)
    return band * (1.0 + 0.25 * voice.noise("flicker")) * voice.fade(rise_s=0.01, fall_s=0.01)


# First three formants in Hz of the vowels in "heed", "head", "had", "hod", "who'd" (Peterson and Barney, 1952).
VOWELS = np.array(
    [[270, 2290, 3010], [530, 1840, 2480], [660, 1720, 2410], [730, 1090, 2440], [300, 870, 2240]],
    dtype=np.float64,
)


def _draw_voice(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.17, 0.27)))
    pitch = float(rng.uniform(110, 210))
    steps = _partials(pitch * 1.1)
    tract = VOWELS * rng.uniform(0.92, 1.12)
    peaks = np.exp(-(((steps * pitch)[None, :, None] - tract[:, None]) ** 2) / (2 * np.array([80, 110, 150]) ** 2))
    weights = (peaks * np.array([1.0, 0.7, 0.4])).sum(axis=2) + 0.02
    return Score(
        onsets,
        notes={
            "hz": pitch * rng.uniform(0.88, 1.12, len(onsets)),
            "vowel": rng.integers(0, len(VOWELS), len(onsets)).astype(np.float64),
        },
        tables=_table(*weights),
        scalars={"glide": rng.uniform(-0.25, 0.25)},
    )


def _voice(voice: Voice) -> Tensor:
    """Babble: a new vowel four to six times a second on a gliding pitch."""
    turns = voice.held("hz") * voice.since * (1.0 + voice.scalar("glide") * voice.since) + 1.0
    return voice.wave(turns, row=voice.held("vowel").int()) * voice.fade(rise_s=0.03, fall_s=0.06)


def _draw_bird(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=(0.10, 0.20))
    return Score(
        onsets,
        notes={
            "hz": rng.uniform(1900, 2300) * rng.uniform(0.9, 1.1, len(onsets)),
            "rise_hz": rng.uniform(700, 1100, len(onsets)),
        },
        scalars={"length_s": rng.uniform(0.055, 0.085)},
    )


def _bird(voice: Voice) -> Tensor:
    """Tweets: short rising chirps above 1.9 kHz, seven to ten a second."""
    part = voice.since / voice.scalar("length_s")
    turns = voice.since * (voice.held("hz") + voice.held("rise_hz") * (0.5 * part))
    hump = (4.0 * part * (1.0 - part)).clamp(min=0.0)
    return voice.sine(turns) * hump


def _draw_rattle(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=(0.06, 0.13))
    return Score(
        onsets,
        notes={"loud": rng.uniform(0.5, 1.0, len(onsets))},
        noises={"grit": draw_noise(rng, rate_hz=8000, seconds=seconds)},
        scalars={"decay_s": rng.uniform(0.010, 0.020), "hz": rng.uniform(1400, 1900)},
    )


def _rattle(voice: Voice) -> Tensor:
    """Dry clicks of noise, eight to fifteen a second."""
    knock = voice.noise("grit") * (0.6 + voice.sine(voice.since * voice.scalar("hz")))
    return knock * torch.exp(-voice.since / voice.scalar("decay_s")) * voice.held("loud")


def _draw_phone(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.05, 0.08)))
    low = float(rng.uniform(620, 780))
    pitches = np.where(np.arange(len(onsets)) % 2 == 0, low, low * rng.uniform(1.22, 1.36))
    return Score(
        onsets,
        notes={"hz": pitches},
        tables=_table(np.array([1.0, 0.0, 0.6, 0.0, 0.2]) * rng.uniform(0.8, 1.0, 5)),
    )


def _phone(voice: Voice) -> Tensor:
    """A ringer: two hollow tones in quick alternation."""
    return voice.wave(voice.since * voice.held("hz")) * voice.fade(rise_s=0.003, fall_s=0.006)


def _draw_wind(rng: np.random.Generator, seconds: float) -> Score:
    rate = float(rng.uniform(0.3, 0.6))
    return Score(
        _onsets(rng, seconds=seconds, step_s=(1 / rate, 1 / rate)),
        noises={
            "cos": draw_noise(rng, rate_hz=160, seconds=seconds),
            "sin": draw_noise(rng, rate_hz=160, seconds=seconds),
        },
        scalars={"hz": rng.uniform(420, 600), "span_hz": rng.uniform(80, 180), "rate_hz": rate},
    )


def _wind(voice: Voice) -> Tensor:
    """Howling: a narrow band of noise that drifts slowly between 250 and 800 Hz."""
    rate = voice.scalar("rate_hz")
    drift = voice.sine(voice.since * rate) * (voice.scalar("span_hz") / (2 * pi * rate))
    turns = voice.since * voice.scalar("hz") + drift
    band = voice.noise("cos") * voice.sine(turns + 0.25) + voice.noise("sin") * voice.sine(turns)
    return band * voice.fade(rise_s=0.02, fall_s=0.02)


def _draw_zap(rng: np.random.Generator, seconds: float) -> Score:
    onsets = _onsets(rng, seconds=seconds, step_s=_beat(rng, period_s=(0.14, 0.24)))
    return Score(
        onsets,
        notes={"hz": rng.uniform(1500, 2200) * rng.uniform(0.95, 1.05, len(onsets))},
        tables=_table(np.array([1.0, 0.45])),
        scalars={"drop_s": rng.uniform(0.035, 0.055), "low_hz": rng.uniform(180, 280)},
    )


def _zap(voice: Voice) -> Tensor:
    """Shots that fall from about 2 kHz to 200 Hz, four to seven a second."""
    drop_s = voice.scalar("drop_s")
    fall = torch.exp(-voice.since / drop_s)
    turns = voice.since * voice.scalar("low_hz") + voice.held("hz") * drop_s * (1.0 - fall)
    return voice.wave(turns) * (0.15 + fall) * voice.fade(rise_s=0.002, fall_s=0.04)


# Score, player and typical root mean square of the player's waves (mean power over 200 seeds) of each kind.
FAMILIES: dict[str, tuple[Draw, Play, float]] = {
    "gong": (_draw_gong, _gong, 0.464),
    "siren": (_draw_siren, _siren, 0.961),
    "drum": (_draw_drum, _drum, 0.21),
    "flute": (_draw_flute, _flute, 0.899),
    "harp": (_draw_harp, _harp, 0.885),
    "horn": (_draw_horn, _horn, 0.448),
    "engine": (_draw_engine, _engine, 0.668),
    "spray": (_draw_spray, _spray, 0.438),
    "voice": (_draw_voice, _voice, 0.736),
    "bird": (_draw_bird, _bird, 0.305),
    "rattle": (_draw_rattle, _rattle, 0.053),
    "phone": (_draw_phone, _phone, 0.907),
    "wind": (_draw_wind, _wind, 0.434),
    "zap": (_draw_zap, _zap, 0.384),
}


def emit(seed: int, kind: int, *, seconds: float, span: tuple[int, int], device: torch.device) -> Tensor:
    """(S,) float32 emission of kind in the clip `seed` from sample span[0] to span[1], at 16 kHz on device.

    The score belongs to the whole clip of `seconds`; power is about 1 for every kind, and no peak exceeds 4: strikes
    are rounded off as a microphone's limiter would.
    """
    draw, play, level = FAMILIES[KINDS[kind]]
    score = draw(stream(seed, STREAM_SOUNDS, kind), seconds)
    wave = play(Voice(score, span=span, device=device)) / level
    return wave * torch.rsqrt(1.0 + (wave * (1.0 / PEAK)).square_())
