"""TensorFlow Lite files: integers become the numbers that they stand for, and layers land in the right places.

`AVESFORMER_TFLITE_DIR` names a folder with the public yamnet.tflite and deeplabv3_mnv2_pascal.tflite; without it their
tests are skipped. The comparisons with TensorFlow Lite's interpreter need the package `ai-edge-litert`, too.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.tflite_files import NUM_PASCAL, convolutions, deeplab_file, floats, stored
from support.model.tflite_writer import StoredLayer, StoredTensor, write_tflite
from torch.nn import functional as F

from model.data.mp4 import read_mp4
from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND
from model.network.preprocess import WINDOW_SAMPLES, normalise_frames, window_log_mel
from model.network.variants import variant
from model.public_weights.load import WeightsError, load_public_weights
from model.public_weights.tflite_file import TfliteError, read_tflite

KINDS = ("dog", "clock", "train")
NUM_AUDIOSET = 521
# The place of "Silence" in yamnet_class_map.csv.
SILENCE = 494


@pytest.fixture
def lite() -> AVESFormer:
    torch.manual_seed(0)
    return AVESFormer(variant("lite", labels=(BACKGROUND, *KINDS))).eval()


@pytest.fixture(scope="module")
def example() -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (513, 513, 3) and sound of the example clip."""
    return read_mp4(Path(__file__).parents[3] / "assets" / "example.mp4", width=513, height=513)


def yamnet_file(model: AVESFormer, path: Path, *, seed: int = 0) -> list[StoredLayer]:
    random = np.random.default_rng(seed)
    mel = StoredLayer("dense", floats(random.standard_normal((64, 257))), floats(np.zeros(64)))
    layers = [stored(entry, random) for entry in convolutions(model.audio)]
    classifier = StoredLayer(
        "dense", floats(random.standard_normal((NUM_AUDIOSET, 1024))), floats(random.standard_normal(NUM_AUDIOSET))
    )
    path.write_bytes(write_tflite([mel, *layers, classifier]))
    return [*layers, classifier]


def test_integers_per_channel_and_per_tensor(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    depthwise = random.integers(-127, 128, (1, 3, 3, 4)).astype(np.int8)
    scales = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    dense = random.integers(0, 256, (2, 5)).astype(np.uint8)
    layers = [
        StoredLayer(
            "depthwise",
            StoredTensor(depthwise, scales, np.zeros(4, np.int64), axis=3),
            StoredTensor(np.array([1, -2, 3, 4], np.int32), scales, np.zeros(4, np.int64)),
        ),
        StoredLayer(
            "dense", StoredTensor(dense, np.array([0.5], np.float32), np.array([128])), floats(np.array([0.25, -1]))
        ),
    ]
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(layers))
    first, second = read_tflite(path)
    expected = (depthwise * scales).transpose(3, 0, 1, 2)
    assert np.allclose(first.weight.numpy(), expected)
    assert np.allclose(first.bias.numpy(), [0.1, -0.4, 0.9, 1.6])
    assert np.allclose(second.weight.numpy(), (dense.astype(float) - 128) * 0.5)
    assert np.allclose(second.bias.numpy(), [0.25, -1])


def test_yamnet_lands_in_the_audio_branch_and_its_expert(lite: AVESFormer, tmp_path: Path) -> None:
    path = tmp_path / "yamnet.tflite"
    *features, classifier = yamnet_file(lite, path)
    report = load_public_weights(lite, audio=str(path))["audio"]
    assert report.num_tensors == 2 * len(features) + 2
    for convolution, layer in zip(convolutions(lite.audio), features, strict=True):
        axes = (3, 0, 1, 2) if layer.kind == "depthwise" else (0, 3, 1, 2)
        assert np.array_equal(convolution.weight.detach().numpy(), layer.weight.values.transpose(axes))
        assert np.array_equal(convolution.bias.detach().numpy(), layer.bias.values)
    assert lite.experts is not None
    heard = lite.experts.heard.weight.detach().numpy()
    # AudioSet's rows of dog, clock and train.
    assert np.array_equal(heard, classifier.weight.values[[69, 400, 323]])


def test_deeplab_lands_in_the_backbone_and_its_expert(lite: AVESFormer, tmp_path: Path) -> None:
    path = tmp_path / "deeplab.tflite"
    *features, classifier = deeplab_file(lite, path)
    load_public_weights(lite, backbone=str(path))
    for convolution, layer in zip(convolutions(lite.backbone.network), features, strict=True):
        assert np.array_equal(convolution.bias.detach().numpy(), layer.bias.values)
    assert lite.experts is not None
    seen = lite.experts.seen.weight.detach().numpy()[:, :, 0, 0]
    # Pascal's background, dog, nothing for the clock, train.
    assert np.array_equal(seen[[0, 1, 3]], classifier.weight.values[[0, 12, 19], 0, 0])
    assert not seen[2].any()
    assert float(lite.experts.seen.bias.detach()[2]) < -3


def test_files_of_other_networks_change_nothing(lite: AVESFormer, tiny: AVESFormer, tmp_path: Path) -> None:
    path = tmp_path / "yamnet.tflite"
    yamnet_file(lite, path)
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    with pytest.raises(WeightsError, match=r"yamnet\.tflite"):
        load_public_weights(lite, backbone=str(path))
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())
    with pytest.raises(WeightsError, match="no place for YAMNet"):
        load_public_weights(tiny, audio=str(path))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "noise.tflite"
    path.write_bytes(b"something else entirely")
    with pytest.raises(TfliteError, match="TFL3"):
        read_tflite(path)


needs_public_files = pytest.mark.skipif(
    "AVESFORMER_TFLITE_DIR" not in os.environ, reason="names a folder with the public files"
)


@needs_public_files
def test_the_public_files_fit(lite: AVESFormer) -> None:
    folder = Path(os.environ["AVESFORMER_TFLITE_DIR"])
    reports = load_public_weights(
        lite, backbone=str(folder / "deeplabv3_mnv2_pascal.tflite"), audio=str(folder / "yamnet.tflite")
    )
    assert {name: report.layout for name, report in reports.items()} == {
        "backbone": "TensorFlow Lite",
        "audio": "TensorFlow Lite",
    }
    with torch.inference_mode():
        embedding = lite.hear(torch.full((1, 1, 96, 64), np.log(0.01)))
    classifier = read_tflite(folder / "yamnet.tflite")[-1]
    scores = classifier.weight.reshape(NUM_AUDIOSET, -1) @ embedding[0] + classifier.bias
    assert int(scores.argmax()) == SILENCE


def interpreted(path: Path, values: np.ndarray) -> np.ndarray:
    """The first output of a file for one input, by TensorFlow Lite's own interpreter."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
    interpreter = litert.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


@needs_public_files
@torch.inference_mode()
def test_pixels_agree_with_the_interpreter(lite: AVESFormer, example: tuple[list[np.ndarray], np.ndarray]) -> None:
    """DeepLab's own 21 classes at its own 513 pixels, on photographs of animals."""
    path = Path(os.environ["AVESFORMER_TFLITE_DIR"]) / "deeplabv3_mnv2_pascal.tflite"
    load_public_weights(lite, backbone=str(path))
    classifier = read_tflite(path)[-1]
    weight = classifier.weight.reshape(NUM_PASCAL, -1, 1, 1)
    agreeing = []
    for pixels in example[0][12::25]:
        inputs = normalise_frames(torch.from_numpy(pixels)[None])
        features = lite.backbone.network(inputs)[-1]
        logits = F.conv2d(features, weight, classifier.bias)
        classes = F.interpolate(logits, size=(513, 513), mode="bilinear", align_corners=True).argmax(dim=1)[0]
        agreeing.append(float((classes.numpy() == interpreted(path, pixels[None])).mean()))
    assert np.mean(agreeing) >= 0.985, agreeing


@needs_public_files
@torch.inference_mode()
def test_sounds_agree_with_the_interpreter(lite: AVESFormer, example: tuple[list[np.ndarray], np.ndarray]) -> None:
    """YAMNet's four likeliest AudioSet classes."""
    path = Path(os.environ["AVESFORMER_TFLITE_DIR"]) / "yamnet.tflite"
    load_public_weights(lite, audio=str(path))
    classifier = read_tflite(path)[-1]
    weight = classifier.weight.reshape(NUM_AUDIOSET, -1)
    for start in range(0, len(example[1]) - WINDOW_SAMPLES, WINDOW_SAMPLES):
        window = example[1][start : start + WINDOW_SAMPLES]
        embedding = lite.hear(window_log_mel(torch.from_numpy(window)[None]))
        scores = (embedding @ weight.T + classifier.bias)[0]
        wanted = interpreted(path, window)
        # Its scores have eight bits, so its fourth and fifth may be equal.
        assert set(scores.topk(4).indices.tolist()) <= set(np.argsort(wanted)[-5:].tolist())
        assert np.allclose(scores.sigmoid().numpy(), wanted, atol=0.08)
