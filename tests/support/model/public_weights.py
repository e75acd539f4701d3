"""State dicts with the key names and shapes of the public files, filled with random numbers, and plain forward
passes over such names, written from the publications alone."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

RESNET50_DEPTHS, RESNET50_STEM, RESNET50_WIDTHS = (3, 4, 6, 3), 64, (256, 512, 1024, 2048)
# Dimensions per stage: width, depth, heads, spatial reduction.
PVT_STAGES = ((16, 1, 1, 8), (32, 2, 2, 4), (48, 2, 3, 2), (64, 1, 4, 1))
PVT_MLP_RATIO = 4
VGGISH_CONVS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
VGGISH_POOLS = (2, 5, 10, 15)
VGGISH_LINEARS = {0: (12288, 4096), 2: (4096, 4096), 4: (4096, 128)}


class Draw:
    """Seeded tensors, scaled so that signals neither vanish nor explode."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def weight(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator) * math.sqrt(2 / math.prod(shape[1:]))

    def vector(self, size: int, *, around: float = 0.0) -> Tensor:
        return around + 0.1 * torch.rand(size, generator=self._generator)

    def batch_norm(self, name: str, size: int) -> State:
        return {
            f"{name}.weight": self.vector(size, around=0.5),
            f"{name}.bias": self.vector(size),
            f"{name}.running_mean": self.vector(size),
            f"{name}.running_var": self.vector(size, around=1.0),
        }

    def affine(self, name: str, *shape: int) -> State:
        return {f"{name}.weight": self.weight(*shape), f"{name}.bias": self.vector(shape[0])}

    def layer_norm(self, name: str, size: int) -> State:
        return {f"{name}.weight": self.vector(size, around=1.0), f"{name}.bias": self.vector(size)}


def torchvision_resnet(
    depths: tuple[int, ...] = RESNET50_DEPTHS,
    stem: int = RESNET50_STEM,
    widths: tuple[int, ...] = RESNET50_WIDTHS,
) -> State:
    """A bottleneck ResNet as in resnet50-19c8e357.pth, which does not count batches; with its classifier."""
    draw = Draw(1)
    state = {"conv1.weight": draw.weight(stem, 3, 7, 7), **draw.batch_norm("bn1", stem)}
    before = stem
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        inner = width // 4
        for layer in range(depth):
            name = f"layer{stage}.{layer}"
            for number, shape in enumerate(((inner, before, 1), (inner, inner, 3), (width, inner, 1)), start=1):
                state[f"{name}.conv{number}.weight"] = draw.weight(*shape, shape[2])
                state |= draw.batch_norm(f"{name}.bn{number}", shape[0])
            if layer == 0:
                state[f"{name}.downsample.0.weight"] = draw.weight(width, before, 1, 1)
                state |= draw.batch_norm(f"{name}.downsample.1", width)
            before = width
    return {**state, **draw.affine("fc", 10, before)}


def with_doubled_stages(state: State) -> State:
    """AVSBench's wrapper: stages 3 and 4 twice, the second copy other numbers and never run; no classifier."""
    doubled: State = {}
    for key, value in state.items():
        if key.startswith(("layer3", "layer4")):
            doubled[f"{key[:6]}_1{key[6:]}"] = value
            doubled[f"{key[:6]}_2{key[6:]}"] = value + 1
        elif not key.startswith("fc"):
            doubled[key] = value
    return doubled


def run_resnet(state: State, frames: Tensor, depths: tuple[int, ...] = RESNET50_DEPTHS) -> list[Tensor]:
    """torchvision's ResNet (stride in the 3x3 convolution), without its classifier: the four stages' maps."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.relu(norm("bn1", F.conv2d(frames, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage, depth in enumerate(depths, start=1):
        for layer in range(depth):
            name, stride = f"layer{stage}.{layer}", 2 if layer == 0 and stage > 1 else 1
            y = F.relu(norm(f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
            y = F.relu(norm(f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)))
            y = norm(f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
            if layer == 0:
                shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = norm(f"{name}.downsample.1", shortcut)
            x = F.relu(x + y)
        maps.append(x)
    return maps


def official_pvt() -> State:
    """A small PVTv2 under the names of pvt_v2_b5.pth, with its classifier."""
    draw = Draw(2)
    state: State = {}
    before = 3
    for stage, (width, depth, _, reduction) in enumerate(PVT_STAGES, start=1):
        kernel, hidden = 7 if stage == 1 else 3, PVT_MLP_RATIO * width
        state |= draw.affine(f"patch_embed{stage}.proj", width, before, kernel, kernel)
        state |= draw.layer_norm(f"patch_embed{stage}.norm", width) | draw.layer_norm(f"norm{stage}", width)
        for block in range(depth):
            name = f"block{stage}.{block}"
            state |= draw.layer_norm(f"{name}.norm1", width) | draw.layer_norm(f"{name}.norm2", width)
            state |= draw.affine(f"{name}.attn.q", width, width) | draw.affine(f"{name}.attn.kv", 2 * width, width)
            state |= draw.affine(f"{name}.attn.proj", width, width)
            if reduction > 1:
                state |= draw.affine(f"{name}.attn.sr", width, width, reduction, reduction)
                state |= draw.layer_norm(f"{name}.attn.norm", width)
            state |= draw.affine(f"{name}.mlp.fc1", hidden, width) | draw.affine(f"{name}.mlp.fc2", width, hidden)
            state |= draw.affine(f"{name}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
        before = width
    return {**state, **draw.affine("head", 10, before)}


def run_pvt(state: State, frames: Tensor) -> list[Tensor]:
    """PVTv2 over its official names: the four stages' maps."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def grid(x: Tensor, height: int) -> Tensor:
        return x.transpose(1, 2).unflatten(2, (height, -1))

    def attend(name: str, x: Tensor, height: int, heads: int, reduction: int) -> Tensor:
        source = x
        if reduction > 1:
            weight, bias = state[f"{name}.sr.weight"], state[f"{name}.sr.bias"]
            source = F.conv2d(grid(x, height), weight, bias, stride=reduction).flatten(2).transpose(1, 2)
            source = norm(f"{name}.norm", source)
        query = linear(f"{name}.q", x).unflatten(2, (heads, -1)).transpose(1, 2)
        key, value = linear(f"{name}.kv", source).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return linear(f"{name}.proj", (weights @ value).transpose(1, 2).flatten(2))

    maps = []
    x = frames
    for stage, (width, depth, heads, reduction) in enumerate(PVT_STAGES, start=1):
        weight, bias = state[f"patch_embed{stage}.proj.weight"], state[f"patch_embed{stage}.proj.bias"]
        x = F.conv2d(x, weight, bias, stride=4 if stage == 1 else 2, padding=weight.shape[-1] // 2)
        height = x.shape[2]
        x = norm(f"patch_embed{stage}.norm", x.flatten(2).transpose(1, 2))
        for block in range(depth):
            name = f"block{stage}.{block}"
            x = x + attend(f"{name}.attn", norm(f"{name}.norm1", x), height, heads, reduction)
            y = grid(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x)), height)
            weight, bias = state[f"{name}.mlp.dwconv.dwconv.weight"], state[f"{name}.mlp.dwconv.dwconv.bias"]
            y = F.gelu(F.conv2d(y, weight, bias, padding=1, groups=PVT_MLP_RATIO * width))
            x = x + linear(f"{name}.mlp.fc2", y.flatten(2).transpose(1, 2))
        x = grid(norm(f"norm{stage}", x), height)
        maps.append(x)
    return maps


def torchvggish() -> State:
    """VGGish under the names of vggish-10086976.pth."""
    draw = Draw(3)
    state: State = {}
    for number, (before, after) in VGGISH_CONVS.items():
        state |= draw.affine(f"features.{number}", after, before, 3, 3)
    for number, (before, after) in VGGISH_LINEARS.items():
        state |= draw.affine(f"embeddings.{number}", after, before)
    return state


def run_vggish(state: State, log_mel: Tensor) -> Tensor:
    """VGGish of the torch port: a ReLU after every layer, the last included."""
    x = log_mel
    for number in range(16):
        if number in VGGISH_CONVS:
            x = F.relu(F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1))
        elif number in VGGISH_POOLS:
            x = F.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for number in VGGISH_LINEARS:
        x = F.relu(F.linear(x, state[f"embeddings.{number}.weight"], state[f"embeddings.{number}.bias"]))
    return x
