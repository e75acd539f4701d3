"""Exported files answer as the network does, for any batch; and are complete, described, or absent."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from model.cli.main import app
from model.export import METADATA_NAME, ExportError, export_checkpoint, measure_parity
from model.inference import Predictor
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.config import BackboneConfig, DecoderConfig, HeadConfig, ModelConfig, PromptConfig
from model.network.variants import variant

SHARE = 1e-5  # of the largest logit


def config(name: str) -> ModelConfig:
    """`tiny`; or the parts of `r50` that it lacks, made small, with three labels."""
    if name == "tiny":
        return replace(variant("tiny"), input_height=64, input_width=96)
    resnet = {"embedding_size": 8, "hidden_sizes": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
    return replace(
        variant("r50", labels=("background", "dog", "cat")),
        input_height=64,
        input_width=64,
        width=32,
        audio=replace(variant("tiny").audio, is_frozen=True),
        backbone=BackboneConfig("resnet", resnet),
        prompt=PromptConfig(num_prompts=4),
        decoder=DecoderConfig(num_conv_blocks=1, num_transformer_blocks=1, num_heads=4, ffn_width=32),
        head=HeadConfig(width=32, kind="conv", hidden_widths=(16, 8), has_final_bias=False),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Untrained networks as checkpoints, by name."""

    def write(name: str) -> Path:
        torch.manual_seed(0)
        model = AVESFormer(config(name))
        for key, value in model.state_dict().items():
            if key.endswith(("running_mean", "running_var")):  # so that folding the norms has something to fold
                value += 0.1 * torch.rand_like(value)
        path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
        save_checkpoint(path, config=model.config, state=model.state_dict(), world_version=None, training={})
        return path

    return write


def samples(predictor: Predictor, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(count)
    size = (count, predictor.info.input_height, predictor.info.input_width, 3)
    windows = draw.normal(0, 0.2, (count, 15_600)).astype(np.float32)
    return draw.integers(0, 256, size, dtype=np.uint8), windows


@pytest.mark.parametrize("name", ["tiny", "like-r50"])
def test_onnx_equals_the_network(checkpoint: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path = checkpoint(name)
    report = export_checkpoint(path, tmp_path / "new" / "model.onnx", form="onnx")
    assert report.max_difference <= SHARE * report.max_logit
    assert [entry.name for entry in report.path.parent.iterdir()] == ["model.onnx"]
    program = onnx.load(report.path)
    onnx.checker.check_model(program, full_check=True)
    described = json.loads({entry.key: entry.value for entry in program.metadata_props}[METADATA_NAME])
    predictor = Predictor.load(path, device="cpu", dtype="float32")
    assert described["checkpoint"] == predictor.info.checkpoint
    assert tuple(described["labels"]) == predictor.info.labels
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    assert [entry.shape[0] for entry in session.get_inputs()] == ["batch", "batch"]
    for count in (1, 5):
        frames, windows = samples(predictor, count)
        (got,) = session.run(["logits"], {"frames": frames, "windows": windows})
        expected = predictor.predict(frames, windows)
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= SHARE * np.abs(expected).max()


def test_torch_archive_by_the_command_equals_the_network(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    path, out = checkpoint("tiny"), tmp_path / "model.pt2"
    arguments = ["export", "--checkpoint", str(path), "--format", "torch", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert f"wrote {out}" in result.stdout
    assert "largest difference from the network" in result.stdout
    predictor = Predictor.load(path, device="cpu", dtype="float32")
    extra = {METADATA_NAME: ""}
    module = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra[METADATA_NAME])["variant"] == predictor.info.variant
    for count in (1, 5):
        frames, windows = samples(predictor, count)
        got = module(torch.from_numpy(frames), torch.from_numpy(windows)).detach().numpy()
        expected = predictor.predict(frames, windows)
        assert np.abs(got - expected).max() <= SHARE * np.abs(expected).max()


def test_a_function_that_differs_or_breaks_is_noticed(checkpoint: Callable[[str], Path]) -> None:
    predictor = Predictor.load(checkpoint("tiny"), device="cpu", dtype="float32")
    difference, largest = measure_parity(lambda frames, windows: predictor.predict(frames, windows) + 0.5, predictor)
    assert difference == pytest.approx(0.5, rel=1e-3)
    assert largest > 0.1
    with pytest.raises(ExportError, match="gives"):
        measure_parity(lambda frames, windows: predictor.predict(frames[:1], windows[:1])[:, :, 1:], predictor)
    with pytest.raises(ExportError, match="gives"):
        measure_parity(lambda frames, windows: predictor.predict(frames, windows) * np.nan, predictor)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [(("--format", "pickle"), 2, "pickle"), (("--format", "torch"), 1, "error: cannot read the checkpoint absent")],
)
def test_bad_arguments(tmp_path: Path, arguments: tuple[str, str], code: int, error: str) -> None:
    result = CliRunner().invoke(app, ["export", "--checkpoint", "absent", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == code
    assert error in result.stderr
    assert list(tmp_path.iterdir()) == []
