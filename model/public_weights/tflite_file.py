"""Read the weights of TensorFlow Lite files as float tensors. Operators are never executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TfliteError(ValueError):
    """The file is not a TensorFlow Lite model, or contains something that this reader does not support."""


@dataclass(frozen=True)
class TfliteLayer:
    """One convolution or dense layer, in the file's order.

    Attributes:
        kind: `conv`, `depthwise` or `dense`.
        weight: float32; (C_out, C_in, k, k), (C, 1, k, k) or (C_out, C_in).
        bias: (C_out,) float32.
    """

    kind: str
    weight: Tensor
    bias: Tensor


def read_tflite(path: Path) -> list[TfliteLayer]:
    """Return the layers of a file, integers dequantised to float32: (value - zero point) x scale per tensor or channel.

    Needs the package `tflite` (extra `public-weights`).

    Raises:
        TfliteError: the file is not a TensorFlow Lite model, or has a tensor of an unsupported type.
    """
    import tflite

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise TfliteError(f"{path.name} is not a TensorFlow Lite model (no TFL3 in its header)")
    model = tflite.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    kinds = {
        tflite.BuiltinOperator.CONV_2D: "conv",
        tflite.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
        tflite.BuiltinOperator.FULLY_CONNECTED: "dense",
    }
    layers = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Codes below 127 are in the deprecated field, for compatibility with readers from before 2020.
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if kind is not None:
            weight = _tensor(model, graph.Tensors(operator.Inputs(1)))
            order = {"conv": (0, 3, 1, 2), "depthwise": (3, 0, 1, 2), "dense": (0, 1)}[kind]
            bias = _tensor(model, graph.Tensors(operator.Inputs(2)))
            layers.append(TfliteLayer(kind, weight.permute(order).contiguous(), bias))
    return layers


def _tensor(model: Any, tensor: Any) -> Tensor:
    """Return one tensor as float32, in the file's axis order."""
    import tflite

    types = {
        tflite.TensorType.FLOAT32: np.float32,
        tflite.TensorType.FLOAT16: np.float16,
        tflite.TensorType.INT32: np.int32,
        tflite.TensorType.UINT8: np.uint8,
        tflite.TensorType.INT8: np.int8,
    }
    name = tensor.Name().decode(errors="replace")
    if tensor.Type() not in types:
        raise TfliteError(f"the tensor {name} has the type {tensor.Type()}, which is not read here")
    raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(raw, np.ndarray):
        raise TfliteError(f"the tensor {name} is no constant")
    values = raw.view(types[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).astype(np.float64)
    quantisation = tensor.Quantization()
    if quantisation is not None and quantisation.ScaleLength():
        scale = quantisation.ScaleAsNumpy().astype(np.float64)
        zero = quantisation.ZeroPointAsNumpy().astype(np.float64)
        shape = [1] * values.ndim
        if len(scale) > 1:
            shape[quantisation.QuantizedDimension()] = len(scale)
        values = (values - zero.reshape(shape if len(zero) > 1 else [1] * values.ndim)) * scale.reshape(shape)
    return torch.from_numpy(values.astype(np.float32))
