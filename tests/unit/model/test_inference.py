"""The predictor: same bytes for the same batch, any neighbours, clear refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.inference import Predictor, choose_device
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.preprocess import normalise_frames, window_log_mel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny: AVESFormer) -> Path:
    """A checkpoint whose norms have seen something, so that folding them is not the identity."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    generator = torch.Generator().manual_seed(7)
    state = {
        name: value + 0.2 * torch.rand(value.shape, generator=generator) if "running" in name else value
        for name, value in tiny.state_dict().items()
    }
    save_checkpoint(path, config=tiny.config, state=state, world_version=None, training={})
    return path


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor.load(checkpoint, device="cpu", threads=1)


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    return frames, rng.uniform(-0.5, 0.5, (5, 15_600)).astype(np.float32)


def test_info_tells_what_the_file_is(predictor: Predictor) -> None:
    info = predictor.info
    assert info.variant == "tiny"
    assert info.checkpoint.startswith("sha256:")
    assert len(info.checkpoint) == 71
    assert info.labels == ("sounding",)
    assert info.world_version is None
    assert (info.input_height, info.input_width, info.is_semantic) == (160, 160, False)
    assert predictor.is_healthy()


def test_logits_are_those_of_the_network(
    predictor: Predictor, checkpoint: Path, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    from model.network.checkpoint import load_checkpoint

    frames, windows = (torch.from_numpy(values) for values in batch)
    with torch.inference_mode():
        expected = load_checkpoint(checkpoint).build()(normalise_frames(frames), window_log_mel(windows))
    logits = predictor.predict(*batch)
    assert logits.dtype == np.float32
    assert logits.shape == (5, 1, 32, 32)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_equal_batches_give_equal_bytes(predictor: Predictor, batch: tuple[np.ndarray, np.ndarray]) -> None:
    assert predictor.predict(*batch).tobytes() == predictor.predict(*batch).tobytes()


def test_neighbours_do_not_matter(predictor: Predictor, batch: tuple[np.ndarray, np.ndarray]) -> None:
    frames, windows = batch
    together = predictor.predict(frames, windows)
    for index in range(len(frames)):
        alone = predictor.predict(frames[index : index + 1], windows[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4)
    # In a batch of the same shape with other neighbours at the same place, to the byte.
    others = frames[::-1].copy()
    others[2] = frames[2]
    assert predictor.predict(others, windows)[2].tobytes() == together[2].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_it_gives_the_same_bytes(checkpoint: Path, dtype: str) -> None:
    eager, compiled = (Predictor.load(checkpoint, device="cpu", dtype=dtype, threads=1) for _ in range(2))
    rng = np.random.default_rng(1)
    other_size = rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    windows = rng.uniform(-0.5, 0.5, (5, 15_600)).astype(np.float32)
    expected_of_other = compiled.predict(other_size, windows[:2])
    assert compiled.compile()
    for num in (1, 2, 5):
        frames = rng.integers(0, 256, (num, 160, 160, 3), dtype=np.uint8)
        assert compiled.predict(frames, windows[:num]).tobytes() == eager.predict(frames, windows[:num]).tobytes()
    assert compiled.predict(other_size, windows[:2]).tobytes() == expected_of_other.tobytes()
    with pytest.raises(ValueError, match="windows: got"):
        compiled.predict(frames, windows[:2])


def test_read_only_arrays_are_fine(predictor: Predictor, batch: tuple[np.ndarray, np.ndarray]) -> None:
    frames, windows = batch
    received = np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape)
    heard = np.frombuffer(windows.tobytes(), np.float32).reshape(windows.shape)
    np.testing.assert_array_equal(predictor.predict(received, heard), predictor.predict(frames, windows))


@pytest.mark.parametrize(
    ("frames", "windows"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 15_600), np.float32)),
        (np.zeros((0, 64, 64, 3), np.uint8), np.zeros((0, 15_600), np.float32)),
        (np.zeros((1, 60, 64, 3), np.uint8), np.zeros((1, 15_600), np.float32)),
        (np.zeros((1, 64, 64, 3), np.uint8), np.zeros((2, 15_600), np.float32)),
        (np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 15_600), np.float64)),
    ],
)
def test_bad_shapes_are_refused(predictor: Predictor, frames: np.ndarray, windows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="got"):
        predictor.predict(frames, windows)


def test_bad_devices_and_dtypes_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="dtype: got 'float8'"):
        Predictor.load(checkpoint, device="cpu", dtype="float8")
    for name in ("gpu", "meta", "cuda:99"):
        with pytest.raises(ValueError, match="device: got"):
            choose_device(name)


def test_bfloat16_stays_close(checkpoint: Path, predictor: Predictor, batch: tuple[np.ndarray, np.ndarray]) -> None:
    half = Predictor.load(checkpoint, device="cpu", dtype="bfloat16")
    difference = np.abs(half.predict(*batch) - predictor.predict(*batch))
    assert 0 < difference.max() < 0.3
    assert (half.compute_type, predictor.compute_type) == ("bfloat16", "float32")
    assert (half.device_facts["device"], half.device_facts["dtype"]) == ("cpu", "bfloat16")


def test_another_frame_size_is_another_model(predictor: Predictor, checkpoint: Path) -> None:
    smaller = Predictor.load(checkpoint, device="cpu", threads=1, input_px=96)
    assert (smaller.info.input_height, smaller.info.input_width) == (96, 96)
    assert smaller.info.checkpoint == f"{predictor.info.checkpoint}@96"
    frames = np.zeros((1, 96, 96, 3), np.uint8)
    logits = smaller.predict(frames, np.zeros((1, 15_600), np.float32))
    assert (
        logits.shape[-1] * predictor.info.input_width
        == 96 * predictor.predict(np.zeros((1, 160, 160, 3), np.uint8), np.zeros((1, 15_600), np.float32)).shape[-1]
    )
    assert Predictor.load(checkpoint, device="cpu", threads=1, input_px=160).info == predictor.info
    for wrong in (0, 8, 100, -16):
        with pytest.raises(ValueError, match=f"input_px: got {wrong}, expected a multiple of 16"):
            Predictor.load(checkpoint, device="cpu", input_px=wrong)
