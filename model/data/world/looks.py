"""Look of each kind: the signed distance to its silhouette, and the marking inside it.

A look is a function of local coordinates: u to the right, v down, the silhouette inside the unit disc. It returns
the approximate signed distance (negative inside) and the marking's strength in 0..1. Colours are drawn elsewhere
and do not depend on the kind. All functions work element-wise on flat tensors of P pixels on any device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spot:
    """Pixels of objects of one kind, flat.

    Attributes:
        u, v: (P,) local coordinates, unit = radius.
        shape: (P,) uniform number in 0..1 that varies the family.
        pixel: (P,) size of one pixel in local units; markings are smoothed over it.
    """

    u: Tensor
    v: Tensor
    shape: Tensor
    pixel: Tensor

    def inside(self, distance: Tensor) -> Tensor:
        """Return coverage (P,): 1 where distance < 0, 0 outside, with a linear ramp one pixel wide."""
        return (0.5 - distance / self.pixel).clamp(0.0, 1.0)


Look = Callable[[Spot], tuple[Tensor, Tensor]]


def _fold(value: Tensor, period: float) -> Tensor:
    """Return the distance to the nearest multiple of period."""
    return (value - torch.round(value / period) * period).abs()


def _polygon(u: Tensor, v: Tensor, *, sides: int, apothem: float) -> Tensor:
    """Return the signed distance to the edges' lines of a regular polygon whose first edge is on the right."""
    distance = u
    for k in range(1, sides):
        angle = torch.tensor(2 * pi * k / sides)
        distance = torch.maximum(distance, float(angle.cos()) * u + float(angle.sin()) * v)
    return distance - apothem


def gong(spot: Spot) -> tuple[Tensor, Tensor]:
    """A disc with concentric rings."""
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    return rho - 0.92, spot.inside(_fold(rho - 0.06 * spot.shape, 0.44) - 0.11)


def siren(spot: Spot) -> tuple[Tensor, Tensor]:
    """A triangle with stripes across its axis."""
    return _polygon(spot.u, spot.v, sides=3, apothem=0.52), spot.inside(_fold(spot.u - 0.1 * spot.shape, 0.42) - 0.105)


def drum(spot: Spot) -> tuple[Tensor, Tensor]:
    """A square with a checkerboard of 3 by 3."""
    across, down = spot.u.abs(), spot.v.abs()
    third = 0.26
    inner_u, inner_v = across - third, down - third
    checks = -inner_u * inner_v / (inner_u.abs() + inner_v.abs() + 1e-4)
    return torch.maximum(across, down) - 0.78, spot.inside(checks)


def flute(spot: Spot) -> tuple[Tensor, Tensor]:
    """A long rod with a row of holes along it."""
    beyond = (spot.u.abs() - 0.86).clamp(min=0.0)
    rod = torch.sqrt(beyond * beyond + spot.v * spot.v) - 0.30
    along = _fold(spot.u, 0.5)
    return rod, spot.inside(torch.sqrt(along * along + spot.v * spot.v) - 0.15)


def harp(spot: Spot) -> tuple[Tensor, Tensor]:
    """A five-pointed star with a wide rim."""
    angle = torch.atan2(spot.v, spot.u)
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    turn = _fold(angle, 2 * pi / 5)
    # The straight edge from the tip (1.1, 0) to the notch (0.5 at 36 degrees), as a line's signed distance.
    distance = rho * (0.4207 * torch.cos(turn) + 0.9072 * torch.sin(turn)) - 0.4628
    return distance, spot.inside(-distance - 0.2)


def horn(spot: Spot) -> tuple[Tensor, Tensor]:
    """A ring cut into six sectors of two colours."""
    angle = torch.atan2(spot.v, spot.u)
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    return (rho - 0.74).abs() - 0.25, spot.inside((_fold(angle, 2 * pi / 3) - pi / 6) * rho)


def engine(spot: Spot) -> tuple[Tensor, Tensor]:
    """A toothed wheel with a hub."""
    angle = torch.atan2(spot.v, spot.u)
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    tooth = ((_fold(angle, pi / 4) - pi / 16) * 4.0).clamp(-0.16, 0.16)
    return torch.maximum(rho - 0.84 + tooth, 0.2 - rho), spot.inside((rho - 0.42).abs() - 0.1)


def spray(spot: Spot) -> tuple[Tensor, Tensor]:
    """A plus sign with a marked core."""
    across, down = spot.u.abs(), spot.v.abs()
    bars = torch.minimum(torch.maximum(across - 0.95, down - 0.33), torch.maximum(across - 0.33, down - 0.95))
    return bars, spot.inside(across + down - 0.5)


def voice(spot: Spot) -> tuple[Tensor, Tensor]:
    """A crescent with a row of spots along its back."""
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    bite = torch.sqrt((spot.u - 0.55) ** 2 + spot.v * spot.v)
    moon = torch.maximum(rho - 1.05, 0.78 - bite)
    along = _fold(torch.atan2(spot.v, -spot.u), 0.62)
    return moon, spot.inside(torch.sqrt(along * along + (rho - 0.72) ** 2) - 0.14)


def bird(spot: Spot) -> tuple[Tensor, Tensor]:
    """A flower of six petals round a large eye."""
    angle = torch.atan2(spot.v, spot.u)
    rho = torch.sqrt(spot.u * spot.u + spot.v * spot.v)
    distance = (rho - 0.74 - 0.24 * torch.cos(6 * angle)) * 0.7
    return distance, spot.inside(rho - 0.36)


def rattle(spot: Spot) -> tuple[Tensor, Tensor]:
    """A heart with polka dots."""
    across, up = spot.u.abs(), 0.28 - spot.v
    lobe = torch.sqrt((across - 0.46) ** 2 + (up - 0.45) ** 2) - 0.5
    # Below the lobes the sides run straight to the point at (0, -0.95), from where they touch the lobes.
    side = 0.79 * across - 0.613 * (up + 0.95)
    touch = 0.613 * (across - 0.46) + 0.79 * (up - 0.45)
    wedge = torch.maximum(torch.maximum(side, touch), torch.maximum(up - 0.5, -(up + 1.1)))
    dot_u, dot_v = _fold(spot.u, 0.52), _fold(spot.v + 0.12, 0.52)
    return torch.minimum(lobe, wedge), spot.inside(torch.sqrt(dot_u * dot_u + dot_v * dot_v) - 0.15)


def phone(spot: Spot) -> tuple[Tensor, Tensor]:
    """A bow tie, its two wings of two colours."""
    across, down = spot.u.abs(), spot.v.abs()
    wing = torch.maximum(0.78 * (down - 0.1) - 0.62 * across, across - 0.98)
    return wing, spot.inside(spot.u)


def wind(spot: Spot) -> tuple[Tensor, Tensor]:
    """A leaf with a midrib and slanted veins."""
    down = spot.v.abs()
    blade = torch.sqrt(spot.u * spot.u + (down + 0.62) ** 2) - 1.24
    veins = torch.minimum(down - 0.07, _fold(spot.u + 0.8 * down, 0.44) - 0.09)
    return blade, spot.inside(veins)


def zap(spot: Spot) -> tuple[Tensor, Tensor]:
    """A lightning bolt: two slanted bars joined by an offset, dark below the joint."""
    slant = spot.u + 0.45 * spot.v
    upper = torch.maximum((slant + 0.16).abs() - 0.36, torch.maximum(spot.v - 0.16, -spot.v - 1.0))
    lower = torch.maximum((slant - 0.26).abs() - 0.36, torch.maximum(spot.v - 1.0, -spot.v - 0.16))
    return torch.minimum(upper, lower), spot.inside((spot.v + 0.55).abs() - 0.14)


def _ellipse(spot: Spot) -> tuple[Tensor, Tensor]:
    """Clutter: a plain ellipse."""
    flat = spot.v * (1.2 + 1.2 * spot.shape)
    return torch.sqrt(spot.u * spot.u + flat * flat) - 1.0, torch.zeros_like(spot.u)


def _bar(spot: Spot) -> tuple[Tensor, Tensor]:
    """Clutter: a plain bar, longer than every object."""
    return torch.maximum(spot.u.abs() - 1.25, spot.v.abs() - 0.08 - 0.3 * spot.shape), torch.zeros_like(spot.u)


# In the order of scene.KINDS, then the clutter families.
LOOKS: tuple[Look, ...] = (
    gong, siren, drum, flute, harp, horn, engine, spray, voice, bird, rattle, phone, wind, zap, _ellipse, _bar,
)  # fmt: skip
