"""The ctypes mirror of cpp/bridge.h: loads the native library into MXNet and connects the callbacks.

Each callback catches everything: an exception becomes a text that MXNet puts into the MXNetError of the program,
with the traceback. The callback objects are held by a module-level list, since C++ keeps their addresses.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mxnet_trt_property import subgraph_inference
from mxnet_trt_property.errors import EngineError, NativeLibraryError, TensorRTPropertyError, message
from mxnet_trt_property.subgraph_inference import CInferenceApi

ABI_VERSION = 11
OK, FAIL = 1, 0
UNUSED, INPUT, WEIGHT, AUXILIARY = 0, 1, 2, 3
LIBRARY = Path(__file__).with_name("libmxnet_trt.so")


class CTensor(ctypes.Structure):
    """MxtrtTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("version", ctypes.c_uint64),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("on_gpu", ctypes.c_int32),
        ("dev_id", ctypes.c_int32),
    )


class CAttrs(ctypes.Structure):
    """MxtrtAttrs."""

    _fields_ = (
        ("keys", ctypes.POINTER(ctypes.c_char_p)),
        ("values", ctypes.POINTER(ctypes.c_char_p)),
        ("count", ctypes.c_int32),
    )

    def to_dict(self) -> dict[str, str]:
        """Returns a copy as Python texts."""
        return {
            (self.keys[i] or b"").decode("utf-8", "replace"): (self.values[i] or b"").decode("utf-8", "replace")
            for i in range(self.count)
        }


class CCuda(ctypes.Structure):
    """MxtrtCuda."""

    _fields_ = (
        ("ctx_push", ctypes.c_void_p),
        ("ctx_pop", ctypes.c_void_p),
        ("graph_launch", ctypes.c_void_p),
        ("stream_synchronize", ctypes.c_void_p),
        ("copy_on_device", ctypes.c_void_p),
        ("copy_to_device", ctypes.c_void_p),
        ("event_record", ctypes.c_void_p),
        ("stream_wait_event", ctypes.c_void_p),
    )


class CCopy(ctypes.Structure):
    """MxtrtCopy."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("staging", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("position", ctypes.c_int32),
        ("fed", ctypes.c_int32),
    )


class CReplaySpec(ctypes.Structure):
    """MxtrtReplaySpec."""

    _fields_ = (
        ("cuda", CCuda),
        ("context", ctypes.c_void_p),
        ("graph", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("early_stream", ctypes.c_void_p),
        ("idle", ctypes.c_void_p),
        ("inputs", ctypes.POINTER(CCopy)),
        ("outputs", ctypes.POINTER(CCopy)),
        ("num_inputs", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
    )


class CForkApi(ctypes.Structure):
    """MxtrtForkApi."""

    _fields_ = (
        ("holds_gil", ctypes.c_void_p),
        ("release_gil", ctypes.c_void_p),
        ("acquire_gil", ctypes.c_void_p),
        ("wait_all", ctypes.c_void_p),
        ("last_error", ctypes.c_void_p),
    )


class CSpin(ctypes.Structure):
    """MxtrtSpin."""

    _fields_ = (
        ("push_sync", ctypes.c_void_p),
        ("most_us", ctypes.c_int64),
        ("most_threads", ctypes.c_int32),
        ("dev_type", ctypes.c_int32),
        ("dev_id", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class CWrite(ctypes.Structure):
    """MxtrtWrite."""

    _fields_ = (
        ("array", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("position", ctypes.c_int32),
        ("helpers", ctypes.c_int32),
    )


_Decide = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(CAttrs))
_Create = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(CAttrs),
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(ctypes.c_uint32)),
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_uint8),
)
_Forward = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(CTensor),
    ctypes.c_int,
    ctypes.POINTER(CTensor),
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
)
_Destroy = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)


class CCallbacks(ctypes.Structure):
    """MxtrtCallbacks."""

    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        ("decide", _Decide),
        ("create", _Create),
        ("forward", _Forward),
        ("destroy", _Destroy),
    )


class Created(NamedTuple):
    """What `Handlers.create` answers: the state's id and a role (UNUSED, INPUT, ...) for each input."""

    state_id: int
    roles: Sequence[int]


class Handlers(NamedTuple):
    """The Python functions behind the callbacks; each may raise."""

    decide: Callable[[str, Mapping[str, str]], None]
    create: Callable[[str, Mapping[str, str], bool, int, list[tuple[int, ...]], list[int]], Created]
    forward: Callable[[int, Any, int, Any, int, int, bool], None]
    destroy: Callable[[int], None]
    at_exit: Callable[[], None]


_lock = threading.RLock()
_library: Optional[ctypes.CDLL] = None
_in_mxnet = False
_keep_alive: list[Any] = []


def library() -> ctypes.CDLL:
    """Returns the native library, opened for this process; MXNet need not be there.

    Raises:
        NativeLibraryError: The library is missing, or of another version than this package.
    """
    global _library
    with _lock:
        if _library is None:
            lib = _open(LIBRARY)
            _check_abi(lib, LIBRARY)
            _library = lib
        return _library


def load(handlers: Handlers) -> ctypes.CDLL:
    """Loads the native library into MXNet once and connects `handlers`.

    Raises:
        NativeLibraryError: The library is missing, is of another version, or MXNet refuses it.
    """
    global _in_mxnet
    with _lock:
        lib = library()
        if not _in_mxnet:
            _connect(lib, handlers)
            _load_into_mxnet(LIBRARY)
            subgraph_inference.replace(lib)
            atexit.register(_disconnect, handlers.at_exit)
            _watch_forks(lib)
            os.register_at_fork(before=_wait_before_fork)
            _in_mxnet = True
        return lib


def is_in_mxnet() -> bool:
    """Whether `load` has been called: before, no symbol of this process has a TensorRT node."""
    return _in_mxnet


def set_groups(groups: Sequence[int], node_attrs: Optional[Mapping[str, str]] = None) -> None:
    """Gives C++ the groups of the partition in progress; an empty sequence takes nothing."""
    array = (ctypes.c_int32 * max(1, len(groups)))(*groups)
    attrs = dict(node_attrs or {})
    c_attrs = CAttrs(_c_texts(list(attrs)), _c_texts(list(attrs.values())), len(attrs))
    library().mxtrt_set_groups(array, len(groups), ctypes.byref(c_attrs))


def set_replays(state_id: int, handles: Sequence[int]) -> None:
    """Gives a native state the captured runs that its forwards try before they call Python; none if it is gone."""
    array = (ctypes.c_void_p * max(1, len(handles)))(*handles)
    library().mxtrt_state_set_replays(state_id, array, len(handles))


def release_replays(state_id: int) -> bool:
    """Takes a native state's captured runs away; returns whether no forward of it was under way."""
    return int(library().mxtrt_state_release(state_id)) == OK


def last_use(state_id: int) -> int:
    """Returns when the last forward of a native state began, by `clock`; 0 for one that is gone or has run none."""
    return int(library().mxtrt_state_last_use(state_id))


def clock() -> int:
    """Returns a number that is larger than those of all forwards before."""
    return int(library().mxtrt_clock())


def skip_exit_handlers() -> None:
    """Makes exit() of this process skip the exit handlers and destructors of C and C++ registered so far."""
    library().mxtrt_skip_exit_handlers()


def callback_count() -> int:
    """Returns how many times C++ has called Python in this process."""
    return int(library().mxtrt_callback_count())


def _c_texts(texts: Sequence[str]) -> Any:
    array = (ctypes.c_char_p * max(1, len(texts)))(*(t.encode() for t in texts))
    return ctypes.cast(array, ctypes.POINTER(ctypes.c_char_p))


def _open(path: Path) -> ctypes.CDLL:
    if not path.exists():
        raise NativeLibraryError(
            message(
                "The native library of mxnet-trt-property is missing",
                found=f"no file {path}",
                next_step="reinstall the package; in a source checkout run: pip install -e .",
            )
        )
    try:
        # Never RTLD_GLOBAL: what these libraries export must not mix with libmxnet's own protobuf and OpenCV.
        lib = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
    except OSError as error:
        raise NativeLibraryError(message(f"The native library {path} cannot be loaded", found=str(error))) from error
    lib.mxtrt_set_error.argtypes = [ctypes.c_char_p]
    lib.mxtrt_set_error.restype = None
    lib.mxtrt_set_groups.argtypes = [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.POINTER(CAttrs)]
    lib.mxtrt_set_groups.restype = None
    lib.mxtrt_set_callbacks.argtypes = [ctypes.POINTER(CCallbacks)]
    lib.mxtrt_callback_count.restype = ctypes.c_uint64
    lib.mxtrt_error.restype = ctypes.c_char_p
    lib.mxtrt_interrupt_count.restype = ctypes.c_uint64
    lib.mxtrt_replace_inference.argtypes = [ctypes.POINTER(CInferenceApi)]
    lib.mxtrt_replay_new.argtypes = [ctypes.POINTER(CReplaySpec)]
    lib.mxtrt_replay_new.restype = ctypes.c_void_p
    lib.mxtrt_replay_free.argtypes = [ctypes.c_void_p]
    lib.mxtrt_replay_free.restype = None
    addresses = ctypes.POINTER(ctypes.c_void_p)
    lib.mxtrt_replay_run.argtypes = [ctypes.c_void_p, addresses, addresses, ctypes.c_void_p]
    lib.mxtrt_state_write.argtypes = [ctypes.c_int64, ctypes.POINTER(CSpin), ctypes.POINTER(CWrite)]
    lib.mxtrt_state_begin.argtypes = [ctypes.c_int64, addresses]
    lib.mxtrt_state_cancel.argtypes = [ctypes.c_int64]
    lib.mxtrt_state_is_under_way.argtypes = [ctypes.c_int64]
    lib.mxtrt_spin.argtypes = [ctypes.POINTER(CSpin), ctypes.c_void_p]
    lib.mxtrt_state_release.argtypes = [ctypes.c_int64]
    lib.mxtrt_state_last_use.argtypes = [ctypes.c_int64]
    lib.mxtrt_state_last_use.restype = lib.mxtrt_clock.restype = ctypes.c_uint64
    lib.mxtrt_state_set_replays.argtypes = [ctypes.c_int64, addresses, ctypes.c_int32]
    return lib


def _check_abi(lib: ctypes.CDLL, path: Path) -> None:
    sizes = (ctypes.c_uint32 * 9)()
    lib.mxtrt_struct_sizes(sizes)
    found = (lib.mxtrt_abi_version(), *sizes)
    structs = (CTensor, CAttrs, CCallbacks, CCopy, CReplaySpec, CForkApi, CInferenceApi, CSpin, CWrite)
    expected = (ABI_VERSION, *(ctypes.sizeof(s) for s in structs))
    if found != expected:
        raise NativeLibraryError(
            message(
                f"The native library {path} and the Python package do not fit together",
                found=f"ABI version and struct sizes {found}",
                required=str(expected),
                next_step="reinstall the package; in a source checkout run: pip install -e .",
            )
        )


def _guard(lib: ctypes.CDLL, work: Callable[..., Any]) -> Callable[..., int]:
    """Wraps a handler so that no exception crosses into C++: it becomes the text of the MXNetError."""

    def call(*args: Any) -> int:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too must not vanish in a C frame
            lib.mxtrt_set_error(describe(error).encode("utf-8", "replace"))
            return FAIL
        return OK

    return call


def describe(error: BaseException) -> str:
    """Returns the text for MXNet's error: our own messages first, then the traceback."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    if isinstance(error, TensorRTPropertyError):
        return f"{error}\n{trace}"
    return f"{type(error).__name__}: {error}\n{trace}"


def _connect(lib: ctypes.CDLL, handlers: Handlers) -> None:
    def decide(json: bytes, options: Any) -> None:
        handlers.decide(json.decode("utf-8", "replace"), options.contents.to_dict())

    def create(json: bytes, attrs: Any, on_gpu: int, dev_id: int, shapes: Any, ndims: Any, dtypes: Any, count: int,
               state_id: Any, roles: Any) -> None:  # fmt: skip
        in_shapes = [tuple(shapes[i][d] for d in range(ndims[i])) for i in range(count)]
        made = handlers.create(
            json.decode("utf-8", "replace"), attrs.contents.to_dict(), bool(on_gpu), dev_id, in_shapes, dtypes[:count]
        )
        for i, role in enumerate(made.roles):
            roles[i] = role
        state_id[0] = made.state_id

    def forward(state_id: int, inputs: Any, num_in: int, outputs: Any, num_out: int, stream: Any, changed: int) -> None:
        handlers.forward(state_id, inputs, num_in, outputs, num_out, stream or 0, bool(changed))

    table = CCallbacks(
        ABI_VERSION,
        ctypes.sizeof(CCallbacks),
        _Decide(_guard(lib, decide)),
        _Create(_guard(lib, create)),
        _Forward(_guard(lib, forward)),
        _Destroy(_guard(lib, handlers.destroy)),
    )
    _keep_alive.append(table)
    if lib.mxtrt_set_callbacks(ctypes.byref(table)) != OK:
        raise NativeLibraryError("The native library refused the callback table; reinstall the package")


def _watch_forks(lib: ctypes.CDLL) -> None:
    from mxnet.base import _LIB

    python = ctypes.pythonapi
    gil = (python.PyGILState_Check, python.PyEval_SaveThread, python.PyEval_RestoreThread)
    functions = (*gil, _LIB.MXNDArrayWaitAll, _LIB.MXGetLastError)
    lib.mxtrt_watch_forks(ctypes.byref(CForkApi(*(ctypes.cast(f, ctypes.c_void_p).value for f in functions))))


def _wait_before_fork() -> None:
    """Waits until no forward is pending, while the interpreter holds no lock yet.

    Raises:
        EngineError: An operation had failed; MXNet tells of it this once, and the array that it should have written
            holds anything.
    """
    if library().mxtrt_wait_before_fork() != OK:
        text = (library().mxtrt_error() or b"").decode("utf-8", "replace")
        raise EngineError(message("An operation of MXNet had failed before this process forked", found=text))


def _disconnect(at_exit: Callable[[], None]) -> None:
    """Takes the callbacks away at interpreter exit, after the work in flight has ended.

    Registered after MXNet's own exit function and so run before it; a callback into a finalizing interpreter would
    hang its thread.
    """
    import mxnet as mx

    try:
        mx.nd.waitall()
    except Exception:  # noqa: BLE001, S110 - a failed forward was or was not looked at; exiting is no place to raise
        pass
    at_exit()
    if _library is not None:
        _library.mxtrt_set_callbacks(None)


def _load_into_mxnet(path: Path) -> None:
    from mxnet.base import _LIB, check_call

    try:
        check_call(_LIB.MXLoadLib(ctypes.c_char_p(str(path).encode()), ctypes.c_uint(0)))
    except Exception as error:
        raise NativeLibraryError(
            message(
                "MXNet refused the native library",
                found=str(error),
                required="MXNet 1.9 (pip install mxnet==1.9.1)",
            )
        ) from error
