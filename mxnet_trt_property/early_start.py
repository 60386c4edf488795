"""Starts the captured run of an executor that is one TensorRT node before MXNet's thread gets to the node.

MXNet's way to the operator costs two changes of thread and 0.3 us for each of its inputs; meanwhile the GPU works.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection, Mapping
from typing import Any, Optional

import mxnet as mx
import numpy as np

from mxnet_trt_property import native, session
from mxnet_trt_property.spinning import AwaitedArray, Spin

_DENSE = (mx.nd.NDArray, mx.np.ndarray, AwaitedArray)

# Waits of more seconds than this, so many one after the other, are those of a program that feeds GPU arrays without
# waiting; and how many of its forwards then do not ask. A single one may be a thread that was not woken in time.
_LONG_WAIT = 50e-6
_LONG_WAITS = 3
_PAUSE = 64

# Inputs of fewer bytes are staged from the caller's array by this thread, while MXNet's threads copy it to the
# executor's; larger ones MXNet copies faster, with several threads.
_STAGED_BYTES = 1 << 20


class EarlyStart:
    """The runs of one executor that are started early.

    With arrays on a GPU a program may feed and run without ever waiting. It must not be made to wait for its input
    here, so that waits are answered by a pause: the next forwards go MXNet's way.

    Attributes:
        spin: Waits for arrays of the node without sleeping.
    """

    def __init__(self, names: tuple[str, ...], arrays: list[Any], member: session.Session, context: Any) -> None:
        """Takes the executor's inputs.

        Args:
            names: What the executor calls the inputs of the node, in the order of the engine's.
            arrays: The executor's arrays of these names.
            member: The node's session.
            context: Where the arrays lie.
        """
        on_gpu = context.device_type == "gpu"
        self.spin = Spin(member.state_id, context)
        self._inputs = tuple(zip(member.arrays.input_positions, names, arrays))
        self._addresses = (ctypes.c_void_p * max(1, len(member.arrays.roles)))()
        self._state_id = ctypes.c_int64(member.state_id)
        self._on_gpu = on_gpu
        nbytes = sum(array.size * np.dtype(array.dtype).itemsize for array in arrays)
        self._stages = not on_gpu and nbytes <= _STAGED_BYTES
        self._library = native.library()
        self._pause = self._long_waits = 0

    def can_read(self, given: Mapping[str, Any]) -> bool:
        """Whether `start` can read the caller's arrays, whose values the executor's are about to have."""
        if not self._stages:
            return False
        sources = [(given[name], array) for _, name, array in self._inputs if name in given]
        for source, array in sources:
            plain = type(source) in _DENSE and source.dtype == array.dtype
            if not plain or source.context.device_type != "cpu":
                return False
        # Assigned one after the other, an array may get what another got before.
        return len(sources) < 2 or not any(self._is_ours(source) for source, array in sources if source is not array)

    def _is_ours(self, source: Any) -> bool:
        """Whether an array lies in the memory of one of the executor's inputs."""
        address = address_of(source)
        return any(
            0 <= address - address_of(array) < array.size * np.dtype(array.dtype).itemsize
            for _, _, array in self._inputs
        )

    def start(self, given: Mapping[str, Any], written: Collection[str] = ()) -> None:
        """Starts the next forward's run if that can be, after waiting for what is written to its inputs.

        Args:
            given: Arrays to read instead of the executor's, by name; others in it are ignored.
            written: Names of the executor's arrays that a copy has just begun to write.

        Raises:
            mxnet.base.MXNetError: What writes an input has failed.
        """
        if self._pause:
            self._pause -= 1
            self._library.mxtrt_state_begin(self._state_id, None)
            return
        wait, check = mx.base._LIB.MXNDArrayWaitToRead, mx.base.check_call
        began = time.perf_counter()
        for position, name, array in self._inputs:
            if name in written:
                self.spin.until_written(array)
            # Also where another is read: with an error on it MXNet would skip the node, and leave the run behind.
            check(wait(array.handle))
            source = given.get(name, array)
            if source is not array:
                check(wait(source.handle))
            if source is not array or not self._on_gpu or not self._addresses[position]:
                self._addresses[position] = address_of(source)  # MXNet moves host arrays that change their layout
        if self._on_gpu:
            self._long_waits = self._long_waits + 1 if time.perf_counter() - began > _LONG_WAIT else 0
            if self._long_waits >= _LONG_WAITS:
                self._pause, self._long_waits = _PAUSE, _LONG_WAITS - 1
        self._library.mxtrt_state_begin(self._state_id, self._addresses)

    def cancel(self) -> None:
        """Drops a run that was started and that no forward has taken yet."""
        self._library.mxtrt_state_cancel(self._state_id)


def early_start(executor: Any, member: session.Session) -> Optional[EarlyStart]:
    """Returns what starts the runs of an executor early, or None where inputs of its node are not its own arguments."""
    names = member.graph.input_names
    if not all(name in executor.arg_dict for name in names):
        return None
    arrays = [executor.arg_dict[name] for name in names]
    return EarlyStart(tuple(names), arrays, member, executor._ctx)


def address_of(array: Any) -> int:
    """Returns the address of an array's memory."""
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return pointer.value or 0
