"""Named training runs. Those on AVSBench are our reconstruction: the paper's schedule is not public."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from model.training.config import TrainingConfig


def tiny_synthetic() -> TrainingConfig:
    """`tiny` on the synthetic world from random weights, on one CPU core in about 75 minutes.

    The run starts with small frames, whose steps cost half, and ends at the size of use. The shipped checkpoint is such
    a run, continued on a later version of the world with `init` and frames of 128 and 160 pixels (MODEL_CARD.md).
    """
    return TrainingConfig(
        name="tiny-synthetic",
        variant="tiny",
        steps=20_000,
        sizes=((0.0, 96), (0.4, 128), (0.82, 160)),
        learning_rate=1.2e-3,
    )


def tiny_semantic() -> TrainingConfig:
    """`tiny` with a label per kind of the synthetic world; --set init=CHECKPOINT starts from a binary one.

    Such a run starts with correct masks and learns only the labels, so its learning rate is half the binary run's.
    """
    return TrainingConfig(
        name="tiny-semantic",
        variant="tiny",
        is_semantic=True,
        steps=5_000,
        sizes=((0.0, 128), (0.6, 160)),
        learning_rate=6e-4,
    )


def lite_pictures() -> TrainingConfig:
    """`lite` on pictures with masks and recordings, from public weights; about 90 minutes on two CPU cores.

    --root DIR names the folder, --set backbone_weights=… and audio_weights=… the public weights (docs/researchers.md).
    """
    return TrainingConfig(
        name="lite-pictures",
        variant="lite",
        data="pictures",
        is_semantic=True,
        steps=20_000,
        max_minutes=85.0,
        sizes=((0.0, 256), (0.5, 320)),
        learning_rate=8e-4,
        backbone_rate=0.15,
        audio_rate=0.15,
        weight_decay=0.05,
        amp="bf16",
        evaluate_minutes=12.0,
        evaluate_clips=80,
        warmup_steps=200,
    )


def s4_r50() -> TrainingConfig:
    """`r50` on AVSBench S4: first frames only, which is all that S4 labels for training."""
    return replace(_avsbench("s4-r50"), data="avsbench-s4", epochs=30.0, batch_clips=16, backbone_frozen_epochs=5.0)


def ms3_r50() -> TrainingConfig:
    """`r50` on AVSBench MS3: 296 clips of five labelled frames; --set init=S4-CHECKPOINT starts from S4."""
    return replace(_avsbench("ms3-r50"), data="avsbench-ms3", epochs=60.0, batch_clips=4, backbone_frozen_epochs=10.0)


def avss_r50() -> TrainingConfig:
    """`r50` on AVSBench AVSS: 70 classes and the background, one to ten labelled frames per clip."""
    return replace(_avsbench("avss-r50"), data="avsbench-avss", epochs=30.0, batch_clips=4)


RECIPES: Mapping[str, Callable[[], TrainingConfig]] = {
    "tiny-synthetic": tiny_synthetic,
    "tiny-semantic": tiny_semantic,
    "lite-pictures": lite_pictures,
    "s4-r50": s4_r50,
    "ms3-r50": ms3_r50,
    "avss-r50": avss_r50,
}


def recipe(name: str, *, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Return a recipe with `key=value` overrides. A key with a dot (`prompt.mode=add`) is a field of the model.

    Raises:
        ValueError: no such recipe or key, or a value of the wrong type.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: got {name!r}, expected one of {', '.join(RECIPES)}")
    config = RECIPES[name]()
    knobs = dict(config.knobs)
    values: dict[str, Any] = {}
    for entry in overrides:
        key, value = _parse(config, entry)
        if "." in key:
            knobs[key] = value
        else:
            values[key] = value
    config = replace(config, **values, knobs=tuple(knobs.items()))
    config.model_config(labels=("sounding",))  # a variant or knob that does not exist fails here
    return config


def _avsbench(name: str) -> TrainingConfig:
    """Return the settings of all AVSBench recipes: epochs and frozen backbone after AVSegFormer, rates after COMBO."""
    return TrainingConfig(
        name=name,
        variant="r50",
        seed=123,
        sizes=((0.0, 224),),
        learning_rate=1e-4,
        weight_decay=0.05,
        warmup_steps=200,
        backbone_rate=0.1,
        evaluate_minutes=0.0,
        evaluate_clips=0,
        save_minutes=10.0,
        has_tensorboard=True,
    )


def _parse(config: TrainingConfig, entry: str) -> tuple[str, Any]:
    key, separator, text = entry.partition("=")
    known = {field.name for field in fields(config)} - {"name", "knobs"}
    if separator and "." in key:
        return key, text
    if not separator or key not in known:
        raise ValueError(f"override: got {entry!r}, expected key=value with key one of {', '.join(sorted(known))}")
    if key == "sizes":
        return key, _parse_sizes(text)
    choices = get_args(get_type_hints(TrainingConfig)[key])
    if choices:
        if text not in choices:
            raise ValueError(f"{key}: got {text!r}, expected {', '.join(choices)}")
        return key, text
    return key, _parse_plain(key, text, type(getattr(config, key)))


def _parse_plain(key: str, text: str, kind: type[Any]) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{key}: got {text!r}, expected true or false")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key}: got {text!r}, expected {kind.__name__}") from None


def _parse_sizes(text: str) -> tuple[tuple[float, int], ...]:
    """Parse `0:96,0.35:128` to ((0.0, 96), (0.35, 128))."""
    try:
        pairs = [entry.split(":") for entry in text.split(",")]
        sizes = tuple((float(start), int(size)) for start, size in pairs)
    except ValueError:
        raise ValueError(f"sizes: got {text!r}, expected start:pixels,… such as 0:96,0.35:128") from None
    if sizes[0][0] != 0.0 or any(size % 16 for _, size in sizes):
        raise ValueError(f"sizes: got {text!r}, expected the first start at 0 and multiples of 16 pixels")
    return sizes
