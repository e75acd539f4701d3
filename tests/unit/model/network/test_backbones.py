"""Our ResNet and PVTv2 compute what transformers' do, under the same parameter names."""

import pytest
import torch
from torch import Tensor, nn

from model.network.backbones import BACKBONES, VisualBackbone
from model.network.config import BackboneConfig
from model.network.variants import variant

BASIC_RESNET = variant("tiny").backbone
BOTTLENECK_RESNET = BackboneConfig(
    "resnet", {"embedding_size": 16, "hidden_sizes": (16, 32, 64, 64), "depths": (1, 2, 1, 1)}
)
SMALL_PVT = BackboneConfig(
    "pvt_v2",
    {
        "hidden_sizes": (16, 32, 40, 64),
        "depths": (1, 2, 1, 1),
        "num_attention_heads": (1, 2, 5, 8),
        "mlp_ratios": (4, 4, 4, 4),
        "sr_ratios": (8, 4, 2, 1),
        "drop_path_rate": 0.1,
    },
)
CONFIGS = [BASIC_RESNET, BOTTLENECK_RESNET, SMALL_PVT]
IDS = ["basic", "bottleneck", "pvt"]


def reference_of(config: BackboneConfig) -> nn.Module:
    """transformers' network of the same configuration, with every parameter and statistic drawn anew."""
    from transformers import AutoBackbone, AutoConfig

    options = {key: list(value) if isinstance(value, tuple) else value for key, value in config.options.items()}
    stages = [f"stage{number}" for number in range(1, 5)]
    settings = AutoConfig.for_model(config.model_type, out_features=stages, **options)
    network: nn.Module = AutoBackbone.from_config(settings)  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@torch.inference_mode()
def test_outputs_and_parameter_names_equal_those_of_transformers(config: BackboneConfig, frames: Tensor) -> None:
    reference = reference_of(config)
    own = VisualBackbone(config).eval()
    own.network.load_state_dict(reference.state_dict())
    expected = reference(frames).feature_maps
    got = own(frames)
    assert [tuple(level.shape) for level in got] == [tuple(level.shape) for level in expected]
    assert [level.shape[1] for level in got] == list(own.channels)
    for level, wanted in zip(got, expected, strict=True):
        assert float(wanted.std()) > 0
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-5)


def test_untrained_weights_are_spread_like_those_of_transformers() -> None:
    from transformers import PvtV2Backbone, PvtV2Config, ResNetBackbone, ResNetConfig

    torch.manual_seed(0)
    pairs = (
        (ResNetBackbone(ResNetConfig(depths=[1, 1, 1, 1])), BACKBONES["resnet"](depths=(1, 1, 1, 1))),
        (PvtV2Backbone(PvtV2Config()), BACKBONES["pvt_v2"]()),
    )
    for reference, own in pairs:
        for (name, wanted), value in zip(reference.state_dict().items(), own.state_dict().values(), strict=True):
            if wanted.numel() >= 10_000:
                assert float(value.std()) == pytest.approx(float(wanted.std()), rel=0.1), name


def test_stochastic_depth_acts_in_training_only(frames: Tensor) -> None:
    torch.manual_seed(0)
    network = BACKBONES["pvt_v2"](**{**SMALL_PVT.options, "drop_path_rate": 0.9}).eval()
    with torch.no_grad():
        assert all(a.equal(b) for a, b in zip(network(frames), network(frames), strict=True))
        network.train()
        assert not network(frames)[-1].equal(network(frames)[-1])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BackboneConfig("vit"), "model_type"),
        (BackboneConfig("resnet", {"hidden_act": "gelu"}), "hidden_act"),
        (BackboneConfig("resnet", {"layer_type": "wide"}), "layer_type"),
        (BackboneConfig("resnet", {"depths": (1, 1, 1)}), "four"),
        (BackboneConfig("pvt_v2", {"depths": (1, 1, 1)}), "four"),
        (BackboneConfig("pvt_v2", {"num_attention_heads": (3, 2, 5, 8)}), "heads"),
    ],
)
def test_a_wrong_configuration_is_named(config: BackboneConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VisualBackbone(config)
