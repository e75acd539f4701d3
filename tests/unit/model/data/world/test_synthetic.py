"""The synthetic world: determinism, what a sample promises, and that sound cannot be guessed from looks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.synthetic import KINDS, TRAINING_SEEDS, SampleBatch, SceneOptions, sample_batch
from model.data.world.audit import audit
from model.data.world.looks import LOOKS, Spot, rattle
from model.data.world.render import EXTENTS, SIZE_FACTORS, Shot, render
from model.data.world.scene import NUM_CLUTTER_KINDS, Scene, draw_scene

CPU = torch.device("cpu")
SEEDS = range(TRAINING_SEEDS, TRAINING_SEEDS + 6)


@pytest.fixture(scope="module")
def batch() -> SampleBatch:
    return sample_batch(SEEDS, samples_per_clip=3, size_px=96)


def test_shapes_and_types(batch: SampleBatch) -> None:
    assert batch.frames.shape == (18, 96, 96, 3)
    assert batch.frames.dtype == torch.uint8
    assert batch.windows.shape == (18, 15_600)
    assert batch.windows.dtype == torch.float32
    assert batch.windows.abs().max() <= 1.0
    assert batch.masks.shape == batch.kind_map.shape == (18, 96, 96)
    assert batch.masks.dtype == batch.sounding_kinds.dtype == batch.ambiguous.dtype == torch.bool
    assert batch.kind_map.dtype == torch.uint8
    assert batch.sounding_kinds.shape == (18, len(KINDS))
    assert batch.clip_ids.tolist() == [seed for seed in SEEDS for _ in range(3)]


def test_same_seeds_give_the_same_bytes(batch: SampleBatch) -> None:
    again = sample_batch(SEEDS, samples_per_clip=3, size_px=96)
    for name, value in vars(batch).items():
        assert torch.equal(value, getattr(again, name)), name


def test_a_sample_does_not_depend_on_its_neighbours(batch: SampleBatch) -> None:
    alone = sample_batch([SEEDS[4]], samples_per_clip=2, size_px=96)
    assert torch.equal(alone.frames, batch.frames[12:14])
    assert torch.equal(alone.windows, batch.windows[12:14])
    assert torch.equal(alone.masks, batch.masks[12:14])


def test_other_seeds_give_other_clips(batch: SampleBatch) -> None:
    assert not torch.equal(batch.frames[0], batch.frames[3])
    assert not torch.equal(batch.windows[0], batch.windows[3])


def test_masks_are_the_sounding_kinds_of_the_kind_map(batch: SampleBatch) -> None:
    assert batch.masks.any()
    for mask, kinds, truth in zip(batch.masks, batch.kind_map, batch.sounding_kinds, strict=True):
        wanted = torch.isin(kinds, torch.nonzero(truth).flatten().to(torch.uint8) + 1)
        assert torch.equal(mask, wanted)


def test_windows_before_the_clip_are_silent() -> None:
    early = sample_batch(range(40), samples_per_clip=2, size_px=16)
    truncated = early.windows[:, 0] == 0
    assert truncated.any()
    assert (early.windows[:, -1] != 0).any()


def test_most_samples_are_usable() -> None:
    many = sample_batch(range(60), samples_per_clip=4, size_px=32)
    assert many.ambiguous.float().mean() < 0.5
    usable = many.masks.flatten(1).any(dim=1) & ~many.ambiguous
    assert usable.float().mean() > 0.25


def test_kinds_are_distinct_within_a_clip_and_numbers_are_kept() -> None:
    seen = set()
    for seed in range(80):
        scene = draw_scene(seed, SceneOptions(visible=(2, 6)))
        kinds = [source.kind for source in scene.sources]
        assert len(kinds) == len(set(kinds))
        assert [s.slot for s in scene.sources if s.slot] == list(range(1, scene.num_visible + 1))
        seen.add(scene.num_visible)
    assert seen == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("visible", [(0, 1), (3, 2), (1, 99)])
def test_impossible_numbers_of_objects_are_refused(visible: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="visible must satisfy"):
        SceneOptions(visible=visible)


def test_an_unknown_background_is_refused() -> None:
    with pytest.raises(ValueError, match="one of usual, unseen"):
        SceneOptions(background="stripes")  # type: ignore[arg-type]


def test_an_unseen_background_changes_nothing_but_the_background() -> None:
    usual, unseen = (
        sample_batch(SEEDS, samples_per_clip=1, size_px=96, options=SceneOptions(background=family))
        for family in ("usual", "unseen")
    )  # type: ignore[arg-type]
    assert torch.equal(usual.kind_map, unseen.kind_map)
    assert torch.equal(usual.windows, unseen.windows)
    off = (usual.frames.int() - unseen.frames.int()).abs().amax(dim=3) > 12
    assert off[usual.kind_map == 0].float().mean() > 0.3


def test_some_lenses_blur_the_picture_and_not_the_truth() -> None:
    scenes = [draw_scene(seed, SceneOptions()) for seed in range(40)]
    blurred = [scene for scene in scenes if scene.backdrop.blur > 0.004]
    assert 4 <= len(blurred) < 20
    for scene in blurred[:3]:
        sharp = replace(scene, backdrop=replace(scene.backdrop, blur=0.0))
        one, other = (render([Shot(given, 1.0, 0)], width=320, height=240, device=CPU) for given in (scene, sharp))
        assert torch.equal(one.ids, other.ids)
        assert _steepness(one.frames) < 0.9 * _steepness(other.frames)


def test_a_blurred_scene_does_not_touch_its_neighbours() -> None:
    scenes = [draw_scene(seed, SceneOptions()) for seed in range(12)]
    together = render([Shot(scene, 1.0, 0) for scene in scenes], width=96, height=96, device=CPU).frames
    assert any(scene.backdrop.blur for scene in scenes)
    for scene, frame in zip(scenes, together, strict=True):
        alone = render([Shot(scene, 1.0, 0)], width=96, height=96, device=CPU).frames[0]
        assert (alone.int() - frame.int()).abs().max() <= 1


def test_two_resolutions_show_the_same_scene() -> None:
    scenes = [draw_scene(seed, SceneOptions(aspect=16 / 9)) for seed in range(8)]
    shots = [Shot(scene, 1.3, 0) for scene in scenes]
    large = render(shots, width=640, height=360, device=CPU).ids
    squashed = render(shots, width=128, height=128, device=CPU).ids
    nearest = torch.nn.functional.interpolate(large[:, None].float(), size=(128, 128))[:, 0]
    both = ((nearest > 0) & (nearest == squashed)).sum()
    either = ((nearest > 0) | (squashed > 0)).sum()
    assert both / either > 0.92  # the rest are edges, which lie between the two grids


def test_every_kind_has_a_look_of_the_promised_area_inside_its_box() -> None:
    assert len(LOOKS) == len(SIZE_FACTORS) == len(EXTENTS) == len(KINDS) + NUM_CLUTTER_KINDS
    line = (torch.arange(600) + 0.5) / 200 - 1.5
    v, u = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    spot = Spot(u=u, v=v, shape=torch.full_like(u, 0.5), pixel=torch.full_like(u, 0.05))
    for look, factor, extent in zip(LOOKS[: len(KINDS)], SIZE_FACTORS, EXTENTS, strict=False):
        distance, marking = look(spot)
        inside = distance < 0
        area = float(inside.float().mean()) * 9 * factor**2
        assert area == pytest.approx(0.75 * np.pi, rel=0.03), look.__name__
        assert torch.maximum(u.abs(), v.abs())[inside].max() < extent, look.__name__
        share = float(marking[inside].mean())
        assert 0.1 < share < 0.8, look.__name__


def test_the_heart_has_no_corners_beside_its_lobes() -> None:
    """From its lobes down to its point no row is much wider or narrower than the one above."""
    line = (torch.arange(400) + 0.5) / 160 - 1.25
    v, u = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    distance, _ = rattle(Spot(u=u, v=v, shape=torch.full_like(u, 0.5), pixel=torch.full_like(u, 0.05)))
    widths = (distance < 0).view(400, 400).sum(dim=1)
    widest = int(widths.argmax())
    assert int(widths[widest]) > 250
    assert int(widths[widest - 30 :].diff().abs().max()) <= 4


def test_looks_differ_in_shape_or_marking() -> None:
    line = (torch.arange(120) + 0.5) / 48 - 1.25
    v, u = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    spot = Spot(u=u, v=v, shape=torch.full_like(u, 0.5), pixel=torch.full_like(u, 0.05))
    painted = []
    for look in LOOKS[: len(KINDS)]:
        distance, marking = look(spot)
        painted.append((distance < 0).float() * (1 + marking))
    for i, one in enumerate(painted):
        for other in painted[:i]:
            assert ((one - other).abs() > 0.5).float().mean() > 0.08


def test_sounding_is_independent_of_place_size_and_depth() -> None:
    """Mean area rank, depth and height of sounding objects equal those of silent ones, within sampling error."""
    rows = [row for seed in range(250) for row in _traits(draw_scene(seed, SceneOptions(visible=(3, 3))))]
    table = np.array(rows)
    for column in range(1, table.shape[1]):
        correlation = np.corrcoef(table[:, 0], table[:, column])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(len(table))


def _traits(scene: Scene) -> list[tuple[float, ...]]:
    sprites = scene.sprites
    clutter = len(sprites.kind) - scene.num_visible
    return [
        (
            float(sum(stop - start for start, stop in source.gates)),
            float(source.slot),
            float(sprites.radius[clutter + source.slot - 1, 0]),
            float(sprites.motion[clutter + source.slot - 1, 1, 0]),
            float(source.kind),
        )
        for source in scene.sources
        if source.slot
    ]


def test_audit_shows_that_pictures_alone_do_not_tell() -> None:
    figures = audit(100, seed=500)
    assert figures["num_kinds"] >= 12
    assert figures["iou_all_visible"] <= 0.55
    assert figures["iou_largest"] <= 0.45
    assert figures["share_sounding_with_silent"] >= 0.6
    assert figures["share_off_screen"] >= 0.1
    assert figures["share_quiet"] >= 0.1
    assert figures["colour_guess"] <= 0.4


@pytest.mark.gpu
def test_a_gpu_renders_the_same_within_the_stated_tolerance(batch: SampleBatch) -> None:
    other = sample_batch(SEEDS, samples_per_clip=3, size_px=96, device="cuda")
    assert (other.windows.cpu() - batch.windows).abs().max() < 0.01
    off = (other.frames.cpu().int() - batch.frames.int()).abs() > 2
    assert off.float().mean() < 0.001
    assert (other.masks.cpu() != batch.masks).float().mean() < 0.001


def _steepness(frames: torch.Tensor) -> float:
    """Mean difference of neighbouring pixels along the rows."""
    return float(frames.float().diff(dim=2).abs().mean())
