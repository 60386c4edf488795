"""Starts the captured run of an executor that is one TensorRT node before MXNet's thread gets to the node.

MXNet's way to the operator costs two changes of thread and 0.3 us for each of its inputs; meanwhile the GPU works.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Optional

import mxnet as mx
import numpy as np

from mxnet_trt_property import native, session
from mxnet_trt_property.spinning import AwaitedArray, Spin, usable_cpus

_DENSE = (mx.nd.NDArray, mx.np.ndarray, AwaitedArray)

# Waits of more seconds than this, so many one after the other, are those of a program that feeds GPU arrays without
# waiting; and how many of its forwards then do not ask. A single one may be a thread that was not woken in time.
_LONG_WAIT = 50e-6
_LONG_WAITS = 3
_PAUSE = 64

# A large input is written by at most so many threads, and by at most one for so many CPUs. On 16 CPUs of an H100's
# machine eight write as fast as its memory takes it.
_MOST_WRITERS = 8
_CPUS_OF_A_WRITER = 2


class _Input(NamedTuple):
    """An input of the node, and the executor's array for it.

    Attributes:
        position: Among the inputs of the node.
        name: What the executor calls it.
        array: The executor's array.
        dtype: Of the array.
        nbytes: Of the array.
    """

    position: int
    name: str
    array: Any
    dtype: Any
    nbytes: int


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
        inputs = zip(member.arrays.input_positions, names, arrays)
        self._inputs = tuple(_Input(i, k, a, a.dtype, a.size * np.dtype(a.dtype).itemsize) for i, k, a in inputs)
        self._names = frozenset(names)
        self._addresses = (ctypes.c_void_p * max(1, len(member.arrays.roles)))()
        self._state_id = ctypes.c_int64(member.state_id)
        self._on_gpu = on_gpu
        self._library = native.library()
        self._write = native.CWrite(helpers=max(1, min(_MOST_WRITERS, int(usable_cpus() / _CPUS_OF_A_WRITER))) - 1)
        self._pause = self._long_waits = 0

    def write(self, given: Mapping[str, Any]) -> Collection[str]:
        """Writes inputs into the executor's arrays, in this thread, and sends large ones to the GPU meanwhile.

        MXNet's own way is a thread of its engine, which has to be woken. It is left to MXNet where something is under
        way on an array, for instance the forward before, and where more is asked than to copy: another dtype or device,
        or arrays that may be parts of each other.

        Args:
            given: The caller's arrays by name, of the shapes of the executor's.

        Returns:
            The names of what is written.

        Raises:
            mxnet.base.MXNetError: What writes one of the caller's arrays has failed.
        """
        if self._on_gpu or not self._names.issuperset(given) or mx.autograd.is_recording():
            return ()
        found = []
        for i, each in enumerate(self._inputs):
            source = given.get(each.name)
            if source is not None and source is not each.array:
                address = self._plain_address(source, each.dtype)
                if address is None:
                    return ()
                found.append((each, i, source, address))
        # After what the sources were waited for, and once for all: each is a call of MXNet, at every forward.
        targets = [address_of(each.array) for each in self._inputs]
        ours = [(begin, begin + each.nbytes) for begin, each in zip(targets, self._inputs)]
        if any(address < end and begin < address + each.nbytes for each, _, _, address in found for begin, end in ours):
            return ()
        written = []
        write, as_reference = self._write, ctypes.byref(self._write)
        for each, i, source, address in found:
            write.array, write.target = each.array.handle, targets[i]
            write.given, write.source = getattr(source, "handle", None), address
            write.bytes, write.position = each.nbytes, each.position
            if self._library.mxtrt_state_write(self._state_id, self.spin.by_reference, as_reference) != native.OK:
                break
            written.append(each.name)
        return written

    def _plain_address(self, source: Any, dtype: Any) -> Optional[int]:
        """Returns where a caller's array lies that is copied byte by byte, once it is written; None for any other."""
        if type(source) in _DENSE:
            if source.dtype != dtype or source.context.device_type != "cpu":
                return None
            self.spin.until_written(source)
            mx.base.check_call(mx.base._LIB.MXNDArrayWaitToRead(source.handle))
            return address_of(source)
        if type(source) is np.ndarray and source.dtype == dtype and source.flags.c_contiguous:
            address: int = source.__array_interface__["data"][0]
            return address
        return None

    def start(self, written: Collection[str] = ()) -> None:
        """Starts the next forward's run if that can be, after waiting for what is written to its inputs.

        Args:
            written: Names of the executor's arrays that MXNet has just begun to write.

        Raises:
            mxnet.base.MXNetError: What writes an input has failed.
        """
        if self._pause:
            self._pause -= 1
            self._library.mxtrt_state_begin(self._state_id, None)
            return
        wait, check = mx.base._LIB.MXNDArrayWaitToRead, mx.base.check_call
        began = time.perf_counter()
        for position, name, array, *_ in self._inputs:
            if name in written:
                self.spin.until_written(array)
            check(wait(array.handle))
            if not self._on_gpu or not self._addresses[position]:
                self._addresses[position] = address_of(array)  # MXNet moves host arrays that change their layout
        if self._on_gpu:
            self._long_waits = self._long_waits + 1 if time.perf_counter() - began > _LONG_WAIT else 0
            if self._long_waits >= _LONG_WAITS:
                self._pause, self._long_waits = _PAUSE, _LONG_WAITS - 1
        self._library.mxtrt_state_begin(self._state_id, self._addresses)

    def cancel(self) -> None:
        """Drops a run that was started and that no forward has taken yet, and what was sent to the GPU for one."""
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
