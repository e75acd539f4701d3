"""Configurations survive JSON and refuse what the layers cannot build."""

import json
from dataclasses import replace

import pytest

from model.config import VARIANTS, ModelConfig, PromptConfig, variant


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_survives_json(name: str) -> None:
    config = variant(name)
    assert config.variant == name
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(config.to_dict())
    assert again.labels == config.labels
    assert again.audio.stage_widths == config.audio.stage_widths


def test_unknown_keys_name_themselves() -> None:
    values = variant("tiny").to_dict()
    values["prompt"] = {**values["prompt"], "novelty": 1}
    with pytest.raises(ValueError, match="PromptConfig: unknown keys novelty"):
        ModelConfig.from_dict(values)


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="tiny"):
        variant("huge")


def test_bad_values_are_refused() -> None:
    config = variant("tiny")
    with pytest.raises(ValueError, match=r"prompt\.mode: got 'loud'"):
        replace(config, prompt=PromptConfig(mode="loud"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fuse_stride"):
        replace(config, fuse_stride=5)
    with pytest.raises(ValueError, match="width"):
        replace(config, width=130)
    with pytest.raises(ValueError, match="background"):
        replace(config, labels=("dog", "cat"))
    with pytest.raises(ValueError, match="labels"):
        replace(config, labels=())


def test_more_than_one_label_makes_it_semantic() -> None:
    assert not variant("tiny").is_semantic
    assert variant("tiny", labels=("background", "dog")).is_semantic
