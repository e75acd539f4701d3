"""Configurations survive JSON and refuse what the layers cannot build."""

import json
from dataclasses import replace

import pytest

from model.network.config import ModelConfig, PromptConfig
from model.network.variants import VARIANTS, variant


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


def test_knobs_turn_single_fields() -> None:
    knobs = {
        "prompt.mode": "add",
        "prompt.num_prompts": "16",
        "decoder.conv_kind": "depthwise",
        "audio.is_frozen": "false",
        "norm": "batch",
        "input_height": "384",
    }
    config = variant("r50", knobs=knobs)
    assert (config.prompt.mode, config.prompt.num_prompts) == ("add", 16)
    assert (config.decoder.conv_kind, config.norm, config.input_height) == ("depthwise", "batch", 384)
    assert config.audio.is_frozen is False
    assert config.decoder.num_transformer_blocks == variant("r50").decoder.num_transformer_blocks


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prompt.novelty", "1", r"knob: got 'prompt\.novelty'"),
        ("novelty", "1", "knob: got 'novelty'"),
        ("no.such.part", "1", "knob: got"),
        ("variant", "mine", "knob: got 'variant'"),
        ("backbone", "1", "knob: got 'backbone'"),
        ("prompt.mode", "loud", r"prompt\.mode: got 'loud', expected one of 'none'"),
        ("prompt.num_prompts", "-3", r"prompt\.num_prompts: got '-3', expected a whole number"),
        ("prompt.num_prompts", "0", r"prompt\.num_prompts: got 0, expected at least 1"),
        ("decoder.num_heads", "0", r"decoder\.num_heads: got 0"),
        ("audio.is_frozen", "1", r"audio\.is_frozen: got '1', expected one of 'true', 'false'"),
        ("head.kind", "odd", r"head\.kind: got 'odd'"),
        ("norm", "layer", "norm: got 'layer'"),
        ("audio.embedding_dim", "64", "expected 128 for vggish"),
    ],
)
def test_bad_knobs_say_why(key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant("r50", knobs={key: value})
