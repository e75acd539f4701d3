"""Draw the content of a synthetic clip from a seed: objects, their motion, the backdrop and when each source sounds.

A scene consists of small numpy arrays in normalised coordinates: y runs from 0 (top) to 1 (bottom), x from 0 to the
aspect ratio. The same scene can therefore be rendered at any resolution and aspect ratio. Looks, motion, gates and
sounds have separate random streams, so whether and when an object sounds is independent of its look, size, motion,
place and depth.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

WORLD_VERSION = 2

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Background = Literal["usual", "unseen"]

# One name per kind; looks.py draws it, sounds.py synthesises it. The order is part of the world's version.
KINDS: tuple[str, ...] = (
    "gong", "siren", "drum", "flute", "harp", "horn", "engine",
    "spray", "voice", "bird", "rattle", "phone", "wind", "zap",
)  # fmt: skip
NUM_CLUTTER_KINDS = 2  # soundless plain ellipses and bars; their kind indices follow those of KINDS

MAX_VISIBLE = len(KINDS) - 2  # two kinds stay free for off-screen sources

# Random streams of one clip. A new stream gets a new number; numbers are never reused.
STREAM_KINDS, STREAM_LOOKS, STREAM_MOTION, STREAM_BACKDROP, STREAM_GATES = 0, 1, 2, 3, 4
STREAM_LEVELS, STREAM_AMBIENCE, STREAM_GRAIN, STREAM_TIMES, STREAM_SOUNDS = 5, 6, 7, 8, 9
STREAM_CODECS, STREAM_STRIPES = 10, 11

ASPECTS = (4 / 3, 16 / 9, 9 / 16, 1.0)
ASPECT_SHARES = (0.4, 0.4, 0.1, 0.1)

MIN_GATE_S = 0.5  # shortest time that a source sounds, seconds
MIN_PAUSE_S = 0.4  # must exceed 0.25 s, because shorter pauses count as sounding


TEXTURE_PX = 96
BLURRED_SHARE = 0.35
MAX_BLUR = 0.009  # 2 pixels at 240 lines: a phone out of focus


def _octaves() -> npt.NDArray[np.float32]:
    """Return the natural logarithm of each Fourier coefficient's frequency, (TEXTURE_PX, TEXTURE_PX // 2 + 1)."""
    frequency = np.hypot(np.fft.fftfreq(TEXTURE_PX)[:, None], np.fft.rfftfreq(TEXTURE_PX)[None]) * TEXTURE_PX
    return np.asarray(np.log(np.maximum(frequency, 1.0)), dtype=np.float32)


OCTAVES = _octaves()


def stream(seed: int, *number: int) -> np.random.Generator:
    """Return random stream `number` of the clip `seed`: PCG64, the same on every platform."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([WORLD_VERSION, seed, *number])))


@dataclass(frozen=True)
class SceneOptions:
    """Properties of a clip that a caller can set; the seed determines the rest.

    Attributes:
        seconds: length of the clip.
        visible: least and most visible objects, at most MAX_VISIBLE.
        aspect: width over height; None draws one per seed (mostly 4:3 and 16:9).
        background: "unseen" is a family of stripes and checks that training never shows.
    """

    seconds: float = 5.0
    visible: tuple[int, int] = (1, 4)
    aspect: float | None = None
    background: Background = "usual"

    def __post_init__(self) -> None:
        low, high = self.visible
        if not 1 <= low <= high <= MAX_VISIBLE:
            raise ValueError(f"visible must satisfy 1 <= low <= high <= {MAX_VISIBLE}, got {self.visible}")
        if self.seconds < 1.0:
            raise ValueError(f"seconds must be at least 1, got {self.seconds}")
        if self.background not in get_args(Background):
            raise ValueError(f"background must be one of {', '.join(get_args(Background))}, got {self.background!r}")


@dataclass(frozen=True)
class Sprites:
    """The N painted shapes, in paint order (farthest first).

    Attributes:
        kind: (N,) index into KINDS, or len(KINDS) + clutter family.
        slot: (N,) object id (1..num_visible), 0 for clutter.
        motion: (N, 2, 6) per axis: centre, two sway amplitudes, two frequencies in Hz, phase in turns.
        radius: (N, 4) mean radius (in frame heights times sqrt(aspect)), swell, swell frequency, phase.
        turn: (N, 4) start angle, radians per second, wobble amplitude, wobble frequency in Hz.
        shape: (N, 2) uniform numbers that the look family interprets.
        colours: (N, 2, 3) base and marking colour, RGB in 0..1.
        light: (N, 2) direction and strength of the shading.
    """

    kind: Ints
    slot: Ints
    motion: Floats
    radius: Floats
    turn: Floats
    shape: Floats
    colours: Floats
    light: Floats


@dataclass(frozen=True)
class Backdrop:
    """Background and camera.

    Attributes:
        texture: (3, TEXTURE_PX, TEXTURE_PX) RGB in about 0..1.
        zoom, angle, offset, drift: which part of the texture is seen: half-width, radians, centre, per second.
        camera: (2, 3) sway of the whole scene per axis: amplitude, frequency in Hz, phase in turns.
        brightness: amplitude, frequency in Hz, phase in turns of a slow change.
        grain: amplitude of the per-frame noise.
        blur: standard deviation of the lens's blur in frame heights, 0 where it is sharp.
    """

    texture: npt.NDArray[np.float32]
    zoom: float
    angle: float
    offset: Floats
    drift: Floats
    camera: Floats
    brightness: Floats
    grain: float
    blur: float


@dataclass(frozen=True)
class Source:
    """A sound source. `slot` is its object id, 0 when it is off screen."""

    name: str
    kind: int
    slot: int
    gates: Floats  # (G, 2) on and off in seconds
    level_db: float


@dataclass(frozen=True)
class Scene:
    """Content of a whole clip, before rendering."""

    seed: int
    aspect: float
    seconds: float
    num_visible: int
    sprites: Sprites
    backdrop: Backdrop
    sources: tuple[Source, ...]


def draw_scene(seed: int, options: SceneOptions) -> Scene:
    """Return the scene of `seed`, the same for the same seed, options and WORLD_VERSION."""
    cast = draw_cast(seed, options)
    kinds, num_visible = np.concatenate([cast.visible, cast.off_screen]), len(cast.visible)
    aspect = cast.aspect if options.aspect is None else options.aspect
    return Scene(
        seed=seed,
        aspect=aspect,
        seconds=options.seconds,
        num_visible=num_visible,
        sprites=_draw_sprites(seed, kinds[:num_visible], aspect=aspect),
        backdrop=_draw_backdrop(seed, options.background),
        sources=_draw_sources(seed, kinds, num_visible=num_visible, seconds=options.seconds),
    )


@dataclass(frozen=True)
class Cast:
    """Kinds of a clip's sources as indices into KINDS, visible and off screen, and the aspect of the seed."""

    visible: Ints
    off_screen: Ints
    aspect: float


def draw_cast(seed: int, options: SceneOptions) -> Cast:
    """Return which kinds the scene of `seed` has, without drawing the rest of the scene."""
    rng = stream(seed, STREAM_KINDS)
    aspect = float(rng.choice(ASPECTS, p=ASPECT_SHARES))
    num_visible = _draw_num_visible(rng, options.visible)
    num_off = int(rng.choice((0, 1, 2), p=(0.4, 0.45, 0.15)))
    kinds = rng.permutation(len(KINDS))[: num_visible + num_off]
    return Cast(kinds[:num_visible], kinds[num_visible:], aspect)


def _draw_num_visible(rng: np.random.Generator, visible: tuple[int, int]) -> int:
    """Draw the number of visible objects. One is rarer than several, because it does not teach which object sounds."""
    low, high = visible
    counts = np.arange(low, high + 1)
    shares = np.where(counts == 1, 0.3, 1.0)
    return int(rng.choice(counts, p=shares / shares.sum()))


def _draw_sprites(seed: int, kinds: Ints, *, aspect: float) -> Sprites:
    looks, moves = stream(seed, STREAM_LOOKS), stream(seed, STREAM_MOTION)
    num_clutter = int(looks.integers(0, 8))
    num, total = len(kinds), num_clutter + len(kinds)
    all_kinds = np.concatenate([len(KINDS) + looks.integers(0, NUM_CLUTTER_KINDS, num_clutter), kinds])
    crowd = 1.0 if num <= 2 else 1.6 / num + 0.2
    area = np.exp(looks.uniform(np.log(0.04), np.log(0.19), total)) * crowd
    area[:num_clutter] *= 0.5
    radius = np.sqrt(area * aspect / np.pi)
    swell = np.stack(
        [radius, looks.uniform(0, 0.16, total), looks.uniform(0.05, 0.35, total), looks.random(total)], axis=1
    )
    return Sprites(
        kind=all_kinds,
        slot=np.concatenate([np.zeros(num_clutter, np.int64), np.arange(1, num + 1)]),
        motion=_draw_motion(moves, radius, num_clutter=num_clutter, aspect=aspect),
        radius=swell,
        turn=_draw_turn(moves, total),
        shape=looks.random((total, 2)),
        colours=_draw_colours(looks, total, num_clutter=num_clutter),
        light=np.stack([looks.uniform(0, 2 * np.pi, total), looks.uniform(0.1, 0.3, total)], axis=1),
    )


def _draw_turn(rng: np.random.Generator, total: int) -> Floats:
    spin = rng.uniform(-0.9, 0.9, total) * (rng.random(total) < 0.6)
    return np.stack(
        [rng.uniform(0, 2 * np.pi, total), spin, rng.uniform(0, 0.4, total), rng.uniform(0.1, 0.6, total)], axis=1
    )


def _draw_motion(rng: np.random.Generator, radius: Floats, *, num_clutter: int, aspect: float) -> Floats:
    """Draw Lissajous paths. Their centres keep a distance from each other, except in 3 of 10 clips."""
    total = len(radius)
    centres = rng.uniform(0.12, 0.88, (total, 8, 2)) * np.array([aspect, 1.0])
    is_crowded = rng.random() < 0.3
    chosen = centres[:, 0].copy()
    for i in range(num_clutter + 1, 0 if is_crowded else total):
        apart = np.linalg.norm(centres[i][:, None] - chosen[None, num_clutter:i], axis=2)
        chosen[i] = centres[i][np.argmax((apart / (radius[i] + radius[None, num_clutter:i])).min(axis=1))]
    sway = rng.uniform(0.0, 0.13, (total, 2, 2)) * np.array([1.0, 0.4]) * min(aspect, 1.0)
    sway[:num_clutter] *= 0.3
    rate = rng.uniform(0.06, 0.3, (total, 2, 2)) * np.array([1.0, 2.2])
    return np.concatenate([chosen[:, :, None], sway, rate, rng.random((total, 2, 1))], axis=2)


def _draw_colours(rng: np.random.Generator, total: int, *, num_clutter: int) -> Floats:
    """Draw colours: vivid objects with a clearly darker or lighter marking, duller clutter; independent of the kind."""
    hue = np.stack([rng.random(total), rng.random(total)], axis=1)
    saturation = rng.uniform(0.45, 0.95, (total, 2))
    bright = rng.uniform(0.72, 1.0, total)
    dark = bright - rng.uniform(0.45, 0.65, total)
    is_light_base = rng.random(total) < 0.6
    value = np.stack([np.where(is_light_base, bright, dark), np.where(is_light_base, dark, bright)], axis=1)
    saturation[:num_clutter] *= 0.6
    return hsv_to_rgb(hue, saturation, value)


def hsv_to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Convert hue, saturation and value (…) in 0..1 to RGB (…, 3) in 0..1 with the hexagon formula."""
    position = (hue[..., None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    ramp = np.clip(np.minimum(position, 4 - position), 0, 1)
    return np.asarray(value[..., None] * (1 - saturation[..., None] * ramp), dtype=np.float64)


def _draw_backdrop(seed: int, background: Background) -> Backdrop:
    rng = stream(seed, STREAM_BACKDROP)
    pattern = _draw_noise(rng)
    if background == "unseen":  # colours, camera and light stay those of the seed
        pattern = _draw_stripes(stream(seed, STREAM_STRIPES))
    middle, *tones = hsv_to_rgb(rng.random(4), rng.uniform(0.0, 0.5, 4), rng.uniform(0.2, 0.85, 4))
    strength = rng.uniform(0.04, 0.22, 2)
    ramp = np.linspace(-1, 1, TEXTURE_PX)
    heading = rng.uniform(0, 2 * np.pi)
    slant = (np.cos(heading) * ramp[None] + np.sin(heading) * ramp[:, None]) * rng.uniform(0, 0.5)
    fields = np.stack([pattern[0] * strength[0], pattern[1] * strength[1], slant]).astype(np.float32)
    spread = np.tensordot(np.stack(tones, axis=1).astype(np.float32), fields, axes=1)
    texture = middle[:, None, None].astype(np.float32) + spread
    return Backdrop(
        texture=texture,
        zoom=rng.uniform(0.45, 0.8),
        angle=rng.uniform(0, 2 * np.pi),
        offset=rng.uniform(-0.15, 0.15, 2),
        drift=rng.uniform(-0.03, 0.03, 2),
        camera=np.stack([rng.uniform(0, 0.03, 2), rng.uniform(0.05, 0.5, 2), rng.random(2)], axis=1),
        brightness=np.array([rng.uniform(0, 0.22), rng.uniform(0.05, 0.5), rng.random()]),
        grain=float(rng.uniform(0.0, 0.08)),
        blur=float(rng.uniform(0.0, MAX_BLUR)) if rng.random() < BLURRED_SHARE else 0.0,
    )


def _draw_noise(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return two fields (2, TEXTURE_PX, TEXTURE_PX) of unit deviation whose spectra are 1/f to a drawn power."""
    spectrum = (rng.random((2, *OCTAVES.shape, 2), dtype=np.float32) - 0.5).view(np.complex64)[..., 0]
    weight = np.exp(OCTAVES * np.float32(-rng.uniform(0.9, 2.3)))
    noise = np.fft.irfft2(spectrum * weight, s=(TEXTURE_PX, TEXTURE_PX))
    return np.asarray(noise / (noise.std(axis=(1, 2), keepdims=True) + 1e-9), dtype=np.float32)


def _draw_stripes(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return stripes or checks (2, TEXTURE_PX, TEXTURE_PX) with the values -1 and 1, at two angles."""
    line = np.linspace(-1, 1, TEXTURE_PX)
    angle, count, phase = rng.uniform(0, np.pi, 2), rng.uniform(2.0, 8.0, 2), rng.random((2, 2))
    pattern = []
    for i in range(2):
        along = np.cos(angle[i]) * line[None] + np.sin(angle[i]) * line[:, None]
        across = np.cos(angle[i]) * line[:, None] - np.sin(angle[i]) * line[None]
        wave = np.sin(np.pi * (count[i] * along + phase[i, 0]))
        is_checked = rng.random() < 0.5
        pattern.append(np.sign(wave * np.sin(np.pi * (count[i] * across + phase[i, 1])) if is_checked else wave))
    return np.asarray(pattern, dtype=np.float32)


def _draw_sources(seed: int, kinds: Ints, *, num_visible: int, seconds: float) -> tuple[Source, ...]:
    gates, levels = stream(seed, STREAM_GATES), stream(seed, STREAM_LEVELS)
    return tuple(
        Source(
            name=str(i + 1) if i < num_visible else f"off-{i - num_visible}",
            kind=int(kind),
            slot=i + 1 if i < num_visible else 0,
            gates=draw_gates(gates, seconds=seconds, is_eager=num_visible == 1 or i >= num_visible),
            level_db=float(np.clip(levels.normal(0.0, 3.0), -6.0, 6.0)),
        )
        for i, kind in enumerate(kinds)
    )


def draw_gates(rng: np.random.Generator, *, seconds: float, is_eager: bool) -> Floats:
    """Return (G, 2) times in seconds at which a source starts and stops: gates >= 0.5 s, pauses >= 0.4 s.

    One source in four is silent. is_eager (for a lone object or an off-screen source) shortens the pauses.
    """
    is_silent = rng.random() < 0.25
    pause_s = 1.3 if is_eager else 2.4
    gates: list[tuple[float, float]] = []
    now = float(rng.exponential(pause_s)) if rng.random() < 0.75 else 0.0
    while not is_silent and now + MIN_GATE_S <= seconds:
        end = now + MIN_GATE_S + float(rng.gamma(2.0, 0.7))
        gates.append((now, min(end, seconds)))
        now = end + MIN_PAUSE_S + float(rng.exponential(pause_s))
    return np.array(gates, dtype=np.float64).reshape(-1, 2)
