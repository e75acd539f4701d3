"""Paint scenes at given times with batched torch operations on any device, using one list of pixels for all objects.

Every sprite contributes the pixels of its bounding square only; these lists are concatenated over the batch, sorted
by kind, so that a family's formula runs once per batch, and painted back to front in a few scatter passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.world.looks import LOOKS, Spot
from model.data.world.scene import STREAM_GRAIN, Floats, Ints, Scene, stream

CACHED_PIXELS = 8 * 128 * 128  # pixels painted at a time on a CPU: about 1 MB of canvas
BLUR_REACH = 2.5  # half length of the blur in standard deviations
RIM = 0.14  # width of the darkened rim in local units

# Radius factors that give every silhouette three quarters of the area of a disc of the drawn radius: the square root
# of 0.75 pi over the area of the shape in looks.py (summed numerically). Clutter is not scaled.
SIZE_FACTORS = (
    0.94, 1.30, 0.98, 1.34, 1.17, 1.01, 1.04, 1.07, 1.12, 1.14, 1.02, 1.11, 1.12, 1.22, 1.0, 1.0,
)  # fmt: skip


# Half side of each kind's bounding square in local units: its farthest point plus a margin for the soft edge.
EXTENTS = (
    0.99, 1.10, 1.16, 1.21, 1.16, 1.06, 1.07, 1.07, 1.12, 1.05, 1.29, 1.37, 1.13, 1.25, 1.07, 1.34,
)  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """One picture to paint: a scene at one moment. grain_key seeds the picture's grain."""

    scene: Scene
    time_s: float
    grain_key: int


@dataclass(frozen=True)
class Picture:
    """Painted shots.

    Attributes:
        frames: (B, H, W, 3) uint8 RGB.
        ids: (B, H, W) uint8, object id of the topmost object where it covers at least half the pixel, else 0.
    """

    frames: Tensor
    ids: Tensor


@dataclass(frozen=True)
class _Rows:
    """All sprites of a batch, sorted by kind (R rows): placement in pixels and paint parameters."""

    shot: Ints
    kind: Ints
    slot: Ints
    layer: Ints
    box: Ints  # (R, 4) x0, y0, width, height in pixels, inside the frame, width and height may be 0
    params: Floats  # (R, 16): see _pose


def render(shots: Sequence[Shot], *, width: int, height: int, device: torch.device) -> Picture:
    """Paint shots at width x height pixels, whatever their scenes' aspect ratios (squashing like a resize).

    Args:
        shots: B scenes with times.
        width: W in pixels.
        height: H in pixels.
        device: where the pixels are computed; all random numbers come from the CPU.

    Returns:
        Picture on device. Between devices frames differ by rounding (at most 2 levels beyond edges) and a few
        edge pixels of ids may differ.
    """
    # A CPU is several times faster while the working set fits its cache; an accelerator prefers one large batch.
    share = max(1, CACHED_PIXELS // (width * height)) if device.type == "cpu" else len(shots)
    parts = [
        _render_part(shots[i : i + share], width=width, height=height, device=device)
        for i in range(0, len(shots), share)
    ]
    return Picture(frames=torch.cat([p.frames for p in parts]), ids=torch.cat([p.ids for p in parts]))


def _render_part(shots: Sequence[Shot], *, width: int, height: int, device: torch.device) -> Picture:
    canvas = _backdrop(shots, width=width, height=height, device=device)  # (3, B*H*W)
    ids = torch.zeros(canvas.shape[1], dtype=torch.uint8, device=device)
    rows = _collect(shots, width=width, height=height)
    _paint(canvas, ids, rows, width=width, height=height)
    frames = _expose(_defocus(canvas.view(3, len(shots), height, width), shots), shots)
    return Picture(frames=frames, ids=ids.view(len(shots), height, width))


def _backdrop(shots: Sequence[Shot], *, width: int, height: int, device: torch.device) -> Tensor:
    """Return the background colours (3, B*H*W) float32 in about 0..1."""
    scenes = {id(shot.scene): shot.scene for shot in shots}
    number = {key: i for i, key in enumerate(scenes)}
    textures = torch.from_numpy(np.stack([s.backdrop.texture for s in scenes.values()])).to(device)
    picked = textures.index_select(0, torch.tensor([number[id(shot.scene)] for shot in shots], device=device))
    theta = torch.from_numpy(np.stack([_view(shot) for shot in shots]).astype(np.float32)).to(device)
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=device) * 2 + 1) / height - 1
    across = theta[:, None, :, 0] * x[:, None] + theta[:, None, :, 2]  # (B, W, 2)
    down = theta[:, None, :, 1] * y[:, None]  # (B, H, 2)
    grid = across[:, None] + down[:, :, None]  # (B, H, W, 2)
    seen = F.grid_sample(picked, grid, padding_mode="reflection", align_corners=False)
    return seen.transpose(0, 1).reshape(3, -1)


def _view(shot: Shot) -> Floats:
    """Return the affine map (2, 3) from the frame's [-1, 1] square to the texture's."""
    back, aspect = shot.scene.backdrop, shot.scene.aspect
    spread = np.diag([aspect, 1.0]) / max(aspect, 1.0) * back.zoom
    cos, sin = np.cos(back.angle), np.sin(back.angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = back.offset + back.drift * shot.time_s + 0.6 * _camera(shot)
    return np.concatenate([turn @ spread, centre[:, None]], axis=1)


def _camera(shot: Shot) -> Floats:
    sway = shot.scene.backdrop.camera
    return np.asarray(sway[:, 0] * np.sin(2 * np.pi * (sway[:, 1] * shot.time_s + sway[:, 2])))


def _collect(shots: Sequence[Shot], *, width: int, height: int) -> _Rows:
    counts = np.array([len(shot.scene.sprites.kind) for shot in shots])
    shot_of = np.repeat(np.arange(len(shots)), counts)
    layer = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    sprites = [shot.scene.sprites for shot in shots]
    kind = np.concatenate([s.kind for s in sprites])
    order = np.argsort(kind, kind="stable")
    params, box = _pose(shots, shot_of, kind, width=width, height=height)
    return _Rows(
        shot=shot_of[order],
        kind=kind[order],
        slot=np.concatenate([s.slot for s in sprites])[order],
        layer=layer[order],
        box=box[order],
        params=params[order],
    )


def _pose(shots: Sequence[Shot], shot_of: Ints, kind: Ints, *, width: int, height: int) -> tuple[Floats, Ints]:
    """Return each sprite's paint parameters (R, 16) and pixel box (R, 4) at the shot's time."""
    sprites = [shot.scene.sprites for shot in shots]
    time = np.array([shot.time_s for shot in shots])[shot_of]
    aspect = np.array([shot.scene.aspect for shot in shots])[shot_of]
    motion = np.concatenate([s.motion for s in sprites])  # (R, 2, 6)
    phase = 2 * np.pi * (motion[:, :, 3:5] * time[:, None, None] + motion[:, :, 5:6])
    centre = motion[:, :, 0] + (motion[:, :, 1:3] * np.sin(phase)).sum(axis=2)
    centre += np.stack([_camera(shot) for shot in shots])[shot_of]
    size = np.concatenate([s.radius for s in sprites])
    radius = size[:, 0] * (1 + size[:, 1] * np.sin(2 * np.pi * (size[:, 2] * time + size[:, 3])))
    radius *= np.array(SIZE_FACTORS)[kind]
    turn = np.concatenate([s.turn for s in sprites])
    angle = turn[:, 0] + turn[:, 1] * time + turn[:, 2] * np.sin(2 * np.pi * turn[:, 3] * time)
    step_x, step_y = aspect / width, np.full_like(aspect, 1.0 / height)  # scene units per pixel
    light = np.concatenate([s.light for s in sprites])
    shape = np.concatenate([s.shape for s in sprites])
    colours = np.concatenate([s.colours for s in sprites]).reshape(-1, 6)
    params = np.column_stack([
        step_x * np.cos(angle) / radius, step_y * np.sin(angle) / radius,
        -step_x * np.sin(angle) / radius, step_y * np.cos(angle) / radius,
        0.5 - centre[:, 0] / step_x, 0.5 - centre[:, 1] / step_y,
        np.sqrt(step_x * step_y) / radius, shape[:, 0],
        light[:, 1] * np.cos(light[:, 0] - angle), light[:, 1] * np.sin(light[:, 0] - angle),
        colours,
    ])  # fmt: skip
    reach = radius * np.array(EXTENTS)[kind]
    return params, _boxes(centre, reach, np.stack([step_x, step_y], axis=1), (width, height))


def _boxes(centre: Floats, reach: Floats, step: Floats, frame_px: tuple[int, int]) -> Ints:
    """Return integer boxes (R, 4) of x0, y0, width, height, clipped to the frame."""
    limit = np.array(frame_px)
    low = np.clip(np.floor((centre - reach[:, None]) / step), 0, limit)
    high = np.clip(np.ceil((centre + reach[:, None]) / step), 0, limit)
    return np.concatenate([low, high - low], axis=1).astype(np.int64)


def _paint(canvas: Tensor, ids: Tensor, rows: _Rows, *, width: int, height: int) -> None:
    """Draw all rows onto canvas (3, B*H*W) and ids (B*H*W,), farthest layer first."""
    device = canvas.device
    areas = rows.box[:, 2] * rows.box[:, 3]
    starts = np.cumsum(areas) - areas
    corner = (rows.shot * height + rows.box[:, 1]) * width + rows.box[:, 0]
    table = np.stack([starts, corner, rows.box[:, 0], rows.box[:, 1]]).astype(np.int32)
    first, box_corner, box_x, box_y = torch.from_numpy(table).to(device)
    box_width = torch.from_numpy(rows.box[:, 2].astype(np.float32)).to(device)
    params = torch.from_numpy(rows.params.astype(np.float32)).T.contiguous().to(device)  # (16, R)
    row = _spread(np.arange(len(areas), dtype=np.int32), areas, device)
    offset = torch.arange(row.shape[0], device=device, dtype=torch.int32) - first.index_select(0, row)
    wide = box_width.index_select(0, row)
    line = ((offset + 0.5) / wide).floor()  # float32 is exact enough up to boxes of 2**22 pixels
    column = offset - line * wide
    target = (box_corner.index_select(0, row) + (line * width + column).int()).long()
    x, y = box_x.index_select(0, row) + column, box_y.index_select(0, row) + line
    colour, alpha = _shade(x, y, row, params, rows.kind, areas)
    slot = torch.from_numpy(rows.slot.astype(np.uint8)).to(device).index_select(0, row)
    for layer in range(int(rows.layer.max()) + 1):
        mine = _pixels_of(rows.layer == layer, starts, areas, device)
        spot, cover = target.index_select(0, mine), alpha.index_select(0, mine)
        below = canvas.index_select(1, spot)
        canvas.index_copy_(1, spot, below + (colour.index_select(1, mine) - below) * cover)
        # Clutter is always behind the objects, so writing its id 0 never erases an object.
        owner = torch.where(cover >= 0.5, slot.index_select(0, mine), ids.index_select(0, spot))
        ids.index_copy_(0, spot, owner)


def _spread(values: Ints | npt.NDArray[np.int32], counts: Ints, device: torch.device) -> Tensor:
    """Return each value repeated by its count, on device."""
    return torch.repeat_interleave(
        torch.from_numpy(values).to(device), torch.from_numpy(counts).to(device), output_size=int(counts.sum())
    )


def _pixels_of(chosen: npt.NDArray[np.bool_], starts: Ints, areas: Ints, device: torch.device) -> Tensor:
    """Return the positions in the pixel list that belong to the chosen rows."""
    length = areas[chosen]
    moved = _spread(starts[chosen] - (np.cumsum(length) - length), length, device)
    return moved + torch.arange(moved.shape[0], device=device)


def _shade(x: Tensor, y: Tensor, row: Tensor, params: Tensor, kind: Ints, areas: Ints) -> tuple[Tensor, Tensor]:
    """Return colour (3, P) and coverage (P,) of every listed pixel."""

    def of(index: int) -> Tensor:
        return params[index].index_select(0, row)

    x, y = x + of(4), y + of(5)
    u, v = x * of(0) + y * of(1), x * of(2) + y * of(3)
    pixel, shape = of(6), of(7)
    distances, markings = [], []
    begin = 0
    for number, look in enumerate(LOOKS):
        end = begin + int(areas[kind == number].sum())
        if end > begin:
            part = slice(begin, end)
            distance, marking = look(Spot(u=u[part], v=v[part], shape=shape[part], pixel=pixel[part]))
            distances.append(distance)
            markings.append(marking)
        begin = end
    distance, marking = torch.cat(distances), torch.cat(markings)
    alpha = (0.5 - distance / pixel).clamp(0.0, 1.0)
    rim = (1.0 + distance / RIM).clamp(0.0, 1.0)
    light = (1.0 + u * of(8) + v * of(9)) * (1.0 - 0.45 * rim)
    base, mark = params[10:13], params[13:16]  # (3, R)
    colour = base.index_select(1, row) + (mark - base).index_select(1, row) * marking
    return colour * light, alpha


def _defocus(canvas: Tensor, shots: Sequence[Shot]) -> Tensor:
    """Return pictures (3, B, H, W) with a Gaussian blur applied to the scenes that have one."""
    height, width = canvas.shape[2:]
    chosen = [i for i, shot in enumerate(shots) if shot.scene.backdrop.blur > 0]
    if not chosen:
        return canvas
    rows = torch.tensor(chosen, device=canvas.device)
    blurred = canvas.index_select(1, rows)
    scenes = [shots[i].scene for i in chosen]
    blurred = _blur_lines(blurred, np.array([scene.backdrop.blur * height for scene in scenes]))
    across = np.array([scene.backdrop.blur * width / scene.aspect for scene in scenes])
    blurred = _blur_lines(blurred.transpose(2, 3), across).transpose(2, 3)
    return canvas.index_copy(1, rows, blurred)


def _blur_lines(canvas: Tensor, deviation_px: Floats) -> Tensor:
    """Blur (3, N, H, W) along its columns, each of the N by its own standard deviation in pixels; borders replicate."""
    reach = max(1, int(np.ceil(BLUR_REACH * deviation_px.max())))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets[None] / np.maximum(deviation_px, 1e-3)[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    factors = torch.from_numpy(weights.astype(np.float32)).to(canvas.device)  # (N, 2 * reach + 1)
    height = canvas.shape[2]
    padded = F.pad(canvas, (0, 0, reach, reach), mode="replicate")
    total = torch.zeros_like(canvas)
    for tap in range(2 * reach + 1):
        total.addcmul_(padded[:, :, tap : tap + height], factors[:, tap].view(1, -1, 1, 1))
    return total


def _expose(canvas: Tensor, shots: Sequence[Shot]) -> Tensor:
    """Apply brightness and grain, and quantise: (3, B, H, W) float32 to (B, H, W, 3) uint8."""
    _, num, height, width = canvas.shape
    backs = [shot.scene.backdrop for shot in shots]
    gain = [
        1.0 + back.brightness[0] * np.sin(2 * np.pi * (back.brightness[1] * shot.time_s + back.brightness[2]))
        for back, shot in zip(backs, shots, strict=True)
    ]
    noise = bytearray().join(
        stream(shot.scene.seed, STREAM_GRAIN, shot.grain_key).bytes(height * width) for shot in shots
    )
    grain = torch.frombuffer(noise, dtype=torch.uint8).to(canvas.device).view(num, height, width).float() - 127.5
    strength = torch.tensor([back.grain for back in backs], device=canvas.device).view(-1, 1, 1)
    level = 255.0 * torch.tensor(gain, dtype=torch.float32, device=canvas.device).view(-1, 1, 1)
    exposed = (canvas * level + (grain * strength + 0.5)).clamp_(0.0, 255.0).to(torch.uint8)
    return exposed.permute(1, 2, 3, 0).contiguous()
