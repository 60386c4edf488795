"""A thin control plane over the CUDA driver, through ctypes: devices, contexts, memory, streams.

Nothing is loaded when this module is imported. The library is opened at the first call, and a missing library or
function is an error that says so. MXNet's CUDA runtime works in each device's primary context, so this module
retains exactly those: pointers and streams of `mx.gpu(i)` arrays are valid inside `on_device(i)`. The contexts
are retained until the process ends, since releasing the last reference would free MXNet's memory with ours.

All foreign calls release the GIL. No function relies on a thread's current context: engine threads have none.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Optional

from mxnet_trt_property import forks
from mxnet_trt_property.errors import EngineError, message

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2

_ATTRIBUTE_MAJOR = 75
_ATTRIBUTE_MINOR = 76
_HOST_ALLOC_PORTABLE = 1  # pinned for every context, not only the current one
_HOST_REGISTER_PORTABLE = 1
_EVENT_DISABLE_TIMING = 2
_STREAM_NON_BLOCKING = 1  # does not wait for work on the legacy default stream

_Int = ctypes.c_int
_Uint = ctypes.c_uint
_Size = ctypes.c_size_t
_Ptr = ctypes.c_void_p
_Dev = ctypes.c_uint64  # CUdeviceptr
_PInt = ctypes.POINTER(_Int)
_PSize = ctypes.POINTER(_Size)
_PPtr = ctypes.POINTER(_Ptr)
_PDev = ctypes.POINTER(_Dev)
_PStr = ctypes.POINTER(ctypes.c_char_p)

# Symbols carry the suffix of the first version with 64-bit sizes; cuda.h maps the plain names to these.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_Uint,),
    "cuDriverGetVersion": (_PInt,),
    "cuGetErrorName": (_Int, _PStr),
    "cuGetErrorString": (_Int, _PStr),
    "cuDeviceGetCount": (_PInt,),
    "cuDeviceGet": (_PInt, _Int),
    "cuDeviceGetName": (ctypes.c_char_p, _Int, _Int),
    "cuDeviceGetAttribute": (_PInt, _Int, _Int),
    "cuDeviceTotalMem_v2": (_PSize, _Int),
    "cuDevicePrimaryCtxRetain": (_PPtr, _Int),
    "cuCtxPushCurrent_v2": (_Ptr,),
    "cuCtxPopCurrent_v2": (_PPtr,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (_PSize, _PSize),
    "cuMemAlloc_v2": (_PDev, _Size),
    "cuMemFree_v2": (_Dev,),
    "cuMemHostAlloc": (_PPtr, _Size, _Uint),
    "cuMemFreeHost": (_Ptr,),
    "cuMemcpyHtoD_v2": (_Dev, _Ptr, _Size),
    "cuMemcpyDtoH_v2": (_Ptr, _Dev, _Size),
    "cuMemcpyDtoD_v2": (_Dev, _Dev, _Size),
    "cuMemcpyHtoDAsync_v2": (_Dev, _Ptr, _Size, _Ptr),
    "cuMemcpyDtoHAsync_v2": (_Ptr, _Dev, _Size, _Ptr),
    "cuMemcpyDtoDAsync_v2": (_Dev, _Dev, _Size, _Ptr),
    "cuStreamCreate": (_PPtr, _Uint),
    "cuStreamDestroy_v2": (_Ptr,),
    "cuStreamSynchronize": (_Ptr,),
    "cuStreamWaitEvent": (_Ptr, _Ptr, _Uint),
    "cuEventCreate": (_PPtr, _Uint),
    "cuEventDestroy_v2": (_Ptr,),
    "cuEventRecord": (_Ptr, _Ptr),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _Ptr, _Ptr),
    "cuStreamBeginCapture_v2": (_Ptr, _Int),
    "cuStreamEndCapture": (_Ptr, _PPtr),
    "cuGraphGetEdges_v2": (_Ptr, _PPtr, _PPtr, _Ptr, _PSize),
    "cuGraphRemoveDependencies_v2": (_Ptr, _PPtr, _PPtr, _Ptr, _Size),
    "cuGraphAddDependencies_v2": (_Ptr, _PPtr, _PPtr, _Ptr, _Size),
    "cuGraphInstantiateWithFlags": (_PPtr, _Ptr, ctypes.c_ulonglong),
    "cuGraphLaunch": (_Ptr, _Ptr),
    "cuGraphDestroy": (_Ptr,),
    "cuGraphExecDestroy": (_Ptr,),
    "cuMemHostRegister_v2": (_Ptr, _Size, _Uint),
    "cuMemHostUnregister": (_Ptr,),
}

# The version of CUDA that brought a function, where not all that TensorRT supports have it.
_SINCE = dict.fromkeys(("cuGraphGetEdges_v2", "cuGraphRemoveDependencies_v2", "cuGraphAddDependencies_v2"), "12.3")

_LOST = (
    "CUDA works in no part of this process any more: restart the program; if it comes again, look for 'Xid' in the "
    "system's log and at nvidia-smi, or set MXNET_TENSORRT_ENGINE=onnxruntime"
)
_BROKEN = "run nvidia-smi: if that fails too, restart the machine; in a container, start it with the NVIDIA toolkit"
# After one of these every call that follows fails too, and nothing brings the device back to this process.
_LASTING = frozenset((214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720))
_NEXT_STEPS = {
    OUT_OF_MEMORY: "free device memory, lower MXNET_TENSORRT_WORKSPACE_MB, or set MXNET_TENSORRT_ENGINE=onnxruntime",
    3: "a process forked after CUDA was used cannot use it: start workers with the 'spawn' method",
    46: "another process holds the GPU, or it is being reset: see nvidia-smi",
    **dict.fromkeys(_LASTING, _LOST),
    803: "update the NVIDIA driver, or reboot: the driver's library and its kernel module are of different versions",
    34: "a stub of the CUDA toolkit was found: take its folder out of LD_LIBRARY_PATH, and install the driver",
    802: "start NVIDIA's fabric manager, which machines with NVSwitch need before any CUDA program",
    804: "update the NVIDIA driver, or take the libraries of the package cuda-compat out of LD_LIBRARY_PATH",
    **dict.fromkeys((304, 999), _BROKEN),
    100: "check that nvidia-smi lists the GPU and that CUDA_VISIBLE_DEVICES does not hide it",
}


class CudaError(EngineError):
    """A call of the CUDA driver failed, or the driver is missing.

    Attributes:
        code: The driver's CUresult, or None where the library or a function is missing.
    """

    def __init__(self, text: str, code: Optional[int] = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class DeviceInfo:
    """What a CUDA device is."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_bytes: int

    def describe(self) -> str:
        """Returns the device in words, for messages."""
        major, minor = self.compute_capability
        return f"GPU {self.index} ({self.name}, compute capability {major}.{minor})"


class Driver:
    """The CUDA driver library at `path`; one instance a process is enough (`default()`)."""

    def __init__(self, path: str = LIBRARY) -> None:
        self._path = path
        self._library: Optional[ctypes.CDLL] = None
        self._functions: dict[str, Any] = {}
        self._contexts: dict[int, int] = {}
        self._was_forked = False
        # Reentrant: a finalizer that the collector runs inside a call below may need the lock again.
        self._lock = threading.RLock()

    # -- calling -------------------------------------------------------------------------------

    def _open(self) -> ctypes.CDLL:
        if self._library is None:
            with self._lock:
                try:
                    library = ctypes.CDLL(self._path)
                except OSError as error:
                    raise CudaError(
                        message(
                            f"The CUDA driver library {self._path} cannot be loaded",
                            found=str(error),
                            required="an NVIDIA driver on this machine (in a container: its 'compute' capability)",
                            next_step="install the driver, or set MXNET_TENSORRT_ENGINE=onnxruntime",
                        )
                    ) from None
                self._library = library
        return self._library

    def _function(self, name: str) -> Any:
        function = self._functions.get(name)
        if function is None:
            try:
                function = getattr(self._open(), name)
            except AttributeError:
                raise CudaError(
                    message(
                        f"The CUDA driver library {self._path} has no function {name}",
                        required=f"the driver of CUDA {_SINCE.get(name, '11.4')} or newer",
                        next_step="update the NVIDIA driver",
                    )
                ) from None
            function.argtypes = _SIGNATURES[name]
            function.restype = _Int
            self._functions[name] = function
        return function

    def call(self, name: str, what: str, *arguments: Any) -> None:
        """Calls a driver function; `what` says what for.

        Raises:
            CudaError: The function is missing or failed.
        """
        if self._was_forked:
            raise CudaError(
                message(
                    f"CUDA: {what} failed",
                    found="a process that was forked from one that had used CUDA",
                    required="a process that has CUDA to itself",
                    next_step="start it with multiprocessing's 'spawn', or set MXNET_TENSORRT_ENGINE=onnxruntime",
                )
            )
        self.check(self._function(name)(*arguments), what)

    def leave_behind(self) -> None:
        """Makes later calls fail, in the child of a fork, if the parent had used CUDA."""
        self._lock = threading.RLock()
        self._was_forked = self._was_forked or bool(self._contexts)

    def try_call(self, name: str, *arguments: Any) -> int:
        """Calls a driver function and returns its status.

        Raises:
            CudaError: The function is missing.
        """
        return int(self._function(name)(*arguments))

    def check(self, status: int, what: str) -> None:
        """Raises the driver's own words if `status` is not success; `what` says what was tried.

        Raises:
            CudaError: The status is an error.
        """
        if status == 0:
            return
        texts = []
        for name in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            if self._function(name)(status, ctypes.byref(text)) == 0 and text.value:
                texts.append(text.value.decode(errors="replace"))
        found = ": ".join(texts) if texts else f"CUDA error {status}"
        raise CudaError(message(f"CUDA: {what} failed", found=found, next_step=_NEXT_STEPS.get(status, "")), status)

    # -- devices -------------------------------------------------------------------------------

    def init(self) -> None:
        """Initialises the driver; called by whatever needs it, and cheap to repeat.

        Raises:
            CudaError: There is no driver, or it refused.
        """
        self.call("cuInit", "initialising the driver", 0)

    def unavailable(self) -> Optional[str]:
        """Returns why CUDA cannot be used on this machine, or None."""
        try:
            if self.device_count() > 0:
                return None
        except CudaError as error:
            return str(error)
        return message("There is no CUDA device", found="0 devices", next_step=_NEXT_STEPS[100])

    def version(self) -> tuple[int, int]:
        """Returns the newest CUDA version that the driver serves, such as (12, 8)."""
        value = _Int()
        self.call("cuDriverGetVersion", "reading the driver's version", ctypes.byref(value))
        return value.value // 1000, value.value % 1000 // 10

    def device_count(self) -> int:
        """Returns the number of CUDA devices."""
        self.init()
        count = _Int()
        self.call("cuDeviceGetCount", "counting the devices", ctypes.byref(count))
        return count.value

    def device_info(self, index: int) -> DeviceInfo:
        """Returns name, compute capability and memory of device `index`."""
        device = self._device(index)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", f"reading the name of device {index}", name, 256, device)
        capability = []
        for attribute in (_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR):
            value = _Int()
            what = f"reading the compute capability of device {index}"
            self.call("cuDeviceGetAttribute", what, ctypes.byref(value), attribute, device)
            capability.append(value.value)
        total = _Size()
        self.call("cuDeviceTotalMem_v2", f"reading the memory size of device {index}", ctypes.byref(total), device)
        return DeviceInfo(index, name.value.decode(errors="replace"), (capability[0], capability[1]), total.value)

    def _device(self, index: int) -> int:
        self.init()
        device = _Int()
        self.call("cuDeviceGet", f"opening device {index}", ctypes.byref(device), index)
        return device.value

    # -- contexts ------------------------------------------------------------------------------

    def primary_context(self, index: int) -> int:
        """Returns the primary context of device `index`, retained for the rest of the process."""
        context = self._contexts.get(index)
        if context is None:
            with self._lock:
                context = self._contexts.get(index)
                if context is None:
                    handle = _Ptr()
                    device = self._device(index)
                    what = f"retaining the primary context of device {index}"
                    self.call("cuDevicePrimaryCtxRetain", what, ctypes.byref(handle), device)
                    context = self._contexts[index] = int(handle.value or 0)
        return context

    def on_device(self, index: int) -> OnDevice:
        """Returns a context manager that makes the primary context of device `index` current for this thread."""
        return OnDevice(self, index)

    def lost(self, index: int) -> Optional[str]:
        """Returns why device `index` is lost to this process for good, or None."""
        try:
            with self.on_device(index):
                self.mem_get_info()
        except CudaError as error:
            return str(error) if error.code in _LASTING else None
        return None

    def push(self, index: int) -> None:
        """Makes the primary context of device `index` current; `pop()` undoes it."""
        self.call("cuCtxPushCurrent_v2", f"entering device {index}", self.primary_context(index))

    def pop(self) -> None:
        """Makes the context current that was so before `push()`."""
        self.call("cuCtxPopCurrent_v2", "leaving a device", ctypes.byref(_Ptr()))

    # -- memory (of the current context) -------------------------------------------------------

    def mem_get_info(self) -> tuple[int, int]:
        """Returns (free, total) bytes of the current device."""
        free, total = _Size(), _Size()
        self.call("cuMemGetInfo_v2", "reading the free memory", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def malloc(self, nbytes: int) -> int:
        """Returns the address of new device memory, aligned to at least 256 bytes."""
        address = _Dev()
        self.call("cuMemAlloc_v2", f"allocating {nbytes} bytes of device memory", ctypes.byref(address), nbytes)
        return address.value

    def free(self, address: int) -> None:
        """Frees memory of `malloc()`."""
        self.call("cuMemFree_v2", "freeing device memory", address)

    def host_alloc(self, nbytes: int) -> int:
        """Returns the address of new pinned host memory, pinned for every device."""
        address = _Ptr()
        what = f"allocating {nbytes} bytes of pinned host memory"
        self.call("cuMemHostAlloc", what, ctypes.byref(address), nbytes, _HOST_ALLOC_PORTABLE)
        return int(address.value or 0)

    def host_free(self, address: int) -> None:
        """Frees memory of `host_alloc()`."""
        self.call("cuMemFreeHost", "freeing pinned host memory", address)

    def copy_to_device(self, target: int, source: int, nbytes: int, stream: Optional[int] = None) -> None:
        """Copies host to device: now, or queued on `stream` (0 is the legacy default stream)."""
        if stream is None:
            self.call("cuMemcpyHtoD_v2", f"copying {nbytes} bytes to the device", target, source, nbytes)
        else:
            what = f"queuing a copy of {nbytes} bytes to the device"
            self.call("cuMemcpyHtoDAsync_v2", what, target, source, nbytes, stream)

    def copy_to_host(self, target: int, source: int, nbytes: int, stream: Optional[int] = None) -> None:
        """Copies device to host: now, or queued on `stream`."""
        if stream is None:
            self.call("cuMemcpyDtoH_v2", f"copying {nbytes} bytes to the host", target, source, nbytes)
        else:
            what = f"queuing a copy of {nbytes} bytes to the host"
            self.call("cuMemcpyDtoHAsync_v2", what, target, source, nbytes, stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: Optional[int] = None) -> None:
        """Copies within the device: now, or queued on `stream`."""
        if stream is None:
            self.call("cuMemcpyDtoD_v2", f"copying {nbytes} bytes on the device", target, source, nbytes)
        else:
            what = f"queuing a copy of {nbytes} bytes on the device"
            self.call("cuMemcpyDtoDAsync_v2", what, target, source, nbytes, stream)

    # -- streams (of the current context) ------------------------------------------------------

    def stream_create(self) -> int:
        """Returns a new stream that does not wait for the legacy default stream."""
        stream = _Ptr()
        self.call("cuStreamCreate", "creating a stream", ctypes.byref(stream), _STREAM_NON_BLOCKING)
        return int(stream.value or 0)

    def stream_destroy(self, stream: int) -> None:
        """Destroys a stream; work queued on it still completes."""
        self.call("cuStreamDestroy_v2", "destroying a stream", stream)

    def event_create(self) -> int:
        """Returns a new event that takes no time, to order streams by."""
        event = _Ptr()
        self.call("cuEventCreate", "creating an event", ctypes.byref(event), _EVENT_DISABLE_TIMING)
        return int(event.value or 0)

    def event_destroy(self, event: int) -> None:
        """Destroys an event; what waits for it still does."""
        self.call("cuEventDestroy_v2", "destroying an event", event)

    def graph_free(self, executable: int) -> None:
        """Frees an executable graph."""
        self.call("cuGraphExecDestroy", "freeing an executable graph", executable)

    def host_register(self, address: int, nbytes: int) -> None:
        """Pins host memory in place, so that it can be copied from and to without a staging buffer.

        Raises:
            CudaError: The memory cannot be pinned, or part of one of its pages is already.
        """
        self.call("cuMemHostRegister_v2", f"pinning {nbytes} bytes", address, nbytes, _HOST_REGISTER_PORTABLE)

    def host_unregister(self, address: int) -> None:
        """Unpins host memory that was pinned in place."""
        self.call("cuMemHostUnregister", "unpinning memory", address)

    def address_of(self, name: str) -> int:
        """Returns the address of a driver function, for the native library."""
        return int(ctypes.cast(self._function(name), ctypes.c_void_p).value or 0)

    def synchronize(self, stream: int) -> None:
        """Waits until all work on `stream` is done; errors of that work surface here."""
        self.call("cuStreamSynchronize", "waiting for the work on a stream", stream)

    def synchronize_device(self) -> None:
        """Waits until all work of the current context is done."""
        self.call("cuCtxSynchronize", "waiting for the work on a device")


class OnDevice:
    """Pushes a device's primary context on entry, pops it on exit (see `Driver.on_device`)."""

    __slots__ = ("_driver", "_index")

    def __init__(self, driver: Driver, index: int) -> None:
        self._driver = driver
        self._index = index

    def __enter__(self) -> None:
        self._driver.push(self._index)

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._driver.pop()


_default = Driver()


forks.in_child(_default.leave_behind)


def default() -> Driver:
    """Returns the process's driver, libcuda.so.1."""
    return _default
