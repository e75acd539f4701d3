"""The training loop on the real world, small: it learns, resumes exactly and stops at nonsense."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.network.checkpoint import load_checkpoint
from model.training.config import TrainingConfig, TrainingError
from model.training.recipes import RECIPES, recipe
from model.training.trainer import Trainer

SMALL = TrainingConfig(
    name="small",
    variant="tiny",
    steps=30,
    batch_samples=8,
    clips_per_group=4,
    samples_per_clip=4,
    sizes=((0.0, 64),),
    learning_rate=2e-3,
    warmup_steps=3,
    evaluate_minutes=1e6,
    evaluate_clips=2,
    device="cpu",
)


class StepClock:
    """A clock that a second passes on at every look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_thirty_steps_teach_the_kinds_and_leave_a_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, out=tmp_path)
    reports: list[dict[str, float]] = []
    trainer.run(reports.append)
    steps = [entry for entry in reports if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 31))
    for name in ("loss", "pixel_kind", "audio_kind"):
        first, last = (sum(entry[name] for entry in part) / 5 for part in (steps[:5], steps[-5:]))
        assert last < 0.9 * first, name
    assert steps[-1]["lr"] < 0.05 * SMALL.learning_rate
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.training["steps"] == 30
    assert loaded.training["recipe"]["name"] == "small"
    assert loaded.world_version is not None
    loaded.build()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["samples"] == 240


def test_thirty_steps_on_one_batch_lower_its_mask_losses(tmp_path: Path) -> None:
    """On new batches the mask losses hang on how much sounds in each for far longer than a test may take."""
    trainer = Trainer(SMALL, out=tmp_path)
    batch = trainer.task.batch(0, size_px=64)
    steps = [trainer.step(batch) for _ in range(SMALL.steps)]
    trainer.close()
    for name in ("mask", "swapped"):
        assert steps[-1][name] < 0.8 * steps[0][name], name


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = Trainer(SMALL, out=tmp_path / "whole")
    for _ in range(4):
        whole.step()
    broken = Trainer(SMALL, out=tmp_path / "broken")
    for _ in range(3):  # three of the two-step groups' steps: the cut falls inside a group
        broken.step()
    broken.save()
    torch.manual_seed(99)
    torch.rand(5)
    resumed = Trainer(replace(SMALL, seed=SMALL.seed), out=tmp_path / "broken")
    resumed.resume()
    assert resumed.position.step == 3
    resumed.step()
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[name]), name
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name


def test_a_loss_that_is_not_finite_stops_with_a_clear_error(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, out=tmp_path)
    trainer.step()
    trainer.save()
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        trainer.objective.model.head.logits.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is not finite at step 1") as caught:
        trainer.step()
    assert "learning_rate" in str(caught.value)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_time_ends_a_run_with_its_schedule_complete(tmp_path: Path) -> None:
    config = replace(SMALL, steps=10_000, max_minutes=0.1, sizes=((0.0, 32), (0.5, 64)))
    trainer = Trainer(config, out=tmp_path, clock=StepClock())
    sizes, rates = [], []
    while trainer.progress < 1:
        report = trainer.step()
        sizes.append(report["size_px"])
        rates.append(report["lr"])
    assert sizes == [32, 32, 32, 64, 64, 64]
    assert rates[-1] < rates[2]
    assert trainer.learning_rate() == pytest.approx(0.01 * config.learning_rate)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        Trainer(SMALL, out=tmp_path).resume()


def test_a_run_of_another_model_is_not_resumed(tmp_path: Path) -> None:
    Trainer(SMALL, out=tmp_path).save()
    other = Trainer(replace(SMALL, is_semantic=True), out=tmp_path)
    with pytest.raises(TrainingError, match="another model"):
        other.resume()


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_names_itself_and_builds_its_configuration(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    assert config.model_config(labels=("sounding",)).variant == config.variant
    assert (RECIPES[name].__doc__ or "").strip()


def test_overrides_are_parsed_by_kind() -> None:
    overrides = ["steps=5", "max_minutes=1.5", "is_semantic=true", "amp=off", "sizes=0:64,0.5:96"]
    config = recipe("tiny-synthetic", overrides=overrides)
    assert (config.steps, config.max_minutes, config.is_semantic, config.amp) == (5, 1.5, True, "off")
    assert config.sizes == ((0.0, 64), (0.5, 96))


@pytest.mark.parametrize(
    "override",
    [
        "steps",
        "steps=many",
        "stride=2",
        "is_semantic=yes",
        "sizes=64",
        "sizes=0:60",
        "sizes=0.1:64",
        "name=x",
        "amp=fp8",
    ],
)
def test_bad_overrides_are_refused(override: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        recipe("tiny-synthetic", overrides=[override])


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="tiny-synthetic"):
        recipe("huge")
