"""Scenes with two objects of one kind whose paths cross: the test of a tracker's identities.

Both objects sound at the same times, because a clip has one sound per kind. Looks, sizes, backdrop and
off-screen sources are those of `draw_scene`. Motion and gates use their own random stream, so that ordinary scenes do
not change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.data.world.scene import Floats, Scene, SceneOptions, Source, Sprites, draw_scene, stream

STREAM_CROSSING = 12
# Largest radius in frame heights, so that the objects are apart for most of the clip.
MAX_RADIUS = 0.2
# Frequency of the motion in Hz: two seconds and a half to five from one end of the path to the other.
RATES_HZ = (0.1, 0.2)
# The objects meet in this part of the clip.
MEETING_SHARES = (0.35, 0.65)
# Least distance of the two paths, in sums of radii: 0 is one behind the other, 1 would be side by side.
MOST_APART = 0.8
# Half of the clips have one pause of this many seconds.
PAUSE_SHARE, PAUSES_S = 0.5, (0.4, 0.5)


def draw_crossing(seed: int, *, seconds: float = 5.0, aspect: float = 4 / 3) -> Scene:
    """Return the crossing scene of a seed: two visible objects, ids 1 and 2, of the same kind.

    Args:
        seed: the same seed gives the same scene.
        seconds: length of the clip, at least 4.
        aspect: width over height.
    """
    if seconds < 4.0:
        raise ValueError(f"seconds must be at least 4, got {seconds}")
    scene = draw_scene(seed, SceneOptions(seconds=seconds, visible=(2, 2), aspect=aspect))
    rng = stream(seed, STREAM_CROSSING)
    kind = scene.sources[0].kind
    gates, level_db = _draw_gates(rng, seconds), max(0.0, scene.sources[0].level_db)
    heard = [Source(name=str(slot), kind=kind, slot=slot, gates=gates, level_db=level_db) for slot in (1, 2)]
    others = [source for source in scene.sources if not source.slot]
    sprites = _crossing_sprites(scene.sprites, kind, rng, seconds=seconds, aspect=aspect)
    return replace(scene, sprites=sprites, sources=(*heard, *others))


def _draw_gates(rng: np.random.Generator, seconds: float) -> Floats:
    """Return (G, 2) start and stop times in seconds: the whole clip, or two parts of it around one short pause."""
    pause_s, start_s = rng.uniform(*PAUSES_S), rng.uniform(0.2, 0.8) * seconds
    if rng.random() >= PAUSE_SHARE:
        return np.array([[0.0, seconds]])
    return np.array([[0.0, start_s], [start_s + pause_s, seconds]])


def _crossing_sprites(
    sprites: Sprites, kind: int, rng: np.random.Generator, *, seconds: float, aspect: float
) -> Sprites:
    """Return the sprites with both objects of one kind on opposite paths through the middle."""
    kinds, radius, motion = sprites.kind.copy(), sprites.radius.copy(), sprites.motion.copy()
    first = len(kinds) - 2
    kinds[first:] = kind
    radius[first:, 0] = np.minimum(radius[first:, 0], MAX_RADIUS)
    slant = rng.uniform(-0.25, 0.25)
    rate_hz = rng.uniform(*RATES_HZ)
    meeting_s = rng.uniform(*MEETING_SHARES) * seconds
    apart = rng.uniform(0.0, MOST_APART) * radius[first:, 0].sum()
    reach = rng.uniform(0.3, 0.38) * aspect
    for number, side in enumerate(rng.permutation([-1.0, 1.0])):
        at = motion[first + number]  # (2, 6): per axis centre, two sways, two frequencies, phase in turns
        at[0] = [aspect / 2, side * reach, 0.0, rate_hz, 0.0, -rate_hz * meeting_s]
        at[1] = [0.5 + side * apart / 2, side * reach * slant, 0.0, rate_hz, 0.0, -rate_hz * meeting_s]
    return replace(sprites, kind=kinds, radius=radius, motion=motion)
