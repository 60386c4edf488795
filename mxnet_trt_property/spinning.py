"""Waits awake for what MXNet's threads are about to write: a thread that sleeps is woken 20 to 60 us late.

A forward of a small network takes less than a millisecond; MXNet lets the thread that waits for it sleep, and wakes it
by another thread. How long that takes is the machine's; virtual machines are slow at it (cpp/spin.cc).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Optional

import mxnet as mx

from mxnet_trt_property import native, settings

# The results of at most this share of the CPUs are waited for awake. As many threads of MXNet's wait awake for the
# GPU, since CUDA's driver does it so; the rest is the program's.
_SHARE = 4

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cpus() -> float:
    """Returns how many CPUs this process may keep busy: those it may run on, or a container's quota if that is less.

    The quota is that of the control group at the root of what the process sees, which in a container is its own
    (https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max; for version 1 sched-bwc.html).
    """
    cpus = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (
            _QUOTA.read_text().split() if _QUOTA.exists() else (_QUOTA_V1.read_text(), _PERIOD_V1.read_text())
        )
        if float(quota) > 0:
            cpus = min(cpus, float(quota) / float(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no such files, or "max": no quota
    return cpus


def most_threads() -> int:
    """Returns how many threads may wait awake at once."""
    return int(usable_cpus() / _SHARE)


class Spin:
    """Waits for arrays that one executor's TensorRT node reads or writes.

    Attributes:
        by_reference: How, for the native library.
    """

    def __init__(self, state_id: int, context: Any) -> None:
        """Takes the native state of the node and the executor's context.

        Raises:
            SettingError: MXNET_TENSORRT_SPIN_US has a value that is not valid.
        """
        self._library = native.library()
        self._state_id = ctypes.c_int64(state_id)
        push = ctypes.cast(mx.base._LIB.MXEnginePushSyncND, ctypes.c_void_p).value
        most_us = settings.value("SPIN_US")
        threads = most_threads() if most_us else 0
        self._spin = native.CSpin(push, most_us, threads, context.device_typeid, context.device_id)
        self.by_reference = ctypes.byref(self._spin)

    def until_written(self, array: Any) -> None:
        """Waits a while for what is about to be written to an array; an error is left for MXNet to tell."""
        if self._spin.most_threads:
            self._library.mxtrt_spin(self.by_reference, array.handle)

    def until_run(self, output: Any) -> None:
        """Waits a while for an output of the node, if its forward is still under way."""
        if self._spin.most_threads and self._library.mxtrt_state_is_under_way(self._state_id):
            self._library.mxtrt_spin(self.by_reference, output.handle)


class AwaitedArray(mx.nd.NDArray):  # type: ignore[misc]  # mxnet has no types
    """An output of an executor: an NDArray in all it does, which its reader gets without having slept."""

    __slots__ = ("_spin",)

    def __init__(self, handle: Any, writable: bool = True, spin: Optional[Spin] = None) -> None:
        """Takes a handle of MXNet's; MXNet itself makes arrays of this class, without `spin`, as views of an output."""
        super().__init__(handle, writable)
        self._spin = spin

    def wait_to_read(self) -> None:
        """Waits until the forward that writes the array has ended, as NDArray.wait_to_read does."""
        if self._spin is not None:
            self._spin.until_run(self)
        super().wait_to_read()

    def asnumpy(self) -> Any:
        """Returns a copy as a numpy.ndarray, as NDArray.asnumpy does."""
        if self._spin is not None:
            self._spin.until_run(self)
        return super().asnumpy()

    def __repr__(self) -> str:
        """Returns what NDArray shows: programs print outputs, and compare what they print."""
        text: str = super().__repr__()
        return text.replace(f"<{type(self).__name__} ", f"<{mx.nd.NDArray.__name__} ")


def awaited(array: Any, spin: Spin) -> AwaitedArray:
    """Returns the array that `array`, which is empty from then on, was a handle of."""
    made = AwaitedArray(array.handle, array.writable, spin)
    array.handle = None
    return made
