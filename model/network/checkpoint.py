"""Checkpoints: safetensors files whose header has the configuration, the labels, the world and the training summary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.network.avesformer import AVESFormer
from model.network.config import ModelConfig

FORMAT = "avesformer-checkpoint"
FORMAT_VERSION = 1
SHIPPED_CHECKPOINT = Path(__file__).parents[1] / "weights" / "lite.safetensors"


class CheckpointError(ValueError):
    """The file is not one of our checkpoints, or this program cannot read it."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        config: the model configuration.
        state: weights by name.
        digest: `sha256:` plus the hexadecimal hash of the file's bytes.
        world_version: version of the synthetic world it was trained on, None for other data.
        training: summary of the run (recipe, steps, samples, minutes, figures).
    """

    config: ModelConfig
    state: Mapping[str, Tensor]
    digest: str
    world_version: int | None
    training: Mapping[str, Any]

    def resized(self, input_px: int) -> Checkpoint:
        """Return the same weights for frames of another size, under another digest: `DIGEST@SIZE`.

        Args:
            input_px: frame height and width, a multiple of 16.
        """
        if (self.config.input_height, self.config.input_width) == (input_px, input_px):
            return self
        config = replace(self.config, input_height=input_px, input_width=input_px)
        return replace(self, config=config, digest=f"{self.digest}@{input_px}")

    def build(self) -> AVESFormer:
        """Return the network with these weights, in eval mode, on the CPU.

        Raises:
            CheckpointError: the weights do not match the configuration.
        """
        model = AVESFormer(self.config)
        try:
            model.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise CheckpointError(f"weights do not fit their configuration: {error}") from error
        return model.eval()


def save_checkpoint(
    path: Path,
    *,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    world_version: int | None,
    training: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all (a temporary file, then a rename).

    Args:
        path: target file.
        config: the model configuration.
        state: weights by name; written as they are.
        world_version: version of the synthetic world, or None.
        training: JSON-ready summary of the run.
    """
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "labels": json.dumps(config.labels),
        "world_version": json.dumps(world_version),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, partial, metadata=header)
    partial.replace(path)


def find_checkpoint(path: Path) -> Path:
    """The file itself; for a bare name that is no file here, such as `tiny-semantic`, the shipped one of that name."""
    shipped = SHIPPED_CHECKPOINT.with_name(f"{path.name}.safetensors")
    return shipped if path == Path(path.name) and not path.exists() and shipped.exists() else path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in the file is executed.

    Args:
        path: a file, or the name of a shipped one: see `find_checkpoint`.

    Raises:
        CheckpointError: missing, damaged, of another program or of a newer format.
    """
    path = find_checkpoint(path)
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path.name}: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} is not an AVESFormer checkpoint (no '{FORMAT}' in its header)")
    try:
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise CheckpointError(f"{path.name} has format {version}, this program reads up to {FORMAT_VERSION}")
        return Checkpoint(
            config=ModelConfig.from_dict(json.loads(header["config"])),
            state=state,
            digest=f"sha256:{digest}",
            world_version=json.loads(header["world_version"]),
            training=json.loads(header["training"]),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path.name} has a damaged header: {error!r}") from error
