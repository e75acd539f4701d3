"""Write TensorFlow Lite files of chains of layers, as the public MobileNets are stored."""

from dataclasses import dataclass

import flatbuffers
import numpy as np
import tflite
from numpy.typing import NDArray

OPERATORS = {
    "conv": tflite.BuiltinOperator.CONV_2D,
    "depthwise": tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    "dense": tflite.BuiltinOperator.FULLY_CONNECTED,
}
TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
    "int32": tflite.TensorType.INT32,
}


@dataclass
class StoredTensor:
    """Values as stored, with the scales and zero points that make numbers of them; no scales for float32."""

    values: NDArray[np.generic]
    scales: NDArray[np.float32] | None = None
    zeros: NDArray[np.int64] | None = None
    axis: int = 0


@dataclass
class StoredLayer:
    """One operator: weight in TensorFlow's order of axes, and bias."""

    kind: str
    weight: StoredTensor
    bias: StoredTensor


def write_tflite(layers: list[StoredLayer]) -> bytes:
    """A model of these layers, each with an input of its own; only what a reader of weights looks at."""
    builder = flatbuffers.Builder(1024)
    buffers, tensors, operators, codes = [_buffer(builder, None)], [], [], []
    for kind in OPERATORS:
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, OPERATORS[kind])
        tflite.OperatorCodeAddBuiltinCode(builder, OPERATORS[kind])
        codes.append(tflite.OperatorCodeEnd(builder))
    for layer in layers:
        numbers = [len(tensors)]
        tensors.append(_tensor(builder, StoredTensor(np.zeros((1,), np.float32)), buffer=0))
        for tensor in (layer.weight, layer.bias):
            buffers.append(_buffer(builder, tensor.values.tobytes()))
            numbers.append(len(tensors))
            tensors.append(_tensor(builder, tensor, buffer=len(buffers) - 1))
        inputs = builder.CreateNumpyVector(np.array(numbers, np.int32))
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, list(OPERATORS).index(layer.kind))
        tflite.OperatorAddInputs(builder, inputs)
        operators.append(tflite.OperatorEnd(builder))
    tensor_list, operator_list = _offsets(builder, tensors), _offsets(builder, operators)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_list)
    tflite.SubGraphAddOperators(builder, operator_list)
    graphs = _offsets(builder, [tflite.SubGraphEnd(builder)])
    buffer_list, code_list = _offsets(builder, buffers), _offsets(builder, codes)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, code_list)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffer_list)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _offsets(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _buffer(builder: flatbuffers.Builder, content: bytes | None) -> int:
    data = None if content is None else builder.CreateByteVector(content)
    tflite.BufferStart(builder)
    if data is not None:
        tflite.BufferAddData(builder, data)
    return int(tflite.BufferEnd(builder))


def _tensor(builder: flatbuffers.Builder, tensor: StoredTensor, *, buffer: int) -> int:
    name = builder.CreateString("tensor")
    shape = builder.CreateNumpyVector(np.array(tensor.values.shape, np.int32))
    quantisation = None
    if tensor.scales is not None and tensor.zeros is not None:
        scales, zeros = builder.CreateNumpyVector(tensor.scales), builder.CreateNumpyVector(tensor.zeros)
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scales)
        tflite.QuantizationParametersAddZeroPoint(builder, zeros)
        tflite.QuantizationParametersAddQuantizedDimension(builder, tensor.axis)
        quantisation = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, TYPES[tensor.values.dtype.name])
    tflite.TensorAddBuffer(builder, buffer)
    tflite.TensorAddName(builder, name)
    if quantisation is not None:
        tflite.TensorAddQuantization(builder, quantisation)
    return int(tflite.TensorEnd(builder))
