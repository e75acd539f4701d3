"""Reads AVSBench's pickled log-mels without trusting them.

A pickle is a program. This reader runs it in a machine that knows only the calls from which a tensor or an array is
rebuilt, and those are our own, with bounds; any other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS

# Ten examples as float64 are half a megabyte; anything far beyond is no log-mel.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_EXAMPLES = 64
MAX_VALUES = MAX_EXAMPLES * NUM_LOG_MEL_FRAMES * NUM_MEL_BINS


class PickleError(ValueError):
    """The file is no pickled log-mel, or asks for more than rebuilding one."""


def read_pickled_log_mel(path: Path) -> Tensor:
    """A published log-mel file.

    Returns:
        (N, 1, 96, 64) float32, finite, detached.

    Raises:
        PickleError: unreadable, too large, of another shape, or with anything in it but a tensor.
    """
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise PickleError(f"larger than {MAX_PICKLE_BYTES} bytes, no log-mel is")
        return _checked(_Reader(io.BytesIO(path.read_bytes())).load())
    except PickleError as error:
        raise PickleError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can raise whatever its opcodes lead to
        raise PickleError(f"{path}: not a pickled log-mel ({type(error).__name__})") from error


def _checked(value: object) -> Tensor:
    if isinstance(value, _Array):
        value = value.tensor()
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise PickleError(f"got {type(value).__name__}, expected a floating-point tensor")
    examples = value.detach().to("cpu", torch.float32)
    if examples.ndim == 3:
        examples = examples[:, None]
    if tuple(examples.shape[1:]) != (1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS) or not 0 < len(examples) <= MAX_EXAMPLES:
        raise PickleError(f"got shape {tuple(value.shape)}, expected (N, 1, {NUM_LOG_MEL_FRAMES}, 64)")
    if not bool(torch.isfinite(examples).all()):
        raise PickleError("holds values that are not finite")
    return examples.contiguous()


class _Reader(pickle.Unpickler):
    """An unpickler that resolves names from our table only."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the pickle."""
        if (module, name) not in _ALLOWED:
            raise PickleError(f"asks for {module}.{name}; nothing of the file was run")
        return _Call(_ALLOWED[module, name])

    def persistent_load(self, pid: object) -> Any:
        """Persistent ids belong to torch.save files, which these are not."""
        raise PickleError(f"refers to an outside object of type {type(pid).__name__}")


class _Call:
    """A function without attributes to set: the opcode BUILD sets attributes on whatever it finds."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        raise PickleError(f"sets the attribute {name!r} of a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Array:
    """What a pickled numpy array fills in our place."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        """The values, float32."""
        if (
            len(self.state) != 5
            or not isinstance(self.state[2], _DType)
            or not isinstance(self.state[4], bytes | bytearray)
        ):
            raise PickleError("its array is incomplete")
        _, shape, kind, is_fortran, raw = self.state
        values = np.frombuffer(raw, dtype=kind.text()).reshape(shape, order="F" if is_fortran else "C")
        return torch.from_numpy(values.astype(np.float32))


class _DType:
    """What a pickled numpy dtype fills in our place."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def text(self) -> str:
        """The dtype as numpy writes it; floating point only."""
        if self.code not in ("f2", "f4", "f8") or self.order not in ("<", ">", "="):
            raise PickleError(f"got an array of {self.code!r}, expected floating point")
        return f"{self.order}{self.code}"


def _storage(raw: object) -> Any:
    """torch.storage._load_from_bytes, through torch's own weights-only reader."""
    if not isinstance(raw, bytes):
        raise PickleError("its storage is not bytes")
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    """torch._utils._rebuild_tensor[_v2], within the bounds of the storage: torch would grow it to fit."""
    if not isinstance(storage, torch.storage.TypedStorage) or not storage.dtype.is_floating_point:
        raise PickleError("its storage is not of floating-point numbers")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise PickleError("its shape is not one of whole numbers")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage)
    num_values = math.prod(size)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if num_values > MAX_VALUES or (num_values and last >= flat.numel()):
        raise PickleError(f"its shape {tuple(size)} does not fit its data")
    copied: Tensor = flat.as_strided(tuple(size), tuple(stride), offset).clone()
    return copied


def _from_buffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    """numpy's _frombuffer, with which protocol 5 rebuilds an array."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", raw)
    return array


def _encode(text: object, codec: object) -> bytes:
    """_codecs.encode, with which protocol 2 writes bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise PickleError("it encodes something other than bytes")
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): lambda *_: None,  # a tensor's backward hooks; always empty and never used
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): lambda *_: None,  # named by every pickled array, never called
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}
