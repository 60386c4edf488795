"""The arrays that a compiled model is called with: NumPy arrays, NDArrays of MXNet, and anything with DLPack.

Each kind says where an array's memory is, and makes new arrays of its own kind for the outputs. Nothing is copied or
converted here: an array that does not fit is refused, since a silent copy is what a caller of `compile` wants to avoid.
MXNet is never imported: an NDArray can only come from a program that has imported it.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Protocol

import numpy as np

from mxnet_trt_property.engines.registry import Buffer
from mxnet_trt_property.errors import TensorRTPropertyError, message


class ArrayError(TensorRTPropertyError, ValueError):
    """An array given to a compiled model is not what the model takes."""


class Tensor(NamedTuple):
    """One input or output of a compiled model."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class View(NamedTuple):
    """Where an array lies.

    Attributes:
        buffer: Address, shape and dtype.
        device: "cpu" or "gpu".
        device_id: The CUDA device of an array on a GPU, else 0.
        dense: Whether its elements follow each other in the order of their indices.
        writable: Whether it may be written.
        keep: What must stay alive while the address is used.
    """

    buffer: Buffer
    device: str
    device_id: int
    dense: bool
    writable: bool
    keep: Any


class Kind(Protocol):
    """One kind of arrays."""

    def view(self, array: Any, stream: int, write: bool) -> View:
        """Returns where `array` lies; its contents are complete on return, or in the order of the CUDA `stream`."""

    def device(self, array: Any) -> tuple[str, int]:
        """Returns "cpu" or "gpu", and the CUDA device."""

    def empty(self, tensor: Tensor, like: Any) -> Any:
        """Returns an array for an output on the device of the input `like`."""

    def finish(self, array: Any, like: Any) -> Any:
        """Returns what the caller gets for an array of `empty()` once it is written."""


class _NumPy:
    def view(self, array: Any, stream: int, write: bool) -> View:
        address: int = array.__array_interface__["data"][0]
        buffer = Buffer(address, array.shape, array.dtype)
        return View(buffer, "cpu", 0, array.flags.c_contiguous, array.flags.writeable, array)

    def device(self, array: Any) -> tuple[str, int]:
        return "cpu", 0

    def empty(self, tensor: Tensor, like: Any) -> Any:
        return np.empty(tensor.shape, tensor.dtype)

    def finish(self, array: Any, like: Any) -> Any:
        return array


class _MXNet:
    """NDArrays. MXNet's engine is waited for; beyond that it has no part in the run."""

    def view(self, array: Any, stream: int, write: bool) -> View:
        base = sys.modules["mxnet.base"]
        if array.stype != "default":
            raise ArrayError(message("A compiled model was given a sparse NDArray", required="tostype('default')"))
        if write:
            base.check_call(base._LIB.MXNDArrayWaitToWrite(array.handle))
        else:
            array.wait_to_read()
        data = ctypes.c_void_p()
        # Also turns an array that is in an internal layout of MKLDNN's back into a plain one.
        base.check_call(base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(data)))
        buffer = Buffer(data.value or 0, tuple(array.shape), np.dtype(array.dtype))
        return View(buffer, *self.device(array), True, True, array)

    def device(self, array: Any) -> tuple[str, int]:
        context = array.context
        return ("gpu", context.device_id) if context.device_type == "gpu" else ("cpu", 0)

    def empty(self, tensor: Tensor, like: Any) -> Any:
        mx = sys.modules["mxnet"]
        array = mx.nd.empty(tensor.shape, like.context, tensor.dtype)
        return array.as_np_ndarray() if isinstance(like, mx.np.ndarray) else array

    def finish(self, array: Any, like: Any) -> Any:
        return array


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h, version 0: all that `__dlpack__()` without a version gives."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# DLDeviceType: kDLCPU, kDLCUDA, kDLCUDAHost (pinned), kDLCUDAManaged.
_DEVICES = {1: "cpu", 3: "cpu", 2: "gpu", 13: "gpu"}
_CODES = {0: "int", 1: "uint", 2: "float"}
_BOOL = 6

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_capsule_pointer.restype = ctypes.c_void_p


class _DLPack:
    """Arrays of other libraries."""

    def view(self, array: Any, stream: int, write: bool) -> View:
        device, index = self.device(array)
        try:
            # The library makes `stream` wait for what it has queued. 1 is DLPack's word for the legacy default stream.
            capsule = array.__dlpack__(stream=stream or 1) if device == "gpu" else array.__dlpack__()
        except Exception as error:  # each library has its own exceptions for arrays that it cannot export
            raise ArrayError(
                message(f"A {_name(array)} cannot be exported by DLPack", found=f"{type(error).__name__}: {error}")
            ) from error
        # The capsule is not marked as used, so that dropping it gives the memory back.
        tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor") or 0)
        shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
        address = (tensor.data or 0) + tensor.byte_offset
        dense = strides is None or _is_dense(shape, strides)
        return View(Buffer(address, shape, _dtype(tensor, array)), device, index, dense, True, (array, capsule))

    def device(self, array: Any) -> tuple[str, int]:
        number, index = array.__dlpack_device__()
        device = _DEVICES.get(int(number))
        if device is None:
            raise ArrayError(
                message(
                    f"A {_name(array)} lies on a device that no engine can read",
                    found=f"DLPack device type {int(number)}",
                    required="host memory or a CUDA device",
                )
            )
        return device, int(index) if device == "gpu" else 0

    def empty(self, tensor: Tensor, like: Any) -> Any:
        namespace = _namespace(like)
        if self.device(like)[0] == "cpu":
            return np.empty(tensor.shape, tensor.dtype)
        dtype = getattr(namespace, tensor.dtype.name, tensor.dtype.name)
        try:
            return namespace.empty(tensor.shape, dtype=dtype, device=like.device)
        except TypeError:  # a library without devices in empty(): the current one is meant
            return namespace.empty(tensor.shape, dtype=dtype)

    def finish(self, array: Any, like: Any) -> Any:
        return _namespace(like).from_dlpack(array) if isinstance(array, np.ndarray) else array


def _namespace(array: Any) -> Any:
    """Returns the module that makes arrays of this kind.

    Raises:
        ArrayError: There is none with from_dlpack, as the array API standard asks for.
    """
    if hasattr(array, "__array_namespace__"):
        namespace = array.__array_namespace__()
    else:
        namespace = sys.modules.get(type(array).__module__.partition(".")[0])
    if not hasattr(namespace, "from_dlpack"):
        raise ArrayError(
            message(
                f"An output of the kind {_name(array)} cannot be made",
                required="a library with a function from_dlpack",
                next_step="pass the outputs to write with out=",
            )
        )
    return namespace


def _dtype(tensor: _DLTensor, array: Any) -> np.dtype[Any]:
    if tensor.lanes == 1 and tensor.code == _BOOL:
        return np.dtype(bool)
    if tensor.lanes == 1 and tensor.code in _CODES:
        return np.dtype(f"{_CODES[tensor.code]}{tensor.bits}")
    raise ArrayError(
        message(
            f"A {_name(array)} has elements of a kind that MXNet has no array for",
            found=f"DLPack type code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes",
        )
    )


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    if math.prod(shape) == 0:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _name(array: Any) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"


_NUMPY, _MXNET, _DLPACK = _NumPy(), _MXNet(), _DLPack()


def kind_of(array: Any, what: str) -> Kind:
    """Returns the kind of an array; `what` names it in the message.

    Raises:
        ArrayError: It is no array.
    """
    if isinstance(array, np.ndarray):
        return _NUMPY
    ndarray = sys.modules.get("mxnet.ndarray")
    if ndarray is not None and isinstance(array, ndarray.NDArray):
        return _MXNET
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _DLPACK
    raise ArrayError(
        message(
            f"{what} is no array",
            found=_name(array),
            required="a NumPy array, an mx.nd.NDArray, or an array with DLPack",
        )
    )


def read(array: Any, tensor: Tensor, stream: int, what: str, write: bool = False) -> View:
    """Returns where an array for `tensor` lies; `what` names it in messages.

    Raises:
        ArrayError: Its shape, dtype or layout is not the tensor's, or it is to be written and cannot be.
    """
    view = kind_of(array, what).view(array, stream, write)
    shape, dtype = view.buffer.shape, view.buffer.dtype
    if shape != tensor.shape or dtype != tensor.dtype:
        raise ArrayError(
            message(
                f"{what} does not fit the compiled model",
                found=f"{dtype} {shape}",
                required=f"{tensor.dtype} {tensor.shape}",
                next_step="convert the array, or compile a model for it (shapes= and dtypes= of compile)",
            )
        )
    if not view.dense:
        raise ArrayError(
            message(
                f"{what} has gaps between its elements or another order of its axes",
                required="a C-contiguous array",
                next_step="copy it, with numpy.ascontiguousarray or contiguous()",
            )
        )
    if write and not view.writable:
        raise ArrayError(message(f"{what} is read-only", required="an array that can be written"))
    return view


def same_place(views: Sequence[View], names: Sequence[str]) -> tuple[str, int]:
    """Returns the device that all arrays lie on.

    Raises:
        ArrayError: They lie on different ones.
    """
    places = {(view.device, view.device_id) for view in views}
    if len(places) > 1:
        found = ", ".join(f"{n} on {v.device}({v.device_id})" for n, v in zip(names, views))
        raise ArrayError(message("A compiled model was given arrays on several devices", found=found))
    return places.pop() if places else ("cpu", 0)


def place_of(array: Optional[Any], what: str) -> tuple[str, int]:
    """Returns the device of one array; the host where there is none."""
    return ("cpu", 0) if array is None else kind_of(array, what).device(array)
