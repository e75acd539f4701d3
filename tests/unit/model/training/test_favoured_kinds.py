"""Kinds that half of the training clips show more often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from model.data.synthetic import KINDS, TRAINING_SEEDS, SceneOptions
from model.data.world.scene import draw_cast, draw_scene
from model.training.recipes import recipe
from model.training.tasks.synthetic import training_seeds
from model.training.trainer import Trainer

USUAL = replace(recipe("tiny-semantic"), clips_per_group=8)
FAVOURED = replace(USUAL, favoured_kinds="bird, spray")
NUM_GROUPS = 60


def shown(config_kinds: list[int]) -> Counter[str]:
    """How often 480 clips show each kind."""
    seeds = [seed for group in range(NUM_GROUPS) for seed in training_seeds(group, USUAL, favoured=config_kinds)]
    assert len(set(seeds)) == NUM_GROUPS * USUAL.clips_per_group
    assert min(seeds) >= TRAINING_SEEDS
    return Counter(KINDS[kind] for seed in seeds for kind in draw_cast(seed, SceneOptions()).visible)


def test_favoured_kinds_are_shown_more_often_and_the_others_as_before() -> None:
    plain, favoured = shown([]), shown([KINDS.index("bird"), KINDS.index("spray")])
    for kind in KINDS:
        share = favoured[kind] / plain[kind]
        assert share > 1.5 if kind in ("bird", "spray") else 0.7 < share < 1.4, (kind, share)


def test_without_favoured_kinds_the_seeds_follow_each_other() -> None:
    seeds = [seed for group in range(3) for seed in training_seeds(group, replace(USUAL, seed=2))]
    assert seeds == list(range(3 * TRAINING_SEEDS, 3 * TRAINING_SEEDS + 24))


@pytest.mark.parametrize("seed", [0, 7, 1_000_000])
def test_a_cast_is_that_of_its_scene(seed: int) -> None:
    options = SceneOptions(visible=(2, 5))
    scene, cast = draw_scene(seed, options), draw_cast(seed, options)
    assert [source.kind for source in scene.sources] == [*cast.visible, *cast.off_screen]
    assert (scene.num_visible, scene.aspect) == (len(cast.visible), cast.aspect)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="favoured_kinds: got dragon, expected some of gong"):
        Trainer(replace(FAVOURED, favoured_kinds="bird,dragon"), out=tmp_path)


def test_a_run_takes_the_kinds_from_its_configuration(tmp_path: Path) -> None:
    trainer = Trainer(replace(FAVOURED, samples_per_clip=1, batch_samples=8, sizes=((0.0, 32),)), out=tmp_path)
    batch = trainer.task.batch(0, size_px=32)
    trainer.close()
    plain = Trainer(replace(USUAL, samples_per_clip=1, batch_samples=8, sizes=((0.0, 32),)), out=tmp_path)
    kinds = [1 + KINDS.index(name) for name in ("bird", "spray")]
    assert sum((batch.kind_map == kind).any(dim=(1, 2)).sum() for kind in kinds) > 0
    assert not (batch.kind_map == plain.task.batch(0, size_px=32).kind_map).all()
    plain.close()
