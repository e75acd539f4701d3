"""Public weights: every tensor arrives bit for bit, the function is the public one, and bad files say what is wrong."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.model.public_weights import (
    PVT_MLP_RATIO,
    PVT_STAGES,
    State,
    official_pvt,
    run_pvt,
    run_resnet,
    run_vggish,
    torchvggish,
    torchvision_resnet,
    with_doubled_stages,
)

from model.network.avesformer import AVESFormer
from model.network.config import AudioConfig, BackboneConfig, ModelConfig
from model.network.variants import variant
from model.network.vggish import Vggish
from model.public_weights.load import WeightsError, import_audio, import_backbone, load_public_weights, read_state

SMALL_DEPTHS, SMALL_STEM, SMALL_WIDTHS = (1, 2, 1, 1), 8, (16, 32, 48, 64)
HUB_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def small_config(backbone: BackboneConfig) -> ModelConfig:
    """`tiny` over another backbone: quick to build."""
    return replace(variant("tiny"), backbone=backbone)


def small_resnet() -> AVESFormer:
    options = {
        "embedding_size": SMALL_STEM,
        "hidden_sizes": SMALL_WIDTHS,
        "depths": SMALL_DEPTHS,
        "layer_type": "bottleneck",
    }
    return AVESFormer(small_config(BackboneConfig("resnet", options))).eval()


def small_state() -> State:
    return torchvision_resnet(SMALL_DEPTHS, SMALL_STEM, SMALL_WIDTHS)


def resnet_50() -> AVESFormer:
    return AVESFormer(small_config(variant("r50").backbone)).eval()


@torch.inference_mode()
def test_resnet_50_of_torchvision_computes_the_same(frames: torch.Tensor) -> None:
    model, state = resnet_50(), torchvision_resnet()
    report = import_backbone(model, state)
    assert report.layout == "torchvision"
    assert report.left_over == ("fc.weight", "fc.bias")
    assert report.num_tensors == len(state) - 2 == 265  # 53 convolutions, each with a norm of four
    for ours, theirs in zip(model.backbone(frames), run_resnet(state, frames), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_every_tensor_arrives_bit_for_bit() -> None:
    model, state = small_resnet(), small_state()
    for key in list(state):
        if key.endswith("running_mean"):
            state[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    import_backbone(model, state)
    own = model.backbone.network.state_dict()
    assert own["embedder.embedder.convolution.weight"].equal(state["conv1.weight"])
    assert own["encoder.stages.1.layers.1.layer.2.normalization.running_var"].equal(state["layer2.1.bn3.running_var"])
    assert own["encoder.stages.3.layers.0.shortcut.convolution.weight"].equal(state["layer4.0.downsample.0.weight"])
    assert own["encoder.stages.0.layers.0.layer.0.normalization.num_batches_tracked"] == 7
    sums = sorted(float(value.double().sum()) for key, value in state.items() if not key.startswith("fc"))
    assert sorted(float(value.double().sum()) for value in own.values()) == sums


@torch.inference_mode()
@pytest.mark.parametrize("prefix", ["", "encoder_backbone.", "module.backbone."])
def test_doubled_stages_use_the_first_copy(frames: torch.Tensor, prefix: str) -> None:
    state = small_state()
    doubled = {prefix + key: value for key, value in with_doubled_stages(state).items()}
    if prefix:
        doubled["head.other.weight"] = torch.zeros(3)  # the rest of such a program's network is not looked at
    model = small_resnet()
    report = import_backbone(model, doubled)
    assert len(report.left_over) == sum(key.startswith(("layer3", "layer4")) for key in state)
    for ours, theirs in zip(model.backbone(frames), run_resnet(state, frames, SMALL_DEPTHS), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@torch.inference_mode()
def test_pvt_under_its_official_names_computes_the_same(frames: torch.Tensor) -> None:
    widths, depths, heads, reductions = zip(*PVT_STAGES, strict=True)
    options = {
        "hidden_sizes": widths,
        "depths": depths,
        "num_attention_heads": heads,
        "sr_ratios": reductions,
        "mlp_ratios": (PVT_MLP_RATIO,) * 4,
    }
    model = AVESFormer(small_config(BackboneConfig("pvt_v2", options))).eval()
    state = official_pvt()
    report = import_backbone(model, state)
    assert report.layout == "PVT"
    assert report.left_over == ("head.weight", "head.bias")
    own = model.backbone.network.state_dict()
    assert report.num_tensors == len(own) == len(state) - 2 + 2 * sum(depths)  # key and value apart
    assert own["encoder.layers.1.blocks.1.attention.value.weight"].equal(state["block2.1.attn.kv.weight"][widths[1] :])
    for ours, theirs in zip(model.backbone(frames), run_pvt(state, frames), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@torch.inference_mode()
def test_vggish_of_the_torch_port_computes_the_same(log_mels: torch.Tensor) -> None:
    audio = AudioConfig("vggish", is_frozen=True)
    model, state = AVESFormer(replace(variant("tiny"), audio=audio)).eval(), torchvggish()
    report = import_audio(model, {**state, "pproc.pca_means": torch.zeros(128, 1)})
    assert report.num_tensors == 18
    assert report.left_over == ("pproc.pca_means",)
    assert all(value.equal(state[key]) for key, value in model.audio.state_dict().items())
    theirs = run_vggish(state, log_mels)
    assert torch.allclose(model.hear(log_mels), theirs, rtol=1e-4, atol=1e-4 * float(theirs.max()))
    with torch.device("meta"):
        googles = Vggish(replace(audio, has_final_relu=False))
    googles.load_state_dict(state, assign=True)
    before_relu = googles(log_mels)
    assert bool((before_relu < 0).any())
    assert torch.allclose(before_relu.relu(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.max()))


def test_transformers_own_names_are_taken_too() -> None:
    source, target = small_resnet(), small_resnet()
    state = {f"resnet.{key}": value + 1 for key, value in source.backbone.network.state_dict().items()}
    report = import_backbone(target, {**state, "classifier.1.weight": torch.zeros(2, 2)})
    assert report.layout == "transformers"
    assert all(value.equal(state[f"resnet.{key}"]) for key, value in target.backbone.network.state_dict().items())


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: without(state, "layer2.1.bn2.bias"),
            r"1 missing \(encoder\.stages\.1\.layers\.1\.layer\.1\.normalization\.bias\)",
        ),
        (lambda state: {**state, "layer9.0.conv1.weight": torch.zeros(1)}, r"1 unexpected \(layer9\.0\.conv1\.weight"),
        (
            lambda state: {**state, "layer4.1.conv1.weight": torch.zeros(16, 64, 1, 1)},
            r"1 unexpected \(encoder\.stages\.3\.layers\.1\.layer\.0\.convolution\.weight",
        ),
        (
            lambda state: {**state, "conv1.weight": torch.zeros(8, 1, 7, 7)},
            r"1 of another shape \(embedder\.embedder\.convolution\.weight: got \(8, 1, 7, 7\), expected \(8, 3, 7, 7",
        ),
        (lambda state: torchvggish(), r"expected keys such as conv1\.weight \(torchvision\) or .* got features\.0\."),
        (lambda state: {}, "got none"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_changes(change: object, message: str) -> None:
    model = small_resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        import_backbone(model, change(small_state()))  # type: ignore[operator]
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_audio_weights_need_a_vggish() -> None:
    with pytest.raises(WeightsError, match="audio branch is 'small'"):
        import_audio(small_resnet(), {})


@pytest.mark.parametrize("form", ["new.pth", "old.pth", "wrapped.pt", "tensors.safetensors"])
def test_every_kind_of_file_is_read(tmp_path: Path, form: str) -> None:
    state, path = small_state(), tmp_path / form
    if form == "tensors.safetensors":
        save_file(state, path)
    else:
        content = {"state_dict": state, "epoch": 3} if form == "wrapped.pt" else state
        torch.save(content, path, _use_new_zipfile_serialization=form != "old.pth")
    read = read_state(str(path))
    assert read.keys() == state.keys()
    assert all(read[key].equal(state[key]) for key in state)
    report = load_public_weights(small_resnet(), backbone=str(path))["backbone"]
    assert report.layout == "torchvision"


class Touch:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    path, trap = tmp_path / "trap.pth", tmp_path / "sprung"
    content = {"weight": torch.zeros(1), "extra": Touch(trap)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError, match=r"trap\.pth cannot be read as a plain file of tensors"):
        read_state(str(path))
    assert not trap.exists()


def test_damaged_files(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    for name in ("cut.pth", "cut.safetensors"):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state(str(tmp_path / name))
    torch.save({"weight": torch.zeros(2), "step": 3}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match="something other than tensors"):
        read_state(str(tmp_path / "mixed.pth"))
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / f"named-{digest[:8]}.pth").write_bytes(content)
    assert read_state(str(tmp_path / f"named-{digest[:8]}.pth")).keys() == small_state().keys()
    (tmp_path / "named-00000000.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"named-00000000\.pth is damaged"):
        read_state(str(tmp_path / "named-00000000.pth"))


def test_absent_files_say_where_to_get_them(tmp_path: Path) -> None:
    model = AVESFormer(replace(variant("tiny"), audio=AudioConfig("vggish", is_frozen=True)))
    with pytest.raises(WeightsError, match=r"no weights at .*vggish\.pth\. Fetch vggish-10086976\.pth of github"):
        load_public_weights(model, audio=str(tmp_path / "vggish.pth"))
    with pytest.raises(WeightsError, match="timm/resnet50"):
        load_public_weights(model, backbone="weights/resnet50.pth")


def test_hub_ids_are_read_from_the_hub_cache_without_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--maker--net"
    (folder / "snapshots" / HUB_COMMIT / "sub").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(HUB_COMMIT)
    save_file({"weight": torch.zeros(1)}, folder / "snapshots" / HUB_COMMIT / "sub" / "some.safetensors")
    code = (
        "from model.public_weights.load import read_state\n"
        "print(list(read_state('maker/net:sub/some.safetensors', hint='it there')))\n"
        "read_state('maker/other', hint='it there')\n"
    )
    settings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "['weight']", done.stderr
    assert "no weights at maker/other: neither a file here nor model.safetensors of the hub's" in done.stderr
    assert "Fetch it there" in done.stderr
